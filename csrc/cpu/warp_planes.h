// Bilinear sampling of planes through any map, and theta's gradient, by the windows of tile_kernels.h: a
// tile's pixels are located first, which shows what they need of the input. Included by level sources only;
// see kernels.h.
#pragma once

#include "warp_gradient.h"

namespace stn::cpu {
namespace STN_LEVEL {

// Whether the windows are for it.
template <class T>
STN_INLINE bool has_windows(const Warp<T>& w) {
  return is_planar(w) && w.input.axis[0] == 1 &&
         (w.output.data ? w.output.axis[0] == 1 : w.grad.axis[0] == 1);
}

template <class I, class V>
STN_INLINE I plane_images(const V& v) {
  return {v.data, v.batch, v.channel, v.axis[1], v.axis[0]};
}

// What the kernels of planes need of it.
template <class T>
STN_INLINE Problem<T> planes_of(const Warp<T>& w) {
  Problem<T> p{};
  p.frame = {w.in[1], w.in[0], w.out[1], w.out[0], w.align_corners};
  p.stored_height = w.stored[1];
  p.stored_width = w.stored[0];
  p.padding = w.padding;
  p.streams = w.past_caches;
  p.input = plane_images<Images<const T>>(w.input);
  p.output = plane_images<Images<T>>(w.output);
  p.grad = plane_images<Images<const T>>(w.grad);
  p.grad_input = plane_images<Images<T>>(w.grad_input);
  return p;
}

template <class T>
struct WarpScratch {
  PlaneTile<T> tile;
  alignas(64) T window[2 * kWindow + 8 * Simd<T>::lanes];
  alignas(64) T by[2][kTilePixels + Simd<T>::lanes];
};

// The window that a located tile needs.
template <class T>
STN_INLINE Window window_of(const PlaneTile<T>& tile) {
  constexpr int64_t line = 8;  // float pairs in a cache line
  const int64_t columns = tile.high[0] - tile.low[0] + 2;
  return {tile.low[1], tile.low[0], tile.high[1] - tile.low[1] + 2, columns,
          (columns + line - 1) / line * line};
}

// Counts the pixels' taps in it.
template <class T>
STN_INLINE void settle(const OutTile& t, const Window& w, PlaneTile<T>* tile) {
  const Vec<T> zero{};
  const Vec<T> last_x = zero + static_cast<T>(w.columns - 2), last_y = zero + static_cast<T>(w.rows - 2);
  const int64_t pixels = t.rows * t.columns;
  store(tile->at.tap + pixels, IndexVec<T>{});
  for (int64_t k = 0; k < pixels; k += Simd<T>::lanes) {
    const Vec<T> x = clamp<T>(load<Vec<T>>(tile->whole[0] + k) - static_cast<T>(w.left), last_x);
    const Vec<T> y = clamp<T>(load<Vec<T>>(tile->whole[1] + k) - static_cast<T>(w.top), last_y);
    store(tile->at.tap + k, to_index<T>(y * static_cast<T>(w.pitch) + x));
  }
}

// ---- sample ----

// One map's tile. False where its window is too large.
template <class T>
__attribute__((noinline)) bool sample_planes(const Warp<T>& w, const WarpPart& part, int64_t map,
                                             TileRadial<T>* radial) {
  const OutTile& t = radial->tile();
  const Problem<T> p = planes_of(w);
  WarpScratch<T> s;
  locate(w, map, radial, &s.tile);
  const Window window = window_of(s.tile);
  if (!fits(t, window)) return false;
  settle(t, window, &s.tile);
  const T* image = p.input.data + w.image_of(map) * p.input.batch;
  T* output = p.output.data + map * p.output.batch + t.top * p.output.row + t.left;
  for (int64_t c = part.channel_begin; c < part.channel_end; ++c) {
    copy_window(p, window, image + c * p.input.channel, s.window);
    sample_plane(p, t, s.window, s.tile.at, output + c * p.output.channel);
  }
  if (p.streams) end_streams();
  return true;
}

// ---- moments ----

// Adds a channel's derivatives by the coordinates.
template <bool first, class T>
STN_INLINE void add_slopes(const OutTile& t, const T* grad, int64_t grad_row, WarpScratch<T>* s) {
  const Located<T>& l = s->tile.at;
  T *by_x = s->by[0], *by_y = s->by[1];
  for (int64_t r = 0; r < t.rows; ++r) {
    for (int64_t k = 0; k < t.columns; k += Simd<T>::lanes) {
      const int64_t at = r * t.columns + k, count = t.columns - k;
      const auto g = load_some<Vec<T>>(grad + r * grad_row + k, count);
      const Taps<T> v = load_quads(s->window, l.tap + at);
      const auto x1 = load<Vec<T>>(l.fx + at), y1 = load<Vec<T>>(l.fy + at);
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
                                              TileRadial<T>* radial, double* gradient) {
  const OutTile& t = radial->tile();
  const Problem<T> p = planes_of(w);
  WarpScratch<T> s;
  const bool tame = locate(w, map, radial, &s.tile);
  const Window window = window_of(s.tile);
  if (!fits(t, window)) return false;
  settle(t, window, &s.tile);
  const T* image = p.input.data + w.image_of(map) * p.input.batch;
  const T* grad = p.grad.data + map * p.grad.batch + t.top * p.grad.row + t.left;
  for (int64_t c = part.channel_begin; c < part.channel_end; ++c) {
    copy_window(p, window, image + c * p.input.channel, s.window);
    (c == part.channel_begin ? add_slopes<true, T> : add_slopes<false, T>)(t, grad + c * p.grad.channel,
                                                                           p.grad.row, &s);
  }
  if (tame) {
    T* const by[2] = {s.by[0], s.by[1]};
    add_tile_gradient(w, map, *radial, by, s.tile, gradient);
    return true;
  }
  Streams streams;
  Positions at;
  alignas(64) double by_at[2][kBlock];
  const T* values = radial->all();
  for (int64_t r = 0; r < t.rows; ++r) {
    const int64_t first = r * t.columns;
    for (int64_t k = 0; k < t.columns; ++k) {
      const bool folds = p.padding != Padding::zeros;
      by_at[0][k] = static_cast<double>(s.by[0][first + k] * (folds ? s.tile.at.slope_x[first + k] : 1));
      by_at[1][k] = static_cast<double>(s.by[1][first + k] * (folds ? s.tile.at.slope_y[first + k] : 1));
    }
    if (w.perspective) place(w, map, row_of(t, r), values + first, &streams, &at);
    add_gradient<T>(w, row_of(t, r), streams, by_at, nullptr, values + first, gradient);
  }
  return true;
}

}  // namespace STN_LEVEL
}  // namespace stn::cpu
