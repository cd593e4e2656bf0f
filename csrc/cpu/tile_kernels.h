// Sample and moments over planes of pixels, by tiles of the output.
//
// The input pixels that a tile of an affine map needs lie in a small rectangle, its window. It is copied, two
// rows interleaved, so that a pixel's four taps lie side by side, and with zeros around the image, so that
// every tap exists. Where the tile's pixels fall in the window is found once for all channels.
#pragma once

#include "row_kernels.h"

namespace stn::cpu {
namespace STN_LEVEL {

constexpr int64_t kWindow = 8192;  // pixels in a window, at most

// Input pixels, of which some may lie outside the image.
struct Window {
  int64_t top, left, rows, columns;
  int64_t pitch;  // pairs of pixels from a row to the next
};

// A tile's pixels, row by row: their taps, counted in pairs from the window's first, and how far they lie
// from them. The slopes are those of padding that folds the plane (Coordinate).
template <class T>
struct Located {
  alignas(64) int32_t tap[kTilePixels + Simd<T>::lanes];
  alignas(64) T fx[kTilePixels + Simd<T>::lanes], fy[kTilePixels + Simd<T>::lanes];
  alignas(64) T slope_x[kTilePixels + Simd<T>::lanes], slope_y[kTilePixels + Simd<T>::lanes];
};

// What a tile is worked on with.
template <class T>
struct TileScratch {
  Steps<T, kTilePixels> row_x, row_y;
  Steps<T, kTileColumns> column_x, column_y;
  Located<T> at;
  alignas(64) T window[2 * kWindow + 8 * Simd<T>::lanes];
};

// ---- windows ----

// The whole numbers under a tile's coordinates along an axis, where they matter.
struct Range {
  int64_t low, high;
};

// Those under coordinates in [low, high].
STN_INLINE Range whole_range(double low, double high, int64_t length, Padding padding) {
  low -= kMargin;
  high += kMargin;
  // Two pixels off the image all taps are zeros. Padding that folds brings all pixels inside.
  const double least = padding == Padding::zeros ? -2 : 0,
               most = static_cast<double>(padding == Padding::zeros ? length : length - 1);
  if (padding == Padding::reflection && (low < least || high > most)) return {0, length - 1};
  low = low < least ? least : (low > most ? most : low);
  high = high < least ? least : (high > most ? most : high);
  return {static_cast<int64_t>(__builtin_floor(low)), static_cast<int64_t>(__builtin_floor(high))};
}

template <class T>
STN_INLINE Range range_of(const Axis<T>& axis, const OutTile& t, Padding padding) {
  const double right = axis.map.x * static_cast<double>(t.columns - 1),
               down = axis.map.y * static_cast<double>(t.rows - 1);
  const double corner = axis.map.at(t.top, t.left);
  return whole_range(corner + (right < 0 ? right : 0) + (down < 0 ? down : 0),
                     corner + (right > 0 ? right : 0) + (down > 0 ? down : 0), axis.length, padding);
}

// What pixels between them need.
STN_INLINE Window window_of(const Range& x, const Range& y) {
  constexpr int64_t line = 8;  // float pairs in a cache line
  const int64_t columns = x.high - x.low + 2;
  return {y.low, x.low, y.high - y.low + 2, columns, (columns + line - 1) / line * line};
}

template <class T>
STN_INLINE Window window_of(const Geometry<T>& g, const OutTile& t) {
  return window_of(range_of(g.x, t, g.p.padding), range_of(g.y, t, g.p.padding));
}

// Whether a tile's window fits, and is worth to be copied.
STN_INLINE bool fits(const OutTile& t, const Window& w) {
  const int64_t pixels = (w.rows - 1) * w.pitch;
  return pixels <= kWindow && pixels <= 8 * t.rows * t.columns + 1024;
}

template <class T>
STN_INLINE void zero_row(T* to, int64_t pairs) {
  for (int64_t x = 0; x < 2 * pairs; x += Simd<T>::lanes) store(to + x, Vec<T>{});
}

// One channel's window. A row's last vectors reach into the next one, which is written after it.
template <class T>
STN_INLINE void copy_window(const Problem<T>& p, const Window& w, const T* plane, T* window) {
  constexpr int64_t lanes = Simd<T>::lanes;
  const int64_t first = w.left > 0 ? w.left : 0;
  const int64_t behind = w.left + w.columns < p.stored_width ? w.left + w.columns : p.stored_width;
  const int64_t skip = first - w.left, count = behind - first;
  const auto row_of = [&](int64_t y) STN_LAMBDA { return plane + y * p.input.row + first; };
  for (int64_t y = 0; y + 1 < w.rows; ++y) {
    T* to = window + 2 * y * w.pitch;
    const int64_t row = w.top + y;
    const bool above = row >= 0 && row < p.stored_height, below = row + 1 >= 0 && row + 1 < p.stored_height;
    if (count <= 0 || !(above || below)) {
      zero_row(to, w.pitch);
      continue;
    }
    if (skip > 0) zero_row(to, lanes);
    to += 2 * skip;
    const T *upper = row_of(above ? row : row + 1), *lower = row_of(below ? row + 1 : row);
    const auto put = [&](int64_t x, Vec<T> u, Vec<T> l) STN_LAMBDA {
      store_alternating<T>(to + 2 * x, above ? u : Vec<T>{}, below ? l : Vec<T>{});
    };
    int64_t x = 0;
    for (; x + lanes <= count; x += lanes) put(x, load<Vec<T>>(upper + x), load<Vec<T>>(lower + x));
    // Zeros from the row's end on: the two that a window may hold, perhaps in a vector of their own.
    put(x, load_some<Vec<T>>(upper + x, count - x), load_some<Vec<T>>(lower + x, count - x));
    if (x + lanes < count + 2) store_alternating<T>(to + 2 * (x + lanes), Vec<T>{}, Vec<T>{});
  }
}

// ---- where a tile's pixels fall ----

// Pixels' taps in a window, of whole coordinates counted from its first pixel. What lies outside goes to its
// outermost ones; or, where these touch nothing (`bordered`), to the first of them.
template <class T>
struct WindowTaps {
  Vec<T> last_x, last_y, pitch;

