// Bilinear sampling of planes through any map, and theta's gradient, by windows (window.h): where a tile's
// pixels fall comes first, for it shows what they need of the input. Included by level sources only; see
// kernels.h.
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
  PlaneWindow<T> window;
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
  const int64_t c = part.channel_begin;
  const T* image = p.input.data + w.image_of(map) * p.input.batch + c * p.input.channel;
  T* output = p.output.data + map * p.output.batch + c * p.output.channel + t.top * p.output.row + t.left;
  sample_located(p, t, window, part.channel_end - part.channel_begin, image, output, s.tile.at, &s.window);
  if (p.streams) end_streams();
  return true;
}

// ---- moments ----

// Adds to the derivatives by the coordinates where padding takes them, or sets them, those of a vector of the
// tile's pixels.
template <class T>
STN_INLINE void put_slopes(const Slopes<T>& by, int64_t at, int64_t count, bool add, WarpScratch<T>* s) {
  T *to_x = s->by[0] + at, *to_y = s->by[1] + at;
  store_some(to_x, add ? load<Vec<T>>(to_x) + by.x : by.x, count);
  store_some(to_y, add ? load<Vec<T>>(to_y) + by.y : by.y, count);
}

// One channel's.
template <class T>
STN_INLINE void add_plane_slopes(const OutTile& t, const T* grad, int64_t grad_row, bool add,
                                 WarpScratch<T>* s) {
  for (int64_t r = 0; r < t.rows; ++r) {
    for (int64_t k = 0; k < t.columns; k += Simd<T>::lanes) {
      const int64_t at = r * t.columns + k, count = t.columns - k;
      const Vec<T> g = load_some<Vec<T>>(grad + r * grad_row + k, count);
      put_slopes(plane_slopes(s->window.values, s->tile.at, at, g), at, count, add, s);
    }
  }
}

// Those of `channels` channels, all in groups.
template <class T>
__attribute__((noinline)) void add_group_slopes(const Problem<T>& p, const OutTile& t, const Window& w,
                                                int64_t channels, const T* image, const T* grad,
                                                WarpScratch<T>* s) {
  constexpr int64_t lanes = Simd<T>::lanes;
  GroupWindow<T> window;
  for (int64_t c = 0; c < channels; c += lanes) {
    copy_group(p, w, image + c * p.input.channel, window.values);
    for (int64_t r = 0; r < t.rows; ++r) {
      for (int64_t k = 0; k < t.columns; k += lanes) {
        const int64_t first = r * t.columns + k, count = t.columns - k;
        Vec<T> x[lanes], y[lanes], g[lanes];
        load_group(grad + c * p.grad.channel + r * p.grad.row + k, p.grad.channel, lanes, count, g);
        for (int64_t lane = 0; lane < lanes; ++lane) {
          const Slopes<T> by = group_slopes(window.values, w.pitch, s->tile.at, first + lane, g[lane]);
          x[lane] = by.x;
          y[lane] = by.y;
        }
        put_slopes({sum_vectors<T>(x), sum_vectors<T>(y)}, first, count, c > 0, s);
      }
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
  int64_t c = part.channel_begin;
  const int64_t channels = part.channel_end - c;
  const T* image = p.input.data + w.image_of(map) * p.input.batch + c * p.input.channel;
  const T* grad = p.grad.data + map * p.grad.batch + c * p.grad.channel + t.top * p.grad.row + t.left;
  c = grouped<T>(window, channels);
  if (c > 0) add_group_slopes(p, t, window, c, image, grad, &s);
  for (; c < channels; ++c) {
    copy_plane(p, window, image + c * p.input.channel, s.window.values);
    add_plane_slopes(t, grad + c * p.grad.channel, p.grad.row, c > 0, &s);
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
