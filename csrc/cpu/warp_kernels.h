// The three primitives for any map, images or volumes, any layout and any weights (../warp.h). Included by
// level sources only; see kernels.h.
//
// All work by tiles of the output: the radial functions' values there, which all maps share; for each map,
// row by row, the coordinates, then the taps and weights, which all channels share; then the channels.
#pragma once

#include "warp_tiles.h"

namespace stn::cpu {
namespace STN_LEVEL {

template <Padding padding>
struct PaddingIs {
  static constexpr Padding value = padding;
};
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
  const auto fill = [&](auto padding) STN_LAMBDA {
    (w.nearest ? fill_axis<padding.value, true, T> : fill_axis<padding.value, false, T>)(w, l, d, count, a);
  };
  if (w.padding == Padding::zeros) {
    fill(PaddingIs<Padding::zeros>());
  } else if (w.padding == Padding::border) {
    fill(PaddingIs<Padding::border>());
  } else {
    fill(PaddingIs<Padding::reflection>());
  }
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
                                           const OutTile& t, const T* radial) {
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

// f(tile) for a part's tiles of the output.
template <class T, class F>
STN_INLINE void for_part_tiles(const Warp<T>& w, const WarpPart& part, const F& f) {
  for_tiles(w.out[0], part.row_begin, part.row_end, f);
}

template <class T>
void warp_sample(const Warp<T>& w, const WarpPart& part, T* radial) {
  for_part_tiles(w, part, [&](const OutTile& t) STN_LAMBDA {
    fill_radial(w, t, radial);
    for (int64_t map = part.map_begin; map < part.map_end; ++map) {
      if (is_planar(w) && sample_planes(w, part, map, t, radial)) continue;
      with_shape(w, [&](auto dims, auto tangent)
                        STN_LAMBDA { sample_rows<dims.value, tangent.value != 0>(w, part, map, t, radial); });
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
                                            const OutTile& t, const T* radial, double* gradient) {
  TapBlock<T, dims, dims> b;
  Streams s;
  Positions l;
  alignas(64) T sums[1 << dims][kBlock];
  alignas(64) double by_at[dims][kBlock], by_along[dims][kBlock];
  const bool curved = tangent && w.perspective;  // tangents then depend on theta
  const T* image = w.input.data + w.image_of(map) * w.input.batch;
  for (int64_t r = 0; r < t.rows; ++r) {
    const RowBlock at = row_of(t, r);
    const T* radial_row = radial + r * t.columns;
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
void warp_moments(const Warp<T>& w, const WarpPart& part, T* radial, double* gradients) {
  for_part_tiles(w, part, [&](const OutTile& t) STN_LAMBDA {
    fill_radial(w, t, radial);
    for (int64_t map = part.map_begin; map < part.map_end; ++map) {
      double* gradient = gradients + (map - part.map_begin) * w.streams() * w.basis;
      if (is_planar(w) && moments_planes(w, part, map, t, radial, gradient)) continue;
      with_shape(w, [&](auto dims, auto tangent) STN_LAMBDA {
        moments_rows<dims.value, tangent.value != 0>(w, part, map, t, radial, gradient);
      });
    }
  });
}

// ---- adjoint ----
//
// By slabs of the input, across its last axis (rows of an image, slices of a volume): each takes from the
// bundles of output pixels that touch it, in order, what falls into it.

// A row of the bundle whose columns begin at j.
template <class T>
STN_INLINE OutTile bundle_row(const Warp<T>& w, int64_t row, int64_t j) {
  return {row, j, 1, w.out[0] - j < kWalk ? w.out[0] - j : kWalk};
}

// Where the bundles of all maps of a part touch the last axis: reaches[map * bundles + bundle] are widened.
template <class T>
void warp_reaches(const Warp<T>& w, const WarpPart& part, T* radial, Reach* reaches) {
  const Bundles bundles(w);
  const int last = w.dims - 1;
  AxisBlock<T> axis;
  Streams s;
  Positions l;
  for (int64_t row = part.row_begin; row < part.row_end; ++row) {
    for (int64_t j = 0; j < w.out[0]; j += kWalk) {
      const OutTile t = bundle_row(w, row, j);
      fill_radial(w, t, radial);
      for (int64_t map = part.map_begin; map < part.map_end; ++map) {
        place(w, map, row_of(t, 0), radial, &s, &l);
        fill_axis(w, l, last, static_cast<int>(padded<T>(t.columns)), &axis);
        Reach& reach = reaches[map * bundles.count + bundles.of(row, j)];
        T low = static_cast<T>(reach.low), high = static_cast<T>(reach.high);
        for (int k = 0; k < t.columns; ++k) {
          low = axis.tap[k] < low ? axis.tap[k] : low;
          high = axis.tap[k] > high ? axis.tap[k] : high;
        }
        reach = {static_cast<int64_t>(low), static_cast<int64_t>(high)};
      }
    }
  }
}

// Adds what a row's pixels leave in a slab.
template <int dims, class T>
STN_INLINE void deposit(const Warp<T>& w, const TapBlock<T, dims, 1>& b, const Slab& slab, const T* grad,
                        int64_t channels, T* out) {
  constexpr int last = dims - 1;
  int64_t offset[1 << dims];
  bool exists[1 << dims];  // a pixel alone along an axis has only been read as if it had a neighbour
  for (int t = 0; t < b.taps; ++t) {
    offset[t] = tap_offset<dims>(w.grad_input, t);
    exists[t] = true;
    for (int d = 0; d < dims; ++d) exists[t] &= w.in[d] > 1 || !(t >> d & 1);
  }
  for (int k = 0; k < b.count; ++k) {
    const auto first = static_cast<int64_t>(b.axis[last].tap[k]);
    if (first + 1 < slab.begin || first >= slab.end) continue;
    const bool part[2] = {first >= slab.begin, first + 1 < slab.end};
    T* to = out;
    for (int d = 0; d < dims; ++d) to += static_cast<int64_t>(b.axis[d].tap[k]) * w.grad_input.axis[d];
    const T* from = grad + k * w.grad.axis[0];
    for (int t = 0; t < b.taps; ++t) {
      const T weight = b.weight[0][t][k];
      // Not 0, and not NaN: such a coordinate has no taps.
      if (!(weight < 0 || weight > 0) || !exists[t] || !part[t >> last]) continue;
      for (int64_t c = 0; c < channels; ++c) {
        to[offset[t] + c * w.grad_input.channel] += weight * from[c * w.grad.channel];
      }
    }
  }
}

// The rows of a bundle: what they leave in the slabs of all images of a part, which share the radial
// functions.
template <int dims, bool tangent, class T>
__attribute__((noinline)) void add_bundle(const Warp<T>& w, const SlabPart& part, int64_t bundle, T* radial) {
  TapBlock<T, dims, 1> b;
  Streams s;
  Positions l;
  const Bundles bundles(w);
  const int64_t begin = bundles.row(bundle), left = w.rows() - begin;
  for (int64_t row = begin; row < begin + (left < kBundleRows ? left : kBundleRows); ++row) {
    const OutTile t = bundle_row(w, row, bundles.column(bundle));
    const RowBlock at = row_of(t, 0);
    bool filled = false;
    b.count = at.count;
    for (int64_t image = part.image_begin; image < part.image_end; ++image) {
      const Readers& readers = part.readers[image];
      T* out = w.grad_input.data + image * w.grad_input.batch + part.channel * w.grad_input.channel;
      for (const int64_t* map = readers.begin; map < readers.end; ++map) {
        if (part.reaches) {
          const Reach& reach = part.reaches[*map * bundles.count + bundle];
          if (reach.high + 1 < part.slab.begin || reach.low >= part.slab.end) continue;
        }
        if (!filled) fill_radial(w, t, radial);
        filled = true;
        place(w, *map, at, radial, &s, &l);
        fill_taps<Weights::value, tangent>(w, l, &b);
        const T* grad = w.grad.data + *map * w.grad.batch + part.channel * w.grad.channel;
        deposit(w, b, part.slab, grad + offset_of(w.grad, w.out, at), part.channels, out);
      }
    }
  }
}

// The pixels of a slab are 0.
template <class T>
STN_INLINE void clear_slab(const Warp<T>& w, const Slab& slab, int64_t channels, T* out) {
  const int last = w.dims - 1;
  const int64_t* axis = w.grad_input.axis;
  const int64_t middle = last == 2 ? w.in[1] : 1;
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t z = slab.begin; z < slab.end; ++z) {
      for (int64_t y = 0; y < middle; ++y) {
        T* row = out + c * w.grad_input.channel + z * axis[last] + y * axis[1];
        if (axis[0] == 1) {
          __builtin_memset(row, 0, sizeof(T) * static_cast<size_t>(w.in[0]));
        } else {
          for (int64_t x = 0; x < w.in[0]; ++x) row[x * axis[0]] = 0;
        }
      }
    }
  }
}

// grad_input of a part.
template <class T>
void warp_adjoint(const Warp<T>& w, const SlabPart& part, T* radial) {
  for (int64_t image = part.image_begin; image < part.image_end; ++image) {
    const int64_t first = image * w.grad_input.batch + part.channel * w.grad_input.channel;
    clear_slab(w, part.slab, part.channels, w.grad_input.data + first);
  }
  for (int64_t bundle = 0; bundle < Bundles(w).count; ++bundle) {
    with_shape(w, [&](auto dims, auto tangent)
                      STN_LAMBDA { add_bundle<dims.value, tangent.value != 0>(w, part, bundle, radial); });
  }
}

}  // namespace STN_LEVEL
}  // namespace stn::cpu
