// Sample and moments over planes of pixels, by rows: for any map, where its tiles need too much of the input
// to be worked on each by itself (tile_kernels.h), or where coordinates may be huge or not numbers. Included
// by level sources only; see kernels.h.
//
// All work along an output row in blocks of up to kBlock pixels: first the block's taps and weights, which
// every channel shares, then the channels.
#pragma once

#include "coordinates.h"

namespace stn::cpu {
namespace STN_LEVEL {

// ---- taps ----

// A block's pixels: the upper left of each one's four taps, and its weights and their derivatives along x and
// y.
template <class T>
struct Block {
  int count;
  bool inside;   // every tap exists: d is (-1, 1), and no tap is to be left out
  int64_t base;  // taps are counted from this pixel
  alignas(64) int32_t tap[kBlock];
  alignas(64) T wx0[kBlock], wx1[kBlock], wy0[kBlock], wy1[kBlock];
  alignas(64) T dx0[kBlock], dx1[kBlock], dy0[kBlock], dy1[kBlock];
};

// All taps exist: the weights are the fractions.
template <class T>
STN_INLINE void fill_inside(const Geometry<T>& g, const Segment<T>& sx, const Segment<T>& sy, Block<T>* b) {
  const Stepper<T> step_x(sx), step_y(sy);
  const IndexVec<T> row_stride = IndexVec<T>{} + static_cast<int32_t>(g.row);
  Vec<T> number = lane_numbers<T>();
  b->inside = true;
  b->base = static_cast<int64_t>(step_y.base) * g.row + static_cast<int64_t>(step_x.base);
  for (int k = 0; k < b->count; k += Simd<T>::lanes, number += Simd<T>::lanes) {
    Vec<T> x, y, fx, fy;
    step_x.at(number, &x, &fx);
    step_y.at(number, &y, &fy);
    store(b->tap + k, to_index<T>(y) * row_stride + to_index<T>(x));
    store(b->wx0 + k, 1 - fx);
    store(b->wx1 + k, fx);
    store(b->wy0 + k, 1 - fy);
    store(b->wy1 + k, fy);
  }
}

template <Padding padding, bool derivatives, class T>
STN_INLINE void fill_any(const Geometry<T>& g, const Segment<T>& sx, const Segment<T>& sy, Block<T>* b) {
  const bool align_corners = g.p.frame.align_corners;
  const IndexVec<T> row_stride = IndexVec<T>{} + static_cast<int32_t>(g.row);
  b->inside = false;
  b->base = 0;
  const auto put = [&](int k, Vec<T> x, Vec<T> fx, Vec<T> y, Vec<T> fy) STN_LAMBDA {
    const auto tx = axis_taps<padding>(x, fx, g.x.vector_length, g.x.highest, align_corners);
    const auto ty = axis_taps<padding>(y, fy, g.y.vector_length, g.y.highest, align_corners);
    store(b->tap + k, to_index<T>(ty.tap) * row_stride + to_index<T>(tx.tap));
    store(b->wx0 + k, tx.w0);
    store(b->wx1 + k, tx.w1);
    store(b->wy0 + k, ty.w0);
    store(b->wy1 + k, ty.w1);
    if (derivatives) {
      store(b->dx0 + k, tx.d0);
      store(b->dx1 + k, tx.d1);
      store(b->dy0 + k, ty.d0);
      store(b->dy1 + k, ty.d1);
    }
  };
  for_coordinates<padding>(sx, sy, b->count, align_corners, put);
}

// Fills the block that starts at output pixel (i, j). False where all of it is padding with zeros.
template <bool derivatives, class T>
STN_INLINE bool fill_block(const Geometry<T>& g, int64_t i, int64_t j, int64_t count, Block<T>* b) {
  const Problem<T>& p = g.p;
  b->count = static_cast<int>(count);
  const int whole = static_cast<int>(padded<T>(count));
  const Segment<T> sx(g.x, i, j, whole), sy(g.y, i, j, whole);
  if (sx.within(kMargin, g.x.last - kMargin) && sy.within(kMargin, g.y.last - kMargin)) {
    fill_inside(g, sx, sy, b);
    return true;
  }
  if (p.padding == Padding::zeros) {
    // A pixel is NaN if either coordinate is, even where the other is outside.
    const bool nan = sx.begin != sx.begin || sy.begin != sy.begin;
    if (!nan && (sx.outside(-1 - kMargin, g.x.last + 1 + kMargin) ||
                 sy.outside(-1 - kMargin, g.y.last + 1 + kMargin))) {
      return false;
    }
  }
  with_padding(p.padding,
               [&](auto padding) STN_LAMBDA { fill_any<padding.value, derivatives>(g, sx, sy, b); });
  return true;
}

// Two neighbours, left and right, of one pixel a lane.
template <class T>
struct Pairs {
  Vec<T> left, right;
};

template <class T>
STN_INLINE Pairs<T> load_pairs(const T* row, const int32_t* tap) {
  Pairs<T> p;
  for (int k = 0; k < Simd<T>::lanes; ++k) {
    p.left[k] = row[tap[k]];
    p.right[k] = row[tap[k] + 1];
  }
  return p;
}

// Which pixels of a vector a tap takes part in: in their values, or in their derivatives too.
template <bool derivatives, class T>
STN_INLINE typename Simd<T>::Mask used(const T* weight, const T* derivative, int k) {
  const auto by_weight = load<Vec<T>>(weight + k) != 0;
  return derivatives ? by_weight | (load<Vec<T>>(derivative + k) != 0) : by_weight;
}

template <bool inside, bool derivatives, class T>
STN_INLINE Taps<T> load_taps(const T* upper, const T* lower, const Block<T>& b, int k) {
  const Pairs<T> u = load_pairs(upper, b.tap + k), l = load_pairs(lower, b.tap + k);
  if (inside) return {u.left, u.right, l.left, l.right};
  const auto x0 = used<derivatives>(b.wx0, b.dx0, k), x1 = used<derivatives>(b.wx1, b.dx1, k);
  const auto y0 = used<derivatives>(b.wy0, b.dy0, k), y1 = used<derivatives>(b.wy1, b.dy1, k);
  return {keep_lanes(y0 & x0, u.left), keep_lanes(y0 & x1, u.right), keep_lanes(y1 & x0, l.left),
          keep_lanes(y1 & x1, l.right)};
}

// ---- sample ----

template <bool inside, class T>
STN_INLINE void sample_block(const Problem<T>& p, const Block<T>& b, const T* plane, T* out) {
  const T *upper = opaque(plane + b.base), *lower = opaque(upper + p.input.row);
  for (int k = 0; k < b.count; k += Simd<T>::lanes) {
    const auto wx0 = load<Vec<T>>(b.wx0 + k), wx1 = load<Vec<T>>(b.wx1 + k);
    const auto wy0 = load<Vec<T>>(b.wy0 + k), wy1 = load<Vec<T>>(b.wy1 + k);
    const Taps<T> t = load_taps<inside, false>(upper, lower, b, k);
    store_some(out + k, wy0 * (wx0 * t.v00 + wx1 * t.v01) + wy1 * (wx0 * t.v10 + wx1 * t.v11), b.count - k);
  }
}

template <class T>
STN_INLINE void sample_block(const Problem<T>& p, const Block<T>& b, const T* plane, T* out) {
  b.inside ? sample_block<true>(p, b, plane, out) : sample_block<false>(p, b, plane, out);
}

template <class T>
STN_INLINE void zero_planes(const Problem<T>& p, int64_t count, int64_t channels, T* out) {
  for (int64_t c = 0; c < channels; ++c) {
    __builtin_memset(out + c * p.output.channel, 0, sizeof(T) * static_cast<size_t>(count));
  }
}

// A tile of at most kBlock columns.
template <class T>
STN_INLINE void sample_rows(const Geometry<T>& g, const OutTile& t, int64_t channels, const T* image,
                            T* output) {
  const Problem<T>& p = g.p;
  Block<T> b;
  for (int64_t i = t.top; i < t.top + t.rows; ++i) {
    T* out = output + i * p.output.row + t.left;
    if (!fill_block<false>(g, i, t.left, t.columns, &b)) {
      zero_planes(p, t.columns, channels, out);
      continue;
    }
    for (int64_t c = 0; c < channels; ++c) {
      sample_block(p, b, image + c * p.input.channel, out + c * p.output.channel);
    }
  }
}

// ---- moments ----

// sum over channels of grad * tap, for each tap of each pixel of a block.
template <class T>
struct TapProducts {
  alignas(64) T s00[kBlock], s01[kBlock], s10[kBlock], s11[kBlock];
};

template <bool inside, bool first, class T>
STN_INLINE void add_products(const Problem<T>& p, const Block<T>& b, const T* plane, const T* grad,
                             TapProducts<T>* s) {
  const T *upper = opaque(plane + b.base), *lower = opaque(upper + p.input.row);
  for (int k = 0; k < b.count; k += Simd<T>::lanes) {
    const Taps<T> t = load_taps<inside, true>(upper, lower, b, k);
    const auto g = load_some<Vec<T>>(grad + k, b.count - k);
    store(s->s00 + k, first ? g * t.v00 : load<Vec<T>>(s->s00 + k) + g * t.v00);
    store(s->s01 + k, first ? g * t.v01 : load<Vec<T>>(s->s01 + k) + g * t.v01);
    store(s->s10 + k, first ? g * t.v10 : load<Vec<T>>(s->s10 + k) + g * t.v10);
    store(s->s11 + k, first ? g * t.v11 : load<Vec<T>>(s->s11 + k) + g * t.v11);
  }
}

template <bool inside, class T>
STN_INLINE void sum_products(const Problem<T>& p, const Block<T>& b, int64_t channels, const T* image,
                             const T* grad, TapProducts<T>* s) {
  add_products<inside, true>(p, b, image, grad, s);
  for (int64_t c = 1; c < channels; ++c) {
    add_products<inside, false>(p, b, image + c * p.input.channel, grad + c * p.grad.channel, s);
  }
}

// Sums over a block's pixels of gx, gx * number, gy, gy * number: gx and gy are the loss's derivatives by the
// pixel's coordinates.
template <bool inside, class T>
STN_INLINE void reduce_products(const Block<T>& b, const TapProducts<T>& s, T* sums) {
  Vec<T> total[4] = {};
  Vec<T> number = lane_numbers<T>();
  for (int k = 0; k < b.count; k += Simd<T>::lanes, number += Simd<T>::lanes) {
    const auto s00 = load<Vec<T>>(s.s00 + k), s01 = load<Vec<T>>(s.s01 + k);
    const auto s10 = load<Vec<T>>(s.s10 + k), s11 = load<Vec<T>>(s.s11 + k);
    const auto wx0 = load<Vec<T>>(b.wx0 + k), wx1 = load<Vec<T>>(b.wx1 + k);
    const auto wy0 = load<Vec<T>>(b.wy0 + k), wy1 = load<Vec<T>>(b.wy1 + k);
    Vec<T> gx, gy;
    if (inside) {
      gx = wy0 * (s01 - s00) + wy1 * (s11 - s10);
      gy = wx0 * (s10 - s00) + wx1 * (s11 - s01);
    } else {
      const auto dx0 = load<Vec<T>>(b.dx0 + k), dx1 = load<Vec<T>>(b.dx1 + k);
      const auto dy0 = load<Vec<T>>(b.dy0 + k), dy1 = load<Vec<T>>(b.dy1 + k);
      gx = wy0 * (dx0 * s00 + dx1 * s01) + wy1 * (dx0 * s10 + dx1 * s11);
      gy = wx0 * (dy0 * s00 + dy1 * s10) + wx1 * (dy0 * s01 + dy1 * s11);
    }
    // What lies behind the block in memory is not of this row.
    const auto valid = number < static_cast<T>(b.count);
    gx = keep_lanes(valid, gx);
    gy = keep_lanes(valid, gy);
    total[0] += gx;
    total[1] += gx * number;
    total[2] += gy;
    total[3] += gy * number;
  }
  sum_lanes_of_four<T>(total, sums);
}

// Adds the moments of a tile of at most kBlock columns: f(block, i, sums) reduces its row i.
template <class T, class F>
STN_INLINE void add_moments(const Geometry<T>& g, const OutTile& t, double* out, const F& f) {
  const AxisMap& m = g.x.map;
  const double u = static_cast<double>(t.left) - m.centre_j;
  Block<T> b;
  for (int64_t i = t.top; i < t.top + t.rows; ++i) {
    if (!fill_block<true>(g, i, t.left, t.columns, &b)) continue;
    T sums[4];
    f(b, i, sums);
    const double v = static_cast<double>(i) - m.centre_i;
    for (int axis = 0; axis < 2; ++axis) {
      const double total = sums[2 * axis], numbered = sums[2 * axis + 1];
      out[3 * axis] += numbered + u * total;
      out[3 * axis + 1] += v * total;
      out[3 * axis + 2] += total;
    }
  }
}

template <class T>
STN_INLINE void moments_rows(const Geometry<T>& g, const OutTile& t, int64_t channels, const T* image,
                             const T* grad, double* out) {
  const Problem<T>& p = g.p;
  TapProducts<T> s;
  add_moments(g, t, out, [&](const Block<T>& b, int64_t i, T* sums) STN_LAMBDA {
    const T* from = grad + i * p.grad.row + t.left;
    if (b.inside) {
      sum_products<true>(p, b, channels, image, from, &s);
      reduce_products<true>(b, s, sums);
    } else {
      sum_products<false>(p, b, channels, image, from, &s);
      reduce_products<false>(b, s, sums);
    }
  });
}

}  // namespace STN_LEVEL
}  // namespace stn::cpu
