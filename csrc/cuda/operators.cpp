// The operators on CUDA: which kernels they are for, and dtypes that the kernels do not have.
#include "operators.h"

#include <ATen/cuda/EmptyTensor.h>
#include <ATen/ops/_assert_async.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "backend.h"
#include "call.h"
#include "launches.h"

namespace stn::cuda {

at::Tensor empty(at::IntArrayRef shape, const at::TensorOptions& options) {
  return at::detail::empty_cuda(shape, options);
}

namespace {

using c10::cuda::CUDAGuard;

// The kernels count pixels along an axis, and channels, in 32 bits.
void check_lengths(const Map& map, const at::Tensor& images, at::IntArrayRef in_size,
                   at::IntArrayRef out_size, int64_t longest_input = kLongest) {
  const auto check = [&](at::IntArrayRef lengths, int64_t longest, const char* what) {
    for (const int64_t length : lengths) {
      TORCH_CHECK_VALUE(length <= longest, map.name, ": expected at most ", longest, " ", what,
                        " on CUDA, but got ", lengths);
    }
  };
  check(images.sizes().slice(1, 1), kLongest, "channels");
  check(out_size, kLongest, "pixels along an axis of the output");
  check(in_size, longest_input, "pixels along an axis of the input");
}

// Of the input's gradient in float: whole coordinates of up to twice as many, a period of reflection, are
// exact.
int64_t longest_for_gradient(const at::Tensor& grad) {
  return grad.scalar_type() == at::kDouble ? kLongest : int64_t{1} << 23;
}

// The kernels' own dtypes; for half types those of affine maps alone.
bool is_native(const at::Tensor& images, bool plain) {
  const at::ScalarType type = images.scalar_type();
  return type == at::kFloat || type == at::kDouble || (plain && images.is_floating_point());
}

at::Tensor images_of(const at::Tensor& like, int64_t count, at::IntArrayRef size) {
  return empty(images_shape(like, count, size), like.options().memory_format(like.suggest_memory_format()));
}

// What an index holds is checked where it is used.
const Map& indexed(const Map& map, int64_t) { return map; }

// An index that reads no memory but the images'. What it holds is known on the device alone: an image that
// does not exist ends the device's work there, as in PyTorch's own indexing.
Map checked(const Map& map, int64_t images) {
  if (!map.index || map.count() == 0) return map;
  Map safe = map;
  safe.index = map.index->clamp(0, std::max<int64_t>(images - 1, 0));
  at::_assert_async(safe.index->eq(*map.index).all(),
                    std::string(map.name) + ": index of an image beyond the input's batch");
  return safe;
}

// Whether map n reads image n.
bool one_to_one(const Map& map, int64_t images) { return !map.index && map.count() == images; }

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
  const at::Tensor sums = empty({p.maps, blocks, entries}, map.theta.options().dtype(at::kDouble));
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
  check_lengths(map, grad, size, grad.sizes().slice(2), longest_for_gradient(grad));
  // Maps that share an image are the general kernels' work.
  const bool plain = map.is_plain() && one_to_one(map, images);
  if (!is_native(grad, plain)) {
    return adjoint(grad.to(at::kFloat), map, images, size).to(grad.scalar_type());
  }
  const at::Tensor grad_input = images_of(grad, images, size);
  if (grad_input.numel() == 0) return grad_input;
  if (grad.numel() == 0) return grad_input.zero_();
  plain ? affine_adjoint(grad, map, grad_input) : warp_adjoint(grad, checked(map, images), grad_input);
  return grad_input;
}

std::tuple<at::Tensor, at::Tensor> backward(const at::Tensor& grad, const at::Tensor& input, const Map& map) {
  return {adjoint(grad, map, input.size(0), input.sizes().slice(2)), moments(grad, input, map)};
}

}  // namespace

STN_REGISTER_OPERATORS(CUDA, stn::cuda)

}  // namespace stn::cuda
