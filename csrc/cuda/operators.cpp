// The operators on CUDA: tensors to launches, on the current stream.
#include "operators.h"

#include <ATen/cuda/EmptyTensor.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "call.h"
#include "grad_input.h"
#include "launches.h"

namespace stn::cuda {

namespace {

using c10::cuda::CUDAGuard;

// Not at::empty, which fills what it gives where deterministic algorithms are asked for: every element is
// written.
at::Tensor empty(at::IntArrayRef shape, const at::TensorOptions& options) {
  return at::detail::empty_cuda(shape, options);
}

// The kernels count pixels along an axis, and channels, in 32 bits.
void check_lengths(const Map& map, const at::Tensor& images, at::IntArrayRef in_size,
                   at::IntArrayRef out_size) {
  const auto check = [&](at::IntArrayRef lengths, int64_t longest, const char* what) {
    for (const int64_t length : lengths) {
      TORCH_CHECK_VALUE(length <= longest, map.name, ": expected at most ", longest, " ", what,
                        " on CUDA, but got ", lengths);
    }
  };
  check(images.sizes().slice(1, 1), kLongest, "channels");
  check(out_size, kLongest, "pixels along an axis of the output");
  check(in_size, kLongest, "pixels along an axis of the input");
}

at::Tensor images_of(const at::Tensor& like, int64_t count, at::IntArrayRef size) {
  return empty(images_shape(like, count, size), like.options().memory_format(like.suggest_memory_format()));
}

// What an index holds is checked where it is used.
const Map& indexed(const Map& map, int64_t) { return map; }

at::Tensor sample(const at::Tensor& input, const Map& map, at::IntArrayRef size) {
  const CUDAGuard guard(input.device());
  check_lengths(map, input, input.sizes().slice(2), size);
  const at::Tensor output = images_of(input, map.count(), size);
  if (map.nearest && map.tangent) return output.zero_();
  if (output.numel() == 0) return output;
  Call call(map, input, input.size(0), input.sizes().slice(2), size);
  call.read(input);
  call.write(output);
  C10_CUDA_CHECK(launch_sample(call.problem(), c10::cuda::getCurrentCUDAStream()));
  return output;
}

at::Tensor moments(const at::Tensor& grad, const at::Tensor& input, const Map& map) {
  const CUDAGuard guard(input.device());
  check_lengths(map, input, input.sizes().slice(2), grad.sizes().slice(2));
  if (grad.numel() == 0 || map.nearest) return at::zeros(map.theta.sizes(), map.theta.options());
  Call call(map, input, input.size(0), input.sizes().slice(2), grad.sizes().slice(2));
  call.read(input);
  call.read_grad(grad);
  const Problem& p = call.problem();
  const at::Tensor grad_theta = empty(map.theta.sizes(), map.theta.options());
  const int64_t blocks = partial_blocks(p), entries = map.theta.size(1) * map.theta.size(2);
  const at::Tensor sums = empty({p.maps, entries, blocks}, map.theta.options().dtype(at::kDouble));
  Partial partial{};
  partial.sums = sums.mutable_data_ptr<double>();
  partial.maps = p.maps;
  partial.blocks = blocks;
  partial.entries = static_cast<int>(entries);
  partial.gradient = grad_theta.mutable_data_ptr();
  partial.storage = p.theta.storage;
  C10_CUDA_CHECK(launch_grad_theta(p, partial, c10::cuda::getCurrentCUDAStream()));
  return grad_theta;
}

at::Tensor adjoint(const at::Tensor& grad, const Map& map, int64_t images, at::IntArrayRef size) {
  const CUDAGuard guard(grad.device());
  check_lengths(map, grad, size, grad.sizes().slice(2));
  const at::Tensor grad_input = images_of(grad, images, size);
  if (grad_input.numel() == 0) return grad_input;
  if (grad.numel() == 0 || (map.nearest && map.tangent)) return grad_input.zero_();
  Call call(map, grad, images, size, grad.sizes().slice(2));
  call.read_grad(grad);
  call.write_grad_input(grad_input);
  const at::Tensor scratch = empty({grad_input_scratch(call.problem())},
                                   grad.options().dtype(at::kByte).memory_format(std::nullopt));
  C10_CUDA_CHECK(
      launch_grad_input(call.problem(), scratch.mutable_data_ptr(), c10::cuda::getCurrentCUDAStream()));
  return grad_input;
}

std::tuple<at::Tensor, at::Tensor> backward(const at::Tensor& grad, const at::Tensor& input, const Map& map) {
  return {adjoint(grad, map, input.size(0), input.sizes().slice(2)), moments(grad, input, map)};
}

}  // namespace

STN_REGISTER_OPERATORS(CUDA, stn::cuda)

}  // namespace stn::cuda
