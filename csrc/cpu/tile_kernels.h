// Sample and moments over planes of pixels through affine maps, by tiles of the output. Included by level
// sources only; see kernels.h.
#pragma once

#include "window_kernels.h"

namespace stn::cpu {
namespace STN_LEVEL {

// What a tile is worked on with.
template <class T>
struct TileScratch {
  Steps<T, kTilePixels> row_x, row_y;
  Steps<T, kTileColumns> column_x, column_y;
  Located<T> at;
  PlaneWindow<T> window;
};

// ---- windows ----

template <class T>
STN_INLINE Range range_of(const Axis<T>& axis, const OutTile& t, Padding padding) {
  const double right = axis.map.x * static_cast<double>(t.columns - 1),
               down = axis.map.y * static_cast<double>(t.rows - 1);
  const double corner = axis.map.at(t.top, t.left);
  return whole_range(corner + (right < 0 ? right : 0) + (down < 0 ? down : 0),
                     corner + (right > 0 ? right : 0) + (down > 0 ? down : 0), axis.length, padding);
}

template <class T>
STN_INLINE Window window_of(const Geometry<T>& g, const OutTile& t) {
  return window_of(range_of(g.x, t, g.p.padding), range_of(g.y, t, g.p.padding));
}

// ---- where a tile's pixels fall ----

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

// Channels [c, c + channels) of a tile.
template <class T>
STN_INLINE void sample_tile(const Geometry<T>& g, const OutTile& t, const Window& w, int64_t channels,
                            const T* image, T* out, TileScratch<T>* s) {
  locate<false>(g, t, w, s);
  sample_located(g.p, t, w, channels, image, out, s->at, &s->window);
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

// The moments of a tile by its own rows and columns: sums of (d/dx, d/dy) x (column, row, 1). What lanes are
// is the caller's affair.
template <class T>
struct TileMoments {
  Vec<T> total[kMoments] = {}, row[4] = {};

  STN_INLINE void add(const Slopes<T>& by, Vec<T> column) {
    row[0] += column * by.x;
    row[1] += by.x;
    row[2] += column * by.y;
    row[3] += by.y;
  }

  STN_INLINE void end_row(int64_t r) {
    for (int axis = 0; axis < 2; ++axis) {
      total[3 * axis] += row[2 * axis];
      total[3 * axis + 1] += static_cast<T>(r) * row[2 * axis + 1];
      total[3 * axis + 2] += row[2 * axis + 1];
      row[2 * axis] = row[2 * axis + 1] = Vec<T>{};
    }
  }

  // Adds them by the output's rows and columns.
  STN_INLINE void add_to(double* out, double left, double top) const {
    for (int axis = 0; axis < kMoments; axis += 3) {
      const double sum = static_cast<double>(sum_lanes<T>(total[axis + 2]));
      out[axis] += static_cast<double>(sum_lanes<T>(total[axis])) + left * sum;
      out[axis + 1] += static_cast<double>(sum_lanes<T>(total[axis + 1])) + top * sum;
      out[axis + 2] += sum;
    }
  }
};

// One channel's: lanes are pixels.
template <bool folds, class T>
STN_INLINE void plane_moments(const OutTile& t, const T* window, const Located<T>& l, const T* grad,
                              int64_t grad_row, TileMoments<T>* sums) {
  constexpr int64_t lanes = Simd<T>::lanes;
  for (int64_t r = 0; r < t.rows; ++r) {
    const T* from = grad + r * grad_row;
    Vec<T> column = lane_numbers<T>();
    const auto add = [&](int64_t k, Vec<T> g, bool all) STN_LAMBDA {
      const int64_t at = r * t.columns + k;
      Slopes<T> by = plane_slopes(window, l, at, g);
      if (folds) by.scale(load<Vec<T>>(l.slope_x + at), load<Vec<T>>(l.slope_y + at));
      if (!all) {
        const auto valid = column < static_cast<T>(t.columns);
        by.x = keep_lanes(valid, by.x);
        by.y = keep_lanes(valid, by.y);
      }
      sums->add(by, column);
    };
    // Rows too short for the processor to foresee the next ones.
    for (int64_t x = 0; x < t.columns; x += 64 / sizeof(T)) __builtin_prefetch(from + 8 * grad_row + x);
    int64_t k = 0;
    for (; k + lanes <= t.columns; k += lanes, column += lanes) add(k, load<Vec<T>>(from + k), true);
    if (k < t.columns) add(k, load_some<Vec<T>>(from + k, t.columns - k), false);
    sums->end_row(r);
  }
}

// A group's: lanes are channels.
template <bool folds, class T>
STN_INLINE void group_moments(const OutTile& t, const T* window, int64_t pitch, const Located<T>& l,
                              const T* grad, int64_t grad_row, int64_t grad_channel, TileMoments<T>* sums) {
  constexpr int64_t lanes = Simd<T>::lanes;
  for (int64_t r = 0; r < t.rows; ++r) {
    for (int64_t k = 0; k < t.columns; k += lanes) {
      const int64_t count = t.columns - k < lanes ? t.columns - k : lanes;
      Vec<T> g[lanes];
      load_group(grad + r * grad_row + k, grad_channel, lanes, count, g);
      for (int64_t lane = 0; lane < count; ++lane) {
        const int64_t at = r * t.columns + k + lane;
        Slopes<T> by = group_slopes(window, pitch, l, at, g[lane]);
        if (folds) by.scale(Vec<T>{} + l.slope_x[at], Vec<T>{} + l.slope_y[at]);
        sums->add(by, Vec<T>{} + static_cast<T>(k + lane));
      }
    }
    sums->end_row(r);
  }
}

// Adds those of `channels` channels, all in groups.
template <class T>
__attribute__((noinline)) void moments_groups(const Problem<T>& p, const OutTile& t, const Window& w,
                                              int64_t channels, const T* image, const T* grad,
                                              const Located<T>& l, TileMoments<T>* sums) {
  const auto group = p.padding == Padding::zeros ? group_moments<false, T> : group_moments<true, T>;
  GroupWindow<T> window;
  for (int64_t c = 0; c < channels; c += Simd<T>::lanes) {
    copy_group(p, w, image + c * p.input.channel, window.values);
    group(t, window.values, w.pitch, l, grad + c * p.grad.channel, p.grad.row, p.grad.channel, sums);
  }
}

// Adds those of channels [c, c + channels), by the output's rows and columns.
template <class T>
STN_INLINE void moments_tile(const Geometry<T>& g, const OutTile& t, const Window& w, int64_t channels,
                             const T* image, const T* grad, double* out, TileScratch<T>* s) {
  const Problem<T>& p = g.p;
  locate<true>(g, t, w, s);
  const auto plane = p.padding == Padding::zeros ? plane_moments<false, T> : plane_moments<true, T>;
  const double left = static_cast<double>(t.left) - g.x.map.centre_j,
               top = static_cast<double>(t.top) - g.x.map.centre_i;
  int64_t c = grouped<T>(w, channels);
  if (c > 0) {
    TileMoments<T> sums;
    moments_groups(p, t, w, c, image, grad, s->at, &sums);
    sums.add_to(out, left, top);
  }
  for (; c < channels; ++c) {
    copy_plane(p, w, image + c * p.input.channel, s->window.values);
    TileMoments<T> sums;
    plane(t, s->window.values, s->at, grad + c * p.grad.channel, p.grad.row, &sums);
    sums.add_to(out, left, top);
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
