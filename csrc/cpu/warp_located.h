// Where the pixels of a tile of the output fall in a plane, through any map (../warp.h). Included by level
// sources only; see kernels.h.
#pragma once

#include "tile_kernels.h"
#include "warp_coordinates.h"

namespace stn::cpu {
namespace STN_LEVEL {

template <class T>
struct PlaneTile {
  Located<T> at;
  // Along each axis what radial functions add to coordinates; of a map that is not tame, whole coordinates.
  alignas(64) T extra[2][kRadialStride];
};

// A tile's rows: along axis d pixel k lies at whole[d] + frac[d] + rise[d] * q, with q = k / (1 + bend * k),
// but for radial functions. inverse: of the depth at a row's first pixel.
template <class T>
struct TileRows {
  alignas(64) T whole[2][kTilePixels], frac[2][kTilePixels], rise[2][kTilePixels];
  alignas(64) T bend[kTilePixels], inverse[kTilePixels];
};

template <class T>
struct Extremes {
  Vec<T> low = Vec<T>{} + T(1 << 30), high = -low;

  STN_INLINE void add(Vec<T> v) {
    low = lesser(low, v);
    high = greater(high, v);
  }
  // Of the first `count` lanes.
  STN_INLINE void add_some(Vec<T> v, int64_t count) {
    add(lane_numbers<T>() < static_cast<T>(count) ? v : Vec<T>{} + v[0]);
  }
  STN_INLINE double least() const { return static_cast<double>(least_lane<T>(low)); }
  STN_INLINE double greatest() const { return static_cast<double>(greatest_lane<T>(high)); }
};

// A map over a tile. Where it is `tame`, T has room for what is counted from a row's first pixel: coordinates
// and their span are bounded, and all pixels lie well before the horizon.
template <class T>
class TileMap {
 public:
  // The radial functions' tile.
  STN_INLINE TileMap(const Warp<T>& w, int64_t map, TileRadial<T>* radial, PlaneTile<T>* tile)
      : w_(w), map_(map), m_(w.lines[map]), t_(radial->tile()), tile_(tile) {
    double low[2], high[2];
    tame_ = find_corners(low, high);
    if (!tame_) {
      with_padding(w.padding, [&](auto padding) STN_LAMBDA { place_any<padding.value>(radial); });
      return;
    }
    w.perspective ? fill_rows<true>() : fill_rows<false>();
    if (!w.perspective) bend(radial, low, high);
    for (int d = 0; d < 2; ++d) range_[d] = whole_range(low[d], high[d], w.in[d], w.padding);
  }

  STN_INLINE const OutTile& tile() const { return t_; }
  STN_INLINE const MapLines& lines() const { return m_; }
  STN_INLINE bool tame() const { return tame_; }
  STN_INLINE const TileRows<T>& rows() const { return rows_; }  // of a tame map

  // The whole coordinates, where padding takes them, lie in this; no two pixels beyond the image.
  STN_INLINE const Range& range(int d) const { return range_[d]; }

  // The pixels' taps in a window (WindowTaps).
  template <bool bordered>
  STN_INLINE void locate(const Window& window) const {
    store(tile_->at.tap + t_.rows * t_.columns, IndexVec<T>{});  // whole vectors are read
    if (!tame_) return locate_any<bordered>(window);
    with_padding(w_.padding, [&](auto padding) STN_LAMBDA {
      w_.perspective ? locate_tame<padding.value, true, bordered>(window)
                     : locate_tame<padding.value, false, bordered>(window);
    });
  }

 private:
  const Warp<T>& w_;
  int64_t map_;
  const MapLines& m_;
  const OutTile& t_;
  PlaneTile<T>* tile_;
  bool tame_;
  Range range_[2];
  TileRows<T> rows_;

  static constexpr double kLargest = kExactCoordinate / 2, kWidest = 512,
                          kBent = 1 << 17;  // pixels, which float rounds by less than kMargin

  // The linear part of stream s at a pixel of the tile.
  STN_INLINE double stream(int s, int64_t r, int64_t k) const {
    return m_.value.row(s, 2, t_.top + r, 0) +
           m_.value.x[s] * (static_cast<double>(t_.left + k) - m_.value.centre[0]);
  }

