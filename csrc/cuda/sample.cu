// sample: the output, read from the images where the map says.
#include <cuda_runtime.h>

#include "dispatch.h"
#include "launches.h"
#include "taps.cuh"

namespace stn::cuda {
namespace {

// ---- warps whose pixels all lie within the image: no padding, no tap without a weight ----

template <class S, int count, int dims>
__device__ void sample_inside(const Problem& p, int channels, const char* const (&pixels)[count],
                              const int64_t (&places)[count][dims], bool exists, char* out) {
  constexpr int taps = 1 << dims;
  const int64_t step[3] = {static_cast<int32_t>(p.input.axis[0]), static_cast<int32_t>(p.input.axis[1]),
                           p.input.axis[2]};
  float weight[count][taps];
  const char* from[count];
#pragma unroll
  for (int k = 0; k < count; ++k) {
    from[k] = pixels[k];
    AxisWeights<float> a[dims];
    for (int d = 0; d < dims; ++d) {
      const float frac = fraction(places[k][d]);
      a[d] = {1 - frac, frac, 0, 0};
    }
#pragma unroll
    for (int t = 0; t < taps; ++t) weight[k][t] = tap_product<dims>(a, t, 0);
  }
#pragma unroll 1
  for (int c = channels; c > 0; --c) {
    float value[count][taps];
#pragma unroll
    for (int k = 0; k < count; ++k) {
#pragma unroll
      for (int t = 0; t < taps; ++t) {
        int64_t offset = 0;
        for (int d = 0; d < dims; ++d) offset += t >> d & 1 ? step[d] : 0;
        value[k][t] = load(reinterpret_cast<const S*>(from[k] + offset));
      }
      from[k] += p.input.channel;
    }
    char* to = out;
#pragma unroll
    for (int k = 0; k < count; ++k) {
      float sum = weight[k][0] * value[k][0];
      for (int t = 1; t < taps; ++t) sum = fma(weight[k][t], value[k][t], sum);
      if (exists) store(sum, reinterpret_cast<S*>(to));
      to += p.output.axis[1] * kWarpRows;
    }
    out += p.output.channel;
  }
}

// ---- any pixels, one a lane at a time ----

// What a pixel's channels need. Where lanes share pixels, it lies in shared memory.
template <int dims, class T>
struct Taps {
  int64_t first, step[dims];
  char* to;                      // null: there is no such pixel
  T weight[1 << dims], outside;  // outside: of all taps that have no place in memory

