// The three primitives over affine maps, sample, moments and adjoint, for one SIMD level.
// Included by level sources only; see kernels.h.
//
// All work along an output row in blocks of up to kBlock pixels: first the block's taps and weights, which
// every channel shares, then the channels.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace stn::cpu {
namespace STN_LEVEL {

// Rows are taken in strips as wide as a block: a turned row crosses many rows of the input, and what it has
// brought into the cache is to be there still for the next.
constexpr int kBlock = kWalk;

// ---- coordinates ----

template <class T>
constexpr int padded(int count) {
  return (count + Simd<T>::lanes - 1) / Simd<T>::lanes * Simd<T>::lanes;
}

// One axis of the input, and the coordinates along it of all output pixels. What every vector of pixels needs
// lies in memory as vectors.
template <class T>
struct Axis {
  AxisMap map;
  int64_t length;
  double last;                                // pixel
  Vec<T> head, rest, vector_length, highest;  // Walk's, and axis_taps'
  bool exact;                                 // no coordinate is beyond kExactCoordinate, or NaN

  STN_INLINE Axis(const Problem<T>& p, int64_t n, int axis)
      : map(axis_map(p, n, axis)), length(axis == 0 ? p.frame.width : p.frame.height) {
    const int64_t stored = axis == 0 ? p.stored_width : p.stored_height;
    const Walk<T> walk(0, map.x);
    last = static_cast<double>(length - 1);
    head = Vec<T>{} + walk.head;
    rest = Vec<T>{} + walk.rest;
    vector_length = Vec<T>{} + static_cast<T>(length);
    highest = Vec<T>{} + static_cast<T>(stored - 2);
    // Of pixels behind a row's end too, which fill up its last vector.
    const double reach =
        __builtin_fabs(map.x) * (map.centre_j + Simd<T>::lanes) + __builtin_fabs(map.y) * map.centre_i;
    exact = __builtin_fabs(map.one) + reach <= kExactCoordinate;
  }
};

// Where a block's pixels, first + number of an output row, fall along an axis.
template <class T>
struct Segment {
  const Axis<T>& axis;
  int64_t i, first;
  double begin, low, high;  // the first coordinate, the least, the greatest

  STN_INLINE Segment(const Axis<T>& a, int64_t row, int64_t j, int count) : axis(a), i(row), first(j) {
    begin = a.map.at(row, j);
    const double end = begin + a.map.x * (count - 1);
    low = begin < end ? begin : end;
    high = begin < end ? end : begin;
  }

  // Both are false where a coordinate is NaN.
  STN_INLINE bool within(double least, double greatest) const { return low >= least && high <= greatest; }
  STN_INLINE bool outside(double least, double greatest) const { return high < least || low > greatest; }
};

// The coordinates of a segment, a vector at a time. base is a whole number; whole is counted from it.
template <class T>
struct Stepper {
  const Axis<T>& axis;
  double base;
  Vec<T> origin;

  STN_INLINE explicit Stepper(const Segment<T>& s) : axis(s.axis), base(__builtin_floor(s.begin)) {
    origin = Vec<T>{} + static_cast<T>(s.begin - base);
  }

