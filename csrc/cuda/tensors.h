// From tensors to the kernels' Problem; for every backend.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <vector>

#include "checks.h"
#include "cuda/warp.h"

namespace stn {

// The dtypes of theta that kernels read.
inline at::Tensor float_or_double(const at::Tensor& theta) {
  const at::Tensor t = theta.scalar_type() == at::kDouble ? theta : theta.to(at::kFloat);
  return t.contiguous();
}

// Of floats to a narrower dtype: rounded, and for integers brought into their range.
inline at::Tensor narrowed(const at::Tensor& images, at::ScalarType type) {
  const auto rounded = [&](double least, double most) {
    return images.nan_to_num(0).round_().clamp_(least, most).to(type);
  };
  if (type == at::kByte) return rounded(0, 255);
  if (type == at::kShort) return rounded(-32768, 32767);
  return type == at::kUInt16 ? rounded(0, 65535) : images.to(type);
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

// in_size and out_size are (height, width); theta is from float_or_double, index from shared_index.
template <class T>
Problem<T> make_problem(const Map& map, const at::Tensor& theta, const at::Tensor& index, int64_t channels,
                        at::IntArrayRef in_size, at::IntArrayRef out_size) {
  Problem<T> p{};
  p.frame = {in_size[0], in_size[1], out_size[0], out_size[1], map.align_corners};
  p.batches = map.count();
  p.channels = channels;
  p.index = index.defined() ? index.const_data_ptr<int64_t>() : nullptr;
  p.stored_height = std::max<int64_t>(in_size[0], 2);
  p.stored_width = std::max<int64_t>(in_size[1], 2);
  p.padding = map.padding;
  p.theta = theta.const_data_ptr();
  p.theta_is_double = theta.scalar_type() == at::kDouble;
  return p;
}

// The image of each map, of `images`; undefined where it is that of the same number.
inline at::Tensor shared_index(const Map& map, int64_t images) {
  if (map.index) return map.index->contiguous();
  if (images == map.count()) return {};
  return at::zeros({map.count()}, map.theta.options().dtype(at::kLong));
}

// ---- the general problem ----

template <class T>
Volumes<T> volumes(const at::Tensor& t, T* data) {
  Volumes<T> v{data, t.stride(0), t.stride(1), {}};
  for (int64_t d = 0; d < t.dim() - 2; ++d) v.axis[d] = t.stride(t.dim() - 1 - d);
  return v;
}

// The tensors that a Warp points into.
struct WarpTensors {
  at::Tensor theta, tangent, points, index;

  WarpTensors(const Map& map, int64_t images) : index(shared_index(map, images)) {
    const auto doubles = [](const at::Tensor& t) { return t.to(at::kDouble).contiguous(); };
    theta = doubles(map.theta);
    if (map.tangent) tangent = doubles(*map.tangent);
    if (map.points) points = doubles(*map.points);
  }
};

template <class T>
Warp<T> make_warp(const Map& map, const WarpTensors& tensors, int64_t images, int64_t channels,
                  at::IntArrayRef in_size, at::IntArrayRef out_size) {
  Warp<T> w{};
  w.dims = static_cast<int>(in_size.size());
  w.perspective = map.has_perspective();
  w.nearest = map.nearest;
  w.align_corners = map.align_corners;
  w.padding = map.padding;
  for (int d = 0; d < kMaxAxes; ++d) {
    const bool used = d < w.dims;
    w.in[d] = used ? in_size[static_cast<size_t>(w.dims - 1 - d)] : 1;
    w.out[d] = used ? out_size[static_cast<size_t>(w.dims - 1 - d)] : 1;
    w.stored[d] = used ? std::max<int64_t>(w.in[d], 2) : 1;
  }
  w.maps = map.count();
  w.images = images;
  w.channels = channels;
  w.basis = map.theta.size(2);
  w.theta = tensors.theta.const_data_ptr<double>();
  if (tensors.tangent.defined()) w.tangent = tensors.tangent.const_data_ptr<double>();
  if (tensors.points.defined()) w.points = tensors.points.const_data_ptr<double>();
  if (tensors.index.defined()) w.index = tensors.index.const_data_ptr<int64_t>();
  return w;
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace stn