  STN_INLINE explicit WindowTaps(const Window& w) {
    last_x = Vec<T>{} + static_cast<T>(w.columns - 2);
    last_y = Vec<T>{} + static_cast<T>(w.rows - 2);
    pitch = Vec<T>{} + static_cast<T>(w.pitch);
  }

  template <bool bordered>
  STN_INLINE IndexVec<T> at(Vec<T> x, Vec<T> y) const {
    x = clamp<T>(x, last_x);
    y = clamp<T>(y, last_y);
    Vec<T> tap = y * pitch + x;
    if (bordered) tap = keep_lanes((x > 0) & (x < last_x) & (y > 0) & (y < last_y), tap);
    return to_index<T>(tap);
  }
};

template <Padding padding, bool slopes, class T>
STN_INLINE void locate(const Geometry<T>& g, const OutTile& t, const Window& w, TileScratch<T>* s) {
  const Vec<T> zero{}, left = zero + static_cast<T>(w.left), top = zero + static_cast<T>(w.top);
  const WindowTaps<T> taps(w);
  const bool align_corners = g.p.frame.align_corners, folds = padding != Padding::zeros;
  const int64_t columns = padded<T>(t.columns);
  s->column_x.fill(0, g.x.map.x, columns, 0);
  s->column_y.fill(0, g.y.map.x, columns, 0);
  s->row_x.fill(g.x.map.at(t.top, t.left), g.x.map.y, t.rows, folds ? 0 : w.left);
  s->row_y.fill(g.y.map.at(t.top, t.left), g.y.map.y, t.rows, folds ? 0 : w.top);
  Located<T>& to = s->at;
  // Whole vectors are read, behind the last pixel too.
  store(to.tap + t.rows * t.columns, IndexVec<T>{});
  for (int64_t r = 0; r < t.rows; ++r) {
    const Vec<T> row_x = zero + s->row_x.whole[r], row_y = zero + s->row_y.whole[r];
    const Vec<T> row_fx = zero + s->row_x.frac[r], row_fy = zero + s->row_y.frac[r];
    for (int64_t k = 0; k < t.columns; k += Simd<T>::lanes) {
      Vec<T> x, fx, y, fy;
      add_steps(s->column_x, k, row_x, row_fx, &x, &fx);
      add_steps(s->column_y, k, row_y, row_fy, &y, &fy);
      const int64_t at = r * t.columns + k;
      if (folds) {
        const auto folded_x = fold<padding>(x, fx, g.x.vector_length, align_corners);
        const auto folded_y = fold<padding>(y, fy, g.y.vector_length, align_corners);
        x = folded_x.whole - left;
        y = folded_y.whole - top;
        fx = folded_x.frac;
        fy = folded_y.frac;
        if (slopes) {
          store(to.slope_x + at, folded_x.slope);
          store(to.slope_y + at, folded_y.slope);
        }
      }
      store(to.tap + at, taps.template at<false>(x, y));
      store(to.fx + at, fx);
      store(to.fy + at, fy);
    }
  }
}

template <bool slopes, class T>
STN_INLINE void locate(const Geometry<T>& g, const OutTile& t, const Window& w, TileScratch<T>* s) {
  with_padding(g.p.padding, [&](auto padding) STN_LAMBDA { locate<padding.value, slopes>(g, t, w, s); });
}

// f(tile) for the tiles of output rows [begin, end), of up to so many pixels.
template <class F>
STN_INLINE void for_tiles(int64_t width, int64_t pixels, int64_t begin, int64_t end, const F& f) {
  const int64_t columns = tile_columns(width), rows = tile_rows(width, pixels);
  for (int64_t i = begin; i < end; i += rows) {
    for (int64_t j = 0; j < width; j += columns) {
      f(OutTile{i, j, end - i < rows ? end - i : rows, width - j < columns ? width - j : columns});
    }
  }
}

// Whether all of a tile is zeros outside the image.
template <class T>
STN_INLINE bool outside(const Geometry<T>& g, const Window& w) {
  return g.p.padding == Padding::zeros &&
         (w.top >= g.y.length || w.left >= g.x.length || w.top + w.rows <= 0 || w.left + w.columns <= 0);
}

// ---- sample ----

template <class T>
STN_INLINE Vec<T> sample_vector(const T* window, const Located<T>& l, int64_t k) {
  const Taps<T> t = load_quads(window, l.tap + k);
  const auto x1 = load<Vec<T>>(l.fx + k), y1 = load<Vec<T>>(l.fy + k);
  const auto x0 = 1 - x1, y0 = 1 - y1;
  return y0 * (x0 * t.v00 + x1 * t.v01) + y1 * (x0 * t.v10 + x1 * t.v11);
}

// `count` pixels that lie side by side, from the located one `first` on.
template <bool streamed, class T>
STN_INLINE void sample_run(const T* window, const Located<T>& l, int64_t first, int64_t count, T* out) {
  constexpr int64_t lanes = Simd<T>::lanes;
  int64_t k = 0;
  for (; k + lanes <= count; k += lanes) {
    const Vec<T> v = sample_vector(window, l, first + k);
    streamed ? stream(out + k, v) : store(out + k, v);
  }
  if (k < count) store_some(out + k, sample_vector(window, l, first + k), count - k);
}

// One channel of a tile.
template <class T>
STN_INLINE void sample_plane(const Problem<T>& p, const OutTile& t, const T* window, const Located<T>& l,
                             T* out) {
  const bool whole_rows = t.columns == p.frame.out_width && p.output.row == t.columns;
  const int64_t runs = whole_rows ? 1 : t.rows, count = whole_rows ? t.rows * t.columns : t.columns;
  for (int64_t r = 0; r < runs; ++r) {
    (p.streams ? sample_run<true, T> : sample_run<false, T>)(window, l, r * count, count,
                                                             out + r * p.output.row);
  }
}

// Channels [c, c + channels) of a tile.
template <class T>
STN_INLINE void sample_tile(const Geometry<T>& g, const OutTile& t, const Window& w, int64_t channels,
                            const T* image, T* out, TileScratch<T>* s) {
  const Problem<T>& p = g.p;
  locate<false>(g, t, w, s);
  for (int64_t c = 0; c < channels; ++c) {
    copy_window(p, w, image + c * p.input.channel, s->window);
    sample_plane(p, t, s->window, s->at, out + c * p.output.channel);
  }
}

// Rows [begin, end) of channels [c, c + channels) of image n.
template <class T>
void sample(const Problem<T>& p, int64_t n, int64_t c, int64_t channels, int64_t begin, int64_t end) {
  const Geometry<T> g(p, n, p.input.row);
  const T* image = p.input.data + p.image_of(n) * p.input.batch + c * p.input.channel;
  T* output = p.output.data + n * p.output.batch + c * p.output.channel;
  const bool exact = g.x.exact && g.y.exact;
  TileScratch<T> s;
  for_tiles(p.frame.out_width, kTilePixels, begin, end, [&](const OutTile& t) STN_LAMBDA {
    T* out = output + t.top * p.output.row + t.left;
    const Window w = exact ? window_of(g, t) : Window{};
    if (exact && outside(g, w)) {
      for (int64_t r = 0; r < t.rows; ++r) zero_planes(p, t.columns, channels, out + r * p.output.row);
    } else if (exact && fits(t, w)) {
      sample_tile(g, t, w, channels, image, out, &s);
    } else {
      sample_rows(g, t, channels, image, output);
    }
  });
  if (p.streams) end_streams();
}

// ---- moments ----

// The derivatives of the loss by a vector of pixels' coordinates where padding takes them, from those by
// their values.
template <class T>
struct PixelSlopes {
  Vec<T> x, y;

