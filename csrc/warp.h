// The general problem: any map, of images or of volumes, sampled with any weights. What every backend's
// general kernels are called with, and the mathematics they share.
//
// A map is a fixed basis of functions of the output's coordinates times coefficients of each image's own,
// theta: the coordinates and 1 (affine), these and one radial function a control point (thin plate spline:
// Bookstein 1989), or three such sums of which the last divides the others (projective). What it gives are
// normalised coordinates.
#pragma once

#include "problem.h"

namespace stn {

constexpr int kMaxAxes = 3;  // x, y, z, in this order everywhere

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

// Normalised coordinates from an output pixel to the next; 0 for a single aligned one, which lies at 0.
STN_INLINE double normalised_step(int64_t length, bool align_corners) {
  const double half = half_span(length, align_corners);
  return half > 0 ? 1 / half : 0;
}

// The normalised coordinate of an output pixel.
STN_INLINE double normalised(int64_t at, int64_t length, bool align_corners) {
  return (static_cast<double>(at) - 0.5 * static_cast<double>(length - 1)) *
         normalised_step(length, align_corners);
}

// From a normalised coordinate to pixels: x * scale + centre.
struct PixelScale {
  double scale, centre;

  STN_INLINE PixelScale(int64_t length, bool align_corners)
      : scale(half_span(length, align_corners)), centre(0.5 * static_cast<double>(length - 1)) {}
};

// Points with less depth than this lie at or behind the horizon: outside, beyond all coordinates.
constexpr double kHorizon = 1e-290;

// The reciprocal of a depth, 0 at and behind the horizon; NaN stays NaN.
STN_INLINE double over_depth(double depth) { return depth < kHorizon ? 0 : 1 / depth; }

// The thin plate spline's radial function, r^2 log r^2, of r^2 (Bookstein 1989, up to a factor that theta
// absorbs); the CPU has it for vectors.
STN_INLINE float radial_function(float r2) { return r2 < 1e-30f ? 0 : r2 * __builtin_logf(r2); }
STN_INLINE double radial_function(double r2) { return r2 < 1e-30 ? 0 : r2 * __builtin_log(r2); }

// A derivative that overflows belongs to a pixel far outside, where nothing depends on it.
STN_INLINE double finite_or_zero(double x) { return x - x == 0 ? x : 0; }

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

// The weight of tap `t` of 2^dims, whose bit d says which of axis d's pair it is: the product over the axes,
// of the derivatives along those in `by`.
template <int dims, class V>
STN_INLINE V tap_product(const AxisTaps<V>* a, int t, int by) {
  V w{};
  for (int d = 0; d < dims; ++d) {
    const bool second = t >> d & 1;
    const V factor = by >> d & 1 ? (second ? a[d].d1 : a[d].d0) : (second ? a[d].w1 : a[d].w0);
    w = d == 0 ? factor : w * factor;
  }
  return w;
}

// A tap's weight; or, along a tangent of the coordinates, its derivative.
template <int dims, bool tangent, class V>
STN_INLINE V value_weight(const AxisTaps<V>* a, const V* along, int t) {
  if (!tangent) return tap_product<dims>(a, t, 0);
  V w{};
  for (int d = 0; d < dims; ++d) w += along[d] * tap_product<dims>(a, t, 1 << d);
  return w;
}

// The derivative of that by coordinate d. Between pixels the weights are linear in each coordinate, so that
// only mixed second derivatives are not 0.
template <int dims, bool tangent, class V>
STN_INLINE V slope_weight(const AxisTaps<V>* a, const V* along, int t, int d) {
  if (!tangent) return tap_product<dims>(a, t, 1 << d);
  V w{};
  for (int e = 0; e < dims; ++e) {
    if (e != d) w += along[e] * tap_product<dims>(a, t, 1 << d | 1 << e);
  }
  return w;
}

// What theta's gradient collects of a pixel: the derivatives of the loss by the map's sums ("streams"), from
// those by its coordinates in pixels, `by_at`, and by their tangents, `by_along`.
template <class T>
struct StreamGradient {
  double by[kMaxAxes + 1] = {};

  // u: the streams' values and du their tangents, where the map has perspective.
  STN_INLINE StreamGradient(const Warp<T>& w, const double* by_at, const double* by_along, const double* u,
                            const double* du) {
    for (int d = 0; d < w.dims; ++d) by[d] = by_at[d] * PixelScale(w.in[d], w.align_corners).scale;
    if (!w.perspective) return;
    // x = u / depth and x' = (u' - x depth') / depth
    const double inverse = over_depth(u[w.dims]);
    double depth = 0;
    for (int d = 0; d < w.dims; ++d) {
      const double x = u[d] * inverse;
      double direct = by[d];
      if (w.tangent) {
        const double ddepth = du[w.dims], dx = (du[d] - x * ddepth) * inverse;
        const double second = by_along[d] * PixelScale(w.in[d], w.align_corners).scale;
        direct -= second * ddepth * inverse;
        depth += second * (x * ddepth * inverse - dx);
      }
      by[d] = direct * inverse;
      depth -= by_at[d] * PixelScale(w.in[d], w.align_corners).scale * x;
    }
    by[w.dims] = depth * inverse;
  }
};

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
