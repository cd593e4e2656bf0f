// The primitives with the channels of a pixel side by side, a vector of them at a time: for images whose
// memory has them so (channels last), and for many channels in planes that are small enough to be packed
// first. Included by level sources only; see kernels.h.
#pragma once

#include "affine_kernels.h"

namespace stn::cpu {
namespace STN_LEVEL {

// Channels of one image with the pixels of a row `pixel` elements apart.
template <class T>
struct Packed {
  const T* data;
  int64_t row, pixel;
};

// Pixels of a block, lane by lane of channels.
template <class T>
struct PackedBlock {
  alignas(64) T value[kBlock * Simd<T>::lanes];
};

// ---- packing ----

// out[x * lanes + c] = planes[c * channel + x], for x < count and c < channels; 0 for channels up to lanes.
template <class T>
STN_INLINE void pack_row(const T* planes, int64_t channel, int64_t channels, int64_t count, T* out) {
  constexpr int lanes = Simd<T>::lanes;
  int64_t x = 0;
  if (channels == lanes) {
    for (; x + lanes <= count; x += lanes) {
      Vec<T> v[lanes];
      for (int c = 0; c < lanes; ++c) v[c] = load<Vec<T>>(planes + c * channel + x);
      transpose<T>(v);
      for (int k = 0; k < lanes; ++k) store(out + (x + k) * lanes, v[k]);
    }
  }
  for (; x < count; ++x) {
    for (int64_t c = 0; c < lanes; ++c) out[x * lanes + c] = c < channels ? planes[c * channel + x] : T(0);
  }
}

// The inverse, for a block.
template <class T>
STN_INLINE void unpack_block(const PackedBlock<T>& b, int64_t channel, int64_t channels, int count,
                             T* planes) {
  constexpr int lanes = Simd<T>::lanes;
  int x = 0;
  if (channels == lanes) {
    for (; x + lanes <= count; x += lanes) {
      Vec<T> v[lanes];
      for (int k = 0; k < lanes; ++k) v[k] = load<Vec<T>>(b.value + (x + k) * lanes);
      transpose<T>(v);
      for (int c = 0; c < lanes; ++c) store(planes + c * channel + x, v[c]);
    }
  }
  for (; x < count; ++x) {
    for (int64_t c = 0; c < channels; ++c) planes[c * channel + x] = b.value[x * lanes + c];
  }
}

// Up to a vector of channels of one image, packed into scratch.
template <class T>
STN_INLINE Packed<T> pack_image(const Problem<T>& p, int64_t n, int64_t c, int64_t channels, T* scratch) {
  const T* planes = p.input.data + n * p.input.batch + c * p.input.channel;
  const int64_t pixel = Simd<T>::lanes, row = p.stored_width * pixel;
  for (int64_t y = 0; y < p.stored_height; ++y) {
    pack_row(planes + y * p.input.row, p.input.channel, channels, p.stored_width, scratch + y * row);
  }
  return {scratch, row, pixel};
}

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

