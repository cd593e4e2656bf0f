// Windows of vectors of channels, each place of which holds up to a vector of them. Included by level sources
// only; see problem.h.
#pragma once

#include "window.h"

namespace stn::cpu {
namespace STN_LEVEL {

// Up to a vector of channels in each place: a window's, or the image itself.
template <class T>
struct Group {
  const T* values;
  int64_t place, row;  // elements from a place to the next, and from a row of places
};

// The image's column that stands at each of a window's, -1 where there is none.
struct SourceColumns {
  int64_t at[kGroupColumns];

  template <class S>
  STN_INLINE SourceColumns(const S& s, const Window& w) {
    for (int64_t x = 0; x < w.columns; ++x) at[x] = s.source_column(w.left + x);
  }
};

template <class T>
struct GroupWindow {
  static constexpr int64_t lanes = Simd<T>::lanes, kGroupLine = kGroupColumns + 64;
  alignas(64) T values[(kGroupWindow + lanes) * lanes];
  alignas(64) T lines[lanes * kGroupLine];

  STN_INLINE Group<T> copy(const Source<T>& s, int64_t channels, const Window& w) {
    if (s.stride == 1 && s.pixel > 1) {
      copy_pixels(s, channels, w);
    } else if (s.as.direct && s.pixel == 1 && !is_direct(s, w)) {
      copy_repeating(s, channels, w);
    } else {
      copy_planes(s, channels, w);
    }
    return all(w);
  }

  // What has been copied.
  STN_INLINE Group<T> all(const Window& w) const { return {values, lanes, w.pitch * lanes}; }

 private:
  // Channels that lie side by side.
  __attribute__((noinline)) void copy_pixels(const Source<T>& s, int64_t channels, const Window& w) {
    Vec<T> outside{};
    for (int64_t c = 0; c < channels; ++c) outside[c] = s.outside(c);
    const SourceColumns source(s, w);
    const Columns in(s.p, w);
    const int64_t whole = s.as.direct && channels == lanes && in.count > 0 ? in.count : 0;
    for (int64_t y = 0; y < w.rows; ++y) {
      const int64_t from = s.source_row(w.top + y);
      T* to = values + y * w.pitch * lanes;
      const auto put = [&](int64_t begin, int64_t end) STN_LAMBDA {
        for (int64_t x = begin; x < end; ++x) {
          if (from < 0 || source.at[x] < 0) {
            store(to + x * lanes, outside);
          } else if (s.as.direct) {
            const T* pixel = reinterpret_cast<const T*>(s.at(0, from, source.at[x]));
            store(to + x * lanes, load_some<Vec<T>>(pixel, channels));
          } else {
            s.as.load(s.at(0, from, source.at[x]), 1, 1, channels, to + x * lanes, 0);
          }
        }
      };
      if (from < 0 || whole == 0) {
        put(0, w.columns);
        continue;
      }
      put(0, in.skip);
      const T* pixel = reinterpret_cast<const T*>(s.at(0, from, in.first));
      for (int64_t x = 0; x < whole; ++x, pixel += s.pixel) {
        store(to + (in.skip + x) * lanes, load<Vec<T>>(pixel));
      }
      put(in.skip + whole, w.columns);
    }
  }

  // Planes, beyond whose edges they come again: a row's columns are transposed once, and stand wherever they
  // do.
  __attribute__((noinline)) void copy_repeating(const Source<T>& s, int64_t channels, const Window& w) {
    const SourceColumns source(s, w);
    int64_t low = s.p.in[0] - 1, high = 0;
    for (int64_t x = 0; x < w.columns; ++x) {
      low = source.at[x] < low ? source.at[x] : low;
      high = source.at[x] > high ? source.at[x] : high;
    }
    for (int64_t y = 0; y < w.rows; ++y) {
      const auto* row = reinterpret_cast<const T*>(s.at(0, s.source_row(w.top + y), low));
      turn(row, s.stride, channels, high - low + 1, lines);
      T* to = values + y * w.pitch * lanes;
      for (int64_t x = 0; x < w.columns; ++x) {
        store(to + x * lanes, load<Vec<T>>(lines + (source.at[x] - low) * lanes));
      }
    }
  }

  // Planes: transposed.
  __attribute__((noinline)) void copy_planes(const Source<T>& s, int64_t channels, const Window& w) {
    const Columns in(s.p, w);
    const bool direct = is_direct(s, w), zeros = s.p.padding == Padding::zeros;
    Vec<T> outside{};
    for (int64_t c = 0; c < channels; ++c) outside[c] = s.outside(c);
    for (int64_t y = 0; y < w.rows; ++y) {
      const int64_t from = s.source_row(w.top + y);
      T* to = values + y * w.pitch * lanes;
      if (from < 0 || (zeros && in.count <= 0)) {
        for (int64_t x = 0; x < w.columns; ++x) store(to + x * lanes, outside);
        continue;
      }
      if (!direct) {
        for (int64_t c = 0; c < channels; ++c) {
          complete_row(s.from(c), 1, w.top + y, w, lines + c * kGroupLine, kGroupLine);
        }
        turn(lines, kGroupLine, channels, w.columns, to);
        continue;
      }
      turn(reinterpret_cast<const T*>(s.at(0, from, in.first)), s.stride, channels, in.count,
           to + in.skip * lanes);
      const T *first = to + in.skip * lanes, *last = first + (in.count - 1) * lanes;
      for (int64_t x = 0; x < in.skip; ++x) store(to + x * lanes, zeros ? outside : load<Vec<T>>(first));
      for (int64_t x = in.skip + in.count; x < w.columns; ++x) {
        store(to + x * lanes, zeros ? outside : load<Vec<T>>(last));
      }
    }
  }

  // `count` pixels of planes to vectors of channels.
  static STN_INLINE void turn(const T* from, int64_t stride, int64_t channels, int64_t count, T* to) {
    int64_t x = 0;
    if (channels == lanes) {
      for (; x + lanes <= count; x += lanes) {
        Vec<T> v[lanes];
#pragma GCC unroll 16
        for (int c = 0; c < lanes; ++c) v[c] = load<Vec<T>>(from + c * stride + x);
        transpose<T>(v);
#pragma GCC unroll 16
        for (int k = 0; k < lanes; ++k) store(to + (x + k) * lanes, v[k]);
      }
    }
    for (; x < count; x += lanes) {
      Vec<T> v[lanes];
#pragma GCC unroll 16
      for (int c = 0; c < lanes; ++c) {
        v[c] = c < channels ? load_some<Vec<T>>(from + c * stride + x, count - x) : Vec<T>{};
      }
      transpose<T>(v);
#pragma GCC unroll 16
      for (int k = 0; k < lanes; ++k) store(to + (x + k) * lanes, v[k]);
    }
  }
};

// Places from a row of an image to the next, where its own pixels can serve as a window's, vectors of
// channels each; 0 where they cannot.
template <class T>
STN_INLINE int64_t place_pitch(const Rows<T>& as, int64_t channels, int64_t channel, int64_t pixel,
                               int64_t row) {
  const bool vectors = as.direct && channel == 1 && pixel > 1 && channels % Simd<T>::lanes == 0;
  return vectors && row % pixel == 0 ? row / pixel : 0;
}

}  // namespace STN_LEVEL
}  // namespace stn::cpu
