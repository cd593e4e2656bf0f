// Where the pixels of a tile of the output fall in a plane, through any map (../warp.h). Included by level
// sources only; see kernels.h.
#pragma once

#include "tile_kernels.h"
#include "warp_coordinates.h"

namespace stn::cpu {
namespace STN_LEVEL {

// Whole coordinates by axis, where padding takes them, next to the image at most; the least and the greatest
// of them; and Located's fractions and slopes (these where padding folds the plane).
template <class T>
struct PlaneTile {
  static constexpr int64_t capacity = kTilePixels + kBlock;
  alignas(64) T whole[2][capacity];
  Located<T> at;
  int64_t low[2], high[2];
  alignas(64) T bend[2][capacity];  // what radial functions add to coordinates, pixels
};

// ---- maps, row by row ----

// A row of a tile: along axis d pixel k lies at start[d] + rise[d] * q, with q = k / (1 + bend * k), but for
// radial functions.
struct TileRow {
  double start[2], rise[2], bend;
};

// A map over a tile. Where it is `tame`, T has room for what is counted from a row's first pixel: coordinates
// and their span are bounded, and all pixels lie well before the horizon.
template <class T>
struct TileMap {
  const MapLines& m;
  const OutTile& t;
  bool perspective, tame;

  STN_INLINE TileMap(const Warp<T>& w, int64_t map, const OutTile& tile)
      : m(w.lines[map]), t(tile), perspective(w.perspective) {
    constexpr double largest = kExactCoordinate / 2, widest = 512;
    double low[2] = {largest, largest}, high[2] = {-largest, -largest}, sum = 0;
    double shallow = 1 / kHorizon, deep = 0;
    for (int corner = 0; corner < 4; ++corner) {
      const int64_t r = corner & 1 ? t.rows - 1 : 0, k = corner & 2 ? t.columns - 1 : 0;
      const double depth = perspective ? stream(2, r, k) : 1;
      shallow = depth < shallow ? depth : shallow;
      deep = depth > deep ? depth : deep;
      for (int d = 0; d < 2; ++d) {
        const double x = stream(d, r, k) / depth * m.scale[d] + m.centre[d];
        low[d] = x < low[d] ? x : low[d];
        high[d] = x > high[d] ? x : high[d];
        sum += x + depth;  // finite only if all are
      }
    }
    tame =
        sum - sum == 0 && m.bend < largest && shallow > 1 / largest && deep < largest && deep <= 16 * shallow;
    for (int d = 0; d < 2; ++d) {
      tame = tame && low[d] > -largest && high[d] < largest && high[d] - low[d] <= widest;
    }
  }

  // The linear part of stream s at a pixel of the tile.
  STN_INLINE double stream(int s, int64_t r, int64_t k) const {
    return m.value.row(s, 2, t.top + r, 0) +
           m.value.x[s] * (static_cast<double>(t.left + k) - m.value.centre[0]);
  }

  STN_INLINE TileRow row(int64_t r) const {
    const Lines& l = m.value;
    const double inverse = perspective ? 1 / stream(2, r, 0) : 1, bend = perspective ? l.x[2] * inverse : 0;
    TileRow row{{}, {}, bend};
    for (int d = 0; d < 2; ++d) {
      const double x = stream(d, r, 0) * inverse;
      row.start[d] = x * m.scale[d] + m.centre[d];
      // (u + k du) / (depth + k ddepth) less u / depth
      row.rise[d] = (l.x[d] * inverse - x * bend) * m.scale[d];
    }
    return row;
  }
};

// ---- pixels ----

// Takes coordinates where padding takes them, and finds their bounds.
template <Padding padding, class T>
struct Placer {
  PlaneTile<T>* to;
  bool align_corners;
  Vec<T> length[2], low[2], high[2];

  STN_INLINE Placer(const Warp<T>& w, PlaneTile<T>* tile) : to(tile), align_corners(w.align_corners) {
    for (int d = 0; d < 2; ++d) {
      length[d] = Vec<T>{} + static_cast<T>(w.in[d]);
      low[d] = Vec<T>{} + static_cast<T>(1 << 30);
      high[d] = -low[d];
    }
  }

