// From tensors to the kernels' Problem; for every backend.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>

#include "problem.h"

namespace stn {

// The dtypes of theta that kernels read.
inline at::Tensor float_or_double(const at::Tensor& theta) {
  const at::Tensor t = theta.scalar_type() == at::kDouble ? theta : theta.to(at::kFloat);
  return t.contiguous();
}

template <class Pointer>
Images<std::remove_pointer_t<Pointer>> strided(const at::Tensor& t, Pointer data) {
  return {data, t.stride(0), t.stride(1), t.stride(2), t.stride(3)};
}

template <class T>
Images<const T> images_in(const at::Tensor& t) {
  return strided(t, t.const_data_ptr<T>());
}

template <class T>
Images<T> images_out(const at::Tensor& t) {
  return strided(t, t.mutable_data_ptr<T>());
}

// `images` has the batch and channels; in_size and out_size are (height, width); theta is from
// float_or_double.
template <class T>
Problem<T> make_problem(const at::Tensor& images, at::IntArrayRef in_size, at::IntArrayRef out_size,
                        bool align_corners, Padding padding, const at::Tensor& theta) {
  Problem<T> p{};
  p.frame = {in_size[0], in_size[1], out_size[0], out_size[1], align_corners};
  p.batches = images.size(0);
  p.channels = images.size(1);
  p.stored_height = std::max<int64_t>(in_size[0], 2);
  p.stored_width = std::max<int64_t>(in_size[1], 2);
  p.padding = padding;
  p.theta = theta.const_data_ptr();
  p.theta_is_double = theta.scalar_type() == at::kDouble;
  return p;
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace stn
