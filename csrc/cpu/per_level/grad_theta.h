// Theta's gradient over a tile of the output: the derivatives of the loss by the pixels' coordinates, from
// windows, and what maps collect of them. Included by level sources only; see problem.h.
#pragma once

#include "sample.h"

namespace stn::cpu {
namespace STN_LEVEL {

// ---- derivatives by the coordinates ----

template <class T>
struct Slopes {
  Vec<T> x, y;

  STN_INLINE Slopes(Vec<T> by_x, Vec<T> by_y) : x(by_x), y(by_y) {}
  STN_INLINE Slopes(const Taps<T>& t, Vec<T> x1, Vec<T> y1, Vec<T> grad) {
    const Vec<T> upper = t.v01 - t.v00, twist = (t.v11 - t.v10) - upper;
    x = grad * (upper + y1 * twist);
    y = grad * ((t.v10 - t.v00) + x1 * twist);
  }

  STN_INLINE void scale(Vec<T> by_x, Vec<T> by_y) {
    x *= by_x;
    y *= by_y;
  }
};

// ---- where they go ----

// Sums over a tile of what maps collect that are linear in their pixels' numbers: of (d/dx, d/dy) times
// (column, row, 1). What lanes are is the caller's affair.
template <class T>
struct LinearSums {
  Vec<T> column[2] = {}, row[2] = {}, one[2] = {};
  Vec<T> in_row[2] = {};

  STN_INLINE void add(const Slopes<T>& by, Vec<T> number) {
    column[0] += number * by.x;
    in_row[0] += by.x;
    column[1] += number * by.y;
    in_row[1] += by.y;
  }

