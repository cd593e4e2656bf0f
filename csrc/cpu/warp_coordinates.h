// Where the pixels of any map fall (../warp.h). Included by level sources only; see kernels.h.
#pragma once

#include "radial_tiles.h"

namespace stn::cpu {
namespace STN_LEVEL {

// ---- where a block's pixels fall ----

// Up to kBlock pixels of an output row from column j on. Rows are counted over all slices.
struct RowBlock {
  int64_t row, j;
  int count;
};

STN_INLINE RowBlock row_of(const OutTile& t, int64_t r) {
  return {t.top + r, t.left, static_cast<int>(t.columns)};
}

// The elements before a block's first pixel in one channel.
template <class I>
STN_INLINE int64_t offset_of(const I& to, const int64_t* out, const RowBlock& b) {
  return b.row % out[1] * to.axis[1] + b.row / out[1] * to.axis[2] + b.j * to.axis[0];
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
STN_INLINE void fill_stream(const Warp<T>& w, const Lines& l, int stream, const RowBlock& b, const T* radial,
                            int count, double* u) {
  const double row = l.row(stream, w.dims, b.row % w.out[1], b.row / w.out[1]), slope = l.x[stream];
  // Counted from the centre, so that an infinite slope gives infinite coordinates.
  Vec<double> number = lane_numbers<double>() + (static_cast<double>(b.j) - l.centre[0]);
  constexpr int lanes = Simd<double>::lanes;
  for (int k = 0; k < count; k += lanes, number += lanes) store(u + k, row + slope * number);
  const int64_t functions = w.radial();
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
STN_INLINE void place(const Warp<T>& w, int64_t map, const RowBlock& b, const T* radial, Streams* s,
                      Positions* p) {
  const MapLines& m = w.lines[map];
  const int streams = w.streams(), dims = w.dims, count = static_cast<int>(padded<T>(b.count));
  for (int k = 0; k < streams; ++k) {
    fill_stream(w, m.value, k, b, radial, count, s->u[k]);
    if (w.tangent) fill_stream(w, m.tangent, k, b, radial, count, s->du[k]);
  }
  alignas(64) double inverse[kBlock];
  if (w.perspective) {
    for (int k = 0; k < count; ++k) inverse[k] = over_depth(s->u[dims][k]);
  }
  for (int d = 0; d < dims; ++d) {
    const double *u = s->u[d], *du = s->du[d], *ddepth = s->du[dims], scale = m.scale[d],
                 centre = m.centre[d];
    double *at = p->at[d], *along = p->along[d];
    if (!w.perspective) {
      for (int k = 0; k < count; ++k) at[k] = u[k] * scale + centre;
    } else {
      for (int k = 0; k < count; ++k) {
        const double x = inverse[k] == 0 ? __builtin_huge_val() : u[k] * inverse[k];
        at[k] = x * scale + centre;
      }
    }
    if (!w.tangent) continue;
    for (int k = 0; k < count; ++k) {
      const double dx = w.perspective ? (du[k] - u[k] * inverse[k] * ddepth[k]) * inverse[k] : du[k];
      along[k] = finite_or_zero(dx * scale);
    }
  }
}

// split_any of a block's coordinates.
template <Padding padding, class T>
STN_INLINE void split_block(const double* at, int64_t length, bool align_corners, int count, T* whole,
                            T* frac) {
  typedef Vec<double> V;
  constexpr int lanes = Simd<double>::lanes;
  typedef T Half __attribute__((vector_size(lanes * sizeof(T))));
  const V zero{}, last = zero + static_cast<double>(length - 1);
  const double period = 2.0 * static_cast<double>(align_corners ? length - 1 : length);
  for (int k = 0; k < count; k += lanes) {
    V x = load<V>(at + k);
    const V nan = x - x;  // not 0 where x is not a number, or infinite
    const auto number = x == x;
    x = number ? x : zero;
    if (padding == Padding::reflection && period > 0) {
      const auto far = (x > 1e15) | (x < -1e15);  // no fraction is left to fold
      const V inner = far ? zero : x;
      const V folded = inner - period * Floor<V>::of(inner / period);
      x = far ? (x > 0 ? last : zero) : folded;
    }
    if (padding != Padding::reflection || length == 1) {
      x = x < -2 ? zero - 2 : x;
      x = x > last + 2 ? last + 2 : x;
    }
    const V floor = Floor<V>::of(x), f = number ? x - floor : nan;
    store(whole + k, __builtin_convertvector(floor, Half));
    store(frac + k, __builtin_convertvector(f, Half));
  }
}

}  // namespace STN_LEVEL
}  // namespace stn::cpu
