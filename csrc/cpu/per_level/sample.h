// Bilinear sampling of a tile's located pixels from windows: one channel of a vector of pixels at a time, or
// a vector of channels of one pixel. Included by level sources only; see problem.h.
#pragma once

#include "group_window.h"
#include "locate.h"

namespace stn::cpu {
namespace STN_LEVEL {

// ---- the four taps and what comes of them ----

// Of the vector of pixels from the located one `at` on.
template <class T>
STN_INLINE Taps<T> plane_taps(const T* window, const Located<T>& l, int64_t at) {
  return load_quads(window, l.tap + at);
}

// Of located pixel `at`, up to a vector of channels.
template <class T>
STN_INLINE Taps<T> group_taps(const Group<T>& g, const Located<T>& l, int64_t at) {
  const T *upper = g.values + l.tap[at] * g.place, *lower = upper + g.row;
  return {load<Vec<T>>(upper), load<Vec<T>>(upper + g.place), load<Vec<T>>(lower),
          load<Vec<T>>(lower + g.place)};
}

// A vector of located pixels' weights, to be taken one by one.
template <class T>
struct WeightArrays {
  alignas(64) T w00[Simd<T>::lanes], w01[Simd<T>::lanes], w10[Simd<T>::lanes], w11[Simd<T>::lanes];

  STN_INLINE WeightArrays(const Located<T>& l, int64_t at) {
    const auto fx = load<Vec<T>>(l.fx + at), fy = load<Vec<T>>(l.fy + at);
    const Vec<T> ex = 1 - fx, ey = 1 - fy;
    store(w00, ey * ex);
    store(w01, ey * fx);
    store(w10, fy * ex);
    store(w11, fy * fx);
  }
};

template <class T>
STN_INLINE Vec<T> blend(const Taps<T>& t, Vec<T> x1, Vec<T> y1) {
  const Vec<T> upper = t.v00 + x1 * (t.v01 - t.v00), lower = t.v10 + x1 * (t.v11 - t.v10);
  return upper + y1 * (lower - upper);
}

// ---- tiles of the output, and of its gradient ----

template <class T>
struct TileView {
  const Rows<T>& as;
  char* data;  // the tile's first pixel's first channel
  int64_t channel, row, pixel;

  STN_INLINE TileView(const Rows<T>& rows, const Batch& images, int64_t map, int64_t c, const OutTile& t)
      : as(rows), channel(images.channel), row(images.axis[1]), pixel(images.axis[0]) {
    data = images.data + (map * images.batch + c * channel + t.top * row + t.left * pixel) * rows.size;
  }