  STN_INLINE void end_row(int64_t r) {
    for (int d = 0; d < 2; ++d) {
      row[d] += static_cast<T>(r) * in_row[d];
      one[d] += in_row[d];
      in_row[d] = Vec<T>{};
    }
  }
};

// Adds one row of theta's gradient's linear part, from its sums over a tile; linear: the entry by x.
template <class T>
STN_INLINE void add_linear(const Problem& p, const OutTile& t, double scale, Vec<T> one, Vec<T> column,
                           Vec<T> row, double* linear) {
  const double total = scale * static_cast<double>(sum_lanes<T>(one));
  linear[0] +=
      normalized(t.left, p.out[0], p.align_corners) * total +
      normalized_step(p.out[0], p.align_corners) * (scale * static_cast<double>(sum_lanes<T>(column)));
  linear[1] += normalized(t.top, p.out[1], p.align_corners) * total +
               normalized_step(p.out[1], p.align_corners) * (scale * static_cast<double>(sum_lanes<T>(row)));
  linear[2] += total;
}

// ---- from windows ----

template <class T>
struct SlopeSums {
  alignas(64) T by[2][kTilePixels + Simd<T>::lanes];
  alignas(64) T grads[kFew][kTileColumns + Simd<T>::lanes];
};

// The first `count` of a vector; the other lanes are 0.
template <class T>
STN_INLINE Vec<T> get_some(const Rows<T>& as, const char* from, int64_t count) {
  if (as.direct) return load_some<Vec<T>>(reinterpret_cast<const T*>(from), count);
  alignas(64) T part[Simd<T>::lanes] = {};
  as.load(from, 1, 1, count, part, 0);
  return load<Vec<T>>(part);
}

// Row r of `channels` planes, to line + c * (kTileColumns + a vector).
template <class T>
STN_INLINE void load_lines(const TileView<T>& from, int64_t channels, int64_t r, int64_t columns, T* line) {
  constexpr int64_t stride = kTileColumns + Simd<T>::lanes;
  if (from.channel == 1 && channels > 1) {
    from.as.load(from.at(0, r, 0), channels, from.pixel, columns, line, stride);
    return;
  }
  for (int64_t c = 0; c < channels; ++c) {
    from.as.load(from.at(c, r, 0), 1, from.pixel, columns, line + c * stride, 0);
  }
}

// put(slopes, numbers, at, count, c) for each vector of the tile's pixels of `channels` planes that lie side
// by side in memory, numbers being their columns; and end_row(r).
template <bool edges, class T, class Put, class End>
STN_INLINE void plane_slopes(const TileView<T>& grad, const OutTile& t, int64_t channels,
                             const PlaneWindows<T, kFew>& windows, const Located<T>& l, SlopeSums<T>* s,
                             const Put& put, const End& end_row) {
  constexpr int64_t lanes = Simd<T>::lanes;
  const bool direct = grad.as.direct && grad.pixel == 1;
  for (int64_t r = 0; r < t.rows; ++r) {
    grad.expect(channels, r + kRowsAhead, t.columns);
    if (!direct) load_lines(grad, channels, r, t.columns, s->grads[0]);
    for (int64_t c = 0; c < channels; ++c) {
      const T* from = direct ? grad.direct(c, r, 0) : s->grads[c];
      const auto slopes = [&](int64_t at, Vec<T> g) STN_LAMBDA {
        Slopes<T> by(plane_taps(windows.values[c], l, at), load<Vec<T>>(l.fx + at), load<Vec<T>>(l.fy + at),
                     g);
        if (edges) by.scale(load<Vec<T>>(l.slope_x + at), load<Vec<T>>(l.slope_y + at));
        return by;
      };
      Vec<T> numbers = lane_numbers<T>();
      int64_t k = 0, at = r * t.columns;
      for (; k + lanes <= t.columns; k += lanes, at += lanes, numbers += lanes) {
        put(slopes(at, load<Vec<T>>(from + k)), numbers, at, lanes, c);
      }
      if (k == t.columns) continue;
      const int64_t count = t.columns - k;
      Slopes<T> by = slopes(at, load_some<Vec<T>>(from + k, count));
      const auto valid = lane_numbers<T>() < static_cast<T>(count);
      by.x = keep_lanes(valid, by.x);
      by.y = keep_lanes(valid, by.y);
      put(by, numbers, at, count, c);
    }
    end_row(r);
  }
}

// A vector of pixels' channels, a vector each; those behind the first `count` pixels are whatever they are.
template <class T>
STN_INLINE void load_group(const TileView<T>& from, int64_t channels, int64_t r, int64_t k, int64_t count,
                           Vec<T>* v) {
  constexpr int64_t lanes = Simd<T>::lanes;
  if (from.pixel != 1) {
    for (int64_t i = 0; i < count; ++i) v[i] = get_some(from.as, from.at(0, r, k + i), channels);
    return;
  }
  const char* first = from.at(0, r, k);
  const int64_t step = from.channel * from.as.size;
  if (from.as.direct) {
#pragma GCC unroll 16
    for (int c = 0; c < lanes; ++c) {
      v[c] = c < channels ? load_some<Vec<T>>(reinterpret_cast<const T*>(first + c * step), count) : Vec<T>{};
    }
  } else {
    for (int64_t c = 0; c < lanes; ++c) {
      v[c] = c < channels ? get_some(from.as, first + c * step, count) : Vec<T>{};
    }
  }
  transpose<T>(v);
}

// put(slopes, k, at), lanes being channels, for each of the tile's pixels, and end_row(r).
template <bool edges, class T, class Put, class End>
STN_INLINE void group_slopes(const TileView<T>& grad, const OutTile& t, int64_t channels,
                             const Group<T>& group, const Located<T>& l, const Put& put, const End& end_row) {
  constexpr int64_t lanes = Simd<T>::lanes;
  for (int64_t r = 0; r < t.rows; ++r) {
    for (int64_t k = 0; k < t.columns; k += lanes) {
      const int64_t count = t.columns - k < lanes ? t.columns - k : lanes;
      Vec<T> g[lanes];
      load_group(grad, channels, r, k, count, g);
      for (int64_t lane = 0; lane < count; ++lane) {
        const int64_t at = r * t.columns + k + lane;
        Slopes<T> by(group_taps(group, l, at), Vec<T>{} + l.fx[at], Vec<T>{} + l.fy[at], g[lane]);
        if (edges) by.scale(Vec<T>{} + l.slope_x[at], Vec<T>{} + l.slope_y[at]);
        put(by, k + lane, at);
      }
    }
    end_row(r);
  }
}

// ---- linear maps collect at once ----

template <bool edges, class T>
__attribute__((noinline)) void sum_planes(const TileView<T>& grad, const OutTile& t, int64_t channels,
                                          const PlaneWindows<T, kFew>& windows, const Located<T>& l,
                                          SlopeSums<T>* s, LinearSums<T>* sums) {
  LinearSums<T> own = *sums;
  plane_slopes<edges>(
      grad, t, channels, windows, l, s,
      [&](const Slopes<T>& by, Vec<T> numbers, int64_t, int64_t, int64_t)
          STN_LAMBDA { own.add(by, numbers); },
      [&](int64_t r) STN_LAMBDA { own.end_row(r); });
  *sums = own;
}

template <bool edges, class T>
__attribute__((noinline)) void sum_group(const TileView<T>& grad, const OutTile& t, int64_t channels,
                                         const Group<T>& group, const Located<T>& l, LinearSums<T>* sums) {
  LinearSums<T> own = *sums;
  group_slopes<edges>(
      grad, t, channels, group, l,
      [&](const Slopes<T>& by, int64_t k, int64_t) STN_LAMBDA { own.add(by, Vec<T>{} + static_cast<T>(k)); },
      [&](int64_t r) STN_LAMBDA { own.end_row(r); });
  *sums = own;
}

// ---- other maps collect from the sums over channels ----

template <bool edges, class T>
__attribute__((noinline)) void keep_planes(const TileView<T>& grad, const OutTile& t, int64_t channels,
                                           const PlaneWindows<T, kFew>& windows, const Located<T>& l,
                                           bool add, SlopeSums<T>* s) {
  plane_slopes<edges>(
      grad, t, channels, windows, l, s,
      [&](const Slopes<T>& by, Vec<T>, int64_t at, int64_t count, int64_t c) STN_LAMBDA {
        T *x = s->by[0] + at, *y = s->by[1] + at;
        store_some(x, add || c > 0 ? load<Vec<T>>(x) + by.x : by.x, count);
        store_some(y, add || c > 0 ? load<Vec<T>>(y) + by.y : by.y, count);
      },
      [](int64_t) STN_LAMBDA {});
}

template <bool edges, class T>
__attribute__((noinline)) void keep_group(const TileView<T>& grad, const OutTile& t, int64_t channels,
                                          const Group<T>& group, const Located<T>& l, bool add,
                                          SlopeSums<T>* s) {
  constexpr int64_t lanes = Simd<T>::lanes;
  Vec<T> x[lanes], y[lanes];
  int64_t held = 0;
  const auto flush = [&](int64_t end) STN_LAMBDA {  // of the pixels before `end`
    if (held == 0) return;
    const Vec<T> by[2] = {sum_vectors<T>(x), sum_vectors<T>(y)};
    for (int d = 0; d < 2; ++d) {
      T* to = s->by[d] + end - held;
      store_some(to, add ? load<Vec<T>>(to) + by[d] : by[d], held);
    }
    held = 0;
  };
  group_slopes<edges>(
      grad, t, channels, group, l,
      [&](const Slopes<T>& by, int64_t, int64_t at) STN_LAMBDA {
        x[held] = by.x;
        y[held] = by.y;
        if (++held == lanes) flush(at + 1);
      },
      [&](int64_t r) STN_LAMBDA { flush((r + 1) * t.columns); });
}

// For each stream, sums of its derivatives, of column * derivative and of row * derivative; of u and v by the
// input's pixels.
template <class T>
struct StreamSums {
  Vec<T> one[3] = {}, column[3] = {}, row[3] = {};
};

// by[d]: the derivatives by the tile's coordinates.
template <class T, bool perspective>
__attribute__((noinline)) void sum_streams(const CurvedTile<T, perspective>& m,
                                           const T (*by)[kTilePixels + Simd<T>::lanes], StreamSums<T>* sums) {
  constexpr int streams = perspective ? 3 : 2;
  const OutTile& t = m.tile();
  const TileRows<T>& rows = m.rows();
  for (int64_t r = 0; r < t.rows; ++r) {
    // From the center, in the input's pixels.
    T first[2];
    for (int d = 0; d < 2; ++d) {
      first[d] = (rows.whole[d][r] - static_cast<T>(m.lines().center[d])) + rows.frac[d][r];
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

// Adds a tile's part of theta's gradient (streams, basis).
template <class T>
STN_INLINE void collect(const Problem& p, const AffineTile<T>& m, const LinearSums<T>& sums,
                        const SlopeSums<T>&, double* gradient) {
  for (int d = 0; d < 2; ++d) {
    add_linear<T>(p, m.tile(), m.scale(d), sums.one[d], sums.column[d], sums.row[d], gradient + d * p.basis);
  }
}

template <class T, bool perspective>
STN_INLINE void collect(const Problem& p, const CurvedTile<T, perspective>& m, const LinearSums<T>&,
                        const SlopeSums<T>& s, double* gradient) {
  StreamSums<T> sums;
  sum_streams(m, s.by, &sums);
  const T* const by[2] = {s.by[0], s.by[1]};
  if (!perspective) m.radial().add_gradient(m.lines(), by, gradient);
  for (int k = 0; k < p.streams(); ++k) {
    // u and v are in pixels; the depth has no unit, and each of the three the input's scale.
    add_linear<T>(p, m.tile(), k < 2 ? m.scale(k) : 1, sums.one[k], sums.column[k], sums.row[k],
                  gradient + k * p.basis + p.radial());
  }
}

}  // namespace STN_LEVEL
}  // namespace stn::cpu
