// Where output pixels fall in the input, a vector of them at a time. Included by level sources only; see
// kernels.h.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace stn::cpu {
namespace STN_LEVEL {

// Pixels of a row that are walked from one origin, at most.
constexpr int kBlock = kWalk;

// Output pixels that are worked on together.
struct OutTile {
  int64_t top, left, rows, columns;
};

// f(padding), as a type whose value it is.
template <Padding padding>
struct PaddingIs {
  static constexpr Padding value = padding;
};
template <class F>
STN_INLINE auto with_padding(Padding padding, const F& f) {
  if (padding == Padding::zeros) return f(PaddingIs<Padding::zeros>());
  if (padding == Padding::border) return f(PaddingIs<Padding::border>());
  return f(PaddingIs<Padding::reflection>());
}

// Far more than a coordinate's error, so that what lies beyond it needs no test of its own.
constexpr double kMargin = 1.0 / 64;

template <class T>
constexpr int64_t padded(int64_t count) {
  return (count + Simd<T>::lanes - 1) / Simd<T>::lanes * Simd<T>::lanes;
}

// One axis of the input, and the coordinates along it of all output pixels. What every vector of pixels needs
// lies in memory as vectors.
template <class T>
struct Axis {
  AxisMap map;
  int64_t length;
  double last;                                // pixel
  double reach;                               // how far coordinates lie from map.one
  Vec<T> head, rest, vector_length, highest;  // Walk's, and axis_taps'
  bool exact;                                 // no coordinate is beyond kExactCoordinate, or NaN

  STN_INLINE Axis(const Problem<T>& p, int64_t n, int axis)
      : map(axis_map(p, n, axis)), length(axis == 0 ? p.frame.width : p.frame.height) {
    const int64_t stored = axis == 0 ? p.stored_width : p.stored_height;
    const Walk<T> walk(0, map.x);
    last = static_cast<double>(length - 1);
    head = Vec<T>{} + walk.head;
    rest = Vec<T>{} + walk.rest;
    vector_length = Vec<T>{} + static_cast<T>(length);
    highest = Vec<T>{} + static_cast<T>(stored - 2);
    // Of pixels behind a row's end too, which fill up its last vector.
    reach = __builtin_fabs(map.x) * (map.centre_j + Simd<T>::lanes) + __builtin_fabs(map.y) * map.centre_i;
    exact = __builtin_fabs(map.one) + reach <= kExactCoordinate;
  }
};

// Where a block's pixels, first + number of an output row, fall along an axis.
template <class T>
struct Segment {
  const Axis<T>& axis;
  int64_t i, first;
  double begin, low, high;  // the first coordinate, the least, the greatest

  STN_INLINE Segment(const Axis<T>& a, int64_t row, int64_t j, int count) : axis(a), i(row), first(j) {
    begin = a.map.at(row, j);
    const double end = begin + a.map.x * (count - 1);
    low = begin < end ? begin : end;
    high = begin < end ? end : begin;
  }

  // Both are false where a coordinate is NaN.
  STN_INLINE bool within(double least, double greatest) const { return low >= least && high <= greatest; }
  STN_INLINE bool outside(double least, double greatest) const { return high < least || low > greatest; }
};

// The coordinates of a segment, a vector at a time. base is a whole number; whole is counted from it.
template <class T>
struct Stepper {
  const Axis<T>& axis;
  double base;
  Vec<T> origin;

  STN_INLINE explicit Stepper(const Segment<T>& s) : axis(s.axis), base(__builtin_floor(s.begin)) {
    origin = Vec<T>{} + static_cast<T>(s.begin - base);
  }

