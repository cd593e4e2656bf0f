// The operators' arguments, as every backend takes them.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>
#include <vector>

#include "checks.h"

namespace stn {

using OptionalTensor = std::optional<at::Tensor>;

// The function that takes such maps.
inline const char* function_name(const at::Tensor& theta, const OptionalTensor& points) {
  const bool square = theta.dim() == 3 && theta.size(1) == 3 && theta.size(2) == 3;
  return points ? "thin_plate_spline_sample" : square ? "projective_sample" : "affine_sample";
}

// Of `count` images of that size, with the channels of others.
inline std::vector<int64_t> images_shape(const at::Tensor& others, int64_t count, at::IntArrayRef size) {
  std::vector<int64_t> shape{count, others.size(1)};
  shape.insert(shape.end(), size.begin(), size.end());
  return shape;
}

inline Map make_map(const at::Tensor& theta, const OptionalTensor& points, const OptionalTensor& tangent,
                    const OptionalTensor& index, const OptionalTensor& fill, c10::string_view mode,
                    c10::string_view padding_mode, bool align_corners) {
  const char* op = function_name(theta, points);
  return {op,
          theta,
          points,
          tangent,
          index,
          fill,
          parse_nearest(op, {mode.data(), mode.size()}),
          parse_padding(op, {padding_mode.data(), padding_mode.size()}),
          align_corners};
}

// Registers a backend's
//   at::Tensor sample(const at::Tensor& input, const Map&, at::IntArrayRef size)
//   at::Tensor adjoint(const at::Tensor& grad, const Map&, int64_t images, at::IntArrayRef size)
//   at::Tensor moments(const at::Tensor& grad, const at::Tensor& input, const Map&)
//   std::tuple<at::Tensor, at::Tensor> backward(const at::Tensor& grad, const at::Tensor& input, const Map&)
// which find their arguments checked, but for what the index holds:
//   Map indexed(const Map&, int64_t images)
// gives a map whose index the others can follow: a copy, which nobody else can change any more.
#define STN_REGISTER_OPERATORS(key, space)                                                                   \
  TORCH_LIBRARY_IMPL(stn_ext, key, m) {                                                                      \
    using at::Tensor;                                                                                        \
    using stn::OptionalTensor;                                                                               \
    using Text = c10::string_view;                                                                           \
    m.impl("sample",                                                                                         \
           [](const Tensor& input, const Tensor& theta, const OptionalTensor& points,                        \
              const OptionalTensor& tangent, const OptionalTensor& index, const OptionalTensor& fill,        \
              at::IntArrayRef size, Text mode, Text padding_mode, bool align_corners) {                      \
             const stn::Map map =                                                                            \
                 stn::make_map(theta, points, tangent, index, fill, mode, padding_mode, align_corners);      \
             stn::check_sample(input, map, size);                                                            \
             return space::sample(input, space::indexed(map, input.size(0)), size);                          \
           });                                                                                               \
    m.impl("adjoint", [](const Tensor& grad, const Tensor& theta, const OptionalTensor& points,              \
                         const OptionalTensor& tangent, const OptionalTensor& index, int64_t images,         \
                         at::IntArrayRef size, Text mode, Text padding_mode, bool align_corners) {           \
      const stn::Map map =                                                                                   \
          stn::make_map(theta, points, tangent, index, {}, mode, padding_mode, align_corners);               \
      stn::check_adjoint(grad, map, images, size);                                                           \
      return space::adjoint(grad, space::indexed(map, images), images, size);                                \
    });                                                                                                      \
    m.impl("moments",                                                                                        \
           [](const Tensor& grad, const Tensor& input, const Tensor& theta, const OptionalTensor& points,    \
              const OptionalTensor& tangent, const OptionalTensor& index, const OptionalTensor& fill,        \
              Text mode, Text padding_mode, bool align_corners) {                                            \
             const stn::Map map =                                                                            \
                 stn::make_map(theta, points, tangent, index, fill, mode, padding_mode, align_corners);      \
             stn::check_moments(grad, input, map);                                                           \
             return space::moments(grad, input, space::indexed(map, input.size(0)));                         \
           });                                                                                               \
    m.impl("backward", [](const Tensor& grad, const Tensor& input, const Tensor& theta,                      \
                          const OptionalTensor& points, const OptionalTensor& index,                         \
                          const OptionalTensor& fill, Text mode, Text padding_mode, bool align_corners) {    \
      const stn::Map map = stn::make_map(theta, points, {}, index, fill, mode, padding_mode, align_corners); \
      stn::check_moments(grad, input, map);                                                                  \
      return space::backward(grad, input, space::indexed(map, input.size(0)));                               \
    });                                                                                                      \
  }

}  // namespace stn
