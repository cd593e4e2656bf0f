// The primitives on a vector of channels at a time: where the channels of a pixel lie side by side (channels
// last), and the adjoint of any layout that has channels enough. Included by level sources only; see
// kernels.h.
#pragma once

#include "adjoint_kernels.h"
#include "tile_kernels.h"

namespace stn::cpu {
namespace STN_LEVEL {

// ---- taps ----

// Which of a block's taps take part: all of a pixel's, or by a bit each.
constexpr int32_t kAllTaps = 15;

template <bool derivatives, class T>
STN_INLINE void find_used(const Block<T>& b, int32_t* use) {
  for (int k = 0; k < b.count; k += Simd<T>::lanes) {
    const auto x0 = used<derivatives>(b.wx0, b.dx0, k), x1 = used<derivatives>(b.wx1, b.dx1, k);
    const auto y0 = used<derivatives>(b.wy0, b.dy0, k), y1 = used<derivatives>(b.wy1, b.dy1, k);
    store(use + k, __builtin_convertvector((y0 & x0 & 1) | (y0 & x1 & 2) | (y1 & x0 & 4) | (y1 & x1 & 8),
                                           IndexVec<T>));
  }
}

// A pixel's four taps, for all channels. Those that take no part are read from a place that holds zeros.
template <class T>
struct TapPointers {
  const T* at[4];