  STN_INLINE TapPointers(const Packed<T>& image, const Block<T>& b, int k, int32_t use, const T* zeros) {
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
STN_INLINE void sample_packed(const Packed<T>& image, const Block<T>& b, int64_t channels, const T* zeros,
                              T* out, int64_t out_pixel) {
  constexpr int lanes = Simd<T>::lanes;
  alignas(64) int32_t use[kBlock];
  alignas(64) T weight[4 * kBlock];
  if (!b.inside) find_used<false>(b, use);
  for (int k = 0; k < b.count; k += lanes) {
    const auto wx0 = load<Vec<T>>(b.wx0 + k), wx1 = load<Vec<T>>(b.wx1 + k);
    const auto wy0 = load<Vec<T>>(b.wy0 + k), wy1 = load<Vec<T>>(b.wy1 + k);
    store_interleaved<T>(weight + 4 * k, wy0 * wx0, wy0 * wx1, wy1 * wx0, wy1 * wx1);
  }
  for (int k = 0; k < b.count; ++k) {
    const TapPointers<T> t(image, b, k, b.inside ? kAllTaps : use[k], zeros);
    const T *w = weight + 4 * k, *p0 = t.at[0], *p1 = t.at[1], *p2 = t.at[2], *p3 = t.at[3];
    T* o = out + k * out_pixel;
    int64_t c = 0;
    for (; c + lanes <= channels; c += lanes) {
      store(o + c, w[0] * load<Vec<T>>(p0 + c) + w[1] * load<Vec<T>>(p1 + c) +
                       (w[2] * load<Vec<T>>(p2 + c) + w[3] * load<Vec<T>>(p3 + c)));
    }
    for (; c < channels; ++c) o[c] = w[0] * p0[c] + w[1] * p1[c] + (w[2] * p2[c] + w[3] * p3[c]);
  }
}

// Rows [begin, end) of image n, channels last. zeros: as many as there are channels.
template <class T>
void sample_channels_last(const Problem<T>& p, int64_t n, int64_t begin, int64_t end, const T* zeros) {
  const Geometry<T> g(p, n, p.input.row / p.input.pixel);
  const Packed<T> image{p.input.data + n * p.input.batch, p.input.row, p.input.pixel};
  Block<T> b;
  for (int64_t j = 0; j < p.frame.out_width; j += kBlock) {
    for (int64_t i = begin; i < end; ++i) {
      T* out = p.output.data + n * p.output.batch + i * p.output.row + j * p.output.pixel;
      if (fill_block<false>(g, i, j, &b)) {
        sample_packed(image, b, p.channels, zeros, out, p.output.pixel);
      } else {
        __builtin_memset(out, 0, sizeof(T) * static_cast<size_t>(b.count * p.output.pixel));
      }
    }
  }
}

// All of a group of channels of image n, through scratch.
template <class T>
void sample_group(const Problem<T>& p, int64_t n, int64_t c, int64_t channels, T* scratch) {
  alignas(64) const T zeros[Simd<T>::lanes] = {};
  const Packed<T> image = pack_image(p, n, c, channels, scratch);
  const Geometry<T> g(p, n, p.stored_width);
  Block<T> b;
  PackedBlock<T> values;
  for (int64_t j = 0; j < p.frame.out_width; j += kBlock) {
    for (int64_t i = 0; i < p.frame.out_height; ++i) {
      T* out = p.output.data + n * p.output.batch + c * p.output.channel + i * p.output.row + j;
      if (fill_block<false>(g, i, j, &b)) {
        sample_packed(image, b, Simd<T>::lanes, zeros, values.value, Simd<T>::lanes);
        unpack_block(values, p.output.channel, channels, b.count, out);
        continue;
      }
      zero_planes(p, b.count, channels, out);
    }
  }
}

// ---- moments ----

// Reduces a block's moments; grad + k * grad_pixel is pixel k's gradient.
template <class T>
STN_INLINE void moments_packed(const Packed<T>& image, const Block<T>& b, int64_t channels, const T* zeros,
                               const T* grad, int64_t grad_pixel, T* sums) {
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
    T total[4];
    sum_lanes_of_four<T>(sum, total);
    for (; c < channels; ++c) {
      for (int q = 0; q < 4; ++q) total[q] += g[c] * t.at[q][c];
    }
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
  const Packed<T> image{p.input.data + n * p.input.batch, p.input.row, p.input.pixel};
  const T* grad = p.grad.data + n * p.grad.batch;
  for_moments(g, begin, end, out, [&](const Block<T>& b, int64_t i, int64_t j, T* sums) STN_LAMBDA {
    moments_packed(image, b, p.channels, zeros, grad + i * p.grad.row + j * p.grad.pixel, p.grad.pixel, sums);
  });
}

template <class T>
void moments_group(const Problem<T>& p, int64_t n, int64_t c, int64_t channels, T* scratch, double* out) {
  alignas(64) const T zeros[Simd<T>::lanes] = {};
  const Packed<T> image = pack_image(p, n, c, channels, scratch);
  const Geometry<T> g(p, n, p.stored_width);
  const T* grad = p.grad.data + n * p.grad.batch + c * p.grad.channel;
  PackedBlock<T> packed;
  for_moments(g, 0, p.frame.out_height, out,
              [&](const Block<T>& b, int64_t i, int64_t j, T* sums) STN_LAMBDA {
                pack_row(grad + i * p.grad.row + j, p.grad.channel, channels, b.count, packed.value);
                moments_packed(image, b, Simd<T>::lanes, zeros, packed.value, Simd<T>::lanes, sums);
              });
}

// ---- adjoint ----

// A tile's pixels and the ring around them, with a vector of channels each, to which output pixels add.
template <class T>
struct PackedCells : TileFrame<T> {
  T* cells;

  STN_INLINE PackedCells(const Tile& t, T* scratch) : TileFrame<T>(t), cells(scratch) {}

  STN_INLINE void clear() const {
    __builtin_memset(cells, 0,
                     sizeof(T) * static_cast<size_t>((this->rows() + 1) * this->pitch * Simd<T>::lanes));
  }

  STN_INLINE void add(const Deposits<T>& d, const T* grad, int64_t grad_pixel, int count) const {
    constexpr int lanes = Simd<T>::lanes;
    for (int k = 0; k < count; ++k) {
      const auto g = load<Vec<T>>(grad + k * grad_pixel);
      const T* w = d.weight + 4 * k;
      T* upper = cells + static_cast<int64_t>(d.cell[k]) * lanes;
      T* lower = upper + this->pitch * lanes;
      store(upper, load<Vec<T>>(upper) + w[0] * g);
      store(upper + lanes, load<Vec<T>>(upper + lanes) + w[1] * g);
      store(lower, load<Vec<T>>(lower) + w[2] * g);
      store(lower + lanes, load<Vec<T>>(lower + lanes) + w[3] * g);
    }
  }
};

// grad_input of one tile, of up to a vector of channels.
template <class T>
void adjoint_group(const Problem<T>& p, int64_t n, int64_t c, int64_t channels, const Tile& tile,
                   T* scratch) {
  constexpr int lanes = Simd<T>::lanes;
  const Geometry<T> g(p, n, 0);
  const PackedCells<T> cells(tile, scratch);
  const T* grad = p.grad.data + n * p.grad.batch + c * p.grad.channel;
  const bool direct = p.grad.channel == 1 && channels == lanes;
  PackedBlock<T> packed;
  cells.clear();
  for_deposits(g, cells, [&](const Deposits<T>& d, int64_t i, int64_t j, int count) STN_LAMBDA {
    const T* from = grad + i * p.grad.row + j * p.grad.pixel;
    if (direct) return cells.add(d, from, p.grad.pixel, count);
    if (p.grad.channel == 1) {
      for (int k = 0; k < count; ++k)
        store(packed.value + k * lanes, load_some<Vec<T>>(from + k * p.grad.pixel, channels));
    } else {
      pack_row(from, p.grad.channel, channels, count, packed.value);
    }
    cells.add(d, packed.value, lanes, count);
  });
  const Images<T>& to = p.grad_input;
  T* out = to.data + n * to.batch + c * to.channel + tile.top * to.row + tile.left * to.pixel;
  for (int64_t y = 0; y < tile.height; ++y) {
    const T* from = cells.cells + ((y + 2) * cells.pitch + 2) * lanes;
    for (int64_t x = 0; x < tile.width; x += kBlock) {
      const int count = static_cast<int>(tile.width - x < kBlock ? tile.width - x : kBlock);
      if (to.channel == 1) {
        for (int k = 0; k < count; ++k) {
          store_some(out + y * to.row + (x + k) * to.pixel, load<Vec<T>>(from + (x + k) * lanes), channels);
        }
      } else {
        __builtin_memcpy(packed.value, from + x * lanes, sizeof(T) * static_cast<size_t>(count * lanes));
        unpack_block(packed, to.channel, channels, count, out + y * to.row + x);
      }
    }
  }
}

template <class T>
constexpr Kernels<T> kernels() {
  return {
      Simd<T>::lanes,           sample<T>,       moments<T>,       adjoint<T>,      sample_channels_last<T>,
      moments_channels_last<T>, sample_group<T>, moments_group<T>, adjoint_group<T>};
}

inline Level level(const char* name) { return {name, kernels<float>(), kernels<double>()}; }

}  // namespace STN_LEVEL
}  // namespace stn::cpu