  __device__ int64_t offset(int t) const {
    int64_t sum = first;
#pragma unroll
    for (int d = 0; d < dims; ++d) sum += t >> d & 1 ? step[d] : 0;
    return sum;
  }
};

// A lane's, one after the other.
template <int dims, class T>
union Slot {
  Spot<dims, T> spot;
  Taps<dims, T> taps;
};

template <int dims, class T>
__device__ void weigh(const Problem& p, const Spot<dims, T>& spot, Taps<dims, T>* taps) {
  const Places<dims> places(p, p.input, spot.at);
  AxisWeights<T> a[dims];
#pragma unroll
  for (int d = 0; d < dims; ++d) a[d] = axis_weights(spot.at[d], p.axis[d], p.padding);
  taps->first = places.first;
  for (int d = 0; d < dims; ++d) taps->step[d] = places.step[d];
  taps->outside = 0;
  const bool tangent = p.tangent.data != nullptr;
#pragma unroll
  for (int t = 0; t < 1 << dims; ++t) {
    const T weight =
        tangent ? value_weight<dims, true>(a, spot.along, t) : value_weight<dims, false>(a, spot.along, t);
    const bool exists = places.exist >> t & 1;
    taps->weight[t] = exists ? weight : T(0);
    if (!exists) taps->outside += weight;
  }
}

// The fill of a channel; its slope where there is a tangent.
template <class T>
__device__ T fill_of(const Problem& p, int channel) {
  if (!p.fill) return 0;
  const T fill = static_cast<const T*>(p.fill)[channel * p.fill_step];
  return p.tangent.data ? finite_or_none(fill) : fill;
}

// Every `step`th vector of channels of a pixel.
template <class S, int dims, class T>
__device__ void sample_vectors(const Problem& p, const Part& part, const Taps<dims, T>& taps,
                               const char* image, int begin, int step) {
  using V = Vector<S>;
  if (!taps.to) return;
  const char* from = image + taps.first + begin * static_cast<int>(sizeof(V));
  char* to = in_global(taps.to) + begin * static_cast<int>(sizeof(V));
#pragma unroll 1
  for (int c = begin * V::count; c < part.channels; c += step * V::count) {
    V value[1 << dims], result;
    T sum[V::count];
#pragma unroll
    for (int k = 0; k < V::count; ++k)
      sum[k] = taps.outside != 0 ? taps.outside * fill_of<T>(p, part.channel + c + k) : T(0);
#pragma unroll
    for (int t = 0; t < 1 << dims; ++t) {
      if (taps.weight[t] != 0) value[t] = *reinterpret_cast<const V*>(from + (taps.offset(t) - taps.first));
    }
#pragma unroll
    for (int t = 0; t < 1 << dims; ++t) {
#pragma unroll
      for (int k = 0; k < V::count; ++k) {
        if (taps.weight[t] != 0) sum[k] = fma(taps.weight[t], load(&value[t].at[k]), sum[k]);
      }
    }
#pragma unroll
    for (int k = 0; k < V::count; ++k) store(sum[k], &result.at[k]);
    *reinterpret_cast<V*>(to) = result;
    from += step * static_cast<int>(sizeof(V));
    to += step * static_cast<int>(sizeof(V));
  }
}

// Every `step`th channel of a pixel.
template <class S, int dims, class T>
__device__ void sample_pixel(const Problem& p, const Part& part, const Taps<dims, T>& taps, const char* image,
                             int begin, int step) {
  if (!taps.to) return;
  const char* rows[1 << (dims - 1)];
#pragma unroll
  for (int r = 0; r < 1 << (dims - 1); ++r) {
    rows[r] = image + begin * p.input.channel + taps.offset(2 * r);
  }
  char* to = in_global(taps.to) + begin * p.output.channel;
#pragma unroll 1
  for (int c = begin; c < part.channels; c += step) {
    T value[1 << dims];
#pragma unroll
    for (int t = 0; t < 1 << dims; ++t) {
      value[t] = taps.weight[t] != 0
                     ? load(reinterpret_cast<const S*>(rows[t >> 1] + (t & 1 ? taps.step[0] : 0)))
                     : T(0);
    }
    // A tap of weight 0 takes no part.
    T sum = taps.outside != 0 ? taps.outside * fill_of<T>(p, part.channel + c) : T(0);
#pragma unroll
    for (int t = 0; t < 1 << dims; ++t) sum = fma(taps.weight[t], value[t], sum);
    store(sum, reinterpret_cast<S*>(to));
#pragma unroll
    for (const char*& row : rows) row += step * p.input.channel;
    to += step * p.output.channel;
  }
}

template <class S, MapKind kind, bool vectors>
__global__ void __launch_bounds__(kMostThreads, vectors ? (dims_of(kind) == 3 ? 1 : 2)
                                                        : kResident<sizeof(S) == 8, kind == MapKind::spline>)
    sample(const __grid_constant__ Problem p, const __grid_constant__ Tiles tiles) {
  using T = Computed<S>;
  constexpr int dims = dims_of(kind);
  constexpr bool large = dims == 3 || kind == MapKind::spline;
  constexpr int count = kInSample<large>;
  __shared__ Plan<kind, T> plan;
  __shared__ Slot<dims, T> slots[kMostThreads];
  plan_tile(p, [&] { return Part(p, tiles, blockIdx.x); }, tiles, p.output, &plan);
  const Part& part = plan.part;
  const Pixels at(tiles);
  const int columns = p.axis[0].out - part.column,
            rows = p.axis[1].out - part.row;  // from the tile's first on
  bool fast = false;
  if constexpr (sizeof(T) == 4 && !vectors) {
    fast = p.narrow && !p.tangent.data && tiles.lanes == 1 && plan.tame();
  }
  const bool own = at.column < columns;  // else the last column's pixels keep the others company
  const int column = own ? at.column : columns - 1;
#pragma unroll 1
  for (int step = 0; step < tiles.bands * (kTogether / count); ++step) {
    const int i = at.row + step * count * kWarpRows;
    char* to = in_global(plan.output) + column * p.output.axis[0] + i * p.output.axis[1];
    Bend<T> bend[count] = {};
    if constexpr (kind == MapKind::spline)
      bend_of(p, part.map, part.column + column, part.row + i, &plan.staged, bend);
    if constexpr (sizeof(T) == 4 && !vectors) {
      const char* from[count];
      int64_t places[count][dims];
      const bool exist = fast && i + (count - 1) * kWarpRows < rows;
      const bool inside = inside_of(p, plan, column, i, bend, in_global(plan.input), places, from);
      if (__all_sync(kWholeWarp, exist && inside)) {
        sample_inside<S>(p, part.channels, from, places, own, to);
        continue;
      }
    }
    STN_RARE();
    if (__all_sync(kWholeWarp, !own || i >= rows)) continue;
#pragma unroll 1
    for (int k = 0; k < count; ++k) {
      const int row = i + k * kWarpRows;
      Bend<T> by = bend[0];
#pragma unroll
      for (int other = 1; other < count; ++other) {
        if (k == other) by = bend[other];
      }
      Taps<dims, T> taps;
      weigh(p, spot_of(p, plan, column, row, by, &slots[thread_number()].spot), &taps);
      const bool exists = row < rows && own;
      taps.to = exists ? to + k * kWarpRows * p.output.axis[1] : nullptr;
      Slot<dims, T>* all = slots + warp_number() * kWarp;
      all[lane_number()].taps = taps;
      __syncwarp();
      const int lane = lane_number() % tiles.lanes;
      for (int other = lane_number() / tiles.lanes; other < kWarp; other += kWarp / tiles.lanes) {
        if constexpr (vectors)
          sample_vectors<S>(p, part, all[other].taps, in_global(plan.input), lane, tiles.lanes);
        else
          sample_pixel<S>(p, part, all[other].taps, in_global(plan.input), lane, tiles.lanes);
      }
      __syncwarp();
    }
  }
}

// ---- launches ----

template <class S>
cudaError_t launch_stored(const Problem& p, cudaStream_t stream) {
  const Tiles tiles = output_tiles(p, lanes_of(p, p.input, p.output, sizeof(S)));
  return with_kind(p.kind, [&](auto kind) {
    auto* kernel = sample<S, kind.value, false>;
    if constexpr (kHasVectors<S>) kernel = tiles.vectors ? sample<S, kind.value, true> : kernel;
    return launch(kernel, tiles.blocks(p.maps), tiles.threads, stream, p, tiles);
  });
}

}  // namespace

cudaError_t launch_sample(const Problem& p, cudaStream_t stream) {
  if (p.nearest) return launch_nearest(p, stream);
  switch (p.storage) {
    case Storage::f32:
      return launch_stored<float>(p, stream);
    case Storage::f64:
      return launch_stored<double>(p, stream);
    case Storage::f16:
      return launch_stored<Half>(p, stream);
    case Storage::bf16:
      return launch_stored<BFloat16>(p, stream);
    case Storage::u8:
      return launch_stored<uint8_t>(p, stream);
    case Storage::i16:
      return launch_stored<int16_t>(p, stream);
    case Storage::u16:
      return launch_stored<uint16_t>(p, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace stn::cuda
