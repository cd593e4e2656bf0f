// Where output pixels fall: normalized coordinates and pixels, affine maps in pixels, and what the other maps
// need. Written once for host and device, for numbers and for vectors of them.
//
// Coordinates are pixels: 0 is the center of the first pixel.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define STN_INLINE __host__ __device__ __forceinline__
#else
#define STN_INLINE inline __attribute__((always_inline))
#endif

// After a lambda's parameters: what is inlined has no copy that another SIMD level could take for its own.
#define STN_LAMBDA __attribute__((always_inline))

namespace stn {

constexpr int kMaxAxes = 3;  // x, y, z, in this order everywhere

// Half the length that normalized coordinates -1 to 1 span, in pixels.
STN_INLINE double half_span(int64_t length, bool align_corners) {
  return 0.5 * static_cast<double>(align_corners ? length - 1 : length);
}

// Normalized coordinates from an output pixel to the next; 0 for a single aligned one, which lies at 0.
STN_INLINE double normalized_step(int64_t length, bool align_corners) {
  const double half = half_span(length, align_corners);
  return half > 0 ? 1 / half : 0;
}

// The normalized coordinate of an output pixel.
STN_INLINE double normalized(int64_t at, int64_t length, bool align_corners) {
  return (static_cast<double>(at) - 0.5 * static_cast<double>(length - 1)) *
         normalized_step(length, align_corners);
}

// From a normalized coordinate to pixels: x * scale + center.
struct PixelScale {
  double scale, center;

  STN_INLINE PixelScale(int64_t length, bool align_corners)
      : scale(half_span(length, align_corners)), center(0.5 * static_cast<double>(length - 1)) {}
};

// Points with less depth than this lie at or behind the horizon: outside, beyond all coordinates.
constexpr double kHorizon = 1e-290;

// The reciprocal of a depth, 0 at and behind the horizon; NaN stays NaN.
STN_INLINE double over_depth(double depth) { return depth < kHorizon ? 0 : 1 / depth; }

// A derivative that overflows belongs to a pixel far outside, where nothing depends on it.
STN_INLINE double finite_or_zero(double x) { return x - x == 0 ? x : 0; }

// Specialized for each vector type.
template <class V>
struct Floor;
template <>
struct Floor<float> {
  static STN_INLINE float of(float x) { return __builtin_floorf(x); }
};
template <>
struct Floor<double> {
  static STN_INLINE double of(double x) { return __builtin_floor(x); }
};

// Coordinates of magnitude up to this are exact in float as a whole number and a fraction.
constexpr double kExactCoordinate = 1 << 22;

// Pixels of a row that are worked on together, at most.
constexpr int kWalk = 64;

// What theta's gradient collects of a pixel: the derivatives of the loss by the map's sums ("streams"), from
// those by its coordinates in pixels, `by_at`, and by their tangents, `by_along`. P: the problem.
struct StreamGradient {
  double by[kMaxAxes + 1] = {};

  // u: the streams' values and du their tangents, where the map has perspective.
  template <class P>
  STN_INLINE StreamGradient(const P& p, const double* by_at, const double* by_along, const double* u,
                            const double* du) {
    for (int d = 0; d < p.dims; ++d) by[d] = by_at[d] * PixelScale(p.in[d], p.align_corners).scale;
    if (!p.perspective) return;
    // x = u / depth and x' = (u' - x depth') / depth
    const double inverse = over_depth(u[p.dims]);
    double depth = 0;
    for (int d = 0; d < p.dims; ++d) {
      const double x = u[d] * inverse;
      double direct = by[d];
      if (p.tangent) {
        const double ddepth = du[p.dims], dx = (du[d] - x * ddepth) * inverse;
        const double second = by_along[d] * PixelScale(p.in[d], p.align_corners).scale;
        direct -= second * ddepth * inverse;
        depth += second * (x * ddepth * inverse - dx);
      }
      by[d] = direct * inverse;
      depth -= by_at[d] * PixelScale(p.in[d], p.align_corners).scale * x;
    }
    by[p.dims] = depth * inverse;
  }
};

}  // namespace stn