  STN_INLINE void at(Vec<T> number, Vec<T>* whole, Vec<T>* frac) const {
    step(number, axis.head, axis.rest, origin, whole, frac);
  }
};

// f(k, x whole, x frac, y whole, y frac) for each vector of `count` pixels of row i from j on, from pixel k
// on; whatever they are.
template <Padding padding, class T, class F>
STN_INLINE void for_any_coordinates(const Axis<T>& ax, const Axis<T>& ay, int64_t i, int64_t j, int count,
                                    bool align_corners, const F& f) {
  alignas(64) T x[kBlock], fx[kBlock], y[kBlock], fy[kBlock];
  for (int k = 0; k < padded<T>(count); ++k) {
    split_any<padding>(ax.map.at(i, j + k), ax.length, align_corners, x + k, fx + k);
    split_any<padding>(ay.map.at(i, j + k), ay.length, align_corners, y + k, fy + k);
  }
  for (int k = 0; k < count; k += Simd<T>::lanes) {
    f(k, load<Vec<T>>(x + k), load<Vec<T>>(fx + k), load<Vec<T>>(y + k), load<Vec<T>>(fy + k));
  }
}

// f(k, x whole, x frac, y whole, y frac) for each vector of a block's pixels, from pixel k on; whatever they
// are.
template <Padding padding, class T, class F>
STN_INLINE void for_coordinates(const Segment<T>& sx, const Segment<T>& sy, int count, bool align_corners,
                                const F& f) {
  if (sx.axis.exact && sy.axis.exact) {
    const Stepper<T> step_x(sx), step_y(sy);
    const Vec<T> base_x = Vec<T>{} + static_cast<T>(step_x.base),
                 base_y = Vec<T>{} + static_cast<T>(step_y.base);
    Vec<T> number = lane_numbers<T>();
    for (int k = 0; k < count; k += Simd<T>::lanes, number += Simd<T>::lanes) {
      Vec<T> x, y, fx, fy;
      step_x.at(number, &x, &fx);
      step_y.at(number, &y, &fy);
      f(k, x + base_x, fx, y + base_y, fy);
    }
    return;
  }
  for_any_coordinates<padding>(sx.axis, sy.axis, sx.i, sx.first, count, align_corners, f);
}

// Where output pixels fall along one axis, to be added up from a row's part and a column's: each a whole
// number and a fraction.
template <class T, int64_t capacity>
struct Steps {
  alignas(64) T whole[capacity], frac[capacity];

  // start + k * slope for k < count, whole numbers counted from `from`.
  STN_INLINE void fill(double start, double slope, int64_t count, int64_t from) {
    constexpr int lanes = Simd<double>::lanes;
    typedef T Half __attribute__((vector_size(lanes * sizeof(T))));
    Vec<double> number = lane_numbers<double>();
    for (int64_t k = 0; k < count; k += lanes, number += lanes) {
      const Vec<double> x = start + slope * number, floor = Floor<Vec<double>>::of(x);
      store(whole + k, __builtin_convertvector(floor - static_cast<double>(from), Half));
      store(frac + k, __builtin_convertvector(x - floor, Half));
    }
  }
};

// The coordinates along an axis of a vector of pixels from column `at` of the steps on, in a row given by its
// part.
template <class T, int64_t capacity>
STN_INLINE void add_steps(const Steps<T, capacity>& columns, int64_t at, Vec<T> row_whole, Vec<T> row_frac,
                          Vec<T>* whole, Vec<T>* frac) {
  const Vec<T> one = Vec<T>{} + 1, sum = row_frac + load<Vec<T>>(columns.frac + at);
  const Vec<T> carry = keep_lanes(sum >= one, one);
  *whole = row_whole + load<Vec<T>>(columns.whole + at) + carry;
  *frac = sum - carry;
}

// One image's sampling.
template <class T>
struct Geometry {
  const Problem<T>& p;
  Axis<T> x, y;
  int64_t row;  // pixels from a row of the input to the next, where it is read

  STN_INLINE Geometry(const Problem<T>& problem, int64_t n, int64_t row_pixels)
      : p(problem), x(problem, n, 0), y(problem, n, 1), row(row_pixels) {}
};

}  // namespace STN_LEVEL
}  // namespace stn::cpu
