// Bilinear sampling of planes through any map, and theta's gradient, by the windows of tile_kernels.h: a
// tile's pixels are located first, which shows what they need of the input. Included by level sources only;
// see kernels.h.
#pragma once

#include "tile_kernels.h"
#include "warp_coordinates.h"

namespace stn::cpu {
namespace STN_LEVEL {

// Whether the windows are for it.
template <class T>
STN_INLINE bool is_planar(const Warp<T>& w) {
  return w.dims == 2 && !w.tangent && !w.nearest && w.input.axis[0] == 1 &&
         (w.output.data ? w.output.axis[0] == 1 : w.grad.axis[0] == 1) && w.in[0] < (1 << 24) &&
         w.in[1] < (1 << 24);
}

// What the windows' kernels need of it.
template <class T>
STN_INLINE Problem<T> planes_of(const Warp<T>& w) {
  Problem<T> p{};
  p.frame = {w.in[1], w.in[0], w.out[1], w.out[0], w.align_corners};
  p.stored_height = w.stored[1];
  p.stored_width = w.stored[0];
  p.padding = w.padding;
  p.input = {w.input.data, w.input.batch, w.input.channel, w.input.axis[1], 1};
  p.output = {w.output.data, w.output.batch, w.output.channel, w.output.axis[1], 1};
  p.grad = {w.grad.data, w.grad.batch, w.grad.channel, w.grad.axis[1], 1};
  return p;
}

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
  const double half = half_span(w.out[0], w.align_corners);
  const double x = normalised(b.j, w.out[0], w.align_corners), step = half > 0 ? 1 / half : 0,
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

// ---- where a tile's pixels fall ----

// Whole coordinates, until it is known where the window lies; and the window's bounds.
template <class T>
struct WarpScratch {
  Located<T> at;
  alignas(64) T window[2 * kWindow + 8 * Simd<T>::lanes];
  alignas(64) T x[kTilePixels + Simd<T>::lanes], y[kTilePixels + Simd<T>::lanes];
  alignas(64) T by_x[kTilePixels + Simd<T>::lanes], by_y[kTilePixels + Simd<T>::lanes];
};

// One axis of a row: whole coordinates, fractions and slopes; widens [*low, *high].
template <Padding padding, class T>
__attribute__((noinline)) void split_row(const Warp<T>& w, const double* at, int axis, int64_t count,
                                         T* whole, T* frac, T* slope, Vec<T>* low, Vec<T>* high) {
  alignas(64) T plain[kBlock], plain_frac[kBlock];
  split_block<padding>(at, w.in[axis], w.align_corners, static_cast<int>(padded<T>(count)), plain,
                       plain_frac);
  const Vec<T> zero{}, length = zero + static_cast<T>(w.in[axis]);
  Vec<T> number = lane_numbers<T>();
  for (int64_t k = 0; k < count; k += Simd<T>::lanes, number += Simd<T>::lanes) {
    Coordinate<Vec<T>> c =
        fold<padding>(load<Vec<T>>(plain + k), load<Vec<T>>(plain_frac + k), length, w.align_corners);
    if (padding == Padding::zeros) {
      const auto behind = c.whole > length;  // as good as at the first zero
      c.whole = behind ? length : c.whole;
      c.frac = behind ? zero : c.frac;
    }
    const auto valid = number < static_cast<T>(count);
    *low = valid & (c.whole < *low) ? c.whole : *low;
    *high = valid & (c.whole > *high) ? c.whole : *high;
    store(whole + k, c.whole);
    store(frac + k, c.frac);
    store(slope + k, c.slope);
  }
}

template <class T>
STN_INLINE void split_row(const Warp<T>& w, const double* at, int axis, int64_t count, T* whole, T* frac,
                          T* slope, Vec<T>* low, Vec<T>* high) {
  const auto split = w.padding == Padding::zeros    ? split_row<Padding::zeros, T>
                     : w.padding == Padding::border ? split_row<Padding::border, T>
                                                    : split_row<Padding::reflection, T>;
  split(w, at, axis, count, whole, frac, slope, low, high);
}

template <class T>
STN_INLINE T least(Vec<T> v) {
  T low = v[0];
  for (int k = 1; k < Simd<T>::lanes; ++k) low = v[k] < low ? v[k] : low;
  return low;
}

// Locates a tile's pixels, and gives the window that they need.
template <class T>
STN_INLINE Window locate(const Warp<T>& w, int64_t map, const OutTile& t, const T* radial,
                         WarpScratch<T>* s) {
  constexpr int64_t line = 8;  // float pairs in a cache line
  Streams streams;
  Positions at;
  Vec<T> low_x = Vec<T>{} + static_cast<T>(1 << 30), low_y = low_x, high_x = -low_x, high_y = -low_x;
  for (int64_t r = 0; r < t.rows; ++r) {
    const int64_t k = r * t.columns;
    place(w, map, row_of(t, r), radial + k, &streams, &at);
    split_row(w, at.at[0], 0, t.columns, s->x + k, s->at.fx + k, s->at.slope_x + k, &low_x, &high_x);
    split_row(w, at.at[1], 1, t.columns, s->y + k, s->at.fy + k, s->at.slope_y + k, &low_y, &high_y);
  }
  const auto left = static_cast<int64_t>(least<T>(low_x)), top = static_cast<int64_t>(least<T>(low_y));
  const auto right = static_cast<int64_t>(-least<T>(-high_x)),
             bottom = static_cast<int64_t>(-least<T>(-high_y));
  const int64_t columns = right - left + 2;
  return {top, left, bottom - top + 2, columns, (columns + line - 1) / line * line};
}

// And counts them in it.
template <class T>
STN_INLINE void settle(const OutTile& t, const Window& w, WarpScratch<T>* s) {
  const Vec<T> zero{};
  const Vec<T> last_x = zero + static_cast<T>(w.columns - 2), last_y = zero + static_cast<T>(w.rows - 2);
  const int64_t pixels = t.rows * t.columns;
  store(s->at.tap + pixels, IndexVec<T>{});
  for (int64_t k = 0; k < pixels; k += Simd<T>::lanes) {
    const Vec<T> x = clamp<T>(load<Vec<T>>(s->x + k) - static_cast<T>(w.left), last_x);
    const Vec<T> y = clamp<T>(load<Vec<T>>(s->y + k) - static_cast<T>(w.top), last_y);
    store(s->at.tap + k, to_index<T>(y * static_cast<T>(w.pitch) + x));
  }
}

// ---- sample ----

// One map's tile. False where its window is too large.
template <class T>
__attribute__((noinline)) bool sample_planes(const Warp<T>& w, const WarpPart& part, int64_t map,
                                             const OutTile& t, const T* radial) {
  const Problem<T> p = planes_of(w);
  WarpScratch<T> s;
  const Window window = locate(w, map, t, radial, &s);
  if (!fits(t, window)) return false;
  settle(t, window, &s);
  const T* image = p.input.data + w.image_of(map) * p.input.batch;
  T* output = p.output.data + map * p.output.batch + t.top * p.output.row + t.left;
  for (int64_t c = part.channel_begin; c < part.channel_end; ++c) {
    copy_window(p, window, image + c * p.input.channel, s.window);
    sample_plane(p, t, s.window, s.at, output + c * p.output.channel);
  }
  return true;
}

// ---- moments ----

// Adds a channel's derivatives by the coordinates.
template <bool first, class T>
STN_INLINE void add_slopes(const OutTile& t, const WarpScratch<T>& s, const T* grad, int64_t grad_row,
                           T* by_x, T* by_y) {
  for (int64_t r = 0; r < t.rows; ++r) {
    for (int64_t k = 0; k < t.columns; k += Simd<T>::lanes) {
      const int64_t at = r * t.columns + k, count = t.columns - k;
      const auto g = load_some<Vec<T>>(grad + r * grad_row + k, count);
      const Taps<T> v = load_quads(s.window, s.at.tap + at);
      const auto x1 = load<Vec<T>>(s.at.fx + at), y1 = load<Vec<T>>(s.at.fy + at);
      const auto x0 = 1 - x1, y0 = 1 - y1;
      const Vec<T> gx = g * (y0 * (v.v01 - v.v00) + y1 * (v.v11 - v.v10));
      const Vec<T> gy = g * (x0 * (v.v10 - v.v00) + x1 * (v.v11 - v.v01));
      store_some(by_x + at, first ? gx : load<Vec<T>>(by_x + at) + gx, count);
      store_some(by_y + at, first ? gy : load<Vec<T>>(by_y + at) + gy, count);
    }
  }
}

// One map's tile; adds to its gradient. False where its window is too large.
template <class T>
__attribute__((noinline)) bool moments_planes(const Warp<T>& w, const WarpPart& part, int64_t map,
                                              const OutTile& t, const T* radial, double* gradient) {
  const Problem<T> p = planes_of(w);
  WarpScratch<T> s;
  const Window window = locate(w, map, t, radial, &s);
  if (!fits(t, window)) return false;
  settle(t, window, &s);
  const T* image = p.input.data + w.image_of(map) * p.input.batch;
  const T* grad = p.grad.data + map * p.grad.batch + t.top * p.grad.row + t.left;
  for (int64_t c = part.channel_begin; c < part.channel_end; ++c) {
    copy_window(p, window, image + c * p.input.channel, s.window);
    (c == part.channel_begin ? add_slopes<true, T> : add_slopes<false, T>)(t, s, grad + c * p.grad.channel,
                                                                           p.grad.row, s.by_x, s.by_y);
  }
  Streams streams;
  Positions at;
  alignas(64) double by_at[2][kBlock];
  for (int64_t r = 0; r < t.rows; ++r) {
    const int64_t first = r * t.columns;
    for (int64_t k = 0; k < t.columns; ++k) {
      by_at[0][k] = static_cast<double>(s.by_x[first + k] * s.at.slope_x[first + k]);
      by_at[1][k] = static_cast<double>(s.by_y[first + k] * s.at.slope_y[first + k]);
    }
    if (w.perspective) place(w, map, row_of(t, r), radial + first, &streams, &at);
    add_gradient<T>(w, row_of(t, r), streams, by_at, nullptr, radial + first, gradient);
  }
  return true;
}

}  // namespace STN_LEVEL
}  // namespace stn::cpu
