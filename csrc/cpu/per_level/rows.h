// The careful path: pixels row by row, whatever the map, its tangent and its values are, images or volumes.
// Coordinates in double, taps gathered from memory one by one. Included by level sources only; see problem.h.
#pragma once

#include "../../sampling/taps.h"
#include "locate.h"

namespace stn::cpu {
namespace STN_LEVEL {

constexpr int kBlock = kWalk;  // pixels of a row that are worked on together, at most

// ---- where a block's pixels fall ----

// Up to kBlock pixels of an output row from column j on. Rows are counted over all slices.
struct RowBlock {
  int64_t row, j;
  int count;
};

STN_INLINE RowBlock row_of(const OutTile& t, int64_t r) {
  return {t.top + r, t.left, static_cast<int>(t.columns)};
}

// The first element of a block's first pixel in channel c of image n.
STN_INLINE char* address(const Batch& to, int64_t size, const Problem& p, int64_t n, int64_t c,
                         const RowBlock& b) {
  return to.data + (n * to.batch + c * to.channel + b.row % p.out[1] * to.axis[1] +
                    b.row / p.out[1] * to.axis[2] + b.j * to.axis[0]) *
                       size;
}

// The streams' values and, with a tangent, their derivatives along it.
struct Streams {
  alignas(64) double u[kMaxAxes + 1][kBlock], du[kMaxAxes + 1][kBlock];
};

// Coordinates in pixels, and their derivatives along the tangent.
struct Positions {
  alignas(64) double at[kMaxAxes][kBlock], along[kMaxAxes][kBlock];
};

// radial: the radial functions' values there. count: whole vectors of T.
template <class T>
STN_INLINE void fill_stream(const Problem& p, const Lines& l, int stream, const RowBlock& b, const T* radial,
                            int count, double* u) {
  const double row = l.row(stream, p.dims, b.row % p.out[1], b.row / p.out[1]), slope = l.x[stream];
  // Counted from the center, so that an infinite slope gives infinite coordinates.
  Vec<double> number = lane_numbers<double>() + (static_cast<double>(b.j) - l.center[0]);
  constexpr int lanes = Simd<double>::lanes;
  for (int k = 0; k < count; k += lanes, number += lanes) store(u + k, row + slope * number);
  const int64_t functions = p.radial();
  if (functions == 0) return;
  alignas(64) T sum[kBlock];
  for (int k = 0; k < count; k += Simd<T>::lanes) {
    Vec<T> v{};
    for (int64_t f = 0; f < functions; ++f) {
      v += static_cast<T>(l.radial[stream][f]) * load<Vec<T>>(radial + f * kRadialStride + k);
    }
    store(sum + k, v);
  }
  for (int k = 0; k < count; ++k) u[k] += static_cast<double>(sum[k]);
}

template <class T>
__attribute__((noinline)) void place(const Problem& p, const MapLines& m, const RowBlock& b, const T* radial,
                                     Streams* s, Positions* to) {
  const int streams = p.streams(), dims = p.dims, count = static_cast<int>(padded<T>(b.count));
  for (int k = 0; k < streams; ++k) {
    fill_stream(p, m.value, k, b, radial, count, s->u[k]);
    if (p.tangent) fill_stream(p, m.tangent, k, b, radial, count, s->du[k]);
  }
  alignas(64) double inverse[kBlock];
  if (p.perspective) {
    for (int k = 0; k < count; ++k) inverse[k] = over_depth(s->u[dims][k]);
  }
  for (int d = 0; d < dims; ++d) {
    const double *u = s->u[d], *du = s->du[d], *ddepth = s->du[dims], scale = m.scale[d],
                 center = m.center[d];
    double *at = to->at[d], *along = to->along[d];
    if (!p.perspective) {
      for (int k = 0; k < count; ++k) at[k] = u[k] * scale + center;
    } else {
      for (int k = 0; k < count; ++k) {
        const double x = inverse[k] == 0 ? __builtin_huge_val() : u[k] * inverse[k];
        at[k] = x * scale + center;
      }
    }
    if (!p.tangent) continue;
    for (int k = 0; k < count; ++k) {
      const double dx = p.perspective ? (du[k] - u[k] * inverse[k] * ddepth[k]) * inverse[k] : du[k];
      along[k] = finite_or_zero(dx * scale);
    }
  }
}

// ---- taps ----

// A vector of coordinates as whole numbers and fractions. What lies far outside is brought to where it means
// the same: next to the image or, where the padding repeats, into the first period. Not a number becomes
// whole 0, frac NaN.
template <Padding padding>
STN_INLINE void split(Vec<double> x, int64_t length, bool align_corners, Vec<double>* whole,
                      Vec<double>* frac) {
  typedef Vec<double> V;
  const V zero{}, n = zero + static_cast<double>(length), last = n - 1;
  const V nan = x - x;  // not 0 where x is not a number, or infinite
  const auto number = x == x;
  x = number ? x : zero;
  if (repeats(padding)) {
    const V period = period_of(padding, n, align_corners);
    const auto far = (x > 1e15) | (x < -1e15);  // no fraction is left to fold
    const V inner = far ? zero : x;
    x = far ? (x > 0 ? last : zero) : inner - period * Floor<V>::of(inner / period);
  } else {
    x = x < -2 ? zero - 2 : x;
    x = x > last + 2 ? last + 2 : x;
  }
  // Within the rounding of what gave it a coordinate is the whole number that it is next to: where an image
  // ends, the smallest weight would let in a fill of any size.
  const V near = Floor<V>::of(x + 0.5), beside = x - near, rounding = n * 0x1p-49;
  *whole = beside < -rounding ? near - 1 : near;
  const V rest = (beside <= rounding) & (beside >= -rounding) ? zero : x - *whole;
  *frac = number ? rest : nan;
}

// A block's taps along one axis: their pixels, -1 where there is none, and AxisWeights, of which d0 and d1
// are for slopes and tangents; along: the tangent.
template <class T>
struct AxisBlock {
  alignas(64) int64_t pixel[2][kBlock];
  alignas(64) T w0[kBlock], w1[kBlock], d0[kBlock], d1[kBlock], along[kBlock];
};

template <Padding padding, bool slopes, bool tangent, class T>
__attribute__((noinline)) void fill_axis(const Problem& p, const Positions& l, int d, int count,
                                         AxisBlock<T>* a) {
  typedef Vec<double> V;
  constexpr int lanes = Simd<double>::lanes;
  typedef T Half __attribute__((vector_size(lanes * sizeof(T))));
  typedef int64_t Whole __attribute__((vector_size(lanes * sizeof(int64_t))));
  const V zero{}, one = zero + 1, length = zero + static_cast<double>(p.in[d]);
  for (int k = 0; k < count; k += lanes) {
    V whole, frac;
    split<padding>(load<V>(l.at[d] + k), p.in[d], p.align_corners, &whole, &frac);
    V slope = one;
    if (padding != Padding::zeros) {
      slope = (frac == zero) & is_outer<padding>(whole, length, p.align_corners) ? zero : one;
    }
    V w0 = 1 - frac, w1 = frac;
    if (p.nearest) {  // to the even one of two
      const auto odd = whole - 2 * Floor<V>::of(whole * 0.5) != zero;
      const auto up = (frac > 0.5) | ((frac == 0.5) & odd);
      whole += up ? one : zero;
      w1 = frac * zero;  // or NaN
      w0 = one + w1;
      slope = zero;
    }
    const auto pixel = [&](V at) STN_LAMBDA {
      return __builtin_convertvector(source_index<padding>(at, length, p.align_corners), Whole);
    };
    store(a->pixel[0] + k, pixel(whole));
    store(a->pixel[1] + k, pixel(whole + one));
    store(a->w0 + k, __builtin_convertvector(w0, Half));
    store(a->w1 + k, __builtin_convertvector(w1, Half));
    if (slopes) {
      store(a->d0 + k, __builtin_convertvector(-slope, Half));
      store(a->d1 + k, __builtin_convertvector(slope, Half));
    }
    if (tangent) store(a->along + k, __builtin_convertvector(load<V>(l.along[d] + k), Half));
  }
}

// A block's taps, and `sets` weights of each.
template <class T, int dims, int sets>
struct TapBlock {
  static constexpr int taps = 1 << dims;
  int count;
  AxisBlock<T> axis[dims];
  alignas(64) T weight[sets][taps][kBlock];
};

enum class Weights { value, slopes };  // one set, or one an axis

template <Weights weights, bool tangent, int dims, class T, int sets>
__attribute__((noinline)) void fill_taps(const Problem& p, const Positions& l, TapBlock<T, dims, sets>* b) {
  const int count = static_cast<int>(padded<T>(b->count));
  constexpr bool slopes = tangent || weights == Weights::slopes;
  with_padding(p.padding, [&](auto padding) STN_LAMBDA {
    for (int d = 0; d < dims; ++d) fill_axis<padding.value, slopes, tangent>(p, l, d, count, b->axis + d);
  });
  for (int k = 0; k < count; k += Simd<T>::lanes) {
    AxisWeights<Vec<T>> a[dims] = {};
    Vec<T> along[dims] = {};
    for (int d = 0; d < dims; ++d) {
      const AxisBlock<T>& from = b->axis[d];
      a[d].w0 = load<Vec<T>>(from.w0 + k);
      a[d].w1 = load<Vec<T>>(from.w1 + k);
      if (slopes) {
        a[d].d0 = load<Vec<T>>(from.d0 + k);
        a[d].d1 = load<Vec<T>>(from.d1 + k);
      }
      if (tangent) along[d] = load<Vec<T>>(from.along + k);
    }
    for (int t = 0; t < b->taps; ++t) {
      for (int set = 0; set < sets; ++set) {
        store(b->weight[set][t] + k, weights == Weights::value
                                         ? value_weight<dims, tangent>(a, along, t)
                                         : slope_weight<dims, tangent>(a, along, t, set));
      }
    }
  }
}

// The first `taps` taps' elements from the first pixel of a channel; -1 where there is none. In whole
// vectors, a row of kBlock each.
template <int taps, int dims, int sets, class T>
STN_INLINE void fill_offsets(const TapBlock<T, dims, sets>& b, const int64_t* axis, int64_t* offset) {
  typedef int64_t V __attribute__((vector_size(Simd<double>::lanes * sizeof(int64_t))));
  const V zero{}, none = zero - (int64_t{1} << 60);  // less than any sum of elements is long
  for (int k = 0; k < padded<T>(b.count); k += Simd<double>::lanes) {
    V part[dims][2];
    for (int d = 0; d < dims; ++d) {
      for (int side = 0; side < (taps > 1 ? 2 : 1); ++side) {
        const V pixel = load<V>(b.axis[d].pixel[side] + k);
        part[d][side] = pixel < zero ? none : pixel * axis[d];
      }
    }
    for (int t = 0; t < taps; ++t) {
      V sum = part[0][t & 1];
      for (int d = 1; d < dims; ++d) sum += part[d][t >> d & 1];
      store(offset + t * kBlock + k, sum < zero ? zero - 1 : sum);
    }
  }
}

template <int number>
struct IntIs {
  static constexpr int value = number;
};

// f(dims, whether there is a tangent), as types.
template <class F>
STN_INLINE void with_shape(const Problem& p, const F& f) {
  if (p.dims == 2) {
    p.tangent ? f(IntIs<2>(), IntIs<1>()) : f(IntIs<2>(), IntIs<0>());
  } else {
    p.tangent ? f(IntIs<3>(), IntIs<1>()) : f(IntIs<3>(), IntIs<0>());
  }
}

}  // namespace STN_LEVEL
}  // namespace stn::cpu