  STN_INLINE TapPointers(const Images<const T>& image, const Block<T>& b, int k, int32_t use,
                         const T* zeros) {
    const T* upper = image.data + (b.base + b.tap[k]) * image.pixel;
    at[0] = upper;
    at[1] = upper + image.pixel;
    at[2] = upper + image.row;
    at[3] = upper + image.row + image.pixel;
    if (use == kAllTaps) return;
    for (int q = 0; q < 4; ++q) at[q] = use >> q & 1 ? at[q] : zeros;
  }
};

// ---- sample ----

// `channels` channels of a block, to out + k * out_pixel for pixel k.
template <class T>
STN_INLINE void sample_packed(const Images<const T>& image, const Block<T>& b, int64_t channels,
                              const T* zeros, T* out, int64_t out_pixel) {
  constexpr int lanes = Simd<T>::lanes;
  alignas(64) int32_t use[kBlock];
  alignas(64) T weight[4 * kBlock];
  if (!b.inside) find_used<false>(b, use);
  for (int k = 0; k < b.count; k += lanes) {
    const auto wx0 = load<Vec<T>>(b.wx0 + k), wx1 = load<Vec<T>>(b.wx1 + k);
    const auto wy0 = load<Vec<T>>(b.wy0 + k), wy1 = load<Vec<T>>(b.wy1 + k);
    store_quads<T>(weight + 4 * k, wy0 * wx0, wy0 * wx1, wy1 * wx0, wy1 * wx1);
  }
  for (int k = 0; k < b.count; ++k) {
    const TapPointers<T> t(image, b, k, b.inside ? kAllTaps : use[k], zeros);
    const T *w = weight + quad_at<T>(k), *p0 = t.at[0], *p1 = t.at[1], *p2 = t.at[2], *p3 = t.at[3];
    T* o = out + k * out_pixel;
    int64_t c = 0;
    for (; c + lanes <= channels; c += lanes) {
      store(o + c, w[0] * load<Vec<T>>(p0 + c) + w[1] * load<Vec<T>>(p1 + c) +
                       (w[2] * load<Vec<T>>(p2 + c) + w[3] * load<Vec<T>>(p3 + c)));
    }
    if (c == channels) continue;
    const int64_t rest = channels - c;
    const auto tap = [&](const T* from) STN_LAMBDA { return load_some<Vec<T>>(from + c, rest); };
    store_some(o + c, w[0] * tap(p0) + w[1] * tap(p1) + (w[2] * tap(p2) + w[3] * tap(p3)), rest);
  }
}

template <class T>
STN_INLINE Images<const T> image_of(const Problem<T>& p, int64_t n) {
  Images<const T> image = p.input;
  image.data += p.image_of(n) * image.batch;
  return image;
}

// Rows [begin, end) of image n, channels last. zeros: as many as there are channels.
template <class T>
void sample_channels_last(const Problem<T>& p, int64_t n, int64_t begin, int64_t end, const T* zeros) {
  const Geometry<T> g(p, n, p.input.row / p.input.pixel);
  const Images<const T> image = image_of(p, n);
  Block<T> b;
  for (int64_t j = 0; j < p.frame.out_width; j += kBlock) {
    const int64_t columns = p.frame.out_width - j < kBlock ? p.frame.out_width - j : kBlock;
    for (int64_t i = begin; i < end; ++i) {
      T* out = p.output.data + n * p.output.batch + i * p.output.row + j * p.output.pixel;
      if (fill_block<false>(g, i, j, columns, &b)) {
        sample_packed(image, b, p.channels, zeros, out, p.output.pixel);
      } else {
        __builtin_memset(out, 0, sizeof(T) * static_cast<size_t>(b.count * p.output.pixel));
      }
    }
  }
}

// ---- moments ----

// Reduces a block's moments; grad + k * grad_pixel is pixel k's gradient.
template <class T>
STN_INLINE void moments_packed(const Images<const T>& image, const Block<T>& b, int64_t channels,
                               const T* zeros, const T* grad, int64_t grad_pixel, T* sums) {
  constexpr int lanes = Simd<T>::lanes;
  alignas(64) int32_t use[kBlock];
  if (!b.inside) find_used<true>(b, use);
  TapProducts<T> s;
  for (int k = 0; k < b.count; ++k) {
    const TapPointers<T> t(image, b, k, b.inside ? kAllTaps : use[k], zeros);
    const T* g = grad + k * grad_pixel;
    Vec<T> sum[4] = {};
    int64_t c = 0;
    for (; c + lanes <= channels; c += lanes) {
      const auto gc = load<Vec<T>>(g + c);
      for (int q = 0; q < 4; ++q) sum[q] += gc * load<Vec<T>>(t.at[q] + c);
    }
    if (c < channels) {
      const auto gc = load_some<Vec<T>>(g + c, channels - c);
      for (int q = 0; q < 4; ++q) sum[q] += gc * load_some<Vec<T>>(t.at[q] + c, channels - c);
    }
    T total[4];
    sum_lanes_of_four<T>(sum, total);
    s.s00[k] = total[0];
    s.s01[k] = total[1];
    s.s10[k] = total[2];
    s.s11[k] = total[3];
  }
  if (b.inside) {
    reduce_products<true>(b, s, sums);
  } else {
    reduce_products<false>(b, s, sums);
  }
}

template <class T>
void moments_channels_last(const Problem<T>& p, int64_t n, int64_t begin, int64_t end, const T* zeros,
                           double* out) {
  const Geometry<T> g(p, n, p.input.row / p.input.pixel);
  const Images<const T> image = image_of(p, n);
  const T* grad = p.grad.data + n * p.grad.batch;
  for (int m = 0; m < kMoments; ++m) out[m] = 0;
  for (int64_t j = 0; j < p.frame.out_width; j += kBlock) {
    const int64_t columns = p.frame.out_width - j < kBlock ? p.frame.out_width - j : kBlock;
    add_moments(g, OutTile{begin, j, end - begin, columns}, out,
                [&](const Block<T>& b, int64_t i, T* sums) STN_LAMBDA {
                  moments_packed(image, b, p.channels, zeros, grad + i * p.grad.row + j * p.grad.pixel,
                                 p.grad.pixel, sums);
                });
  }
}

// ---- adjoint ----

// The first `count` pixels' channels, a vector each.
template <class T>
STN_INLINE void load_pixels(const Images<const T>& from, const T* data, int64_t channels, int64_t count,
                            Vec<T>* v) {
  constexpr int lanes = Simd<T>::lanes;
  if (from.channel == 1) {
    for (int k = 0; k < lanes && k < count; ++k) v[k] = load_some<Vec<T>>(data + k * from.pixel, channels);
  } else {
    load_group(data, from.channel, channels, count, v);
  }
}

template <class T>
STN_INLINE void store_pixels(const Images<T>& to, T* data, int64_t channels, int64_t count, Vec<T>* v) {
  constexpr int lanes = Simd<T>::lanes;
  if (to.channel == 1) {
    for (int k = 0; k < lanes && k < count; ++k) store_some(data + k * to.pixel, v[k], channels);
    return;
  }
  transpose<T>(v);
  for (int c = 0; c < lanes && c < channels; ++c) store_some(data + c * to.channel, v[c], count);
}

// A tile's pixels and the ring around them, with a vector of channels each, to which output pixels add.
template <class T>
struct PackedCells : TileFrame<T> {
  T* cells;

