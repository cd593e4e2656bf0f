// Sample and moments for any map, images or volumes, any layout and any weights (../warp.h). Included by
// level sources only; see kernels.h.
//
// All work by tiles of the output: the radial functions' values there, which all maps share; for each map,
// row by row, the coordinates, then the taps and weights, which all channels share; then the channels.
#pragma once

#include "warp_planes.h"

namespace stn::cpu {
namespace STN_LEVEL {

template <int number>
struct IntIs {
  static constexpr int value = number;
};

// ---- taps ----

// AxisTaps of a block's pixels along one axis, and their tangents.
template <class T>
struct AxisBlock {
  alignas(64) T tap[kBlock], w0[kBlock], w1[kBlock], d0[kBlock], d1[kBlock], along[kBlock];
};

// Not inlined, as it is not for each dims and each kind of weights.
template <Padding padding, bool nearest, class T>
__attribute__((noinline)) void fill_axis(const Warp<T>& w, const Positions& l, int d, int count,
                                         AxisBlock<T>* a) {
  alignas(64) T whole[kBlock], frac[kBlock];
  split_block<padding>(l.at[d], w.in[d], w.align_corners, count, whole, frac);
  for (int k = 0; k < count; ++k) a->along[k] = w.tangent ? static_cast<T>(l.along[d][k]) : T(0);
  const Vec<T> length = Vec<T>{} + static_cast<T>(w.in[d]),
               highest = Vec<T>{} + static_cast<T>(w.stored[d] - 2);
  for (int k = 0; k < count; k += Simd<T>::lanes) {
    const auto x = load<Vec<T>>(whole + k), fx = load<Vec<T>>(frac + k);
    const AxisTaps<Vec<T>> t = nearest ? nearest_taps<padding>(x, fx, length, highest, w.align_corners)
                                       : axis_taps<padding>(x, fx, length, highest, w.align_corners);
    store(a->tap + k, t.tap);
    store(a->w0 + k, t.w0);
    store(a->w1 + k, t.w1);
    store(a->d0 + k, t.d0);
    store(a->d1 + k, t.d1);
  }
}

template <class T>
STN_INLINE void fill_axis(const Warp<T>& w, const Positions& l, int d, int count, AxisBlock<T>* a) {
  with_padding(w.padding, [&](auto padding) STN_LAMBDA {
    (w.nearest ? fill_axis<padding.value, true, T> : fill_axis<padding.value, false, T>)(w, l, d, count, a);
  });
}

// A block's taps, the first of each pixel's by its pixels along the axes, and `sets` weights of each tap.
template <class T, int dims, int sets>
struct TapBlock {
  static constexpr int taps = 1 << dims;
  int count;
  AxisBlock<T> axis[dims];
  alignas(64) T weight[sets][taps][kBlock];
};

enum class Weights { value, slopes };  // one set, or one an axis

template <Weights weights, bool tangent, int dims, class T, int sets>
__attribute__((noinline)) void fill_taps(const Warp<T>& w, const Positions& l, TapBlock<T, dims, sets>* b) {
  const int count = static_cast<int>(padded<T>(b->count));
  for (int d = 0; d < dims; ++d) fill_axis(w, l, d, count, b->axis + d);
  for (int k = 0; k < count; k += Simd<T>::lanes) {
    AxisTaps<Vec<T>> a[dims];
    Vec<T> along[dims];
    for (int d = 0; d < dims; ++d) {
      const AxisBlock<T>& from = b->axis[d];
      a[d] = AxisTaps<Vec<T>>{{},
                              load<Vec<T>>(from.w0 + k),
                              load<Vec<T>>(from.w1 + k),
                              load<Vec<T>>(from.d0 + k),
                              load<Vec<T>>(from.d1 + k)};
      along[d] = load<Vec<T>>(from.along + k);
    }
    for (int t = 0; t < b->taps; ++t) {
      for (int set = 0; set < sets; ++set) {
        store(b->weight[set][t] + k, weights == Weights::value
                                         ? value_weight<dims, tangent>(a, along, t)
                                         : slope_weight<dims, tangent>(a, along, t, set));
      }
    }
  }
}

template <int dims, class I>
STN_INLINE int64_t tap_offset(const I& images, int t) {
  int64_t offset = 0;
  for (int d = 0; d < dims; ++d) offset += (t >> d & 1) * images.axis[d];
  return offset;
}

// The elements before each pixel's first tap in one channel.
template <int dims, int sets, class T>
STN_INLINE void fill_offsets(const Warp<T>& w, const TapBlock<T, dims, sets>& b, int64_t* offset) {
  for (int k = 0; k < padded<T>(b.count); ++k) {
    offset[k] = 0;
    if (k >= b.count) continue;
    for (int d = 0; d < dims; ++d) offset[k] += static_cast<int64_t>(b.axis[d].tap[k]) * w.input.axis[d];
  }
}

template <class T>
STN_INLINE Vec<T> gather(const T* from, const int64_t* offset) {
  Vec<T> v;
  for (int lane = 0; lane < Simd<T>::lanes; ++lane) v[lane] = from[offset[lane]];
  return v;
}

// ---- sample ----

// One map's tile, for channels of the part.
template <int dims, bool tangent, class T>
__attribute__((noinline)) void sample_rows(const Warp<T>& w, const WarpPart& part, int64_t map,
                                           TileRadial<T>* tile_radial) {
  const OutTile& t = tile_radial->tile();
  const T* radial = tile_radial->all();
  TapBlock<T, dims, 1> b;
  Streams s;
  Positions l;
  alignas(64) int64_t offset[kBlock];
  const T* image = w.input.data + w.image_of(map) * w.input.batch;
  for (int64_t r = 0; r < t.rows; ++r) {
    const RowBlock at = row_of(t, r);
    b.count = at.count;
    place(w, map, at, radial + r * t.columns, &s, &l);
    fill_taps<Weights::value, tangent>(w, l, &b);
    fill_offsets(w, b, offset);
    T* output = w.output.data + map * w.output.batch + offset_of(w.output, w.out, at);
    for (int64_t c = part.channel_begin; c < part.channel_end; ++c) {
      for (int k = 0; k < at.count; k += Simd<T>::lanes) {
        Vec<T> sum{};
        for (int tap = 0; tap < b.taps; ++tap) {
          const auto weight = load<Vec<T>>(b.weight[0][tap] + k);
          const auto v = gather(image + c * w.input.channel + tap_offset<dims>(w.input, tap), offset + k);
          sum += weight * keep_lanes(weight != 0, v);
        }
        store_strided(output + c * w.output.channel + k * w.output.axis[0], sum, w.output.axis[0],
                      at.count - k);
      }
    }
  }
}

// f(dims, whether there is a tangent), as types.
template <class T, class F>
STN_INLINE void with_shape(const Warp<T>& w, const F& f) {
  if (w.dims == 2) {
    w.tangent ? f(IntIs<2>(), IntIs<1>()) : f(IntIs<2>(), IntIs<0>());
  } else {
    w.tangent ? f(IntIs<3>(), IntIs<1>()) : f(IntIs<3>(), IntIs<0>());
  }
}

template <class T>
void warp_sample(const Warp<T>& w, const WarpPart& part, T* values) {
  for_tiles(w.out[0], tile_pixels(w), part.row_begin, part.row_end, [&](const OutTile& t) STN_LAMBDA {
    TileRadial<T> radial(w, t, values);
    for (int64_t map = part.map_begin; map < part.map_end; ++map) {
      if (has_windows(w) && sample_planes(w, part, map, &radial)) continue;
      with_shape(w, [&](auto dims, auto tangent)
                        STN_LAMBDA { sample_rows<dims.value, tangent.value != 0>(w, part, map, &radial); });
    }
  });
}

// ---- moments ----

// For each tap, the sum over channels of grad * tap. A tap without a weight in any set takes no part.
template <int dims, class T>
STN_INLINE void tap_sums(const Warp<T>& w, const WarpPart& part, const TapBlock<T, dims, dims>& b,
                         const T* image, const T* grad, T (*sums)[kBlock]) {
  alignas(64) int64_t offset[kBlock];
  fill_offsets(w, b, offset);
  for (int k = 0; k < b.count; k += Simd<T>::lanes) {
    for (int t = 0; t < b.taps; ++t) {
      auto used = load<Vec<T>>(b.weight[0][t] + k) != 0;
      for (int set = 1; set < dims; ++set) used |= load<Vec<T>>(b.weight[set][t] + k) != 0;
      Vec<T> sum{};
      for (int64_t c = part.channel_begin; c < part.channel_end; ++c) {
        const auto g =
            load_strided<T>(grad + c * w.grad.channel + k * w.grad.axis[0], w.grad.axis[0], b.count - k);
        const auto v = gather(image + c * w.input.channel + tap_offset<dims>(w.input, t), offset + k);
        sum += g * keep_lanes(used, v);
      }
      store(sums[t] + k, sum);
    }
  }
}

// The derivatives of the loss by the coordinates: by[d][k].
template <int dims, class T>
STN_INLINE void slope_sums(const TapBlock<T, dims, dims>& b, const T (*sums)[kBlock], double (*by)[kBlock]) {
  for (int d = 0; d < dims; ++d) {
    for (int k = 0; k < b.count; ++k) {
      T sum = 0;
      for (int t = 0; t < b.taps; ++t) sum += b.weight[d][t][k] * sums[t][k];
      by[d][k] = static_cast<double>(sum);
    }
  }
}

// One map's tile; adds to its gradient.
template <int dims, bool tangent, class T>
__attribute__((noinline)) void moments_rows(const Warp<T>& w, const WarpPart& part, int64_t map,
                                            TileRadial<T>* tile_radial, double* gradient) {
  const OutTile& t = tile_radial->tile();
  const T* all = tile_radial->all();
  TapBlock<T, dims, dims> b;
  Streams s;
  Positions l;
  alignas(64) T sums[1 << dims][kBlock];
  alignas(64) double by_at[dims][kBlock], by_along[dims][kBlock];
  const bool curved = tangent && w.perspective;  // tangents then depend on theta
  const T* image = w.input.data + w.image_of(map) * w.input.batch;
  for (int64_t r = 0; r < t.rows; ++r) {
    const RowBlock at = row_of(t, r);
    const T* radial_row = all + r * t.columns;
    b.count = at.count;
    place(w, map, at, radial_row, &s, &l);
    const T* grad = w.grad.data + map * w.grad.batch + offset_of(w.grad, w.out, at);
    if (curved) {
      fill_taps<Weights::slopes, false>(w, l, &b);
      tap_sums(w, part, b, image, grad, sums);
      slope_sums(b, sums, by_along);
    }
    fill_taps<Weights::slopes, tangent>(w, l, &b);
    tap_sums(w, part, b, image, grad, sums);
    slope_sums(b, sums, by_at);
    add_gradient(w, at, s, by_at, curved ? by_along : nullptr, radial_row, gradient);
  }
}

// gradients: (maps, streams, basis), to be added to.
template <class T>
void warp_moments(const Warp<T>& w, const WarpPart& part, T* values, double* gradients) {
  for_tiles(w.out[0], tile_pixels(w), part.row_begin, part.row_end, [&](const OutTile& t) STN_LAMBDA {
    TileRadial<T> radial(w, t, values);
    for (int64_t map = part.map_begin; map < part.map_end; ++map) {
      double* gradient = gradients + (map - part.map_begin) * w.streams() * w.basis;
      if (has_windows(w) && moments_planes(w, part, map, &radial, gradient)) continue;
      with_shape(w, [&](auto dims, auto tangent) STN_LAMBDA {
        moments_rows<dims.value, tangent.value != 0>(w, part, map, &radial, gradient);
      });
    }
  });
}

}  // namespace STN_LEVEL
}  // namespace stn::cpu
