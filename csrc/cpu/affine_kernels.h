// The three primitives over affine maps, sample, moments and adjoint, for one SIMD level.
// Included by level sources only; see kernels.h.
//
// All work along an output row in blocks of up to kBlock pixels: first the block's taps and weights, which every
// channel shares, then the channels.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace stn::cpu {
namespace STN_LEVEL {

constexpr int kBlock = 64;
constexpr int kGroup = 4;  // channels that go through a block together

// ---- coordinates -------------------------------------------------------------------------------------------

// Where pixels first, first + 1, ... of an output row fall along one axis of the input.
template <class T>
struct Segment {
  const AxisMap& map;
  int64_t i, first;
  double begin;  // the first pixel's coordinate

  STN_INLINE Segment(const AxisMap& m, int64_t row, int64_t j) : map(m), i(row), first(j), begin(m.at(row, j)) {}

  STN_INLINE double end(int count) const { return begin + map.x * (count - 1); }

  // Whether all of `count` coordinates lie in [low, high]. False for NaN.
  STN_INLINE bool within(int count, double low, double high) const {
    const double last = end(count);
    return begin >= low && begin <= high && last >= low && last <= high;
  }
  // Whether all of them lie below low, or all above high.
  STN_INLINE bool outside(int count, double low, double high) const {
    const double last = end(count);
    return (begin < low && last < low) || (begin > high && last > high);
  }
};

// The coordinates of a segment, a vector at a time.
template <class T>
struct Stepper {
  Vec<T> whole_origin, origin, head, rest;

  STN_INLINE explicit Stepper(const Segment<T>& s) {
    const Walk<T> walk(s.begin, s.map.x);
    whole_origin = Vec<T>{} + walk.whole;
    origin = Vec<T>{} + walk.frac;
    head = Vec<T>{} + walk.head;
    rest = Vec<T>{} + walk.rest;
  }

  // number: pixels after the segment's first.
  STN_INLINE void at(Vec<T> number, Vec<T>* whole, Vec<T>* frac) const {
    step(number, head, rest, whole_origin, origin, whole, frac);
  }
};
static_assert(kBlock <= kWalk, "a block is walked from its first pixel");

template <class T>
constexpr int padded(int count) {
  return (count + Simd<T>::lanes - 1) / Simd<T>::lanes * Simd<T>::lanes;
}

// Coordinates of a whole segment, whatever they are.
template <class T>
struct Coordinates {
  alignas(64) T whole[kBlock], frac[kBlock];

  template <Padding padding>
  STN_INLINE void fill(const Segment<T>& s, int count, int64_t length, bool align_corners) {
    if (s.within(padded<T>(count), -kExactCoordinate, kExactCoordinate)) {
      const Stepper<T> stepper(s);
      Vec<T> number = lane_numbers<T>();
      for (int k = 0; k < count; k += Simd<T>::lanes, number += Simd<T>::lanes) {
        Vec<T> w, f;
        stepper.at(number, &w, &f);
        store(whole + k, w);
        store(frac + k, f);
      }
    } else {
      for (int k = 0; k < padded<T>(count); ++k) {
        split_any<padding>(s.map.at(s.i, s.first + k), length, align_corners, whole + k, frac + k);
      }
    }
  }
};

// ---- taps --------------------------------------------------------------------------------------------------

// A block's pixels: the upper left of each one's four taps, and its weights and their derivatives along x and y.
template <class T>
struct Block {
  int count;
  bool inside;  // every tap exists: d is (-1, 1), and no tap is to be left out
  alignas(64) int32_t tap[kBlock];
  alignas(64) T wx0[kBlock], wx1[kBlock], wy0[kBlock], wy1[kBlock];
  alignas(64) T dx0[kBlock], dx1[kBlock], dy0[kBlock], dy1[kBlock];
};

// The geometry of one image's sampling.
template <class T>
struct Geometry {
  const Problem<T>& p;
  AxisMap x, y;
  int32_t row_stride;

