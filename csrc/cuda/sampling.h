// The mathematics of sampling, written once: the CPU's vector kernels instantiate it with vectors of
// coordinates, the CUDA kernels with scalars.
//
// Coordinates are pixels: 0 is the center of the first pixel. A coordinate travels as a pair (whole, frac),
// whole an integer and frac in [0, 1], so that the fraction, which is what interpolation uses, keeps all its
// bits however far from the origin it lies.
#pragma once

#include <cstdint>
#include <cstring>

#include "sampling/padding.h"

namespace stn {

// Input and output sizes and the convention that ties them to theta's normalized coordinates.
struct Frame {
  int64_t height, width, out_height, out_width;
  bool align_corners;
};

// d(pixel coordinate) / d(theta), without the output coordinate that theta's entry multiplies: the factors by
// which composition scales theta's columns (x, y, 1) in one of its rows.
struct ThetaScale {
  double x, y, one;
};

STN_INLINE ThetaScale theta_scale(const Frame& f, int64_t in_length) {
  const double in = half_span(in_length, f.align_corners);
  const double out_x = half_span(f.out_width, f.align_corners);
  const double out_y = half_span(f.out_height, f.align_corners);
  // A single aligned output pixel lies at normalized 0: its offset from the center is 0 too.
  return {out_x > 0 ? in / out_x : 0, out_y > 0 ? in / out_y : 0, in};
}

// One output axis of theta in pixel space: coordinate = x * (j - center_j) + y * (i - center_i) + one.
// Centring keeps infinite entries meaningful and cancels nothing.
struct AxisMap {
  double x, y, one;
  double center_j, center_i;

  STN_INLINE double row(int64_t i) const { return y * (static_cast<double>(i) - center_i) + one; }
  STN_INLINE double at(int64_t i, int64_t j) const {
    return x * (static_cast<double>(j) - center_j) + row(i);
  }
};

// theta_row: three entries of theta, of any floating type.
template <class Theta>
STN_INLINE AxisMap axis_map(const Theta* theta_row, const Frame& f, int64_t in_length) {
  const ThetaScale s = theta_scale(f, in_length);
  return {static_cast<double>(theta_row[0]) * s.x, static_cast<double>(theta_row[1]) * s.y,
          static_cast<double>(theta_row[2]) * s.one + 0.5 * static_cast<double>(in_length - 1),
          0.5 * static_cast<double>(f.out_width - 1), 0.5 * static_cast<double>(f.out_height - 1)};
}

template <class V>
struct Coordinate {
  V whole, frac;
  V slope;  // d(folded coordinate) / d(coordinate): 1, -1 where mirrored, 0 where clamped
};

// Splits any double, whatever it is. What lies far outside is brought to where it means the same: next to the
// image, or, for reflection, into the first period. Not a number becomes whole 0, frac NaN.
template <Padding padding, class T>
STN_INLINE void split_any(double x, int64_t length, bool align_corners, T* whole, T* frac) {
  const double last = static_cast<double>(length - 1);
  if (padding == Padding::reflection) {
    const double period = 2.0 * static_cast<double>(align_corners ? length - 1 : length);
    if (x > 1e15 || x < -1e15) {
      x = x > 0 ? last : 0;  // no fraction is left to fold
    } else if (period > 0) {
      x -= period * __builtin_floor(x / period);
    }
  }
  if (padding != Padding::reflection || length == 1) {
    x = x < -2 ? -2 : (x > last + 2 ? last + 2 : x);  // leaves NaN alone
  }
  const double w = x == x ? __builtin_floor(x) : 0;
  *whole = static_cast<T>(w);
  *frac = static_cast<T>(x - w);
}

STN_INLINE double short_part(double slope, double*) { return slope; }
STN_INLINE float short_part(double slope, float*) {
  const float head = static_cast<float>(slope);
  uint32_t bits;
  memcpy(&bits, &head, sizeof(bits));
  bits &= 0xFFFFFFC0u;  // leaves room for the 6 bits of a number below kWalk
  float result;
  memcpy(&result, &bits, sizeof(bits));
  return result;
}

// A walk along a row from a coordinate below kExactCoordinate, to the last bit of the fraction: the slope is
// split into a head, whose product with a pixel's number is exact, and the rest.
template <class T>
struct Walk {
  T whole, frac, head, rest;

