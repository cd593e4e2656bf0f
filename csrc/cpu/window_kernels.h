// What located pixels take from windows (window.h): one channel of a vector of pixels at a time, or a group
// of channels of one pixel. Included by level sources only; see kernels.h.
#pragma once

#include "window.h"

namespace stn::cpu {
namespace STN_LEVEL {

// ---- the four taps and what comes of them ----

// Of the vector of pixels from the located one `at` on.
template <class T>
STN_INLINE Taps<T> plane_taps(const T* window, const Located<T>& l, int64_t at) {
  return load_quads(window, l.tap + at);
}

// Of located pixel `at`, a group of channels.
template <class T>
STN_INLINE Taps<T> group_taps(const T* window, int64_t pitch, const Located<T>& l, int64_t at) {
  constexpr int64_t lanes = Simd<T>::lanes;
  const T *upper = window + l.tap[at] * lanes, *lower = upper + pitch * lanes;
  return {load<Vec<T>>(upper), load<Vec<T>>(upper + lanes), load<Vec<T>>(lower), load<Vec<T>>(lower + lanes)};
}

template <class T>
STN_INLINE Vec<T> blend(const Taps<T>& t, Vec<T> x1, Vec<T> y1) {
  const auto x0 = 1 - x1, y0 = 1 - y1;
  return y0 * (x0 * t.v00 + x1 * t.v01) + y1 * (x0 * t.v10 + x1 * t.v11);
}

// The derivatives of the loss by coordinates where padding takes them, from those by values.
template <class T>
struct Slopes {
  Vec<T> x, y;

  STN_INLINE Slopes(Vec<T> by_x, Vec<T> by_y) : x(by_x), y(by_y) {}
  STN_INLINE Slopes(const Taps<T>& t, Vec<T> x1, Vec<T> y1, Vec<T> grad) {
    const auto x0 = 1 - x1, y0 = 1 - y1;
    x = grad * (y0 * (t.v01 - t.v00) + y1 * (t.v11 - t.v10));
    y = grad * (x0 * (t.v10 - t.v00) + x1 * (t.v11 - t.v01));
  }

  STN_INLINE void scale(Vec<T> by_x, Vec<T> by_y) {
    x *= by_x;
    y *= by_y;
  }
};

template <class T>
STN_INLINE Slopes<T> plane_slopes(const T* window, const Located<T>& l, int64_t at, Vec<T> grad) {
  return {plane_taps(window, l, at), load<Vec<T>>(l.fx + at), load<Vec<T>>(l.fy + at), grad};
}

template <class T>
STN_INLINE Slopes<T> group_slopes(const T* window, int64_t pitch, const Located<T>& l, int64_t at,
                                  Vec<T> grad) {
  return {group_taps(window, pitch, l, at), Vec<T>{} + l.fx[at], Vec<T>{} + l.fy[at], grad};
}

// ---- sample ----

// `count` pixels that lie side by side, from the located one `first` on.
template <bool streamed, class T>
STN_INLINE void sample_plane(const T* window, const Located<T>& l, int64_t first, int64_t count, T* out) {
  constexpr int64_t lanes = Simd<T>::lanes;
  const auto at = [&](int64_t k) STN_LAMBDA {
    return blend(plane_taps(window, l, k), load<Vec<T>>(l.fx + k), load<Vec<T>>(l.fy + k));
  };
  int64_t k = 0;
  for (; k + lanes <= count; k += lanes) {
    const Vec<T> v = at(first + k);
    streamed ? stream(out + k, v) : store(out + k, v);
  }
  if (k < count) store_some(out + k, at(first + k), count - k);
}

template <bool streamed, class T>
STN_INLINE void sample_group(const T* window, int64_t pitch, const Located<T>& l, int64_t first,
                             int64_t count, T* out, int64_t channel) {
  constexpr int64_t lanes = Simd<T>::lanes;
  Vec<T> v[lanes];
  for (int64_t k = 0; k < count; k += lanes) {
    for (int64_t lane = 0; lane < lanes; ++lane) {
      const int64_t at = first + k + lane;
      v[lane] = blend(group_taps(window, pitch, l, at), Vec<T>{} + l.fx[at], Vec<T>{} + l.fy[at]);
    }
    transpose<T>(v);
    const bool streams = streamed && k + lanes <= count;
    for (int64_t c = 0; c < lanes; ++c) {
      T* to = out + c * channel + k;
      streams ? stream(to, v[c]) : store_some(to, v[c], count - k);
    }
  }
}

// f(first, count, offset) for the runs of a tile's pixels that lie side by side in the output.
template <class T, class F>
STN_INLINE void for_runs(const Problem<T>& p, const OutTile& t, const F& f) {
  const bool whole_rows = t.columns == p.frame.out_width && p.output.row == t.columns;
  const int64_t runs = whole_rows ? 1 : t.rows, count = whole_rows ? t.rows * t.columns : t.columns;
  for (int64_t r = 0; r < runs; ++r) f(r * count, count, r * p.output.row);
}

// `channels` of a tile, all in groups. Its window is for the stack of those who need one so large.
template <class T>
__attribute__((noinline)) void sample_groups(const Problem<T>& p, const OutTile& t, const Window& w,
                                             int64_t channels, const T* image, T* out, const Located<T>& l) {
  GroupWindow<T> window;
  for (int64_t c = 0; c < channels; c += Simd<T>::lanes) {
    copy_group(p, w, image + c * p.input.channel, window.values);
    T* group = out + c * p.output.channel;
    for_runs(p, t, [&](int64_t first, int64_t count, int64_t offset) STN_LAMBDA {
      (p.streams ? sample_group<true, T> : sample_group<false, T>)(window.values, w.pitch, l, first, count,
                                                                   group + offset, p.output.channel);
    });
  }
}

// `channels` of a tile.
template <class T>
STN_INLINE void sample_located(const Problem<T>& p, const OutTile& t, const Window& w, int64_t channels,
                               const T* image, T* out, const Located<T>& l, PlaneWindow<T>* window) {
  int64_t c = grouped<T>(w, channels);
  if (c > 0) sample_groups(p, t, w, c, image, out, l);
  for (; c < channels; ++c) {
    copy_plane(p, w, image + c * p.input.channel, window->values);
    T* plane = out + c * p.output.channel;
    for_runs(p, t, [&](int64_t first, int64_t count, int64_t offset) STN_LAMBDA {
      (p.streams ? sample_plane<true, T> : sample_plane<false, T>)(window->values, l, first, count,
                                                                   plane + offset);
    });
  }
}

}  // namespace STN_LEVEL
}  // namespace stn::cpu