  STN_INLINE Geometry(const Problem<T>& problem, int64_t n)
      : p(problem),
        x(axis_map(problem, n, 0)),
        y(axis_map(problem, n, 1)),
        row_stride(static_cast<int32_t>(problem.input.row)) {}
};

// All taps exist: the weights are the fractions.
template <class T>
STN_INLINE void fill_inside(const Geometry<T>& g, const Segment<T>& sx, const Segment<T>& sy, Block<T>* b) {
  const Stepper<T> step_x(sx), step_y(sy);
  const int32_t pixel = static_cast<int32_t>(g.p.input.pixel);
  Vec<T> number = lane_numbers<T>();
  b->inside = true;
  for (int k = 0; k < b->count; k += Simd<T>::lanes, number += Simd<T>::lanes) {
    Vec<T> x, y, fx, fy;
    step_x.at(number, &x, &fx);
    step_y.at(number, &y, &fy);
    store(b->tap + k, to_index<T>(y) * g.row_stride + to_index<T>(x) * pixel);
    store(b->wx0 + k, 1 - fx);
    store(b->wx1 + k, fx);
    store(b->wy0 + k, 1 - fy);
    store(b->wy1 + k, fy);
  }
}

template <Padding padding, class T>
STN_INLINE void fill_any(const Geometry<T>& g, const Segment<T>& sx, const Segment<T>& sy, Block<T>* b) {
  const Frame& f = g.p.frame;
  Coordinates<T> cx, cy;
  cx.template fill<padding>(sx, b->count, f.width, f.align_corners);
  cy.template fill<padding>(sy, b->count, f.height, f.align_corners);
  const Vec<T> zero{};
  const Vec<T> width = zero + static_cast<T>(f.width), stored_width = zero + static_cast<T>(g.p.stored_width);
  const Vec<T> height = zero + static_cast<T>(f.height), stored_height = zero + static_cast<T>(g.p.stored_height);
  const int32_t pixel = static_cast<int32_t>(g.p.input.pixel);
  b->inside = false;
  for (int k = 0; k < b->count; k += Simd<T>::lanes) {
    const auto tx = axis_taps<padding>(load<Vec<T>>(cx.whole + k), load<Vec<T>>(cx.frac + k), width, stored_width,
                                       f.align_corners);
    const auto ty = axis_taps<padding>(load<Vec<T>>(cy.whole + k), load<Vec<T>>(cy.frac + k), height, stored_height,
                                       f.align_corners);
    store(b->tap + k, to_index<T>(ty.tap) * g.row_stride + to_index<T>(tx.tap) * pixel);
    store(b->wx0 + k, tx.w0);
    store(b->wx1 + k, tx.w1);
    store(b->wy0 + k, ty.w0);
    store(b->wy1 + k, ty.w1);
    store(b->dx0 + k, tx.d0);
    store(b->dx1 + k, tx.d1);
    store(b->dy0 + k, ty.d0);
    store(b->dy1 + k, ty.d1);
  }
}

// Fills the block that starts at output pixel (i, j). False where all of it is padding with zeros.
template <class T>
STN_INLINE bool fill_block(const Geometry<T>& g, int64_t i, int64_t j, Block<T>* b) {
  const Problem<T>& p = g.p;
  const int64_t left = p.frame.out_width - j;
  b->count = static_cast<int>(left < kBlock ? left : kBlock);
  const Segment<T> sx(g.x, i, j), sy(g.y, i, j);
  // The margin is far more than a coordinate's error, so that a pixel beyond it needs no test of its own.
  constexpr double margin = 1.0 / 64;
  const double width = static_cast<double>(p.frame.width), height = static_cast<double>(p.frame.height);
  const int whole = padded<T>(b->count);
  if (sx.within(whole, margin, width - 1 - margin) && sy.within(whole, margin, height - 1 - margin)) {
    fill_inside(g, sx, sy, b);
    return true;
  }
  if (p.padding == Padding::zeros) {
    if (sx.outside(b->count, -1 - margin, width + margin) || sy.outside(b->count, -1 - margin, height + margin)) {
      // NaN on the other axis still makes the pixel NaN.
      if (sx.begin == sx.begin && sy.begin == sy.begin && g.x.x == g.x.x && g.y.x == g.y.x) return false;
    }
    fill_any<Padding::zeros>(g, sx, sy, b);
  } else if (p.padding == Padding::border) {
    fill_any<Padding::border>(g, sx, sy, b);
  } else {
    fill_any<Padding::reflection>(g, sx, sy, b);
  }
  return true;
}

// ---- sample ------------------------------------------------------------------------------------------------

// The four taps of a vector of pixels, in one channel.
template <class T>
struct Taps {
  Vec<T> v00, v01, v10, v11;
};

template <bool inside, class T>
STN_INLINE Taps<T> load_taps(const T* plane, const Block<T>& b, int k, int64_t row_stride) {
  const Pairs<T> upper = load_pairs(plane, b.tap + k), lower = load_pairs(plane + row_stride, b.tap + k);
  Taps<T> t{upper.left, upper.right, lower.left, lower.right};
  if (!inside) {
    const auto used = [&](const T* w, const T* d) __attribute__((always_inline)) {
      return (load<Vec<T>>(w + k) != 0) | (load<Vec<T>>(d + k) != 0);
    };
    const auto x0 = used(b.wx0, b.dx0), x1 = used(b.wx1, b.dx1);
    const auto y0 = used(b.wy0, b.dy0), y1 = used(b.wy1, b.dy1);
    t.v00 = keep_lanes(y0 & x0, t.v00);
    t.v01 = keep_lanes(y0 & x1, t.v01);
    t.v10 = keep_lanes(y1 & x0, t.v10);
    t.v11 = keep_lanes(y1 & x1, t.v11);
  }
  return t;
}

// Writes the block's pixels of up to kGroup channels. room: elements that may be written from out on, of which
// those behind the block are written again later.
template <bool inside, class T>
STN_INLINE void sample_block(const Problem<T>& p, const Block<T>& b, const T* plane, T* out, int64_t channels,
                             int64_t room) {
  for (int k = 0; k < b.count; k += Simd<T>::lanes) {
    const auto wx0 = load<Vec<T>>(b.wx0 + k), wx1 = load<Vec<T>>(b.wx1 + k);
    const auto wy0 = load<Vec<T>>(b.wy0 + k), wy1 = load<Vec<T>>(b.wy1 + k);
    for (int64_t c = 0; c < channels; ++c) {
      const Taps<T> t = load_taps<inside>(plane + c * p.input.channel, b, k, p.input.row);
      const Vec<T> value = wy0 * (wx0 * t.v00 + wx1 * t.v01) + wy1 * (wx0 * t.v10 + wx1 * t.v11);
      store_some(out + c * p.output.channel + k, value, room - k);
    }
  }
}

template <class T>
void sample(const Problem<T>& p, int64_t n, int64_t begin, int64_t end) {
  const Geometry<T> g(p, n);
  const T* image = p.input.data + n * p.input.batch;
  T* output = p.output.data + n * p.output.batch;
  const int64_t stop = end * p.frame.out_width;
  Block<T> b;
  for (int64_t i = begin; i < end; ++i) {
    for (int64_t j = 0; j < p.frame.out_width; j += kBlock) {
      const bool any = fill_block(g, i, j, &b);
      const int64_t at = i * p.frame.out_width + j;
      for (int64_t c = 0; c < p.channels; c += kGroup) {
        const int64_t channels = p.channels - c < kGroup ? p.channels - c : kGroup;
        const T* plane = image + c * p.input.channel;
        T* out = output + c * p.output.channel + at;
        if (!any) {
          for (int64_t k = 0; k < channels; ++k) {
            __builtin_memset(out + k * p.output.channel, 0, sizeof(T) * static_cast<size_t>(b.count));
          }
        } else if (b.inside) {
          sample_block<true>(p, b, plane, out, channels, stop - at);
        } else {
          sample_block<false>(p, b, plane, out, channels, stop - at);
        }
      }
    }
  }
}

// ---- moments -----------------------------------------------------------------------------------------------

// sum over channels of grad * tap, for each tap of each pixel of a block.
template <class T>
struct TapProducts {
  alignas(64) T s00[kBlock], s01[kBlock], s10[kBlock], s11[kBlock];
};

template <bool inside, class T>
STN_INLINE void add_products(const Problem<T>& p, const Block<T>& b, const T* plane, const T* grad, int64_t channels,
                             bool first, TapProducts<T>* s) {
  for (int k = 0; k < b.count; k += Simd<T>::lanes) {
    Taps<T> sum{};
    if (!first) {
      sum = {load<Vec<T>>(s->s00 + k), load<Vec<T>>(s->s01 + k), load<Vec<T>>(s->s10 + k), load<Vec<T>>(s->s11 + k)};
    }
    for (int64_t c = 0; c < channels; ++c) {
      const Taps<T> t = load_taps<inside>(plane + c * p.input.channel, b, k, p.input.row);
      const Vec<T> g = load_some<Vec<T>>(grad + c * p.grad.channel + k, b.count - k);
      sum.v00 += g * t.v00;
      sum.v01 += g * t.v01;
      sum.v10 += g * t.v10;
      sum.v11 += g * t.v11;
    }
    store(s->s00 + k, sum.v00);
    store(s->s01 + k, sum.v01);
    store(s->s10 + k, sum.v10);
    store(s->s11 + k, sum.v11);
  }
}

// Adds (sum of gx, of gx * number, of gy, of gy * number) over the block's pixels, gx and gy being the loss's
// derivatives by the pixel's coordinates.
template <bool inside, class T>
STN_INLINE void reduce_products(const Block<T>& b, const TapProducts<T>& s, Vec<T>* sums) {
  const Vec<T> minus = Vec<T>{} - 1, plus = Vec<T>{} + 1;
  Vec<T> number = lane_numbers<T>();
  for (int k = 0; k < b.count; k += Simd<T>::lanes, number += Simd<T>::lanes) {
    const auto of = [&](const T* p) __attribute__((always_inline)) { return load<Vec<T>>(p + k); };
    const Vec<T> s00 = of(s.s00), s01 = of(s.s01), s10 = of(s.s10), s11 = of(s.s11);
    const Vec<T> dx0 = inside ? minus : of(b.dx0), dx1 = inside ? plus : of(b.dx1);
    const Vec<T> dy0 = inside ? minus : of(b.dy0), dy1 = inside ? plus : of(b.dy1);
    Vec<T> gx = of(b.wy0) * (dx0 * s00 + dx1 * s01) + of(b.wy1) * (dx0 * s10 + dx1 * s11);
    Vec<T> gy = of(b.wx0) * (dy0 * s00 + dy1 * s10) + of(b.wx1) * (dy0 * s01 + dy1 * s11);
    // Lanes behind the block have a zero gradient, but their taps may be infinite.
    const auto valid = number < static_cast<T>(b.count);
    gx = keep_lanes(valid, gx);
    gy = keep_lanes(valid, gy);
    sums[0] += gx;
    sums[1] += gx * number;
    sums[2] += gy;
    sums[3] += gy * number;
  }
}

template <class T>
void moments(const Problem<T>& p, int64_t n, int64_t begin, int64_t end, double* out) {
  const Geometry<T> g(p, n);
  const T* image = p.input.data + n * p.input.batch;
  const T* grad = p.grad.data + n * p.grad.batch;
  Block<T> b;
  TapProducts<T> s;
  for (int k = 0; k < kMoments; ++k) out[k] = 0;
  for (int64_t i = begin; i < end; ++i) {
    const double v = static_cast<double>(i) - g.x.centre_i;
    for (int64_t j = 0; j < p.frame.out_width; j += kBlock) {
      if (!fill_block(g, i, j, &b)) continue;
      for (int64_t c = 0; c < p.channels; c += kGroup) {
        const int64_t channels = p.channels - c < kGroup ? p.channels - c : kGroup;
        const T* plane = image + c * p.input.channel;
        const T* gr = grad + c * p.grad.channel + i * p.grad.row + j;
        if (b.inside) {
          add_products<true>(p, b, plane, gr, channels, c == 0, &s);
        } else {
          add_products<false>(p, b, plane, gr, channels, c == 0, &s);
        }
      }
      Vec<T> sums[4] = {};
      if (b.inside) {
        reduce_products<true>(b, s, sums);
      } else {
        reduce_products<false>(b, s, sums);
      }
      const double u = static_cast<double>(j) - g.x.centre_j;
      for (int axis = 0; axis < 2; ++axis) {
        const double total = sum_lanes<T>(sums[2 * axis]), numbered = sum_lanes<T>(sums[2 * axis + 1]);
        out[3 * axis] += numbered + u * total;
        out[3 * axis + 1] += v * total;
        out[3 * axis + 2] += total;
      }
    }
  }
}

// ---- adjoint -----------------------------------------------------------------------------------------------
//
// An output pixel adds to four neighbouring input pixels. Adding to each in memory is slow; so the four products go,
// as one vector, into the cell of scratch that the pixels' upper left one names, and each input pixel then
// collects from the four cells that it belongs to. A tile's cells are those whose pixels touch it, with a ring around
// them that takes what falls outside.

template <class T>
struct Quad {
  typedef T V __attribute__((vector_size(4 * sizeof(T))));
};

template <class T>
struct Deposit {
  alignas(64) int32_t cell[kBlock];
  alignas(64) typename Quad<T>::V weight[kBlock];
};

// A range of output pixels along a row.
struct Span {
  int64_t begin, end;
};
constexpr int kMaxSpans = 16;

// The bounds of the coordinates whose taps touch [first, first + count) of an axis.
struct Bounds {
  double low, high;
};

template <class T>
struct Adjoint {
  const Problem<T>& p;
  const Geometry<T> g;
  const Tile& tile;
  T* cells;
  int64_t pitch;  // cells in a row of the tile