  STN_INLINE void at(Vec<T> number, Vec<T>* whole, Vec<T>* frac) const {
    step(number, axis.head, axis.rest, origin, whole, frac);
  }
};

// f(k, x whole, x frac, y whole, y frac) for each vector of a block's pixels, from pixel k on; whatever they
// are.
template <Padding padding, class T, class F>
STN_INLINE void for_coordinates(const Segment<T>& sx, const Segment<T>& sy, int count, bool align_corners,
                                const F& f) {
  if (sx.axis.exact && sy.axis.exact) {
    const Stepper<T> step_x(sx), step_y(sy);
    const Vec<T> base_x = Vec<T>{} + static_cast<T>(step_x.base),
                 base_y = Vec<T>{} + static_cast<T>(step_y.base);
    Vec<T> number = lane_numbers<T>();
    for (int k = 0; k < count; k += Simd<T>::lanes, number += Simd<T>::lanes) {
      Vec<T> x, y, fx, fy;
      step_x.at(number, &x, &fx);
      step_y.at(number, &y, &fy);
      f(k, x + base_x, fx, y + base_y, fy);
    }
    return;
  }
  alignas(64) T x[kBlock], fx[kBlock], y[kBlock], fy[kBlock];
  for (int k = 0; k < padded<T>(count); ++k) {
    split_any<padding>(sx.axis.map.at(sx.i, sx.first + k), sx.axis.length, align_corners, x + k, fx + k);
    split_any<padding>(sy.axis.map.at(sy.i, sy.first + k), sy.axis.length, align_corners, y + k, fy + k);
  }
  for (int k = 0; k < count; k += Simd<T>::lanes) {
    f(k, load<Vec<T>>(x + k), load<Vec<T>>(fx + k), load<Vec<T>>(y + k), load<Vec<T>>(fy + k));
  }
}

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

// One image's sampling.
template <class T>
struct Geometry {
  const Problem<T>& p;
  Axis<T> x, y;
  int64_t row;  // pixels from a row of the input to the next, where it is read

