// What every backend's kernels are called with: plain numbers and pointers.
#pragma once

#include <cstdint>

#include "cuda/sampling.h"

namespace stn {

constexpr int64_t kStreamed = 64;

// A batch of images whose strides count elements.
template <class T>
struct Images {
  T* data;
  int64_t batch, channel, row, pixel;  // strides
};

template <class T>
struct Problem {
  Frame frame;
  int64_t batches, channels;            // batches: maps, and the images they give
  const int64_t* index;                 // the input image of each map; null: of the same number
  int64_t stored_height, stored_width;  // of the input as stored, at least 2 each
  Padding padding;
  const void* theta;  // (N, 2, 3), contiguous
  bool theta_is_double;
  Images<const T> input;
  Images<T> output;
  Images<const T> grad;  // of the output
  Images<T> grad_input;
  bool streams;  // whether the CPU writes images past its caches; their rows are aligned to kStreamed bytes
                 // then

  STN_INLINE int64_t image_of(int64_t map) const { return index ? index[map] : map; }
};

// Sums of (d/dx, d/dy) x (j - center_j, i - center_i, 1), in this order.
constexpr int kMoments = 6;

// The sums are of derivatives by pixel coordinates; theta's entries scale them (AxisMap).
STN_INLINE double theta_gradient(double moment, int which, const Frame& f) {
  const ThetaScale s = theta_scale(f, which < 3 ? f.width : f.height);
  return moment * (which % 3 == 0 ? s.x : which % 3 == 1 ? s.y : s.one);
}

template <class T>
STN_INLINE AxisMap axis_map(const Problem<T>& p, int64_t n, int axis) {
  const int64_t at = 6 * n + 3 * axis, length = axis == 0 ? p.frame.width : p.frame.height;
  return p.theta_is_double ? axis_map(static_cast<const double*>(p.theta) + at, p.frame, length)
                           : axis_map(static_cast<const float*>(p.theta) + at, p.frame, length);
}

}  // namespace stn