  STN_INLINE Adjoint(const Problem<T>& problem, int64_t n, const Tile& t, T* scratch)
      : p(problem), g(problem, n), tile(t), cells(scratch), pitch(t.width + 3) {}

  STN_INLINE bool finite() const {
    const double s = (g.x.x + g.x.y + g.x.one) + (g.y.x + g.y.y + g.y.one);
    return s - s == 0;
  }

  template <Padding padding>
  STN_INLINE void fill(int64_t i, int64_t j, int count, Deposit<T>* d) const {
    const Frame& f = p.frame;
    Coordinates<T> cx, cy;
    cx.template fill<padding>(Segment<T>(g.x, i, j), count, f.width, f.align_corners);
    cy.template fill<padding>(Segment<T>(g.y, i, j), count, f.height, f.align_corners);
    const Vec<T> zero{};
    const Vec<T> width = zero + static_cast<T>(f.width), height = zero + static_cast<T>(f.height);
    for (int k = 0; k < count; k += Simd<T>::lanes) {
      const auto x = fold<padding>(load<Vec<T>>(cx.whole + k), load<Vec<T>>(cx.frac + k), width, f.align_corners);
      const auto y = fold<padding>(load<Vec<T>>(cy.whole + k), load<Vec<T>>(cy.frac + k), height, f.align_corners);
      // A coordinate that is not a number has no taps: off to the ring.
      const auto number = (x.frac == x.frac) & (y.frac == y.frac);
      const Vec<T> column = clamp_cell(number ? x.whole - static_cast<T>(tile.left) + 2 : zero, tile.width + 2);
      const Vec<T> row = clamp_cell(y.whole - static_cast<T>(tile.top) + 2, tile.height + 2);
      store(d->cell + k, to_index<T>(row) * static_cast<int32_t>(pitch) + to_index<T>(column));
      const Vec<T> fx = keep_lanes(number, x.frac), fy = keep_lanes(number, y.frac);
      const Vec<T> w[4] = {(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx};
      for (int lane = 0; lane < Simd<T>::lanes; ++lane) {
        d->weight[k + lane] = typename Quad<T>::V{w[0][lane], w[1][lane], w[2][lane], w[3][lane]};
      }
    }
  }

  static STN_INLINE Vec<T> clamp_cell(Vec<T> v, int64_t last) {
    const Vec<T> high = Vec<T>{} + static_cast<T>(last);
    v = v < high ? v : high;
    return v > 0 ? v : Vec<T>{};
  }

  STN_INLINE void deposit(const Deposit<T>& d, const T* grad, int count) const {
    typedef typename Quad<T>::V V;
    for (int k = 0; k < count; ++k) {
      T* cell = cells + 4 * static_cast<int64_t>(d.cell[k]);
      store(cell, load<V>(cell) + grad[k * p.grad.pixel] * d.weight[k]);
    }
  }

  // Each pixel from the four cells that it is a part of.
  STN_INLINE void collect(T* out) const {
    for (int64_t y = 0; y < tile.height; ++y) {
      const T* here = cells + 4 * ((y + 2) * pitch + 2);
      const T* above = here - 4 * pitch;
      T* o = out + y * p.grad_input.row;
      for (int64_t x = 0; x < tile.width; ++x) {
        o[x * p.grad_input.pixel] = (here[4 * x] + here[4 * x - 3]) + (above[4 * x + 2] + above[4 * x - 1]);
      }
    }
  }
};

// The coordinates from which an axis' pixels [first, first + count) are touched, in the image's own period.
// Border padding clamps all that lies before or behind the image to its outer pixels.
STN_INLINE Bounds touching(int64_t first, int64_t count, int64_t length, Padding padding) {
  constexpr double margin = 1.0 / 64, far = 1e300;
  Bounds b{static_cast<double>(first - 1) - margin, static_cast<double>(first + count) + margin};
  if (padding != Padding::zeros && first == 0) b.low = -far;
  if (padding != Padding::zeros && first + count == length) b.high = far;
  return b;
}

// Pixels of row i whose coordinate lies in the bounds, narrowed from span.
STN_INLINE Span narrow(const AxisMap& m, int64_t i, Bounds b, Span span) {
  const double at_row = m.row(i);
  if (m.x == 0) return at_row >= b.low && at_row <= b.high ? span : Span{0, 0};
  double first = (b.low - at_row) / m.x + m.centre_j, last = (b.high - at_row) / m.x + m.centre_j;
  if (first > last) {
    const double swap = first;
    first = last;
    last = swap;
  }
  // Compared as doubles: the quotients may be larger than any integer. Also rounds outwards.
  if (first > static_cast<double>(span.begin)) {
    if (first >= static_cast<double>(span.end)) return {0, 0};
    span.begin = static_cast<int64_t>(first);
  }
  if (last < static_cast<double>(span.end - 1)) {
    if (last < static_cast<double>(span.begin)) return {0, 0};
    span.end = static_cast<int64_t>(last) + 1;
  }
  return span;
}

template <Padding padding, class T>
STN_INLINE bool scatter(const Adjoint<T>& a, int64_t n, int64_t c) {
  const Problem<T>& p = a.p;
  const Frame& f = p.frame;
  const T* grad = p.grad.data + n * p.grad.batch + c * p.grad.channel;
  const bool finite = a.finite();
  const Bounds bx = touching(a.tile.left, a.tile.width, f.width, padding);
  const Bounds by = touching(a.tile.top, a.tile.height, f.height, padding);
  Deposit<T> d;
  bool any = false;
  for (int64_t i = 0; i < f.out_height; ++i) {
    Span span{0, f.out_width};
    if (finite && padding != Padding::reflection) span = narrow(a.g.y, i, by, narrow(a.g.x, i, bx, span));
    for (int64_t j = span.begin; j < span.end; j += kBlock) {
      const int count = static_cast<int>(span.end - j < kBlock ? span.end - j : kBlock);
      if (!any) __builtin_memset(a.cells, 0, sizeof(T) * static_cast<size_t>(4 * a.pitch * (a.tile.height + 3)));
      any = true;
      a.template fill<padding>(i, j, count, &d);
      a.deposit(d, grad + i * p.grad.row + j * p.grad.pixel, count);
    }
  }
  return any;
}

template <class T>
void adjoint(const Problem<T>& p, int64_t n, int64_t c, const Tile& tile, T* scratch) {
  const Adjoint<T> a(p, n, tile, scratch);
  T* out = p.grad_input.data + n * p.grad_input.batch + c * p.grad_input.channel + tile.top * p.grad_input.row +
           tile.left * p.grad_input.pixel;
  const bool any = p.padding == Padding::zeros    ? scatter<Padding::zeros>(a, n, c)
                   : p.padding == Padding::border ? scatter<Padding::border>(a, n, c)
                                                  : scatter<Padding::reflection>(a, n, c);
  if (any) return a.collect(out);
  for (int64_t y = 0; y < tile.height; ++y) {
    for (int64_t x = 0; x < tile.width; ++x) out[y * p.grad_input.row + x * p.grad_input.pixel] = 0;
  }
}

inline constexpr Level level(const char* name) {
  return {name, {sample<float>, moments<float>, adjoint<float>}, {sample<double>, moments<double>, adjoint<double>}};
}

}  // namespace STN_LEVEL
}  // namespace stn::cpu
