// The general problem: any map, of images or of volumes, sampled with any weights. What every backend's
// general kernels are called with, and the mathematics they share.
//
// A map is a fixed basis of functions of the output's coordinates times coefficients of each image's own,
// theta: the coordinates and 1 (affine), these and one radial function a control point (thin plate spline:
// Bookstein 1989), or three such sums of which the last divides the others (projective). What it gives are
// normalized coordinates.
#pragma once

#include "cuda/gather_problem.h"
#include "sampling/taps.h"

namespace stn {

// A batch of images or volumes whose strides count elements.
template <class T>
struct Volumes {
  T* data;
  int64_t batch, channel, axis[kMaxAxes];
};

template <class T>
struct Warp {
  int dims;  // 2, or 3 for volumes
  bool perspective, nearest, align_corners;
  Padding padding;
  int64_t in[kMaxAxes], out[kMaxAxes];  // lengths; z is 1 for images
  int64_t stored[kMaxAxes];             // of the input, at least 2 along each of its axes
  int64_t maps, images, channels;
  int64_t basis;          // functions
  const double* theta;    // (maps, streams(), basis)
  const double* tangent;  // as theta, or null: the weights' derivatives along it take the weights' place
  const double* points;   // of the radial functions, (basis - 3, 2), or null
  const int64_t* index;   // the image of each map; null: of the same number
  Volumes<const T> input, grad;
  Volumes<T> output, grad_input;

  STN_INLINE int streams() const { return dims + perspective; }
  STN_INLINE int64_t radial() const { return basis - dims - 1; }  // functions
  STN_INLINE int64_t image_of(int64_t map) const { return index ? index[map] : map; }
  STN_INLINE int64_t rows() const { return out[1] * out[2]; }  // of the output, all slices'
};

// The thin plate spline's radial function, r^2 log r^2, of r^2 (Bookstein 1989, up to a factor that theta
// absorbs); the CPU has it for vectors.
STN_INLINE float radial_function(float r2) { return r2 < 1e-30f ? 0 : r2 * __builtin_logf(r2); }
STN_INLINE double radial_function(double r2) { return r2 < 1e-30 ? 0 : r2 * __builtin_log(r2); }

// The taps of the pixel nearest to a coordinate, to the even one of two; no derivatives.
template <Padding padding, class V>
STN_INLINE AxisTaps<V> nearest_taps(V whole, V frac, V length, V highest, bool align_corners) {
  const Coordinate<V> c = fold<padding>(whole, frac, length, align_corners);
  const V zero{}, one = zero + 1, half = one / 2;
  const auto odd = c.whole - 2 * Floor<V>::of(c.whole * half) != 0;
  const auto up = (c.frac > half) | ((c.frac == half) & odd);
  const V nearest = c.whole + (up ? one : zero);
  V tap = nearest < highest ? nearest : highest;
  tap = tap > zero ? tap : zero;
  const V nan = c.frac * zero;  // or 0
  return {tap, (nearest == tap ? one : zero) + nan, (nearest == tap + 1 ? one : zero) + nan, zero, zero};
}

// ---- which output pixels adjoint looks at ----

// A box of the input, whose gradient is computed in one piece.
struct WarpTile {
  int64_t first[kMaxAxes], count[kMaxAxes];
};

// Output pixels are looked for in bundles: kWalk columns of kBundleRows rows.
constexpr int64_t kBundleRows = 16;

// The first taps of a bundle's pixels lie between these, both inclusive.
struct WarpBox {
  int32_t low[kMaxAxes], high[kMaxAxes];
};

struct Bundles {
  int64_t across, count;

  template <class T>
  STN_INLINE explicit Bundles(const Warp<T>& w)
      : across((w.out[0] + kWalk - 1) / kWalk), count((w.rows() + kBundleRows - 1) / kBundleRows * across) {}
  STN_INLINE int64_t row(int64_t bundle) const { return bundle / across * kBundleRows; }
  STN_INLINE int64_t column(int64_t bundle) const { return bundle % across * kWalk; }
};

STN_INLINE bool touches(const WarpBox& box, const WarpTile& tile, int dims) {
  for (int d = 0; d < dims; ++d) {
    if (box.low[d] > box.high[d] || box.high[d] + 1 < tile.first[d] ||
        box.low[d] >= tile.first[d] + tile.count[d])
      return false;
  }
  return true;
}

}  // namespace stn
