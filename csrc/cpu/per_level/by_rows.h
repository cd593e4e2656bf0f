// The three primitives on the careful path (rows.h), for one map's tile of the output. Included by level
// sources only; see problem.h.
#pragma once

#include "grad_input.h"
#include "rows.h"

namespace stn::cpu {
namespace STN_LEVEL {

// The values of all taps, in whole vectors.
template <int taps, class T>
STN_INLINE void gather_taps(const Rows<T>& as, const char* image, const int64_t (*offset)[kBlock], int count,
                            T outside, T (*values)[kBlock]) {
  for (int t = 0; t < taps; t += 2) {
    as.gather(image, offset[t], offset[t + 1], count, outside, values[t], values[t + 1]);
  }
}

// ---- sample ----

template <int dims, bool tangent, class T>
__attribute__((noinline)) void sample_rows(const Problem& p, const Rows<T>& as, const Unit& u, int64_t map,
                                           TileRadial<T>* tile_radial) {
  const OutTile& t = tile_radial->tile();
  const T* radial = tile_radial->all();
  const MapLines lines = map_lines(p, map);
  TapBlock<T, dims, 1> b;
  Streams s;
  Positions l;
  constexpr int taps = TapBlock<T, dims, 1>::taps;
  alignas(64) int64_t offset[taps][kBlock];
  alignas(64) T values[taps][kBlock], sums[kBlock];
  for (int64_t r = 0; r < t.rows; ++r) {
    const RowBlock at = row_of(t, r);
    b.count = at.count;
    place(p, lines, at, radial + r * t.columns, &s, &l);
    fill_taps<Weights::value, tangent>(p, l, &b);
    fill_offsets<taps>(b, p.input.axis, offset[0]);
    for (int64_t c = u.channel_begin; c < u.channel_end; ++c) {
      const char* image = p.input.data + (p.image_of(map) * p.input.batch + c * p.input.channel) * as.size;
      gather_taps<taps>(as, image, offset, at.count, static_cast<T>(p.fill_of(c)), values);
      for (int k = 0; k < at.count; k += Simd<T>::lanes) {
        Vec<T> sum{};
        for (int tap = 0; tap < taps; ++tap) {
          // A tap of weight 0 takes no part: it may be infinite.
          const auto weight = load<Vec<T>>(b.weight[0][tap] + k);
          sum += weight * keep_lanes(weight != 0, load<Vec<T>>(values[tap] + k));
        }
        store(sums + k, sum);
      }
      as.store(sums, 0, 1, p.output.axis[0], at.count, address(p.output, as.size, p, map, c, at));
    }
  }
}

// ---- theta's gradient ----

// For each tap, the sum over channels of grad * tap. A tap without a weight in any set takes no part.
template <int dims, class T>
STN_INLINE void tap_sums(const Problem& p, const Rows<T>& as, int64_t channel_begin, int64_t channel_end,
                         int64_t map, const RowBlock& at, const TapBlock<T, dims, dims>& b,
                         T (*sums)[kBlock]) {
  alignas(64) int64_t offset[1 << dims][kBlock];
  alignas(64) T grad[kBlock] = {}, values[1 << dims][kBlock];
  fill_offsets<1 << dims>(b, p.input.axis, offset[0]);
  for (int t = 0; t < b.taps; ++t) {
    for (int k = 0; k < kBlock; ++k) sums[t][k] = 0;
  }
  for (int64_t c = channel_begin; c < channel_end; ++c) {
    const char* image = p.input.data + (p.image_of(map) * p.input.batch + c * p.input.channel) * as.size;
    as.load(address(p.grad, as.size, p, map, c, at), 1, p.grad.axis[0], at.count, grad, 0);
    gather_taps<1 << dims>(as, image, offset, at.count, static_cast<T>(p.fill_of(c)), values);
    for (int t = 0; t < b.taps; ++t) {
      for (int k = 0; k < at.count; k += Simd<T>::lanes) {
        auto used = load<Vec<T>>(b.weight[0][t] + k) != 0;
        for (int set = 1; set < dims; ++set) used |= load<Vec<T>>(b.weight[set][t] + k) != 0;
        const Vec<T> v = keep_lanes(used, load<Vec<T>>(values[t] + k));
        store(sums[t] + k, load<Vec<T>>(sums[t] + k) + load<Vec<T>>(grad + k) * v);
      }
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

// The derivatives of the loss by the streams, from those by the coordinates (StreamGradient).
STN_INLINE void stream_gradients(const Problem& p, const Streams& s, const double (*by_at)[kBlock], int count,
                                 double (*by)[kBlock]) {
  alignas(64) double inverse[kBlock];
  if (p.perspective) {
    for (int k = 0; k < count; ++k) {
      inverse[k] = over_depth(s.u[p.dims][k]);
      by[p.dims][k] = 0;
    }
  }
  for (int d = 0; d < p.dims; ++d) {
    const double scale = PixelScale(p.in[d], p.align_corners).scale;
    for (int k = 0; k < count; ++k) by[d][k] = by_at[d][k] * scale;
    if (!p.perspective) continue;
    for (int k = 0; k < count; ++k) {
      by[d][k] *= inverse[k];
      by[p.dims][k] -= by[d][k] * (s.u[d][k] * inverse[k]);
    }
  }
}

// The same where coordinates' tangents depend on theta too.
STN_INLINE void curved_gradients(const Problem& p, const Streams& s, const double (*by_at)[kBlock],
                                 const double (*by_along)[kBlock], int count, double (*by)[kBlock]) {
  for (int k = 0; k < count; ++k) {
    double at[kMaxAxes] = {}, along[kMaxAxes] = {}, u[kMaxAxes + 1] = {}, du[kMaxAxes + 1] = {};
    for (int d = 0; d < p.dims; ++d) {
      at[d] = by_at[d][k];
      along[d] = by_along[d][k];
    }
    for (int d = 0; d <= p.dims; ++d) {
      u[d] = s.u[d][k];
      du[d] = s.du[d][k];
    }
    const StreamGradient g(p, at, along, u, du);
    for (int d = 0; d < p.streams(); ++d) by[d][k] = g.by[d];
  }
}

// Adds a block's part of theta's gradient (streams, basis); by_along: null but for curved maps with a
// tangent.
template <class T>
__attribute__((noinline)) void add_gradient(const Problem& p, const RowBlock& b, const Streams& s,
                                            const double (*by_at)[kBlock], const double (*by_along)[kBlock],
                                            const T* radial, double* gradient) {
  typedef Vec<double> V;
  constexpr int lanes = Simd<double>::lanes;
  alignas(64) double by[kMaxAxes + 1][kBlock];
  if (by_along) {
    curved_gradients(p, s, by_at, by_along, b.count, by);
  } else {
    stream_gradients(p, s, by_at, b.count, by);
  }
  const double x = normalized(b.j, p.out[0], p.align_corners),
               step = normalized_step(p.out[0], p.align_corners),
               y = normalized(b.row % p.out[1], p.out[1], p.align_corners),
               z = normalized(b.row / p.out[1], p.out[2], p.align_corners);
  for (int d = 0; d < p.streams(); ++d) {
    double* to = gradient + d * p.basis;
    V sum{}, by_number{}, number = lane_numbers<double>();
    for (int k = 0; k < b.count; k += lanes, number += lanes) {
      const V v = load_some<V>(by[d] + k, b.count - k);
      store(by[d] + k, v);  // zeros behind the row's end
      sum += v;
      by_number += number * v;
    }
    for (int64_t f = 0; f < p.radial(); ++f) {
      typedef T Half __attribute__((vector_size(lanes * sizeof(T))));
      V product{};
      for (int k = 0; k < b.count; k += lanes) {
        const auto value = load<Half>(radial + f * kRadialStride + k);
        product += load<V>(by[d] + k) * __builtin_convertvector(value, V);
      }
      to[f] += sum_lanes<double>(product);
    }
    const double total = sum_lanes<double>(sum);
    double* linear = to + p.radial();
    linear[0] += x * total + step * sum_lanes<double>(by_number);
    linear[1] += y * total;
    if (p.dims == 3) linear[2] += z * total;
    linear[p.dims] += total;
  }
}

template <int dims, bool tangent, class T>
__attribute__((noinline)) void grad_theta_rows(const Problem& p, const Rows<T>& as, int64_t channel_begin,
                                               int64_t channel_end, int64_t map, TileRadial<T>* tile_radial,
                                               double* gradient) {
  const OutTile& t = tile_radial->tile();
  const T* all = tile_radial->all();
  const MapLines lines = map_lines(p, map);
  TapBlock<T, dims, dims> b;
  Streams s;
  Positions l;
  alignas(64) T sums[1 << dims][kBlock];
  alignas(64) double by_at[dims][kBlock], by_along[dims][kBlock];
  const bool curved = tangent && p.perspective;  // tangents then depend on theta
  for (int64_t r = 0; r < t.rows; ++r) {
    const RowBlock at = row_of(t, r);
    const T* radial_row = all + r * t.columns;
    b.count = at.count;
    place(p, lines, at, radial_row, &s, &l);
    if (curved) {
      fill_taps<Weights::slopes, false>(p, l, &b);
      tap_sums(p, as, channel_begin, channel_end, map, at, b, sums);
      slope_sums(b, sums, by_along);
    }
    fill_taps<Weights::slopes, tangent>(p, l, &b);
    tap_sums(p, as, channel_begin, channel_end, map, at, b, sums);
    slope_sums(b, sums, by_at);
    add_gradient(p, at, s, by_at, curved ? by_along : nullptr, radial_row, gradient);
  }
}

// ---- the input's gradient ----

template <int dims, bool tangent, class T>
__attribute__((noinline)) void grad_input_rows(const Problem& p, const Rows<T>& as, int64_t channel_begin,
                                               int64_t channel_end, int64_t map, TileRadial<T>* tile_radial,
                                               const Accumulator<T>& to) {
  const OutTile& t = tile_radial->tile();
  const T* all = tile_radial->all();
  const MapLines lines = map_lines(p, map);
  TapBlock<T, dims, 1> b;
  Streams s;
  Positions l;
  alignas(64) int64_t offset[TapBlock<T, dims, 1>::taps][kBlock];
  alignas(64) T grad[kBlock] = {};
  for (int64_t r = 0; r < t.rows; ++r) {
    const RowBlock at = row_of(t, r);
    b.count = at.count;
    place(p, lines, at, all + r * t.columns, &s, &l);
    fill_taps<Weights::value, tangent>(p, l, &b);
    fill_offsets<1 << dims>(b, to.axis, offset[0]);
    for (int tap = 0; tap < b.taps; ++tap) {
      for (int k = 0; k < b.count; ++k) {
        const int64_t slab = b.axis[dims - 1].pixel[tap >> (dims - 1) & 1][k];
        const T weight = b.weight[0][tap][k];
        // A coordinate that is not a number has no taps.
        const bool taken = (weight < 0 || weight > 0) && slab >= to.begin && slab < to.end;
        if (!taken) offset[tap][k] = -1;
      }
    }
    for (int64_t c = channel_begin; c < channel_end; ++c) {
      T* image = to.data + (c - channel_begin) * to.channel;
      as.load(address(p.grad, as.size, p, map, c, at), 1, p.grad.axis[0], at.count, grad, 0);
      for (int k = 0; k < b.count; ++k) {
        for (int tap = 0; tap < b.taps; ++tap) {
          if (offset[tap][k] >= 0) image[offset[tap][k]] += b.weight[0][tap][k] * grad[k];
        }
      }
    }
  }
}

}  // namespace STN_LEVEL
}  // namespace stn::cpu
