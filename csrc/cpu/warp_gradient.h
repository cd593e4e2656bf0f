// Theta's gradient of any map, from the derivatives of the loss by the coordinates (../warp.h). Included by
// level sources only; see kernels.h.
#pragma once

#include "warp_located.h"

namespace stn::cpu {
namespace STN_LEVEL {

// ---- row by row, whatever the map and its tangent ----

// The derivatives of the loss by the streams, from those by the coordinates (StreamGradient).
template <class T>
STN_INLINE void stream_gradients(const Warp<T>& w, const Streams& s, const double (*by_at)[kBlock], int count,
                                 double (*by)[kBlock]) {
  alignas(64) double inverse[kBlock];
  if (w.perspective) {
    for (int k = 0; k < count; ++k) {
      inverse[k] = over_depth(s.u[w.dims][k]);
      by[w.dims][k] = 0;
    }
  }
  for (int d = 0; d < w.dims; ++d) {
    const double scale = PixelScale(w.in[d], w.align_corners).scale;
    for (int k = 0; k < count; ++k) by[d][k] = by_at[d][k] * scale;
    if (!w.perspective) continue;
    for (int k = 0; k < count; ++k) {
      by[d][k] *= inverse[k];
      by[w.dims][k] -= by[d][k] * (s.u[d][k] * inverse[k]);
    }
  }
}

// The same where coordinates' tangents depend on theta too.
template <class T>
STN_INLINE void curved_gradients(const Warp<T>& w, const Streams& s, const double (*by_at)[kBlock],
                                 const double (*by_along)[kBlock], int count, double (*by)[kBlock]) {
  for (int k = 0; k < count; ++k) {
    double at[kMaxAxes] = {}, along[kMaxAxes] = {}, u[kMaxAxes + 1] = {}, du[kMaxAxes + 1] = {};
    for (int d = 0; d < w.dims; ++d) {
      at[d] = by_at[d][k];
      along[d] = by_along[d][k];
    }
    for (int d = 0; d <= w.dims; ++d) {
      u[d] = s.u[d][k];
      du[d] = s.du[d][k];
    }
    const StreamGradient<T> g(w, at, along, u, du);
    for (int d = 0; d < w.streams(); ++d) by[d][k] = g.by[d];
  }
}

// Adds a block's part of theta's gradient (streams, basis); by_along: null but for curved maps with a
// tangent.
template <class T>
__attribute__((noinline)) void add_gradient(const Warp<T>& w, const RowBlock& b, const Streams& s,
                                            const double (*by_at)[kBlock], const double (*by_along)[kBlock],
                                            const T* radial, double* gradient) {
  typedef Vec<double> V;
  constexpr int lanes = Simd<double>::lanes;
  alignas(64) double by[kMaxAxes + 1][kBlock];
  if (by_along) {
    curved_gradients(w, s, by_at, by_along, b.count, by);
  } else {
    stream_gradients(w, s, by_at, b.count, by);
  }
  const double x = normalised(b.j, w.out[0], w.align_corners),
               step = normalised_step(w.out[0], w.align_corners),
               y = normalised(b.row % w.out[1], w.out[1], w.align_corners),
               z = normalised(b.row / w.out[1], w.out[2], w.align_corners);
  for (int d = 0; d < w.streams(); ++d) {
    double* to = gradient + d * w.basis;
    V sum{}, by_number{}, number = lane_numbers<double>();
    for (int k = 0; k < b.count; k += lanes, number += lanes) {
      const V v = load_some<V>(by[d] + k, b.count - k);
      store(by[d] + k, v);  // zeros behind the row's end
      sum += v;
      by_number += number * v;
    }
    for (int64_t f = 0; f < w.radial(); ++f) {
      typedef T Half __attribute__((vector_size(lanes * sizeof(T))));
      V product{};
      for (int k = 0; k < b.count; k += lanes) {
        const auto value = load<Half>(radial + f * kRadialStride + k);
        product += load<V>(by[d] + k) * __builtin_convertvector(value, V);
      }
      to[f] += sum_lanes<double>(product);
    }
    const double total = sum_lanes<double>(sum);
    double* linear = to + w.radial();
    linear[0] += x * total + step * sum_lanes<double>(by_number);
    linear[1] += y * total;
    if (w.dims == 3) linear[2] += z * total;
    linear[w.dims] += total;
  }
}

// ---- by tiles, of tame maps ----

// For each stream, sums of its derivatives, of column * derivative and of row * derivative; of u and v by the
// input's pixels.
template <class T>
struct StreamSums {
  Vec<T> one[3] = {}, column[3] = {}, row[3] = {};
};

// by[d]: the derivatives by the tile's coordinates.
template <bool perspective, class T>
__attribute__((noinline)) void sum_streams(const TileMap<T>& m, T* const* by, StreamSums<T>* sums) {
  constexpr int streams = perspective ? 3 : 2;
  const OutTile& t = m.tile();
  const TileRows<T>& rows = m.rows();
  for (int64_t r = 0; r < t.rows; ++r) {
    // From the centre, in the input's pixels.
    T first[2];
    for (int d = 0; d < 2; ++d) {
      first[d] = (rows.whole[d][r] - static_cast<T>(m.lines().centre[d])) + rows.frac[d][r];
    }
    Vec<T> row_sum[streams] = {}, number = lane_numbers<T>();
    for (int64_t k = 0; k < t.columns; k += Simd<T>::lanes, number += Simd<T>::lanes) {
      const auto valid = number < static_cast<T>(t.columns);
      Vec<T> v[3] = {};
      for (int d = 0; d < 2; ++d) v[d] = keep_lanes(valid, load<Vec<T>>(by[d] + r * t.columns + k));
      if (perspective) {  // x = u / depth
        const Vec<T> over = 1 / (1 + rows.bend[r] * number), q = keep_lanes(valid, number * over);
        for (int d = 0; d < 2; ++d) {
          v[d] *= keep_lanes(valid, rows.inverse[r] * over);
          v[2] -= v[d] * (first[d] + rows.rise[d][r] * q);
        }
      }
      for (int s = 0; s < streams; ++s) {
        row_sum[s] += v[s];
        sums->column[s] += number * v[s];
      }
    }
    for (int s = 0; s < streams; ++s) {
      sums->one[s] += row_sum[s];
      sums->row[s] += static_cast<T>(r) * row_sum[s];
    }
  }
}

// Adds a tile's part of theta's gradient (streams, basis). by[d]: the derivatives by the tile's coordinates.
template <class T>
STN_INLINE void add_tile_gradient(const Warp<T>& w, const TileMap<T>& m, const TileRadial<T>& radial,
                                  T* const* by, double* gradient) {
  const OutTile& t = m.tile();
  StreamSums<T> sums;
  (w.perspective ? sum_streams<true, T> : sum_streams<false, T>)(m, by, &sums);
  radial.add_gradient(m.lines(), by, gradient);
  const double x = normalised(t.left, w.out[0], w.align_corners),
               step_x = normalised_step(w.out[0], w.align_corners),
               y = normalised(t.top, w.out[1], w.align_corners),
               step_y = normalised_step(w.out[1], w.align_corners);
  for (int s = 0; s < w.streams(); ++s) {
    const double scale = s < 2 ? m.lines().scale[s] : 1;
    double* linear = gradient + s * w.basis + w.radial();
    const auto one = scale * static_cast<double>(sum_lanes<T>(sums.one[s])),
               column = scale * static_cast<double>(sum_lanes<T>(sums.column[s])),
               row = scale * static_cast<double>(sum_lanes<T>(sums.row[s]));
    linear[0] += x * one + step_x * column;
    linear[1] += y * one + step_y * row;
    linear[2] += one;
  }
}

}  // namespace STN_LEVEL
}  // namespace stn::cpu
