// Where the pixels of a tile of the output fall: each kind of map says the bounds of its coordinates there,
// and the coordinates, a vector of pixels at a time. Included by level sources only; see problem.h.
//
// A coordinate travels as a pair, a whole number and a fraction in [0, 1], so that the fraction, which is
// what interpolation uses, keeps all its bits however far from the origin it lies. A tile is `tame` where T
// has room for that: its coordinates are numbers, bounded, and well before the horizon. What is not tame is
// walked row by row (rows.h).
#pragma once

#include "lines.h"
#include "radial_tiles.h"
#include "window.h"

namespace stn::cpu {
namespace STN_LEVEL {

template <class T>
constexpr int64_t padded(int64_t count) {
  return (count + Simd<T>::lanes - 1) / Simd<T>::lanes * Simd<T>::lanes;
}

// ---- affine maps ----

// Coordinates along one axis, to be added up from a row's part and a column's.
template <class T, int64_t capacity>
struct Steps {
  alignas(64) T whole[capacity], frac[capacity];

  // start + k * slope for k < count, whole numbers counted from `from`.
  STN_INLINE void fill(double start, double slope, int64_t count, int64_t from) {
    constexpr int lanes = Simd<double>::lanes;
    typedef T Half __attribute__((vector_size(lanes * sizeof(T))));
    Vec<double> number = lane_numbers<double>();
    for (int64_t k = 0; k < count; k += lanes, number += lanes) {
      const Vec<double> x = start + slope * number, floor = Floor<Vec<double>>::of(x);
      store(whole + k, __builtin_convertvector(floor - static_cast<double>(from), Half));
      store(frac + k, __builtin_convertvector(x - floor, Half));
    }
  }
};

// coordinate = x * (j - center_j) + y * (i - center_i) + one. Centering keeps infinite entries meaningful and
// cancels nothing.
struct AxisMap {
  double x, y, one, scale;  // scale: from normalized coordinates to pixels

  STN_INLINE AxisMap(const Problem& p, int64_t map, int axis) {
    const double* theta = p.theta + map * p.streams() * p.basis + axis * p.basis;
    const PixelScale in(p.in[axis], p.align_corners);
    const double out_x = half_span(p.out[0], p.align_corners), out_y = half_span(p.out[1], p.align_corners);
    // A single aligned output pixel lies at 0: its offset from the center is 0 too. One quotient of lengths
    // leaves the identity exact.
    x = out_x > 0 ? theta[0] * (in.scale / out_x) : 0;
    y = out_y > 0 ? theta[1] * (in.scale / out_y) : 0;
    one = theta[2] * in.scale + in.center;
    scale = in.scale;
  }
};

template <class T>
class AffineTile {
 public:
  static constexpr bool is_linear = true;

  STN_INLINE AffineTile(const Problem& p, int64_t map, const OutTile& t, TileRadial<T>*)
      : t_(t), axis_{AxisMap(p, map, 0), AxisMap(p, map, 1)} {
    const double left = static_cast<double>(t.left) - 0.5 * static_cast<double>(p.out[0] - 1),
                 top = static_cast<double>(t.top) - 0.5 * static_cast<double>(p.out[1] - 1);
    tame_ = true;
    for (int d = 0; d < 2; ++d) {
      const AxisMap& a = axis_[d];
      start_[d] = a.x * left + (a.y * top + a.one);
      // Of pixels behind a row's end too, which fill up its last vector.
      const double right = a.x * static_cast<double>(padded<T>(t.columns) - 1),
                   down = a.y * static_cast<double>(t.rows - 1);
      const double low = start_[d] + (right < 0 ? right : 0) + (down < 0 ? down : 0),
                   high = start_[d] + (right > 0 ? right : 0) + (down > 0 ? down : 0);
      tame_ = tame_ && low >= -kExactCoordinate && high <= kExactCoordinate;
      if (tame_) range_[d] = whole_range(low, high, p.in[d], p.padding);
    }
  }