  STN_INLINE Walk(double begin, double slope) {
    const double w = __builtin_floor(begin);
    whole = static_cast<T>(w);
    frac = static_cast<T>(begin - w);
    head = short_part(slope, static_cast<T*>(nullptr));
    rest = static_cast<T>(slope - static_cast<double>(head));
  }
};

// whole is counted from the walk's own.
template <class V>
STN_INLINE void step(V number, V head, V rest, V origin, V* whole, V* frac) {
  const V exact = head * number;
  const V floor = Floor<V>::of((exact + origin) + rest * number);
  // The rounded sum's floor may be a neighbour's. The fraction is computed without it, and tells.
  const V f = ((exact - floor) + origin) + rest * number;
  const V carry = Floor<V>::of(f);
  *frac = f - carry;
  *whole = floor + carry;
}

// Takes a coordinate to the one at which the padded image repeats the input: clamped to the outer pixels'
// centers (border), mirrored at the image's edges and then clamped (reflection), or itself (zeros). As in
// grid_sample, a coordinate on or beyond the outer pixels' centers has slope 0 once it is clamped.
template <Padding padding, class V>
STN_INLINE Coordinate<V> fold(V whole, V frac, V length, bool align_corners) {
  const V zero{}, one = zero + 1;
  Coordinate<V> c{whole, frac, one};
  if (padding == Padding::zeros) return c;
  const V last = length - 1;
  if (padding == Padding::reflection) {
    // Both are whole numbers, so the quotient's floor is exact.
    const V span = align_corners ? last : length;
    const V period = span > 0 ? span * 2 : one;
    const V phase = whole - period * Floor<V>::of(whole / period);
    const V mirror = align_corners ? span * 2 : span * 2 - 1;
    const auto mirrored = phase >= span;
    const auto exact = frac == 0;
    c.whole = mirrored ? (exact ? mirror - phase : mirror - phase - 1) : phase;
    c.frac = mirrored ? (exact ? frac : 1 - frac) : frac;
    c.slope = mirrored ? -one : one;
  }
  const auto below = c.whole + c.frac <= 0;
  const auto above = c.whole >= last;
  c.whole = above ? last : c.whole;
  c.frac = above ? zero : c.frac;
  c.whole = below ? zero : c.whole;
  c.frac = below ? zero : c.frac;
  c.slope = above ? zero : c.slope;
  c.slope = below ? zero : c.slope;
  return c;
}

// Two neighbouring pixels that exist, tap and tap + 1, and what each contributes along one axis:
// value = w0 * pixel[tap] + w1 * pixel[tap + 1], d(value) / d(coordinate) = d0 * ... + d1 * ...
// Where a pixel's weight and its d are both 0 it takes no part, and is not to be multiplied in: it may be
// infinite.
template <class V>
struct AxisTaps {
  V tap, w0, w1, d0, d1;
};

// The taps around a coordinate. The pair is the outermost one at most: tap <= highest, two less than the
// pixels stored (one pixel is stored with a zero beside it). Outside pixels are zero: the pair moves inside
// and the weights follow.
template <Padding padding, class V>
STN_INLINE AxisTaps<V> axis_taps(V whole, V frac, V length, V highest, bool align_corners) {
  const Coordinate<V> c = fold<padding>(whole, frac, length, align_corners);
  const V zero{};
  V tap = c.whole < highest ? c.whole : highest;
  tap = tap > zero ? tap : zero;
  const V shift = c.whole - tap, rest = 1 - c.frac;
  const auto inside = shift == 0;  // the pair is (whole, whole + 1)
  const auto before =
      shift == -1;                // whole lies before the image: its right neighbour is the pair's left pixel
  const auto after = shift == 1;  // whole + 1 lies behind the image: whole is the pair's right pixel
  AxisTaps<V> t;
  t.tap = tap;
  // Sums of selections, of which one at most is not zero.
  t.w0 = (inside ? rest : zero) + (before ? c.frac : zero);
  t.w1 = (inside ? c.frac : zero) + (after ? rest : zero);
  t.d0 = (before ? c.slope : zero) - (inside ? c.slope : zero);
  t.d1 = (inside ? c.slope : zero) - (after ? c.slope : zero);
  return t;
}

}  // namespace stn