  // Of a vector of pixels, those in `valid` are the tile's.
  template <class M>
  STN_INLINE void put(int d, int64_t at, M valid, Vec<T> whole, Vec<T> frac) {
    Coordinate<Vec<T>> c = fold<padding>(whole, frac, length[d], align_corners);
    if (padding == Padding::zeros) {  // all beyond is as the zeros next to the image
      const Vec<T> first = Vec<T>{} - 2;
      c.whole = c.whole > first ? c.whole : first;
      c.whole = c.whole < length[d] ? c.whole : length[d];
    } else {
      store((d == 0 ? to->at.slope_x : to->at.slope_y) + at, c.slope);
    }
    low[d] = valid & (c.whole < low[d]) ? c.whole : low[d];
    high[d] = valid & (c.whole > high[d]) ? c.whole : high[d];
    store(to->whole[d] + at, c.whole);
    store((d == 0 ? to->at.fx : to->at.fy) + at, c.frac);
  }

  STN_INLINE void end() const {
    for (int d = 0; d < 2; ++d) {
      T least = low[d][0], most = high[d][0];
      for (int lane = 1; lane < Simd<T>::lanes; ++lane) {
        least = low[d][lane] < least ? low[d][lane] : least;
        most = high[d][lane] > most ? high[d][lane] : most;
      }
      to->low[d] = static_cast<int64_t>(least);
      to->high[d] = static_cast<int64_t>(most);
    }
  }
};

// A number as a whole one and the rest.
template <class T>
struct Split {
  Vec<T> whole, frac;

  STN_INLINE explicit Split(double x) {
    const double floor = __builtin_floor(x);
    whole = Vec<T>{} + static_cast<T>(floor);
    frac = Vec<T>{} + static_cast<T>(x - floor);
  }
};

template <Padding padding, bool perspective, class T>
__attribute__((noinline)) void locate_tame(const Warp<T>& w, const TileMap<T>& m, PlaneTile<T>* tile) {
  const int64_t columns = m.t.columns;
  Placer<padding, T> to(w, tile);
  for (int64_t r = 0; r < m.t.rows; ++r) {
    const TileRow row = m.row(r);
    const Split<T> start[2] = {Split<T>(row.start[0]), Split<T>(row.start[1])};
    const T bend = static_cast<T>(row.bend);
    Vec<T> number = lane_numbers<T>();
    for (int64_t k = 0; k < columns; k += Simd<T>::lanes, number += Simd<T>::lanes) {
      const int64_t at = r * columns + k;
      const Vec<T> q = perspective ? number / (1 + bend * number) : number;
      for (int d = 0; d < 2; ++d) {
        Vec<T> x = start[d].frac + static_cast<T>(row.rise[d]) * q;
        if (!perspective) x += load<Vec<T>>(tile->bend[d] + at);
        const Vec<T> floor = Floor<Vec<T>>::of(x);
        to.put(d, at, number < static_cast<T>(columns), start[d].whole + floor, x - floor);
      }
    }
  }
  to.end();
}

// Whatever they are.
template <Padding padding, class T>
__attribute__((noinline)) void locate_any(const Warp<T>& w, int64_t map, TileRadial<T>* radial,
                                          PlaneTile<T>* tile) {
  const OutTile& t = radial->tile();
  const T* values = radial->all();
  Streams streams;
  Positions at;
  alignas(64) T whole[kBlock], frac[kBlock];
  Placer<padding, T> to(w, tile);
  for (int64_t r = 0; r < t.rows; ++r) {
    place(w, map, row_of(t, r), values + r * t.columns, &streams, &at);
    for (int d = 0; d < 2; ++d) {
      split_block<padding>(at.at[d], w.in[d], w.align_corners, static_cast<int>(padded<T>(t.columns)), whole,
                           frac);
      Vec<T> number = lane_numbers<T>();
      for (int64_t k = 0; k < t.columns; k += Simd<T>::lanes, number += Simd<T>::lanes) {
        to.put(d, r * t.columns + k, number < static_cast<T>(t.columns), load<Vec<T>>(whole + k),
               load<Vec<T>>(frac + k));
      }
    }
  }
  to.end();
}

// The pixels of the radial functions' tile. Says whether the map is tame there.
template <class T>
STN_INLINE bool locate(const Warp<T>& w, int64_t map, TileRadial<T>* radial, PlaneTile<T>* tile) {
  const TileMap<T> m(w, map, radial->tile());
  if (m.tame && !w.perspective) {
    T* const bend[2] = {tile->bend[0], tile->bend[1]};
    radial->sum(m.m, bend);
  }
  with_padding(w.padding, [&](auto padding) STN_LAMBDA {
    if (!m.tame) {
      locate_any<padding.value>(w, map, radial, tile);
    } else if (w.perspective) {
      locate_tame<padding.value, true>(w, m, tile);
    } else {
      locate_tame<padding.value, false>(w, m, tile);
    }
  });
  return m.tame;
}

}  // namespace STN_LEVEL
}  // namespace stn::cpu
