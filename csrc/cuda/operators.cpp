// The operators on CUDA: which kernels they are for, and dtypes that the kernels do not have.
#include "operators.h"

#include <ATen/cuda/EmptyTensor.h>
#include <ATen/ops/_assert_async.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "backend.h"
#include "cuda/tensors.h"
#include "kernels.h"

namespace stn::cuda {

at::Tensor empty(at::IntArrayRef shape, const at::TensorOptions& options) {
  return at::detail::empty_cuda(shape, options);
}

namespace {

using c10::cuda::CUDAGuard;

// The kernels count output pixels along an axis, and channels, in 32 bits, a tile beyond the last one
// included.
void check_lengths(const Map& map, const at::Tensor& images, at::IntArrayRef in_size,
                   at::IntArrayRef out_size) {
  const auto check = [&](at::IntArrayRef lengths, int64_t longest, const char* what) {
    for (const int64_t length : lengths) {
      TORCH_CHECK_VALUE(length <= longest, map.name, ": expected at most ", longest, " ", what,
                        " on CUDA, but got ", lengths);
    }
  };
  constexpr int64_t longest = int64_t{1} << 30;
  check(images.sizes().slice(1, 1), longest, "channels");
  check(out_size, longest, "pixels along an axis of the output");
  const bool is_double = images.scalar_type() == at::kDouble;
  check(in_size, longest_input(is_double),
        is_double ? "pixels along an axis of the input"
                  : "pixels along an axis of an input that is not float64");
}

// The kernels' own dtypes; for half types those of affine maps alone.
bool is_native(const at::Tensor& images, bool plain) {
  const at::ScalarType type = images.scalar_type();
  return type == at::kFloat || type == at::kDouble || (plain && images.is_floating_point());
}

at::Tensor images_of(const at::Tensor& like, int64_t count, at::IntArrayRef size) {
  return empty(images_shape(like, count, size), like.options().memory_format(like.suggest_memory_format()));
}

// An index that reads no memory but the images'. What it holds is known on the device alone: an image that
// does not exist ends the device's work there, as in PyTorch's own indexing.
Map indexed(const Map& map, int64_t images) {
  if (!map.index || map.count() == 0) return map;
  const CUDAGuard guard(map.index->device());
  Map safe = map;
  safe.index = map.index->clamp(0, std::max<int64_t>(images - 1, 0));
  at::_assert_async(safe.index->eq(*map.index).all(),
                    std::string(map.name) + ": index of an image beyond the input's batch");
  return safe;
}

// Whether map n reads image n.
bool one_to_one(const Map& map, int64_t images) { return !map.index && map.count() == images; }

void refuse_fill(const Map& map) {
  TORCH_CHECK_NOT_IMPLEMENTED(!map.fill, map.name, ": the operator has a fill on CUDA of labels alone");
}

at::Tensor sample(const at::Tensor& input, const Map& map, at::IntArrayRef size);

// Whether they are copied as they are; those of 8 bits float holds.
bool are_labels(const at::Tensor& images, const Map& map) {
  const at::ScalarType type = images.scalar_type();
  return map.nearest && !map.tangent && c10::isIntegralType(type, /*includeBool=*/true) && type != at::kByte;
}

// The kernels read an image of its own pixels' numbers, from 1 on, and the pixels of these are gathered.
at::Tensor sample_labels(const at::Tensor& input, const Map& map, at::IntArrayRef size) {
  const at::IntArrayRef in_size = input.sizes().slice(2);
  const auto integers = at::TensorOptions(input.device()).dtype(at::kLong);
  std::vector<int64_t> shape{1, 1};
  shape.insert(shape.end(), in_size.begin(), in_size.end());
  Map places = map;
  places.index = {};  // one image, which all maps read
  places.fill = {};
  const at::Tensor numbers = at::arange(1, c10::multiply_integers(in_size) + 1, integers.dtype(at::kDouble));
  const at::Tensor at = sample(numbers.view(shape), places, size);

  // PyTorch computes with few unsigned integers.
  const int64_t bytes = input.element_size();
  const at::ScalarType type = bytes == 1   ? at::kChar
                              : bytes == 2 ? at::kShort
                              : bytes == 4 ? at::kInt
                                           : at::kLong;
  const at::Tensor place = at.nan_to_num(0).to(at::kLong).sub_(1).clamp_min_(0).flatten(2);
  const at::Tensor own = at::arange(map.count(), integers), channels = at::arange(input.size(1), integers);
  const at::Tensor image = map.index ? *map.index : input.size(0) == 1 ? own.mul(0) : own;
  at::Tensor labels =
      input.view(type).flatten(2).index({image.view({-1, 1, 1}), channels.view({-1, 1}), place});
  labels = labels.unflatten(2, size);
  const at::Tensor zero = at::zeros({}, integers.dtype(type));
  at::Tensor outside = zero;
  if (map.fill) {
    shape.assign(static_cast<size_t>(input.dim() - 1), 1);
    shape[0] = -1;
    outside = map.fill->to(input.scalar_type()).view(type).view(shape);
  }
  labels = at::where(at.gt(0), labels, at::where(at.isnan(), zero, outside));
  return labels.view(input.scalar_type()).contiguous(input.suggest_memory_format());
}

at::Tensor sample(const at::Tensor& input, const Map& map, at::IntArrayRef size) {
  const CUDAGuard guard(input.device());
  check_lengths(map, input, input.sizes().slice(2), size);
  if (are_labels(input, map)) return sample_labels(input, map, size);
  refuse_fill(map);
  const bool plain = map.is_plain();
  if (!is_native(input, plain)) {
    return narrowed(sample(input.to(at::kFloat), map, size), input.scalar_type());
  }
  const at::Tensor output = images_of(input, map.count(), size);
  if (output.numel() == 0) return output;
  plain ? affine_sample(input, map, output) : warp_sample(input, map, output);
  return output;
}

at::Tensor moments(const at::Tensor& grad, const at::Tensor& input, const Map& map) {
  const CUDAGuard guard(input.device());
  check_lengths(map, input, input.sizes().slice(2), grad.sizes().slice(2));
  refuse_fill(map);
  const bool plain = map.is_plain();
  if (grad.numel() == 0 || map.nearest) return at::zeros(map.theta.sizes(), map.theta.options());
  if (!is_native(input, plain)) return moments(grad.to(at::kFloat), input.to(at::kFloat), map);
  const at::Tensor grad_theta = plain ? affine_moments(grad, input, map) : warp_moments(grad, input, map);
  return grad_theta.to(map.theta.scalar_type());
}

at::Tensor adjoint(const at::Tensor& grad, const Map& map, int64_t images, at::IntArrayRef size) {
  const CUDAGuard guard(grad.device());
  check_lengths(map, grad, size, grad.sizes().slice(2));
  // Maps that share an image are the general kernels' work.
  const bool plain = map.is_plain() && one_to_one(map, images);
  if (!is_native(grad, plain)) {
    return narrowed(adjoint(grad.to(at::kFloat), map, images, size), grad.scalar_type());
  }
  const at::Tensor grad_input = images_of(grad, images, size);
  if (grad_input.numel() == 0) return grad_input;
  if (grad.numel() == 0) return grad_input.zero_();
  plain ? affine_adjoint(grad, map, grad_input) : warp_adjoint(grad, map, grad_input);
  return grad_input;
}

std::tuple<at::Tensor, at::Tensor> backward(const at::Tensor& grad, const at::Tensor& input, const Map& map) {
  const at::IntArrayRef size = input.sizes().slice(2);
  if (!map.is_plain() || !one_to_one(map, input.size(0)) || grad.numel() == 0) {
    return {adjoint(grad, map, input.size(0), size), moments(grad, input, map)};
  }
  refuse_fill(map);
  const CUDAGuard guard(input.device());
  check_lengths(map, input, size, grad.sizes().slice(2));
  const at::Tensor grad_input = images_of(grad, input.size(0), size);
  const at::Tensor grad_theta = affine_backward(grad, input, map, grad_input);
  return {grad_input, grad_theta.to(map.theta.scalar_type())};
}

}  // namespace

STN_REGISTER_OPERATORS(CUDA, stn::cuda)

}  // namespace stn::cuda