  // The least and the greatest coordinates, which corners have, but for radial functions. Whether the map is
  // tame.
  STN_INLINE bool find_corners(double* low, double* high) const {
    double sum = 0, shallow = 1 / kHorizon, deep = 0;
    for (int d = 0; d < 2; ++d) low[d] = kLargest, high[d] = -kLargest;
    for (int corner = 0; corner < 4; ++corner) {
      const int64_t r = corner & 1 ? t_.rows - 1 : 0, k = corner & 2 ? t_.columns - 1 : 0;
      const double depth = w_.perspective ? stream(2, r, k) : 1;
      shallow = depth < shallow ? depth : shallow;
      deep = depth > deep ? depth : deep;
      for (int d = 0; d < 2; ++d) {
        const double x = stream(d, r, k) / depth * m_.scale[d] + m_.centre[d];
        low[d] = x < low[d] ? x : low[d];
        high[d] = x > high[d] ? x : high[d];
        sum += x + depth;  // finite only if all are
      }
    }
    bool tame = sum - sum == 0 && m_.bend < kBent && shallow > 1 / kLargest && deep < kLargest &&
                deep <= 16 * shallow;
    for (int d = 0; d < 2; ++d) {
      tame = tame && low[d] > -kLargest && high[d] < kLargest && high[d] - low[d] <= kWidest;
    }
    return tame;
  }

  // The radial functions' part, and the bounds of coordinates with it.
  __attribute__((noinline)) void bend(TileRadial<T>* radial, double* low, double* high) {
    constexpr int64_t lanes = Simd<T>::lanes;
    T* const extra[2] = {tile_->extra[0], tile_->extra[1]};
    radial->sum(m_, extra);
    for (int d = 0; d < 2; ++d) {
      const T origin = rows_.whole[d][0];
      Extremes<T> found;
      for (int64_t r = 0; r < t_.rows; ++r) {
        const T first = (rows_.whole[d][r] - origin) + rows_.frac[d][r];
        for (int64_t k = 0; k < t_.columns; k += lanes) {
          // Whole vectors, of which the last one goes back over the one before it.
          const int64_t at = k + lanes <= t_.columns || t_.columns < lanes ? k : t_.columns - lanes;
          const Vec<T> number = lane_numbers<T>() + static_cast<T>(at);
          const Vec<T> x = load<Vec<T>>(extra[d] + r * t_.columns + at) + (first + rows_.rise[d][r] * number);
          t_.columns < lanes ? found.add_some(x, t_.columns) : found.add(x);
        }
      }
      low[d] = static_cast<double>(origin) + found.least();
      high[d] = static_cast<double>(origin) + found.greatest();
    }
  }

  template <bool perspective>
  __attribute__((noinline)) void fill_rows() {
    typedef Vec<double> V;
    constexpr int lanes = Simd<double>::lanes;
    typedef T Half __attribute__((vector_size(lanes * sizeof(T))));
    const auto keep = [](T* to, V v) STN_LAMBDA { store(to, __builtin_convertvector(v, Half)); };
    const Lines& l = m_.value;
    const double left = static_cast<double>(t_.left) - l.centre[0];
    V number = lane_numbers<double>() + (static_cast<double>(t_.top) - l.centre[1]);
    for (int64_t r = 0; r < t_.rows; r += lanes, number += lanes) {
      const auto first = [&](int s) STN_LAMBDA { return l.y[s] * number + (l.one[s] + l.x[s] * left); };
      const V inverse = perspective ? 1 / first(2) : V{} + 1, bend = l.x[2] * inverse;
      for (int d = 0; d < 2; ++d) {
        const V u = first(d) * inverse, x = u * m_.scale[d] + m_.centre[d], floor = Floor<V>::of(x);
        keep(rows_.whole[d] + r, floor);
        keep(rows_.frac[d] + r, x - floor);
        // (u + k du) / (depth + k ddepth) less u / depth
        keep(rows_.rise[d] + r, (l.x[d] * inverse - (perspective ? u * bend : V{})) * m_.scale[d]);
      }
      if (!perspective) continue;
      keep(rows_.bend + r, bend);
      keep(rows_.inverse + r, inverse);
    }
  }

