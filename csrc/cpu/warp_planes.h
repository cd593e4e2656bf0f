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

// ---- sample ----

// One map's tile. False where its window is too large.
template <class T>
__attribute__((noinline)) bool sample_planes(const Warp<T>& w, const WarpPart& part, int64_t map,
                                             TileRadial<T>* radial) {
  const OutTile& t = radial->tile();
  const Problem<T> p = planes_of(w);
  WarpScratch<T> s;
  const TileMap<T> m(w, map, radial, &s.tile);
  const Window window = window_of(m.range(0), m.range(1));
  if (!fits(t, window)) return false;
  m.template locate<false>(window);
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

// Adds a channel's derivatives by the coordinates where padding takes them.
template <bool first, class T>
STN_INLINE void add_slopes(const OutTile& t, const T* grad, int64_t grad_row, WarpScratch<T>* s) {
  T *by_x = s->by[0], *by_y = s->by[1];
  for (int64_t r = 0; r < t.rows; ++r) {
    for (int64_t k = 0; k < t.columns; k += Simd<T>::lanes) {
      const int64_t at = r * t.columns + k, count = t.columns - k;
      const PixelSlopes<T> by(s->window, s->tile.at, at, load_some<Vec<T>>(grad + r * grad_row + k, count));
      store_some(by_x + at, first ? by.x : load<Vec<T>>(by_x + at) + by.x, count);
      store_some(by_y + at, first ? by.y : load<Vec<T>>(by_y + at) + by.y, count);
    }
  }
}

// From derivatives by the coordinates where padding takes them to those by the coordinates.
template <class T>
STN_INLINE void unfold_slopes(const OutTile& t, WarpScratch<T>* s) {
  for (int64_t k = 0; k < t.rows * t.columns; k += Simd<T>::lanes) {
    store(s->by[0] + k, load<Vec<T>>(s->by[0] + k) * load<Vec<T>>(s->tile.at.slope_x + k));
    store(s->by[1] + k, load<Vec<T>>(s->by[1] + k) * load<Vec<T>>(s->tile.at.slope_y + k));
  }
}

// One map's tile; adds to its gradient. False where its window is too large.
template <class T>
__attribute__((noinline)) bool moments_planes(const Warp<T>& w, const WarpPart& part, int64_t map,
                                              TileRadial<T>* radial, double* gradient) {
  const OutTile& t = radial->tile();
  const Problem<T> p = planes_of(w);
  WarpScratch<T> s;
  const TileMap<T> m(w, map, radial, &s.tile);
  const Window window = window_of(m.range(0), m.range(1));
  if (!fits(t, window)) return false;
  m.template locate<false>(window);
  const T* image = p.input.data + w.image_of(map) * p.input.batch;
  const T* grad = p.grad.data + map * p.grad.batch + t.top * p.grad.row + t.left;
  for (int64_t c = part.channel_begin; c < part.channel_end; ++c) {
    copy_window(p, window, image + c * p.input.channel, s.window);
    (c == part.channel_begin ? add_slopes<true, T> : add_slopes<false, T>)(t, grad + c * p.grad.channel,
                                                                           p.grad.row, &s);
  }
  if (p.padding != Padding::zeros) unfold_slopes(t, &s);
  if (m.tame()) {
    T* const by[2] = {s.by[0], s.by[1]};
    add_tile_gradient(w, m, *radial, by, gradient);
    return true;
  }
  Streams streams;
  Positions at;
  alignas(64) double by_at[2][kBlock];
  const T* values = radial->all();
  for (int64_t r = 0; r < t.rows; ++r) {
    const int64_t first = r * t.columns;
    for (int d = 0; d < 2; ++d) {
      for (int64_t k = 0; k < t.columns; ++k) by_at[d][k] = static_cast<double>(s.by[d][first + k]);
    }
    if (w.perspective) place(w, map, row_of(t, r), values + first, &streams, &at);
    add_gradient<T>(w, row_of(t, r), streams, by_at, nullptr, values + first, gradient);
  }
  return true;
}

}  // namespace STN_LEVEL
}  // namespace stn::cpu