  STN_INLINE Geometry(const Problem<T>& problem, int64_t n, int64_t row_pixels)
      : p(problem), x(problem, n, 0), y(problem, n, 1), row(row_pixels) {}
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

// Far more than a coordinate's error, so that what lies beyond it needs no test of its own.
constexpr double kMargin = 1.0 / 64;

// Fills the block that starts at output pixel (i, j). False where all of it is padding with zeros.
template <bool derivatives, class T>
STN_INLINE bool fill_block(const Geometry<T>& g, int64_t i, int64_t j, Block<T>* b) {
  const Problem<T>& p = g.p;
  const int64_t left = p.frame.out_width - j;
  b->count = static_cast<int>(left < kBlock ? left : kBlock);
  const int whole = padded<T>(b->count);
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
    fill_any<Padding::zeros, derivatives>(g, sx, sy, b);
  } else if (p.padding == Padding::border) {
    fill_any<Padding::border, derivatives>(g, sx, sy, b);
  } else {
    fill_any<Padding::reflection, derivatives>(g, sx, sy, b);
  }
  return true;
}

// The four taps of a vector of pixels, in one channel.
template <class T>
struct Taps {
  Vec<T> v00, v01, v10, v11;
};

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

// Writes the block's pixels of `channels` channels, as whole vectors.
template <bool inside, int channels, class T>
STN_INLINE void sample_block(const Problem<T>& p, const Block<T>& b, const T* plane, T* out,
                             int64_t out_channel) {
  const T *upper[channels], *lower[channels];
  for (int c = 0; c < channels; ++c) {
    upper[c] = opaque(plane + b.base + c * p.input.channel);
    lower[c] = opaque(upper[c] + p.input.row);
  }
  for (int k = 0; k < b.count; k += Simd<T>::lanes) {
    const auto wx0 = load<Vec<T>>(b.wx0 + k), wx1 = load<Vec<T>>(b.wx1 + k);
    const auto wy0 = load<Vec<T>>(b.wy0 + k), wy1 = load<Vec<T>>(b.wy1 + k);
#pragma GCC unroll 4
    for (int c = 0; c < channels; ++c) {
      const Taps<T> t = load_taps<inside, false>(upper[c], lower[c], b, k);
      store(out + c * out_channel + k, wy0 * (wx0 * t.v00 + wx1 * t.v01) + wy1 * (wx0 * t.v10 + wx1 * t.v11));
    }
  }
}

// room: elements that may be written from out on, of which those behind the block are written again later.
template <int channels, class T>
STN_INLINE void sample_channels(const Problem<T>& p, const Block<T>& b, const T* plane, T* out,
                                int64_t room) {
  alignas(64) T spare[channels * kBlock];
  const bool fits = room >= padded<T>(b.count);
  T* to = fits ? out : spare;
  const int64_t to_channel = fits ? p.output.channel : kBlock;
  if (b.inside) {
    sample_block<true, channels>(p, b, plane, to, to_channel);
  } else {
    sample_block<false, channels>(p, b, plane, to, to_channel);
  }
  for (int c = 0; c < channels && !fits; ++c) {
    __builtin_memcpy(out + c * p.output.channel, spare + c * kBlock,
                     sizeof(T) * static_cast<size_t>(b.count));
  }
}

template <class T>
STN_INLINE void zero_planes(const Problem<T>& p, int count, int64_t channels, T* out) {
  for (int64_t c = 0; c < channels; ++c) {
    __builtin_memset(out + c * p.output.channel, 0, sizeof(T) * static_cast<size_t>(count));
  }
}

template <class T>
void sample(const Problem<T>& p, int64_t n, int64_t begin, int64_t end) {
  const Geometry<T> g(p, n, p.input.row);
  const T* image = p.input.data + n * p.input.batch;
  T* output = p.output.data + n * p.output.batch;
  const int64_t width = p.frame.out_width, stop = end * width;
  Block<T> b;
  for (int64_t j = 0; j < width; j += kBlock) {
    for (int64_t i = begin; i < end; ++i) {
      T* out = output + i * width + j;
      // In an image of one strip, the next row is still to be written.
      const int64_t room = width <= kBlock ? stop - i * width : width - j;
      if (!fill_block<false>(g, i, j, &b)) {
        zero_planes(p, b.count, p.channels, out);
        continue;
      }
      int64_t c = 0;
      for (; c + 2 <= p.channels; c += 2) {
        sample_channels<2>(p, b, image + c * p.input.channel, out + c * p.output.channel, room);
      }
      if (c < p.channels) {
        sample_channels<1>(p, b, image + c * p.input.channel, out + c * p.output.channel, room);
      }
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
    const auto g = load<Vec<T>>(grad + k);
    store(s->s00 + k, first ? g * t.v00 : load<Vec<T>>(s->s00 + k) + g * t.v00);
    store(s->s01 + k, first ? g * t.v01 : load<Vec<T>>(s->s01 + k) + g * t.v01);
    store(s->s10 + k, first ? g * t.v10 : load<Vec<T>>(s->s10 + k) + g * t.v10);
    store(s->s11 + k, first ? g * t.v11 : load<Vec<T>>(s->s11 + k) + g * t.v11);
  }
}

// room: elements that may be read from grad on.
template <bool inside, class T>
STN_INLINE void sum_products(const Problem<T>& p, const Block<T>& b, const T* image, const T* grad,
                             int64_t room, TapProducts<T>* s) {
  alignas(64) T spare[kBlock] = {};
  for (int64_t c = 0; c < p.channels; ++c) {
    const T* from = grad + c * p.grad.channel;
    if (room < padded<T>(b.count)) {
      __builtin_memcpy(spare, from, sizeof(T) * static_cast<size_t>(b.count));
      from = spare;
    }
    if (c == 0) {
      add_products<inside, true>(p, b, image, from, s);
    } else {
      add_products<inside, false>(p, b, image + c * p.input.channel, from, s);
    }
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

// The moments of rows [begin, end): f(block, i, j, sums) reduces the block that starts at output pixel (i,
// j).
template <class T, class F>
STN_INLINE void for_moments(const Geometry<T>& g, int64_t begin, int64_t end, double* out, const F& f) {
  const AxisMap& m = g.x.map;
  Block<T> b;
  for (int k = 0; k < kMoments; ++k) out[k] = 0;
  for (int64_t j = 0; j < g.p.frame.out_width; j += kBlock) {
    const double u = static_cast<double>(j) - m.centre_j;
    for (int64_t i = begin; i < end; ++i) {
      if (!fill_block<true>(g, i, j, &b)) continue;
      T sums[4];
      f(b, i, j, sums);
      const double v = static_cast<double>(i) - m.centre_i;
      for (int axis = 0; axis < 2; ++axis) {
        const double total = sums[2 * axis], numbered = sums[2 * axis + 1];
        out[3 * axis] += numbered + u * total;
        out[3 * axis + 1] += v * total;
        out[3 * axis + 2] += total;
      }
    }
  }
}

template <class T>
void moments(const Problem<T>& p, int64_t n, int64_t begin, int64_t end, double* out) {
  const Geometry<T> g(p, n, p.input.row);
  const T* image = p.input.data + n * p.input.batch;
  const T* grad = p.grad.data + n * p.grad.batch;
  const int64_t width = p.frame.out_width;
  TapProducts<T> s;
  for_moments(g, begin, end, out, [&](const Block<T>& b, int64_t i, int64_t j, T* sums) STN_LAMBDA {
    const int64_t at = i * width + j, room = p.frame.out_height * width - at;
    if (b.inside) {
      sum_products<true>(p, b, image, grad + at, room, &s);
      reduce_products<true>(b, s, sums);
    } else {
      sum_products<false>(p, b, image, grad + at, room, &s);
      reduce_products<false>(b, s, sums);
    }
  });
}

// ---- adjoint ----
//
// By tiles of the input: for each, the output pixels that touch it, in order, are located among its cells. A
// cell stands for a place between four pixels, its upper left one naming it; those that touch the tile make
// it up, and a ring around them takes what falls outside.

// What output pixels add to a tile.
template <class T>
struct Deposits {
  alignas(64) int32_t cell[kBlock];
  alignas(64) T weight[4 * kBlock];  // a pixel's four weights side by side
};

// A range of output pixels along a row.
struct Span {
  int64_t begin, end;
};

// The bounds of the coordinates whose taps touch a range of pixels.
struct Bounds {
  double low, high;
};

template <class T>
struct TileFrame {
  const Tile& tile;
  int64_t pitch;  // cells in a row

  STN_INLINE explicit TileFrame(const Tile& t) : tile(t), pitch(t.width + 3) {}
  STN_INLINE int64_t rows() const { return tile.height + 3; }

  // The cell of coordinates by their whole part, along an axis where the tile has `count` pixels from
  // `first`.
  static STN_INLINE Vec<T> along(Vec<T> whole, int64_t first, int64_t count) {
    const Vec<T> last = Vec<T>{} + static_cast<T>(count + 2);
    Vec<T> cell = whole - static_cast<T>(first - 2);
    cell = cell < last ? cell : last;
    return cell > 0 ? cell : Vec<T>{};
  }

  template <Padding padding>
  STN_INLINE void locate(const Geometry<T>& g, int64_t i, int64_t j, int count, Deposits<T>* d) const {
    const bool align_corners = g.p.frame.align_corners;
    const IndexVec<T> row_pitch = IndexVec<T>{} + static_cast<int32_t>(pitch);
    const auto put = [&](int k, Vec<T> whole_x, Vec<T> frac_x, Vec<T> whole_y, Vec<T> frac_y) STN_LAMBDA {
      const auto x = fold<padding>(whole_x, frac_x, g.x.vector_length, align_corners);
      const auto y = fold<padding>(whole_y, frac_y, g.y.vector_length, align_corners);
      // A coordinate that is not a number has no taps: off to the ring.
      const auto number = (x.frac == x.frac) & (y.frac == y.frac);
      const Vec<T> column = along(x.whole, tile.left, tile.width),
                   row = along(y.whole, tile.top, tile.height);
      store(d->cell + k, to_index<T>(keep_lanes(number, row)) * row_pitch + to_index<T>(column));
      const Vec<T> fx = keep_lanes(number, x.frac), fy = keep_lanes(number, y.frac);
      const Vec<T> ex = 1 - fx, ey = 1 - fy;
      store_interleaved<T>(d->weight + 4 * k, ey * ex, ey * fx, fy * ex, fy * fx);
    };
    const Segment<T> sx(g.x, i, j, padded<T>(count)), sy(g.y, i, j, padded<T>(count));
    for_coordinates<padding>(sx, sy, count, align_corners, put);
  }
};

// The coordinates that touch an axis' pixels [first, first + count). Padding that clamps brings all that lies
// before or behind the image to its outer pixels.
STN_INLINE Bounds touching(int64_t first, int64_t count, int64_t length, Padding padding) {
  constexpr double far = 1e300;
  Bounds b{static_cast<double>(first - 1) - kMargin, static_cast<double>(first + count) + kMargin};
  if (padding != Padding::zeros && first == 0) b.low = -far;
  if (padding != Padding::zeros && first + count == length) b.high = far;
  return b;
}

// Narrows a range of whole numbers to those in [low, high], and perhaps one more on either side. NaN narrows
// nothing.
STN_INLINE Span narrow(Span s, double low, double high) {
  // Compared as doubles: the bounds may be larger than any integer.
  if (low >= static_cast<double>(s.end) || high < static_cast<double>(s.begin)) return {0, 0};
  if (low > static_cast<double>(s.begin)) s.begin = static_cast<int64_t>(low);
  if (high < static_cast<double>(s.end - 1)) s.end = static_cast<int64_t>(high) + 1;
  return s;
}

// A map's rows, or a row's pixels, whose coordinates can lie in the bounds.
STN_INLINE Span where(double slope, double offset, double centre, Bounds b, Span s) {
  if (slope == 0) return offset >= b.low && offset <= b.high ? s : Span{0, 0};
  const double one = (b.low - offset) / slope + centre, other = (b.high - offset) / slope + centre;
  return one < other ? narrow(s, one, other) : narrow(s, other, one);
}

// The output rows that can touch the tile: by the inverse map where there is one.
STN_INLINE Span rows_touching(const AxisMap& x, const AxisMap& y, Bounds bx, Bounds by, int64_t height) {
  const double det = x.x * y.y - x.y * y.x;
  const double a = -y.x / det, b = x.x / det;  // d(row) / d(x), d(row) / d(y)
  const double x0 = a * (bx.low - x.one), x1 = a * (bx.high - x.one);
  const double y0 = b * (by.low - y.one), y1 = b * (by.high - y.one);
  const double low = (x0 < x1 ? x0 : x1) + (y0 < y1 ? y0 : y1),
               high = (x0 < x1 ? x1 : x0) + (y0 < y1 ? y1 : y0);
  constexpr double largest = 1e9;  // keeps rounding well below the margin
  const bool sound =
      a > -largest && a < largest && b > -largest && b < largest && low - low == 0 && high - high == 0;
  return sound ? narrow({0, height}, low + x.centre_i - 1, high + x.centre_i + 1) : Span{0, height};
}

template <Padding padding, class T, class F>
STN_INLINE void for_deposits(const Geometry<T>& g, const TileFrame<T>& t, const F& f) {
  const Frame& frame = g.p.frame;
  const AxisMap &mx = g.x.map, &my = g.y.map;
  const double sum = (mx.x + mx.y + mx.one) + (my.x + my.y + my.one);
  // Reflection may bring any pixel here, and of an infinite map nothing can be told.
  const bool all = padding == Padding::reflection || sum - sum != 0;
  const Bounds bx = touching(t.tile.left, t.tile.width, frame.width, padding);
  const Bounds by = touching(t.tile.top, t.tile.height, frame.height, padding);
  const Span rows = all ? Span{0, frame.out_height} : rows_touching(mx, my, bx, by, frame.out_height);
  Deposits<T> d;
  for (int64_t i = rows.begin; i < rows.end; ++i) {
    Span span{0, frame.out_width};
    if (!all) {
      span = where(mx.x, mx.row(i), mx.centre_j, bx, span);
      span = where(my.x, my.row(i), my.centre_j, by, span);
    }
    for (int64_t j = span.begin; j < span.end; j += kBlock) {
      const int count = static_cast<int>(span.end - j < kBlock ? span.end - j : kBlock);
      t.template locate<padding>(g, i, j, count, &d);
      f(d, i, j, count);
    }
  }
}

// f(deposits, i, j, count): `count` output pixels from (i, j) on may touch the tile.
template <class T, class F>
STN_INLINE void for_deposits(const Geometry<T>& g, const TileFrame<T>& t, const F& f) {
  if (g.p.padding == Padding::zeros) {
    for_deposits<Padding::zeros>(g, t, f);
  } else if (g.p.padding == Padding::border) {
    for_deposits<Padding::border>(g, t, f);
  } else {
    for_deposits<Padding::reflection>(g, t, f);
  }
}

// To add to four pixels in memory is slow; so the four products go, as one vector, into their cell, and each
// pixel then collects from the four cells that it belongs to.
template <int channels, class T>
struct QuadCells : TileFrame<T> {
  T* cells;
  int64_t plane;  // elements of a channel

  STN_INLINE QuadCells(const Tile& t, T* scratch) : TileFrame<T>(t), cells(scratch) {
    plane = 4 * this->pitch * this->rows();
  }

  STN_INLINE void clear() const {
    __builtin_memset(cells, 0, sizeof(T) * static_cast<size_t>(channels * plane));
  }

  STN_INLINE void add(const Deposits<T>& d, const T* grad, int64_t grad_channel, int64_t grad_pixel,
                      int count) const {
    typedef typename Quad<T>::V V;
    for (int k = 0; k < count; ++k) {
      const V weight = load<V>(d.weight + 4 * k);
      T* cell = cells + 4 * static_cast<int64_t>(d.cell[k]);
#pragma GCC unroll 4
      for (int c = 0; c < channels; ++c) {
        store(cell + c * plane, load<V>(cell + c * plane) + grad[c * grad_channel + k * grad_pixel] * weight);
      }
    }
  }

  STN_INLINE void collect(const Images<T>& to, T* out) const {
    for (int c = 0; c < channels; ++c) {
      for (int64_t y = 0; y < this->tile.height; ++y) {
        const T* here = cells + c * plane + 4 * ((y + 2) * this->pitch + 2);
        T* row = out + c * to.channel + y * to.row;
        if (to.pixel == 1) {
          collect_row<T>(here, here - 4 * this->pitch, row, this->tile.width);
          continue;
        }
        T spare[kTile];
        collect_row<T>(here, here - 4 * this->pitch, spare, this->tile.width);
        for (int64_t x = 0; x < this->tile.width; ++x) row[x * to.pixel] = spare[x];
      }
    }
  }
};

template <int channels, class T>
void adjoint_channels(const Problem<T>& p, int64_t n, int64_t c, const Tile& tile, T* scratch) {
  const Geometry<T> g(p, n, 0);
  const QuadCells<channels, T> cells(tile, scratch);
  const T* grad = p.grad.data + n * p.grad.batch + c * p.grad.channel;
  cells.clear();
  for_deposits(g, cells, [&](const Deposits<T>& d, int64_t i, int64_t j, int count) STN_LAMBDA {
    cells.add(d, grad + i * p.grad.row + j * p.grad.pixel, p.grad.channel, p.grad.pixel, count);
  });
  const Images<T>& to = p.grad_input;
  cells.collect(to, to.data + n * to.batch + c * to.channel + tile.top * to.row + tile.left * to.pixel);
}

template <class T>
void adjoint(const Problem<T>& p, int64_t n, int64_t c, int64_t channels, const Tile& tile, T* scratch) {
  static_assert(kQuadChannels == 4, "one case each");
  switch (channels) {
    case 1:
      return adjoint_channels<1>(p, n, c, tile, scratch);
    case 2:
      return adjoint_channels<2>(p, n, c, tile, scratch);
    case 3:
      return adjoint_channels<3>(p, n, c, tile, scratch);
    default:
      return adjoint_channels<4>(p, n, c, tile, scratch);
  }
}

}  // namespace STN_LEVEL
}  // namespace stn::cpu