  STN_INLINE const OutTile& tile() const { return t_; }
  STN_INLINE bool tame() const { return tame_; }
  STN_INLINE const Range& range(int d) const { return range_[d]; }
  STN_INLINE double scale(int d) const { return axis_[d].scale; }

  // emit(at, x, fx, y, fy) for each vector of the tile's pixels; whole coordinates are counted from (left,
  // top).
  template <class Emit>
  STN_INLINE void locate(int64_t left, int64_t top, const Emit& emit) {
    const int64_t columns = padded<T>(t_.columns);
    column_[0].fill(0, axis_[0].x, columns, 0);
    column_[1].fill(0, axis_[1].x, columns, 0);
    row_[0].fill(start_[0], axis_[0].y, t_.rows, left);
    row_[1].fill(start_[1], axis_[1].y, t_.rows, top);
    const Vec<T> zero{};
    for (int64_t r = 0; r < t_.rows; ++r) {
      const Vec<T> x0 = zero + row_[0].whole[r], fx0 = zero + row_[0].frac[r];
      const Vec<T> y0 = zero + row_[1].whole[r], fy0 = zero + row_[1].frac[r];
      for (int64_t k = 0; k < t_.columns; k += Simd<T>::lanes) {
        Vec<T> x, fx, y, fy;
        add(column_[0], k, x0, fx0, &x, &fx);
        add(column_[1], k, y0, fy0, &y, &fy);
        emit(r * t_.columns + k, x, fx, y, fy);
      }
    }
  }

 private:
  OutTile t_;
  AxisMap axis_[2];
  bool tame_;
  Range range_[2];
  double start_[2];
  Steps<T, kTileColumns> column_[2];
  Steps<T, kTilePixels> row_[2];

  static STN_INLINE void add(const Steps<T, kTileColumns>& columns, int64_t at, Vec<T> row_whole,
                             Vec<T> row_frac, Vec<T>* whole, Vec<T>* frac) {
    const Vec<T> one = Vec<T>{} + 1, sum = row_frac + load<Vec<T>>(columns.frac + at);
    const Vec<T> carry = keep_lanes(sum >= one, one);
    *whole = row_whole + load<Vec<T>>(columns.whole + at) + carry;
    *frac = sum - carry;
  }
};

// ---- projective maps and splines ----

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

template <class T, bool perspective>
class CurvedTile {
 public:
  static constexpr bool is_linear = false;

  STN_INLINE CurvedTile(const Problem& p, int64_t map, const OutTile& t, TileRadial<T>* radial)
      : m_(map_lines(p, map)), t_(t), radial_(radial) {
    double low[2], high[2];
    tame_ = find_corners(low, high);
    if (!tame_) return;
    fill_rows();
    if (!perspective) bend(low, high);
    for (int d = 0; d < 2; ++d) range_[d] = whole_range(low[d], high[d], p.in[d], p.padding);
  }

  STN_INLINE const OutTile& tile() const { return t_; }
  STN_INLINE bool tame() const { return tame_; }
  STN_INLINE const Range& range(int d) const { return range_[d]; }
  STN_INLINE double scale(int d) const { return m_.scale[d]; }
  STN_INLINE const MapLines& lines() const { return m_; }
  STN_INLINE const TileRows<T>& rows() const { return rows_; }
  STN_INLINE const TileRadial<T>& radial() const { return *radial_; }

  template <class Emit>
  STN_INLINE void locate(int64_t left, int64_t top, const Emit& emit) const {
    const T first[2] = {static_cast<T>(left), static_cast<T>(top)};
    for (int64_t r = 0; r < t_.rows; ++r) {
      Vec<T> number = lane_numbers<T>();
      for (int64_t k = 0; k < t_.columns; k += Simd<T>::lanes, number += Simd<T>::lanes) {
        const int64_t at = r * t_.columns + k;
        const Vec<T> q = perspective ? number / (1 + rows_.bend[r] * number) : number;
        Vec<T> whole[2], frac[2];
        for (int d = 0; d < 2; ++d) {
          Vec<T> x = rows_.frac[d][r] + rows_.rise[d][r] * q;
          if (!perspective) x += load<Vec<T>>(extra_[d] + at);
          const Vec<T> floor = Floor<Vec<T>>::of(x);
          whole[d] = (rows_.whole[d][r] - first[d]) + floor;
          frac[d] = x - floor;
        }
        emit(at, whole[0], frac[0], whole[1], frac[1]);
      }
    }
  }

