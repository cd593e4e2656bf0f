// The general kernels on CUDA: tensors to launches, on the current stream.
#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include "backend.h"
#include "cuda/tensors.h"
#include "kernels.h"

namespace stn::cuda {

using c10::cuda::getCurrentCUDAStream;

void warp_sample(const at::Tensor& input, const Map& map, const at::Tensor& output) {
  const WarpTensors tensors(map, input.size(0));
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), "warp_sample", [&] {
    auto w = make_warp<scalar_t>(map, tensors, input.size(0), input.size(1), input.sizes().slice(2),
                                 output.sizes().slice(2));
    w.input = volumes(input, input.const_data_ptr<scalar_t>());
    w.output = volumes(output, output.mutable_data_ptr<scalar_t>());
    C10_CUDA_CHECK(launch_warp_sample(w, getCurrentCUDAStream()));
  });
}

at::Tensor warp_moments(const at::Tensor& grad, const at::Tensor& input, const Map& map) {
  const WarpTensors tensors(map, input.size(0));
  const auto doubles = map.theta.options().dtype(at::kDouble);
  const at::Tensor gradients = empty(map.theta.sizes(), doubles);
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), "warp_moments", [&] {
    auto w = make_warp<scalar_t>(map, tensors, input.size(0), input.size(1), input.sizes().slice(2),
                                 grad.sizes().slice(2));
    w.input = volumes(input, input.const_data_ptr<scalar_t>());
    w.grad = volumes(grad, grad.const_data_ptr<scalar_t>());
    const at::Tensor partial = empty({w.maps, warp_moment_blocks(w), w.streams(), w.basis}, doubles);
    C10_CUDA_CHECK(launch_warp_moments(w, partial.mutable_data_ptr<double>(),
                                       gradients.mutable_data_ptr<double>(), getCurrentCUDAStream()));
  });
  return gradients;
}

void warp_adjoint(const at::Tensor& grad, const Map& map, const at::Tensor& grad_input) {
  const WarpTensors tensors(map, grad_input.size(0));
  AT_DISPATCH_FLOATING_TYPES(grad.scalar_type(), "warp_adjoint", [&] {
    auto w = make_warp<scalar_t>(map, tensors, grad_input.size(0), grad.size(1), grad_input.sizes().slice(2),
                                 grad.sizes().slice(2));
    w.grad = volumes(grad, grad.const_data_ptr<scalar_t>());
    w.grad_input = volumes(grad_input, grad_input.mutable_data_ptr<scalar_t>());
    const auto bytes = static_cast<int64_t>(sizeof(WarpBox));
    const at::Tensor boxes = empty({w.maps * Bundles(w).count, bytes}, grad.options().dtype(at::kByte));
    C10_CUDA_CHECK(
        launch_warp_adjoint(w, static_cast<WarpBox*>(boxes.mutable_data_ptr()), getCurrentCUDAStream()));
  });
}

}  // namespace stn::cuda
