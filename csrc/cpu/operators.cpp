// The operators on the CPU: which kernels they are for, and dtypes that the kernels do not have.
#include "operators.h"

#include <ATen/EmptyTensor.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <limits>

#include "backend.h"
#include "tensors.h"

namespace stn::cpu {
namespace {

// The kernels' own dtypes.
bool is_native(const at::Tensor& images) {
  return images.scalar_type() == at::kFloat || images.scalar_type() == at::kDouble;
}

// Whether the affine kernels are for it: they count an image's pixels in 32 bits.
bool is_plain(const Map& map, at::IntArrayRef in_size) {
  return map.is_plain() && in_size[0] * in_size[1] <= std::numeric_limits<int32_t>::max();
}

at::Tensor images_of(const at::Tensor& like, int64_t count, at::IntArrayRef size) {
  // Not through the dispatcher, which costs as much as a small image.
  return at::detail::empty_cpu(images_shape(like, count, size), like.scalar_type(), /*pin_memory=*/false,
                               like.suggest_memory_format());
}

// What an index holds cannot be checked earlier than this. It is a copy that is checked and followed: another
// thread may write to the caller's own meanwhile.
Map indexed(const Map& map, int64_t images) {
  if (!map.index || map.count() == 0) return map;
  Map safe = map;
  safe.index = map.index->clone(at::MemoryFormat::Contiguous);
  const int64_t* index = safe.index->const_data_ptr<int64_t>();
  for (int64_t n = 0; n < map.count(); ++n) {
    TORCH_CHECK_INDEX(index[n] >= 0 && index[n] < images, map.name, ": expected index of images from 0 to ",
                      images - 1, ", but got ", index[n]);
  }
  return safe;
}

at::Tensor sample(const at::Tensor& input, const Map& map, at::IntArrayRef size) {
  if (!is_native(input)) return narrowed(sample(input.to(at::kFloat), map, size), input.scalar_type());
  const at::Tensor output = images_of(input, map.count(), size);
  if (output.numel() == 0) return output;
  is_plain(map, input.sizes().slice(2)) ? affine_sample(input, map, output) : warp_sample(input, map, output);
  return output;
}

at::Tensor moments(const at::Tensor& grad, const at::Tensor& input, const Map& map) {
  if (grad.numel() == 0 || map.nearest) return at::zeros(map.theta.sizes(), map.theta.options());
  if (!is_native(input)) return moments(grad.to(at::kFloat), input.to(at::kFloat), map);
  const at::Tensor grad_theta = is_plain(map, input.sizes().slice(2)) ? affine_moments(grad, input, map)
                                                                      : warp_moments(grad, input, map);
  return grad_theta.to(map.theta.scalar_type());
}

at::Tensor adjoint(const at::Tensor& grad, const Map& map, int64_t images, at::IntArrayRef size) {
  if (!is_native(grad)) return narrowed(adjoint(grad.to(at::kFloat), map, images, size), grad.scalar_type());
  const at::Tensor grad_input = images_of(grad, images, size);
  if (grad_input.numel() == 0 || grad.numel() == 0) return grad_input.zero_();
  is_plain(map, size) ? affine_adjoint(grad, map, grad_input) : warp_adjoint(grad, map, grad_input);
  return grad_input;
}

std::tuple<at::Tensor, at::Tensor> backward(const at::Tensor& grad, const at::Tensor& input, const Map& map) {
  return {adjoint(grad, map, input.size(0), input.sizes().slice(2)), moments(grad, input, map)};
}

}  // namespace

STN_REGISTER_OPERATORS(CPU, stn::cpu)

}  // namespace stn::cpu