  STN_INLINE PackedCells(const Tile& t, T* scratch) : TileFrame<T>(t, t.width + 4), cells(scratch) {}

  STN_INLINE T* row(int64_t y) const { return cells + y * this->pitch * Simd<T>::lanes; }

  // `count` of a vector of pixels; g[k] are pixel k's channels.
  STN_INLINE void add(const Deposits<T>& d, const Vec<T>* g, int64_t count) const {
    constexpr int lanes = Simd<T>::lanes;
    alignas(64) int32_t cell[lanes];
    alignas(64) T w00[lanes], w01[lanes], w10[lanes], w11[lanes];
    store(cell, d.cell);
    store(w00, d.w00);
    store(w01, d.w01);
    store(w10, d.w10);
    store(w11, d.w11);
    for (int k = 0; k < lanes && k < count; ++k) {
      T* upper = cells + static_cast<int64_t>(cell[k]) * lanes;
      T* lower = upper + this->pitch * lanes;
      store(upper, load<Vec<T>>(upper) + w00[k] * g[k]);
      store(upper + lanes, load<Vec<T>>(upper + lanes) + w01[k] * g[k]);
      store(lower, load<Vec<T>>(lower) + w10[k] * g[k]);
      store(lower + lanes, load<Vec<T>>(lower + lanes) + w11[k] * g[k]);
    }
  }

  // To channels [c, c + channels) of an image. All cells are 0 then, as they were before.
  STN_INLINE void collect(const Images<T>& to, int64_t image, int64_t c, int64_t channels) const {
    constexpr int lanes = Simd<T>::lanes;
    const Tile& t = this->tile;
    T* out = to.data + image * to.batch + c * to.channel + t.top * to.row + t.left * to.pixel;
    for (int64_t y = 0; y < t.height; ++y) {
      T* from = row(y + 2);
      for (int64_t x = 0; x < t.width; x += lanes) {
        Vec<T> v[lanes];
        for (int k = 0; k < lanes; ++k) v[k] = load<Vec<T>>(from + (x + 2 + k) * lanes);
        store_pixels(to, out + y * to.row + x * to.pixel, channels, t.width - x, v);
      }
      clear_row(y + 2);  // while it is in the cache
    }
    for (int64_t y = 0; y < 2; ++y) {
      clear_row(y);
      clear_row(t.height + 2 + y);
    }
  }

  STN_INLINE void clear_row(int64_t y) const { store_zeros(row(y), this->pitch * Simd<T>::lanes); }
};

// Up to a vector of channels from c on, of one tile; in planes or channels last. source: as for adjoint_to.
template <class T, class Source>
STN_INLINE void adjoint_vectors(const Problem<T>& p, const Source& source, int64_t image,
                                const Readers& readers, int64_t c, int64_t channels, const Tile& tile,
                                T* scratch) {
  constexpr int lanes = Simd<T>::lanes;
  const PackedCells<T> cells(tile, scratch);
  const T* grad = p.grad.data + c * p.grad.channel;
  Vec<T> v[lanes] = {};
  const auto add = [&](const Deposits<T>& d, int64_t n, int64_t i, int64_t j) STN_LAMBDA {
    const int64_t count = p.frame.out_width - j;
    load_pixels(p.grad, grad + n * p.grad.batch + i * p.grad.row + j * p.grad.pixel, channels, count, v);
    cells.add(d, v, count);
  };
  for_deposits(source, readers, cells, add);
  cells.collect(p.grad_input, image, c, channels);
}

template <class T>
void adjoint_group(const Problem<T>& p, int64_t image, const Readers& readers, int64_t c, int64_t channels,
                   const Tile& tile, T* scratch) {
  adjoint_vectors(p, p, image, readers, c, channels, tile, scratch);
}

}  // namespace STN_LEVEL
}  // namespace stn::cpu
