// Windows: what tiles of the output need of the input, copied, converted and completed. Included by level
// sources only; see problem.h.
//
// A window is a rectangle of places. A place within the image holds its pixel, one outside of it what the
// padding says stands there, so that every tap exists and loops over pixels know no padding. Of one channel,
// two rows are interleaved: a pixel's four taps lie side by side. Of many channels, a place holds a vector of
// them (group_window.h).
#pragma once

#include "storage.h"

namespace stn::cpu {
namespace STN_LEVEL {

struct Window {
  int64_t top, left, rows, columns;
  int64_t pitch;  // places from a row to the next
};

// Far more than a coordinate's error, so that what lies beyond it needs no test of its own.
constexpr double kMargin = 1.0 / 64;

// The whole coordinates under those in [low, high]. Where nothing changes any more beyond the image, what
// lies there counts as next to it.
STN_INLINE Range whole_range(double low, double high, int64_t length, Padding padding) {
  low -= kMargin;
  high += kMargin;
  if (!repeats(padding)) {
    const double least = padding == Padding::zeros ? -2 : -1,
                 most = static_cast<double>(padding == Padding::zeros ? length : length - 1);
    low = low < least ? least : (low > most ? most : low);
    high = high < least ? least : (high > most ? most : high);
  }
  return {static_cast<int64_t>(__builtin_floor(low)), static_cast<int64_t>(__builtin_floor(high))};
}

// What pixels between them need.
STN_INLINE Window window_of(const Range& x, const Range& y) {
  constexpr int64_t line = 8;  // pairs of floats in a cache line
  const int64_t columns = x.high - x.low + 2;
  return {y.low, x.low, y.high - y.low + 2, columns, (columns + line - 1) / line * line};
}

// Whether a tile's window has room, and is worth to be copied.
STN_INLINE bool fits(const OutTile& t, const Window& w) {
  const int64_t places = w.rows * w.pitch;
  return places <= kWindow && w.columns <= kWindowColumns &&
         places <= kPlacesPerPixel * t.rows * t.columns + kPlacesBesides;
}

STN_INLINE bool fits_groups(const Window& w) {
  return w.rows * w.pitch <= kGroupWindow && w.columns <= kGroupColumns;
}

// Some channels of an image, as they are stored.
template <class T>
struct Source {
  const Rows<T>& as;
  const Problem& p;
  const char* data;  // of the first channel
  int64_t channel;   // its number
  int64_t stride, row, pixel;

  STN_INLINE Source(const Problem& problem, const Rows<T>& rows, int64_t image, int64_t c)
      : as(rows),
        p(problem),
        data(problem.input.data + (image * problem.input.batch + c * problem.input.channel) * rows.size),
        channel(c),
        stride(problem.input.channel),
        row(problem.input.axis[1]),
        pixel(problem.input.axis[0]) {}

  // From channel c on.
  STN_INLINE Source from(int64_t c) const {
    Source s = *this;
    s.data = at(c, 0, 0);
    s.channel += c;
    return s;
  }
  STN_INLINE const char* at(int64_t c, int64_t y, int64_t x) const {
    return data + (c * stride + y * row + x * pixel) * as.size;
  }
  STN_INLINE T outside(int64_t c) const { return static_cast<T>(p.fill_of(channel + c)); }
  // `count` pixels of `channels` channels that lie side by side, from channel c on.
  STN_INLINE void load(int64_t c, int64_t channels, int64_t y, int64_t x, int64_t count, T* to,
                       int64_t stride_to) const {
    as.load(at(c, y, x), channels, pixel, count, to, stride_to);
  }
  // Bytes of `count` pixels of a row to ask for: none, where the processor foresees them, as they are most of
  // it.
  STN_INLINE int64_t expected(int64_t count) const {
    return 2 * count * pixel < row ? count * pixel * as.size : 0;
  }
  STN_INLINE void expect(int64_t y, int64_t x, int64_t count) const {
    STN_LEVEL::expect(at(0, y, x), expected(count));
  }
  STN_INLINE int64_t source_row(int64_t y) const {
    return source_index(y, p.in[1], p.padding, p.align_corners);
  }
  STN_INLINE int64_t source_column(int64_t x) const {
    return source_index(x, p.in[0], p.padding, p.align_corners);
  }
};

// ---- rows of planes ----

constexpr int64_t kLine = kWindowColumns + 64;

template <class T>
STN_INLINE void fill_few(T* to, int64_t begin, int64_t end, T value) {
  for (int64_t x = begin; x < end; ++x) to[x] = value;
}

template <class T>
STN_INLINE void fill_line(T* to, int64_t begin, int64_t end, T value) {
  for (int64_t x = begin; x < end; x += Simd<T>::lanes) store(to + x, Vec<T>{} + value);
}

// Places [begin, end) of row `from`, of one channel, where the padding repeats: runs of the row, forth and
// back.
template <class S, class T>
__attribute__((noinline)) void repeat_line(const S& s, int64_t c, int64_t from, int64_t begin, int64_t end,
                                           T* to) {
  while (begin < end) {
    const Run run(s.p.padding, begin, s.p.in[0], s.p.align_corners);
    const int64_t count = end - begin < run.count ? end - begin : run.count;
    s.load(c, 1, from, run.forth ? run.first : run.first - count + 1, count, to, 0);
    for (int64_t k = 0; !run.forth && k < count - 1 - k; ++k) {
      const T other = to[k];
      to[k] = to[count - 1 - k];
      to[count - 1 - k] = other;
    }
    begin += count;
    to += count;
  }
}

// The columns of a window that the image has.
struct Columns {
  int64_t first, skip, count;  // the first of them; how many places lie before it; how many there are