 private:
  MapLines m_;
  OutTile t_;
  TileRadial<T>* radial_;
  bool tame_;
  Range range_[2];
  TileRows<T> rows_;
  alignas(64) T extra_[2][perspective ? 1 : kRadialStride];  // what radial functions add to coordinates

  static constexpr double kLargest = kExactCoordinate / 2, kWidest = 512,
                          kBent = 1 << 17;  // pixels, which float rounds by less than kMargin

  // The linear part of stream s at a pixel of the tile.
  STN_INLINE double stream(int s, int64_t r, int64_t k) const {
    return m_.value.row(s, 2, t_.top + r, 0) +
           m_.value.x[s] * (static_cast<double>(t_.left + k) - m_.value.center[0]);
  }

  // The least and the greatest coordinates, which corners have, but for radial functions. Whether the map is
  // tame.
  STN_INLINE bool find_corners(double* low, double* high) const {
    double sum = 0, shallow = 1 / kHorizon, deep = 0;
    for (int d = 0; d < 2; ++d) low[d] = kLargest, high[d] = -kLargest;
    for (int corner = 0; corner < 4; ++corner) {
      const int64_t r = corner & 1 ? t_.rows - 1 : 0, k = corner & 2 ? t_.columns - 1 : 0;
      const double depth = perspective ? stream(2, r, k) : 1;
      shallow = depth < shallow ? depth : shallow;
      deep = depth > deep ? depth : deep;
      for (int d = 0; d < 2; ++d) {
        const double x = stream(d, r, k) / depth * m_.scale[d] + m_.center[d];
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
  __attribute__((noinline)) void bend(double* low, double* high) {
    constexpr int64_t lanes = Simd<T>::lanes;
    T* const extra[2] = {extra_[0], extra_[1]};
    radial_->sum(m_, extra);
    for (int d = 0; d < 2; ++d) {
      const T origin = rows_.whole[d][0];
      Extremes<T> found;
      for (int64_t r = 0; r < t_.rows; ++r) {
        const T first = (rows_.whole[d][r] - origin) + rows_.frac[d][r];
        for (int64_t k = 0; k < t_.columns; k += lanes) {
          // Whole vectors, of which the last one goes back over the one before it.
          const int64_t at = k + lanes <= t_.columns || t_.columns < lanes ? k : t_.columns - lanes;
          const Vec<T> number = lane_numbers<T>() + static_cast<T>(at);
          const Vec<T> x =
              load<Vec<T>>(extra_[d] + r * t_.columns + at) + (first + rows_.rise[d][r] * number);
          t_.columns < lanes ? found.add_some(x, t_.columns) : found.add(x);
        }
      }
      low[d] = static_cast<double>(origin) + found.least();
      high[d] = static_cast<double>(origin) + found.greatest();
    }
  }

  __attribute__((noinline)) void fill_rows() {
    typedef Vec<double> V;
    constexpr int lanes = Simd<double>::lanes;
    typedef T Half __attribute__((vector_size(lanes * sizeof(T))));
    const auto keep = [](T* to, V v) STN_LAMBDA { store(to, __builtin_convertvector(v, Half)); };
    const Lines& l = m_.value;
    const double left = static_cast<double>(t_.left) - l.center[0];
    V number = lane_numbers<double>() + (static_cast<double>(t_.top) - l.center[1]);
    for (int64_t r = 0; r < t_.rows; r += lanes, number += lanes) {
      const auto first = [&](int s) STN_LAMBDA { return l.y[s] * number + (l.one[s] + l.x[s] * left); };
      const V inverse = perspective ? 1 / first(2) : V{} + 1, bend = l.x[2] * inverse;
      for (int d = 0; d < 2; ++d) {
        const V u = first(d) * inverse, x = u * m_.scale[d] + m_.center[d], floor = Floor<V>::of(x);
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
};

// f(map) of the map over a tile, which the radial functions' values there are at hand for.
template <class T, class F>
STN_INLINE auto with_map(const Problem& p, int64_t map, const OutTile& t, TileRadial<T>* radial, const F& f) {
  if (p.points) {
    CurvedTile<T, false> tile(p, map, t, radial);
    return f(tile);
  }
  if (p.perspective) {
    CurvedTile<T, true> tile(p, map, t, radial);
    return f(tile);
  }
  AffineTile<T> tile(p, map, t, radial);
  return f(tile);
}

// ---- where they fall in a window ----

// A tile's pixels, row by row: the places of their first taps, and how far they lie from them. slope: 0 where
// grid_sample's convention says so (is_outer), otherwise 1.
template <class T>
struct Located {
  alignas(64) int32_t tap[kTilePixels + Simd<T>::lanes];
  alignas(64) T fx[kTilePixels + Simd<T>::lanes], fy[kTilePixels + Simd<T>::lanes];
  alignas(64) T slope_x[kTilePixels + Simd<T>::lanes], slope_y[kTilePixels + Simd<T>::lanes];
};

// Keeps where pixels fall in a window. edges: with the slopes.
template <class T, bool edges, Padding padding>
struct KeepTaps {
  const Problem& p;
  Located<T>* to;
  Vec<T> last_x, last_y, pitch, left, top, width, height;

  STN_INLINE KeepTaps(const Problem& problem, const Window& w, Located<T>* located)
      : p(problem), to(located) {
    const Vec<T> zero{};
    last_x = zero + static_cast<T>(w.columns - 2);
    last_y = zero + static_cast<T>(w.rows - 2);
    pitch = zero + static_cast<T>(w.pitch);
    left = zero + static_cast<T>(w.left);
    top = zero + static_cast<T>(w.top);
    width = zero + static_cast<T>(p.in[0]);
    height = zero + static_cast<T>(p.in[1]);
  }

  STN_INLINE void operator()(int64_t at, Vec<T> x, Vec<T> fx, Vec<T> y, Vec<T> fy) const {
    if (edges) {
      const Vec<T> zero{}, one = zero + 1;
      const auto flat_x = (fx == zero) & is_outer<padding>(x + left, width, p.align_corners),
                 flat_y = (fy == zero) & is_outer<padding>(y + top, height, p.align_corners);
      store(to->slope_x + at, flat_x ? zero : one);
      store(to->slope_y + at, flat_y ? zero : one);
    }
    const Vec<T> tap = clamp<T>(y, last_y) * pitch + clamp<T>(x, last_x);
    store(to->tap + at, to_index<T>(tap));
    store(to->fx + at, fx);
    store(to->fy + at, fy);
  }
};

// Whether pixels of a window may have slopes of 0: only where it holds an outer pixel.
STN_INLINE bool has_edges(const Problem& p, const Window& w) {
  return p.padding != Padding::zeros &&
         (w.left <= 0 || w.top <= 0 || w.left + w.columns > p.in[0] - 1 || w.top + w.rows > p.in[1] - 1);
}

// Whether slopes are kept too.
template <class T, class M>
STN_INLINE void locate(const Problem& p, M& map, const Window& w, bool edges, Located<T>* to) {
  // Whole vectors are read, behind the last pixel too.
  store(to->tap + map.tile().rows * map.tile().columns, IndexVec<T>{});
  if (!edges) {
    map.locate(w.left, w.top, KeepTaps<T, false, Padding::zeros>(p, w, to));
    return;
  }
  with_padding(p.padding, [&](auto padding) STN_LAMBDA {
    if constexpr (padding.value != Padding::zeros) {
      map.locate(w.left, w.top, KeepTaps<T, true, padding.value>(p, w, to));
    }
  });
}

}  // namespace STN_LEVEL
}  // namespace stn::cpu