  // From channel c on.
  STN_INLINE TileView from(int64_t c) const {
    TileView v = *this;
    v.data = at(c, 0, 0);
    return v;
  }
  STN_INLINE char* at(int64_t c, int64_t r, int64_t k) const {
    return data + (c * channel + r * row + k * pixel) * as.size;
  }
  STN_INLINE T* direct(int64_t c, int64_t r, int64_t k) const { return reinterpret_cast<T*>(at(c, r, k)); }
  // Asks for a row of the tile, of `channels` channels.
  STN_INLINE void expect(int64_t channels, int64_t r, int64_t columns) const {
    for (int64_t c = 0; c < (channel == 1 ? 1 : channels); ++c) {
      STN_LEVEL::expect(at(c, r, 0), columns * pixel * as.size);
    }
  }
};

// How the channels of a tile are worked on: `grouped` of them in vectors of channels, the others in planes,
// `few` at a time. Channels that lie side by side in memory are taken apart where they are few; otherwise all
// are worked on in vectors, the last of which may be shorter.
struct Division {
  int64_t grouped, few;
};

template <class T>
STN_INLINE Division divide(const Batch& images, int64_t channels, bool groups_fit) {
  if (is_interleaved(images)) return channels <= kFew ? Division{0, channels} : Division{channels, 1};
  return {groups_fit ? channels / Simd<T>::lanes * Simd<T>::lanes : 0, 1};
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

// f(first, count, r) for the runs of a tile's pixels that lie side by side in the output: its rows, or all.
template <class T, class F>
STN_INLINE void for_runs(const TileView<T>& to, const OutTile& t, const F& f) {
  const bool whole = to.row == t.columns * to.pixel;
  const int64_t runs = whole ? 1 : t.rows, count = whole ? t.rows * t.columns : t.columns;
  for (int64_t r = 0; r < runs; ++r) f(r * count, count, r);
}

template <class T>
struct Results {
  alignas(64) T values[kFew][kTilePixels + Simd<T>::lanes];
};

// `channels` planes that lie side by side in memory, from a window each.
template <class T>
__attribute__((noinline)) void sample_planes(const TileView<T>& to, const OutTile& t, int64_t channels,
                                             bool past_caches, const PlaneWindows<T, kFew>& windows,
                                             const Located<T>& l, Results<T>* results) {
  const bool direct = to.as.direct && channels == 1 && to.pixel == 1;
  for_runs(to, t, [&](int64_t first, int64_t count, int64_t r) STN_LAMBDA {
    if (direct) {
      T* out = to.direct(0, r, 0);
      past_caches ? sample_plane<true>(windows.values[0], l, first, count, out)
                  : sample_plane<false>(windows.values[0], l, first, count, out);
      return;
    }
    for (int64_t c = 0; c < channels; ++c) {
      sample_plane<false>(windows.values[c], l, first, count, results->values[c]);
    }
    if (to.channel == 1) {
      to.as.store(results->values[0], kTilePixels + Simd<T>::lanes, channels, to.pixel, count,
                  to.at(0, r, 0));
      return;
    }
    for (int64_t c = 0; c < channels; ++c) {
      to.as.store(results->values[c], 0, 1, to.pixel, count, to.at(c, r, 0));
    }
  });
}

// Stores a vector of results, of which so many count.
template <class T>
STN_INLINE void put_some(const Rows<T>& as, char* to, Vec<T> v, int64_t count) {
  if (as.direct) return store_some(reinterpret_cast<T*>(to), v, count);
  alignas(64) T part[Simd<T>::lanes];
  store(part, v);
  as.store(part, 0, 1, 1, count, to);
}

// Up to a vector of channels of `count` pixels of row r, to planes or to channels that lie side by side.
template <bool planes, class T>
STN_INLINE void sample_group(const Group<T>& group, const Located<T>& l, const TileView<T>& to,
                             int64_t channels, bool past_caches, int64_t first, int64_t count, int64_t r) {
  constexpr int64_t lanes = Simd<T>::lanes;
  for (int64_t k = 0; k < count; k += lanes) {
    const int64_t n = count - k < lanes ? count - k : lanes;
    Vec<T> v[lanes];
    const WeightArrays<T> w(l, first + k);
#pragma GCC unroll 16
    for (int lane = 0; lane < lanes; ++lane) {
      const Taps<T> t = group_taps(group, l, first + k + lane);
      v[lane] = (w.w00[lane] * t.v00 + w.w01[lane] * t.v01) + (w.w10[lane] * t.v10 + w.w11[lane] * t.v11);
    }
    if (planes) {
      transpose<T>(v);
      char* out = to.at(0, r, k);
      const int64_t step = to.channel * to.as.size;
      if (to.as.direct && channels == lanes && n == lanes) {
#pragma GCC unroll 16
        for (int c = 0; c < lanes; ++c) {
          T* row = reinterpret_cast<T*>(out + c * step);
          past_caches ? stream(row, v[c]) : store(row, v[c]);
        }
      } else {
        for (int64_t c = 0; c < channels; ++c) put_some(to.as, out + c * step, v[c], n);
      }
    } else {
      for (int64_t i = 0; i < n; ++i) put_some(to.as, to.at(0, r, k + i), v[i], channels);
    }
  }
}

template <class T>
__attribute__((noinline)) void sample_groups(const TileView<T>& to, const OutTile& t, int64_t channels,
                                             bool past_caches, const Group<T>& group, const Located<T>& l) {
  for_runs(to, t, [&](int64_t first, int64_t count, int64_t r) STN_LAMBDA {
    to.pixel == 1 ? sample_group<true>(group, l, to, channels, past_caches, first, count, r)
                  : sample_group<false>(group, l, to, channels, past_caches, first, count, r);
  });
}

}  // namespace STN_LEVEL
}  // namespace stn::cpu