  template <Padding padding, bool perspective, bool bordered>
  __attribute__((noinline)) void locate_tame(const Window& window) const {
    constexpr bool folds = padding != Padding::zeros;
    const WindowTaps<T> taps(window);
    const T first[2] = {static_cast<T>(window.left), static_cast<T>(window.top)};
    Located<T>& to = tile_->at;
    T* const fractions[2] = {to.fx, to.fy};
    T* const slopes[2] = {to.slope_x, to.slope_y};
    for (int64_t r = 0; r < t_.rows; ++r) {
      Vec<T> number = lane_numbers<T>();
      for (int64_t k = 0; k < t_.columns; k += Simd<T>::lanes, number += Simd<T>::lanes) {
        const int64_t at = r * t_.columns + k;
        const Vec<T> q = perspective ? number / (1 + rows_.bend[r] * number) : number;
        Vec<T> tap[2];
        for (int d = 0; d < 2; ++d) {
          Vec<T> x = rows_.frac[d][r] + rows_.rise[d][r] * q;
          if (!perspective) x += load<Vec<T>>(tile_->extra[d] + at);
          const Vec<T> floor = Floor<Vec<T>>::of(x);
          if (folds) {
            const auto c = fold<padding>(rows_.whole[d][r] + floor, x - floor,
                                         Vec<T>{} + static_cast<T>(w_.in[d]), w_.align_corners);
            tap[d] = c.whole - first[d];
            store(fractions[d] + at, c.frac);
            store(slopes[d] + at, c.slope);
          } else {
            tap[d] = (rows_.whole[d][r] - first[d]) + floor;
            store(fractions[d] + at, x - floor);
          }
        }
        store(to.tap + at, taps.template at<bordered>(tap[0], tap[1]));
      }
    }
  }

  // Whatever they are: whole coordinates, the rest of them, and their ranges.
  template <Padding padding>
  __attribute__((noinline)) void place_any(TileRadial<T>* radial) {
    const T* values = radial->all();
    Streams streams;
    Positions at;
    alignas(64) T whole[kBlock], frac[kBlock];
    Located<T>& to = tile_->at;
    Extremes<T> found[2];
    for (int64_t r = 0; r < t_.rows; ++r) {
      place(w_, map_, row_of(t_, r), values + r * t_.columns, &streams, &at);
      for (int d = 0; d < 2; ++d) {
        const Vec<T> length = Vec<T>{} + static_cast<T>(w_.in[d]), off = Vec<T>{} - 2;
        split_block<padding>(at.at[d], w_.in[d], w_.align_corners, static_cast<int>(padded<T>(t_.columns)),
                             whole, frac);
        for (int64_t k = 0; k < t_.columns; k += Simd<T>::lanes) {
          const int64_t p = r * t_.columns + k;
          auto c = fold<padding>(load<Vec<T>>(whole + k), load<Vec<T>>(frac + k), length, w_.align_corners);
          // All beyond is as the zeros next to the image.
          if (padding == Padding::zeros) c.whole = lesser(greater(c.whole, off), length);
          found[d].add_some(c.whole, t_.columns - k);
          store(tile_->extra[d] + p, c.whole);
          store((d == 0 ? to.fx : to.fy) + p, c.frac);
          store((d == 0 ? to.slope_x : to.slope_y) + p, c.slope);
        }
      }
    }
    for (int d = 0; d < 2; ++d) {
      range_[d] = {static_cast<int64_t>(found[d].least()), static_cast<int64_t>(found[d].greatest())};
    }
  }

  template <bool bordered>
  __attribute__((noinline)) void locate_any(const Window& window) const {
    const WindowTaps<T> taps(window);
    Located<T>& to = tile_->at;
    for (int64_t k = 0; k < t_.rows * t_.columns; k += Simd<T>::lanes) {
      Vec<T> x = load<Vec<T>>(tile_->extra[0] + k) - static_cast<T>(window.left),
             y = load<Vec<T>>(tile_->extra[1] + k) - static_cast<T>(window.top);
      if (bordered) {  // a coordinate that is not a number has no taps
        const Vec<T> fx = load<Vec<T>>(to.fx + k), fy = load<Vec<T>>(to.fy + k);
        const auto number = (fx == fx) & (fy == fy);
        x = keep_lanes(number, x);
        store(to.fx + k, keep_lanes(number, fx));
        store(to.fy + k, keep_lanes(number, fy));
      }
      store(to.tap + k, taps.template at<bordered>(x, y));
    }
  }
};

}  // namespace STN_LEVEL
}  // namespace stn::cpu