  STN_INLINE PixelSlopes(const T* window, const Located<T>& l, int64_t at, Vec<T> grad) {
    const Taps<T> v = load_quads(window, l.tap + at);
    const auto x1 = load<Vec<T>>(l.fx + at), y1 = load<Vec<T>>(l.fy + at);
    const auto x0 = 1 - x1, y0 = 1 - y1;
    x = grad * (y0 * (v.v01 - v.v00) + y1 * (v.v11 - v.v10));
    y = grad * (x0 * (v.v10 - v.v00) + x1 * (v.v11 - v.v01));
  }
};

// One channel's moments of a tile, by its own rows and columns: sums of (d/dx, d/dy) x (column, row, 1).
template <bool slopes, class T>
STN_INLINE void plane_moments(const OutTile& t, const T* window, const Located<T>& l, const T* grad,
                              int64_t grad_row, double* out) {
  constexpr int64_t lanes = Simd<T>::lanes;
  Vec<T> total[kMoments] = {};
  for (int64_t r = 0; r < t.rows; ++r) {
    const T* from = grad + r * grad_row;
    Vec<T> row_x{}, row_y{}, number = lane_numbers<T>();
    const auto add = [&](int64_t k, Vec<T> g, bool all) STN_LAMBDA {
      const int64_t at = r * t.columns + k;
      const PixelSlopes<T> by(window, l, at, g);
      Vec<T> gx = by.x, gy = by.y;
      if (slopes) {
        gx *= load<Vec<T>>(l.slope_x + at);
        gy *= load<Vec<T>>(l.slope_y + at);
      }
      if (!all) {
        const auto valid = number < static_cast<T>(t.columns);
        gx = keep_lanes(valid, gx);
        gy = keep_lanes(valid, gy);
      }
      row_x += gx;
      row_y += gy;
      total[0] += number * gx;
      total[3] += number * gy;
    };
    // Rows too short for the processor to foresee the next ones.
    for (int64_t x = 0; x < t.columns; x += 64 / sizeof(T)) __builtin_prefetch(from + 8 * grad_row + x);
    int64_t k = 0;
    for (; k + lanes <= t.columns; k += lanes, number += lanes) add(k, load<Vec<T>>(from + k), true);
    if (k < t.columns) add(k, load_some<Vec<T>>(from + k, t.columns - k), false);
    const T row = static_cast<T>(r);
    total[1] += row * row_x;
    total[2] += row_x;
    total[4] += row * row_y;
    total[5] += row_y;
  }
  for (int m = 0; m < kMoments; ++m) out[m] = sum_lanes<T>(total[m]);
}

// Adds those of channels [c, c + channels), by the output's rows and columns.
template <class T>
STN_INLINE void moments_tile(const Geometry<T>& g, const OutTile& t, const Window& w, int64_t channels,
                             const T* image, const T* grad, double* out, TileScratch<T>* s) {
  const Problem<T>& p = g.p;
  locate<true>(g, t, w, s);
  const auto plane = p.padding == Padding::zeros ? plane_moments<false, T> : plane_moments<true, T>;
  const double u = static_cast<double>(t.left) - g.x.map.centre_j,
               v = static_cast<double>(t.top) - g.x.map.centre_i;
  for (int64_t c = 0; c < channels; ++c) {
    copy_window(p, w, image + c * p.input.channel, s->window);
    double sums[kMoments];
    plane(t, s->window, s->at, grad + c * p.grad.channel, p.grad.row, sums);
    for (int axis = 0; axis < kMoments; axis += 3) {
      out[axis] += sums[axis] + u * sums[axis + 2];
      out[axis + 1] += sums[axis + 1] + v * sums[axis + 2];
      out[axis + 2] += sums[axis + 2];
    }
  }
}

// Of rows [begin, end) and channels [c, c + channels) of image n.
template <class T>
void moments(const Problem<T>& p, int64_t n, int64_t c, int64_t channels, int64_t begin, int64_t end,
             double* out) {
  const Geometry<T> g(p, n, p.input.row);
  const T* image = p.input.data + p.image_of(n) * p.input.batch + c * p.input.channel;
  const T* grad = p.grad.data + n * p.grad.batch + c * p.grad.channel;
  const bool exact = g.x.exact && g.y.exact;
  TileScratch<T> s;
  for (int m = 0; m < kMoments; ++m) out[m] = 0;
  for_tiles(p.frame.out_width, kTilePixels, begin, end, [&](const OutTile& t) STN_LAMBDA {
    const Window w = exact ? window_of(g, t) : Window{};
    if (exact && outside(g, w)) return;
    if (exact && fits(t, w)) {
      moments_tile(g, t, w, channels, image, grad + t.top * p.grad.row + t.left, out, &s);
    } else {
      moments_rows(g, t, channels, image, grad, out);
    }
  });
}

}  // namespace STN_LEVEL
}  // namespace stn::cpu