  STN_INLINE Columns(const Problem& p, const Window& w) {
    const int64_t behind = w.left + w.columns < p.in[0] ? w.left + w.columns : p.in[0];
    first = w.left > 0 ? w.left : 0;
    skip = first - w.left;
    count = behind - first;
  }
};

// Row y of a window, of `channels` channels that lie side by side in memory: channel c to line + c * stride.
template <class S, class T>
STN_INLINE void complete_row(const S& s, int64_t channels, int64_t y, const Window& w, T* line,
                             int64_t stride) {
  const int64_t from = s.source_row(y);
  const Columns in(s.p, w);
  const bool zeros = s.p.padding == Padding::zeros;
  for (int64_t c = 0; c < channels; ++c) {
    T* to = line + c * stride;
    if (from < 0 || (zeros && in.count <= 0)) {
      fill_line(to, 0, w.columns, s.outside(c));
    } else if (repeats(s.p.padding) && in.count < w.columns) {
      repeat_line(s, c, from, w.left, w.left + w.columns, to);
    } else if (zeros && in.skip > 0) {
      fill_line(to, 0, in.skip, s.outside(c));
    }
  }
  if (from < 0 || in.count <= 0 || (repeats(s.p.padding) && in.count < w.columns)) return;
  s.load(0, channels, from, in.first, in.count, line + in.skip, stride);
  const int64_t behind = in.skip + in.count;
  for (int64_t c = 0; c < channels; ++c) {
    T* to = line + c * stride;
    if (!zeros) fill_few(to, 0, in.skip, to[in.skip]);
    fill_few(to, behind, w.columns, zeros ? s.outside(c) : to[behind - 1]);
  }
}

// Whether the rows of a window can be read where they are stored, but for a few places beside the image.
template <class T>
STN_INLINE bool is_direct(const Source<T>& s, const Window& w) {
  return s.as.direct && s.pixel == 1 && (!repeats(s.p.padding) || Columns(s.p, w).count == w.columns);
}

// Pixels of two rows, alternating. The last vector goes back over the one before it, where there is one.
template <class T>
STN_INLINE void interleave(const T* upper, const T* lower, int64_t count, T* to) {
  constexpr int64_t lanes = Simd<T>::lanes;
  if (count < lanes) {
    store_alternating<T>(to, load_some<Vec<T>>(upper, count), load_some<Vec<T>>(lower, count));
    return;
  }
  const auto put = [&](int64_t x) STN_LAMBDA {
    store_alternating<T>(to + 2 * x, load<Vec<T>>(upper + x), load<Vec<T>>(lower + x));
  };
  for (int64_t x = 0; x < count - lanes; x += lanes) put(x);
  put(count - lanes);
}

// Windows of planes: in each place a pixel and the one below it. A row's last vectors reach into the next
// one, which is written after it.
constexpr int64_t kPlanePlaces = kWindow + 64;
template <class T, int planes>
struct PlaneWindows {
  alignas(64) T values[planes][2 * kPlanePlaces];
  alignas(64) T lines[2][planes * kLine];

  // Of `channels` channels that lie side by side in memory.
  STN_INLINE void copy(const Source<T>& s, int64_t channels, const Window& w) {
    channels == 1 && is_direct(s, w) ? copy_direct(s, w) : copy_rows(s, channels, w);
  }

  template <class S>
  __attribute__((noinline)) void copy_rows(const S& s, int64_t channels, const Window& w) {
    const Columns in(s.p, w);
    complete_row(s, channels, w.top, w, lines[0], kLine);
    for (int64_t y = 0; y + 1 < w.rows; ++y) {
      const T *upper = lines[y & 1], *lower = lines[(y + 1) & 1];
      s.expect(w.top + y + kRowsAhead, in.first, in.count);
      complete_row(s, channels, w.top + y + 1, w, lines[(y + 1) & 1], kLine);
      for (int64_t c = 0; c < channels; ++c) {
        interleave(upper + c * kLine, lower + c * kLine, w.columns, values[c] + 2 * y * w.pitch);
      }
    }
  }

 private:
  // Beside the image there are two places at most: next to it nothing changes any more (whole_range).
  __attribute__((noinline)) void copy_direct(const Source<T>& s, const Window& w) {
    typedef typename Quad<T>::V Places;
    const Columns in(s.p, w);
    const bool zeros = s.p.padding == Padding::zeros;
    const T outside = s.outside(0);
    if (zeros && (w.top < 0 || w.top + w.rows > s.p.in[1])) fill_line(lines[0], 0, in.count, outside);
    const T* const first = reinterpret_cast<const T*>(s.at(0, 0, in.first));
    const auto row = [&](int64_t y) STN_LAMBDA -> const T* {
      const int64_t from = s.source_row(w.top + y);
      return from < 0 ? lines[0] : first + from * s.row;
    };
    const auto beside = [&](T upper, T lower) STN_LAMBDA {
      return zeros ? Places{outside, outside, outside, outside} : Places{upper, lower, upper, lower};
    };
    const int64_t behind = in.skip + in.count, expected = s.expected(in.count);
    const T* upper = row(0);
    for (int64_t y = 0; y + 1 < w.rows; ++y) {
      const T* lower = row(y + 1);
      STN_LEVEL::expect(first + (w.top + y + kRowsAhead) * s.row, expected);
      T* to = values[0] + 2 * y * w.pitch;
      if (in.skip > 0) store(to, beside(upper[0], lower[0]));
      interleave(upper, lower, in.count, to + 2 * in.skip);
      if (behind < w.columns) store(to + 2 * behind, beside(upper[in.count - 1], lower[in.count - 1]));
      upper = lower;
    }
  }
};

}  // namespace STN_LEVEL
}  // namespace stn::cpu
