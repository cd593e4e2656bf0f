// Windows: what tiles of the output need of the input, and where pixels fall in it. Included by level sources
// only; see kernels.h.
//
// The input pixels that a tile needs lie in a small rectangle. It is copied with zeros around the image, so
// that every tap exists, and so that taps lie side by side: of one channel, two rows interleaved, a pixel's
// four; of many channels, a pixel's channels. Where the tile's pixels fall in it is found once for all
// channels.
#pragma once

#include "row_kernels.h"

namespace stn::cpu {
namespace STN_LEVEL {

// Input pixels, of which some may lie outside the image.
struct Window {
  int64_t top, left, rows, columns;
  int64_t pitch;  // places from a row to the next
};

constexpr int64_t kWindow = 8192, kGroupWindow = 4096;  // places in a window, at most

// A tile's pixels, row by row: the places of their first taps, and how far they lie from them. The slopes are
// those of padding that folds the plane (Coordinate).
template <class T>
struct Located {
  alignas(64) int32_t tap[kTilePixels + Simd<T>::lanes];
  alignas(64) T fx[kTilePixels + Simd<T>::lanes], fy[kTilePixels + Simd<T>::lanes];
  alignas(64) T slope_x[kTilePixels + Simd<T>::lanes], slope_y[kTilePixels + Simd<T>::lanes];
};

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

// What pixels between them need.
STN_INLINE Window window_of(const Range& x, const Range& y) {
  constexpr int64_t line = 8;  // pairs of floats in a cache line
  const int64_t columns = x.high - x.low + 2;
  return {y.low, x.low, y.high - y.low + 2, columns, (columns + line - 1) / line * line};
}

// Whether a tile's window fits, and is worth to be copied.
STN_INLINE bool fits(const OutTile& t, const Window& w) {
  const int64_t places = (w.rows - 1) * w.pitch;
  return places <= kWindow && places <= 8 * t.rows * t.columns + 1024;
}

// How many of the channels are worked on by groups: by vectors of channels.
template <class T>
STN_INLINE int64_t grouped(const Window& w, int64_t channels) {
  return w.rows * w.pitch <= kGroupWindow ? channels / Simd<T>::lanes * Simd<T>::lanes : 0;
}

// The columns of a window that the image has.
struct Columns {
  int64_t first, skip, count;  // the first of them; how many lie before it; how many there are

  template <class T>
  STN_INLINE Columns(const Problem<T>& p, const Window& w) {
    const int64_t behind = w.left + w.columns < p.stored_width ? w.left + w.columns : p.stored_width;
    first = w.left > 0 ? w.left : 0;
    skip = first - w.left;
    count = behind - first;
  }
};

// `count` pixels of two rows, of which one may be zeros, alternating; and zeros behind them: the two places
// that a window may hold, perhaps in a vector of their own.
template <bool above, bool below, class T>
STN_INLINE void interleave(const T* upper, const T* lower, int64_t count, T* to) {
  constexpr int64_t lanes = Simd<T>::lanes;
  int64_t x = 0;
  for (; x + lanes <= count; x += lanes) {
    store_alternating<T>(to + 2 * x, above ? load<Vec<T>>(upper + x) : Vec<T>{},
                         below ? load<Vec<T>>(lower + x) : Vec<T>{});
  }
  const int64_t rest = count - x;
  store_alternating<T>(to + 2 * x, above ? load_some<Vec<T>>(upper + x, rest) : Vec<T>{},
                       below ? load_some<Vec<T>>(lower + x, rest) : Vec<T>{});
  if (rest + 2 > lanes) store_alternating<T>(to + 2 * (x + lanes), Vec<T>{}, Vec<T>{});
}

// One channel's window: in each place a pixel and the one below it. A row's last vectors reach into the next
// one, which is written after it.
template <class T>
STN_INLINE void copy_plane(const Problem<T>& p, const Window& w, const T* plane, T* window) {
  const Columns columns(p, w);
  const int64_t count = columns.count, last = p.stored_height - 1;
  for (int64_t y = 0; y + 1 < w.rows; ++y) {
    const int64_t row = w.top + y;
    T* to = window + 2 * y * w.pitch;
    if (count <= 0 || row < -1 || row > last) {
      store_zeros(to, 2 * w.pitch);
      continue;
    }
    if (columns.skip > 0) store_zeros(to, 2 * Simd<T>::lanes);
    to += 2 * columns.skip;
    const T *upper = plane + row * p.input.row + columns.first, *lower = upper + p.input.row;
    if (row >= 0 && row < last) {
      interleave<true, true>(upper, lower, count, to);
    } else if (row < 0) {
      interleave<false, true>(upper, lower, count, to);
    } else {
      interleave<true, false>(upper, lower, count, to);
    }
  }
}

template <class T>
struct PlaneWindow {
  alignas(64) T values[2 * kWindow + 8 * Simd<T>::lanes];
};

// The channels of the first `count` of a vector of pixels, a vector each. from: the first one's first.
template <class T>
STN_INLINE void load_group(const T* from, int64_t channel, int64_t channels, int64_t count, Vec<T>* v) {
  for (int64_t c = 0; c < Simd<T>::lanes; ++c) {
    v[c] = c < channels ? load_some<Vec<T>>(from + c * channel, count) : Vec<T>{};
  }
  transpose<T>(v);
}

// A group's window: in each place a pixel's channels. Here too rows reach into the next ones.
template <class T>
STN_INLINE void copy_group(const Problem<T>& p, const Window& w, const T* planes, T* window) {
  constexpr int64_t lanes = Simd<T>::lanes;
  const Columns columns(p, w);
  for (int64_t y = 0; y < w.rows; ++y) {
    T* to = window + y * w.pitch * lanes;
    const int64_t row = w.top + y;
    if (columns.count <= 0 || row < 0 || row >= p.stored_height) {
      store_zeros(to, w.columns * lanes);
      continue;
    }
    store_zeros(to, columns.skip * lanes);
    to += columns.skip * lanes;
    const T* from = planes + row * p.input.row + columns.first;
    for (int64_t x = 0; x < columns.count; x += lanes) {
      Vec<T> v[lanes];
      load_group(from + x, p.input.channel, lanes, columns.count - x, v);
      for (int64_t k = 0; k < lanes; ++k) store(to + (x + k) * lanes, v[k]);
    }
    store_zeros(to + columns.count * lanes, (w.columns - columns.skip - columns.count) * lanes);
  }
}

template <class T>
struct GroupWindow {
  alignas(64) T values[(kGroupWindow + Simd<T>::lanes) * Simd<T>::lanes];
};

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

}  // namespace STN_LEVEL
}  // namespace stn::cpu
