// grad_theta: the gradient by the map's coefficients, from the slopes of the image where output pixels fall.
#include <cuda_runtime.h>

#include "dispatch.h"
#include "launches.h"
#include "taps.cuh"

namespace stn::cuda {
namespace {

// What a block's threads add up of the derivatives of the loss by the streams, in the output's pixels from
// the block's first one on. In shared memory: between pixels, registers have other uses.
template <int streams, class T>
struct Sums {
  T total[streams][kMostThreads], by_row[streams][kMostThreads];

  __device__ void begin() {
    for (int s = 0; s < streams; ++s) total[s][thread_number()] = by_row[s][thread_number()] = 0;
  }
  __device__ void add(const T (&by)[streams], int row) {
#pragma unroll
    for (int s = 0; s < streams; ++s) {
      total[s][thread_number()] += by[s];
      by_row[s][thread_number()] += by[s] * static_cast<T>(row);
    }
  }
};

// The derivatives by the streams from those by the coordinates, up to PixelScale's scale; by_along: those by
// the tangents (StreamGradient, sampling/maps.h).
template <MapKind kind, int dims, class T>
__device__ void stream_gradient(const Problem& p, const Spot<dims, T>& spot, const T (&by_at)[dims],
                                const T (&by_along)[dims], T (&by)[streams_of(kind)]) {
#pragma unroll
  for (int d = 0; d < dims; ++d) by[d] = by_at[d];
  if constexpr (kind == MapKind::projective) {
    const bool tangent = p.tangent.data != nullptr;
    T depth = 0;
#pragma unroll
    for (int d = 0; d < dims; ++d) {
      if (tangent) {
        by[d] -= by_along[d] * spot.ratio;
        depth += by_along[d] * (spot.centered[d] * spot.ratio - spot.along[d]);
      }
      by[d] *= spot.inverse;
      depth -= by_at[d] * spot.centered[d];
    }
    by[dims] = depth * spot.inverse;
  }
}

// ---- warps whose pixels all lie within the image ----

// Adds a channel's gradient times each tap.
template <class S, int count, int dims>
__device__ void tap_sums_inside(const Problem& p, int channels, const char* const (&pixels)[count],
                                const char* grad, float (&sum)[count][1 << dims]) {
  constexpr int taps = 1 << dims;
  const int64_t step[3] = {static_cast<int32_t>(p.input.axis[0]), static_cast<int32_t>(p.input.axis[1]),
                           p.input.axis[2]};
  const char* from[count];
#pragma unroll
  for (int k = 0; k < count; ++k) {
    from[k] = pixels[k];
#pragma unroll
    for (int t = 0; t < taps; ++t) sum[k][t] = 0;
  }
#pragma unroll 1
  for (int c = channels; c > 0; --c) {
    float value[count][taps], g[count];
#pragma unroll
    for (int k = 0; k < count; ++k) {
      g[k] = load(reinterpret_cast<const S*>(grad + k * kWarpRows * p.grad.axis[1]));
#pragma unroll
      for (int t = 0; t < taps; ++t) {
        int64_t offset = 0;
        for (int d = 0; d < dims; ++d) offset += t >> d & 1 ? step[d] : 0;
        value[k][t] = load(reinterpret_cast<const S*>(from[k] + offset));
      }
      from[k] += p.input.channel;
    }
#pragma unroll
    for (int k = 0; k < count; ++k) {
#pragma unroll
      for (int t = 0; t < taps; ++t) sum[k][t] += g[k] * value[k][t];
    }
    grad += p.grad.channel;
  }
}

template <MapKind kind, int dims>
__device__ void slopes_inside(const Problem& p, const Plan<kind, float>& plan, int j, int i,
                              const int64_t (&at)[dims], const float (&sum)[1 << dims],
                              float (&by)[streams_of(kind)]) {
  Spot<dims, float> spot{};
  AxisWeights<float> a[dims];
  float by_at[dims];
#pragma unroll
  for (int d = 0; d < dims; ++d) {
    const float frac = fraction(at[d]);
    a[d] = {1 - frac, frac, -1, 1};
    if constexpr (kind == MapKind::projective)
      spot.centered[d] =
          (static_cast<float>(static_cast<int>(at[d] >> 32)) - static_cast<float>(p.axis[d].center)) + frac;
  }
  if constexpr (kind == MapKind::projective)
    spot.inverse = plan.depth.inverse_at(j - plan.half_columns, i - plan.half_rows);
#pragma unroll
  for (int d = 0; d < dims; ++d) {
    by_at[d] = 0;
#pragma unroll
    for (int t = 0; t < 1 << dims; ++t) by_at[d] += tap_product<dims>(a, t, 1 << d) * sum[t];
  }
  const float none[dims] = {};
  stream_gradient<kind>(p, spot, by_at, none, by);
}

// ---- any pixels, one a lane at a time ----

// What a pixel's channels need, and what they give. Where lanes share pixels, it lies in shared memory.
template <int dims, class T>
struct Reads {
  int64_t first, step[dims];
  const char* grad;  // null: there is no such pixel
  unsigned used, exist;
  T sum[1 << dims];

  __device__ int64_t offset(int t) const {
    int64_t sum = 0;
#pragma unroll
    for (int d = 0; d < dims; ++d) sum += t >> d & 1 ? step[d] : 0;
    return sum;
  }
};

// A lane's. Of float, the spot stays while its taps are read, when registers have other uses.
template <int dims, class T>
struct Slot {
  Spot<dims, T> spot;
  Reads<dims, T> reads;
};
template <int dims>
struct Slot<dims, double> {
  union {
    Spot<dims, double> spot;
    Reads<dims, double> reads;
  };
};

// The sum of each tap times the gradient over every `step`th channel.
template <class S, int dims, class T>
__device__ void tap_sums(const Problem& p, const Part& part, const Reads<dims, T>& reads, const char* image,
                         int begin, int step, T (&sum)[1 << dims]) {
  for (T& s : sum) s = 0;
  if (!reads.grad) return;
  const char *rows[1 << (dims - 1)], *grad = in_global(reads.grad) + begin * p.grad.channel;
#pragma unroll
  for (int r = 0; r < 1 << (dims - 1); ++r) {
    rows[r] = image + reads.first + begin * p.input.channel + reads.offset(2 * r);
  }
  const T* fill = static_cast<const T*>(p.fill);
#pragma unroll 1
  for (int c = begin; c < part.channels; c += step) {
    T value[1 << dims];
#pragma unroll
    for (int t = 0; t < 1 << dims; ++t) {
      const bool read = reads.used & reads.exist & 1 << t;
      value[t] = read ? load(reinterpret_cast<const S*>(rows[t >> 1] + (t & 1 ? reads.step[0] : 0))) : T(0);
    }
    const T g = load(reinterpret_cast<const S*>(grad));
    if (fill) {
#pragma unroll
      for (int t = 0; t < 1 << dims; ++t) {
        if (reads.used & ~reads.exist & 1 << t)
          value[t] = finite_or_none(fill[(part.channel + c) * p.fill_step]);
      }
    }
#pragma unroll
    for (int t = 0; t < 1 << dims; ++t) {
      if (reads.used & (fill ? ~0u : reads.exist) & 1 << t) sum[t] += g * value[t];
    }
#pragma unroll
    for (const char*& row : rows) row += step * p.input.channel;
    grad += step * p.grad.channel;
  }
}

// The same of every `step`th vector of channels.
template <class S, int dims, class T>
__device__ void vector_sums(const Problem& p, const Part& part, const Reads<dims, T>& reads,
                            const char* image, int begin, int step, T (&sum)[1 << dims]) {
  using V = Vector<S>;
  for (T& s : sum) s = 0;
  if (!reads.grad) return;
  const int first = begin * static_cast<int>(sizeof(V));
  const char *from = image + reads.first + first, *grad = in_global(reads.grad) + first;
#pragma unroll 1
  for (int c = begin * V::count; c < part.channels; c += step * V::count) {
    const V g = *reinterpret_cast<const V*>(grad);
    V value[1 << dims];
#pragma unroll
    for (int t = 0; t < 1 << dims; ++t) {
      if (reads.used & reads.exist & 1 << t) value[t] = *reinterpret_cast<const V*>(from + reads.offset(t));
    }
#pragma unroll
    for (int t = 0; t < 1 << dims; ++t) {
      const bool exists = reads.exist >> t & 1;
      if (!(reads.used >> t & 1) || !(exists || p.fill)) continue;
#pragma unroll
      for (int k = 0; k < V::count; ++k) {
        const T other =
            exists ? T(0)
                   : finite_or_none(static_cast<const T*>(p.fill)[(part.channel + c + k) * p.fill_step]);
        sum[t] += load(&g.at[k]) * (exists ? load(&value[t].at[k]) : other);
      }
    }
    from += step * static_cast<int>(sizeof(V));
    grad += step * static_cast<int>(sizeof(V));
  }
}

// A tap without a weight takes no part: it may be infinite.
template <int dims, bool tangent, class T>
__device__ T slope(const AxisWeights<T> (&a)[dims], const T (&along)[dims], int d,
                   const T (&sum)[1 << dims]) {
  T total = 0;
#pragma unroll
  for (int t = 0; t < 1 << dims; ++t) {
    const T weight = slope_weight<dims, tangent>(a, along, t, d);
    if (weight != 0) total += weight * sum[t];
  }
  return total;
}

// The derivatives by a pixel's streams; by all lanes of a warp, each of which has a pixel.
template <class S, bool vectors, MapKind kind, class T>
__device__ void pixel_gradient(const Problem& p, const Part& part, const Tiles& tiles,
                               const Plan<kind, T>& plan, int j, int i, const Bend<T>& bend, const char* grad,
                               Slot<dims_of(kind), T>* slots, T (&by)[streams_of(kind)]) {
  constexpr int dims = dims_of(kind);
  Slot<dims, T>* all = slots + warp_number() * kWarp;
  auto spot = spot_of(p, plan, j, i, bend, &all[lane_number()].spot);
  const bool tangent = p.tangent.data != nullptr, both = tangent && kind == MapKind::projective;
  AxisWeights<T> a[dims];
#pragma unroll
  for (int d = 0; d < dims; ++d) a[d] = axis_weights(spot.at[d], p.axis[d], p.padding);
  Reads<dims, T> reads;
  {
    const Places<dims> places(p, p.input, spot.at);
    reads.first = places.first;
    reads.exist = places.exist;
    for (int d = 0; d < dims; ++d) reads.step[d] = places.step[d];
  }
  reads.grad = grad;
  reads.used = 0;
#pragma unroll
  for (int t = 0; t < 1 << dims; ++t) {
    bool used = false;
#pragma unroll
    for (int d = 0; d < dims; ++d) {
      if (tangent) used |= slope_weight<dims, true>(a, spot.along, t, d) != 0;
      if (!tangent || both) used |= slope_weight<dims, false>(a, spot.along, t, d) != 0;
    }
    reads.used |= static_cast<unsigned>(used) << t;
  }
  if constexpr (sizeof(T) == 4) all[lane_number()].spot = spot;
  all[lane_number()].reads = reads;
  __syncwarp();
  const int lane = lane_number() % tiles.lanes;
#pragma unroll 1
  for (int other = lane_number() / tiles.lanes; other < kWarp; other += kWarp / tiles.lanes) {
    T sum[1 << dims];
    if constexpr (vectors)
      vector_sums<S>(p, part, all[other].reads, in_global(plan.input), lane, tiles.lanes, sum);
    else
      tap_sums<S>(p, part, all[other].reads, in_global(plan.input), lane, tiles.lanes, sum);
#pragma unroll 1
    for (int step = tiles.lanes / 2; step > 0; step /= 2) {
#pragma unroll
      for (T& s : sum) s += __shfl_xor_sync(kWholeWarp, s, step);
    }
#pragma unroll
    for (int t = 0; t < 1 << dims; ++t) {
      if (lane == 0) all[other].reads.sum[t] = sum[t];
    }
  }
  __syncwarp();
  T sum[1 << dims];
#pragma unroll
  for (int t = 0; t < 1 << dims; ++t) sum[t] = all[lane_number()].reads.sum[t];
  if constexpr (sizeof(T) == 4) spot = all[lane_number()].spot;
#pragma unroll
  for (int d = 0; d < dims; ++d) a[d] = axis_weights(spot.at[d], p.axis[d], p.padding);
  T by_at[dims], by_along[dims] = {};
#pragma unroll
  for (int d = 0; d < dims; ++d) {
    by_at[d] = tangent ? slope<dims, true>(a, spot.along, d, sum) : slope<dims, false>(a, spot.along, d, sum);
    if (both) by_along[d] = slope<dims, false>(a, spot.along, d, sum);
  }
  stream_gradient<kind>(p, spot, by_at, by_along, by);
}

// ---- sums ----

// A block's sums to where it leaves them: (streams, basis) of normalized coordinates, `apart` from one to the
// next.
template <int streams, class T>
__device__ void leave(const Problem& p, const Part& part, const Sums<streams, T>& sums, int column, int dims,
                      bool linear, double* to, int64_t apart) {
  __shared__ double by_warp[kMostWarps][streams][3];
  const int warps = static_cast<int>(blockDim.x) / kWarp;
#pragma unroll
  for (int s = 0; s < streams; ++s) {
    const T total = sums.total[s][thread_number()];
    const T values[3] = {total * static_cast<T>(column), sums.by_row[s][thread_number()], total};
#pragma unroll
    for (int e = 0; e < 3; ++e) {
      const T sum = sum_over_warp(values[e]);
      if (lane_number() == 0) by_warp[warp_number()][s][e] = static_cast<double>(sum);
    }
  }
  __syncthreads();
  const int s = thread_number();
  if (!linear || s >= streams) return;
  STN_RARE();
  double sum[3] = {};
#pragma unroll
  for (int w = 0; w < kMostWarps; ++w) {
    for (int e = 0; e < 3; ++e) sum[e] += w < warps ? by_warp[w][s][e] : 0;
  }
  const double scale = s == 0 ? p.axis[0].scale : s == 1 ? p.axis[1].scale : dims == 3 ? p.axis[2].scale : 1;
  to += (s * p.basis + p.radial()) * apart;
  to[0] = scale * p.axis[0].step * (sum[0] + (part.column - p.axis[0].middle) * sum[2]);
  to[apart] = scale * p.axis[1].step * (sum[1] + (part.row - p.axis[1].middle) * sum[2]);
  if (dims == 3) to[2 * apart] = scale * p.axis[2].step * (part.slice - p.axis[2].middle) * sum[2];
  to[dims * apart] = scale * sum[2];
}

template <class S, MapKind kind, bool vectors>
__global__ void __launch_bounds__(kMostThreads,
                                  vectors ? 2 : kResident<sizeof(S) == 8, kind == MapKind::volume>)
    grad_theta(const __grid_constant__ Problem p, const __grid_constant__ Tiles tiles, double* partial) {
  using T = Computed<S>;
  constexpr int dims = dims_of(kind), streams = streams_of(kind);
  constexpr bool spline = kind == MapKind::spline, large = dims == 3 || spline;
  constexpr int count = kInGradTheta<large>;
  __shared__ Plan<kind, T> plan;
  __shared__ Slot<dims, T> slots[kMostThreads];
  __shared__ typename If<spline, RadialSums<T>>::type radial;
  __shared__ Sums<streams, T> sums;
  const Pixels at(tiles);
  sums.begin();
  plan_tile(p, [&] { return Part(p, tiles, blockIdx.x); }, tiles, p.grad, &plan);
  const Part& part = plan.part;
  if constexpr (spline) radial.begin(p, part.function);
  const int columns = p.axis[0].out - part.column,
            rows = p.axis[1].out - part.row;  // from the tile's first on
  bool fast = false;
  if constexpr (sizeof(T) == 4 && !vectors)
    fast = p.narrow && !p.tangent.data && tiles.lanes == 1 && at.column < columns && plan.tame();
#pragma unroll 1
  for (int step = 0; step < tiles.bands * (kTogether / count); ++step) {
    const int i = at.row + step * count * kWarpRows;
    const char* grad = in_global(plan.output) + at.column * p.grad.axis[0] + i * p.grad.axis[1];
    Bend<T> bend[count] = {};
    T by[count][streams] = {};  // of splines alone
    const auto keep = [&](int k, const T(&pixel)[streams]) {
      sums.add(pixel, i + k * kWarpRows);
      if constexpr (spline) {
        for (int s = 0; s < streams; ++s) {
          for (int other = 0; other < count; ++other) by[other][s] = k == other ? pixel[s] : by[other][s];
        }
      }
    };
    if constexpr (spline) bend_of(p, part.map, part.column + at.column, part.row + i, &plan.staged, bend);
    bool inside = false;
    if constexpr (sizeof(T) == 4 && !vectors) {
      int64_t places[count][dims];
      const char* from[count];
      inside = fast && i + (count - 1) * kWarpRows < rows;
      inside &= inside_of(p, plan, at.column, i, bend, in_global(plan.input), places, from);
      inside = __all_sync(kWholeWarp, inside);
      if (inside) {
        float sum[count][1 << dims];
        tap_sums_inside<S, count, dims>(p, part.channels, from, grad, sum);
#pragma unroll
        for (int k = 0; k < count; ++k) {
          T pixel[streams];
          slopes_inside<kind>(p, plan, at.column, i + k * kWarpRows, places[k], sum[k], pixel);
          keep(k, pixel);
        }
      }
    }
    if (!inside) {
      STN_RARE();
      if (__all_sync(kWholeWarp, at.column >= columns || i >= rows)) continue;
#pragma unroll 1
      for (int k = 0; k < count; ++k) {
        const bool exists = at.column < columns && i + k * kWarpRows < rows;
        Bend<T> own_bend = bend[0];
#pragma unroll
        for (int other = 1; other < count; ++other) {
          if (k == other) own_bend = bend[other];
        }
        T pixel[streams];
        pixel_gradient<S, vectors>(p, part, tiles, plan, at.column, i + k * kWarpRows, own_bend,
                                   exists ? grad + k * kWarpRows * p.grad.axis[1] : nullptr, slots, pixel);
        if (exists) keep(k, pixel);
      }
    }
    if constexpr (spline) radial.add(p, part.column + at.column, part.row + i, by);
  }
  double* to = partial + static_cast<int64_t>(part.map) * streams * p.basis * tiles.per_map + part.place;
  leave(p, part, sums, at.column, dims, part.function == 0, to, tiles.per_map);
  if constexpr (spline) radial.leave(p, to, tiles.per_map);
}

// Adds up what blocks left, in one order: an entry of a map's theta a block.
__global__ void __launch_bounds__(kMostThreads) finish(const __grid_constant__ Partial partial) {
  __shared__ double by_warp[kMostWarps];
  const double* from = partial.sums + blockIdx.x * partial.blocks;
  double sum = 0;
#pragma unroll 4
  for (int64_t b = thread_number(); b < partial.blocks; b += blockDim.x) sum += from[b];
  sum = sum_over_warp(sum);
  if (lane_number() == 0) by_warp[warp_number()] = sum;
  __syncthreads();
  if (thread_number() != 0) return;
  for (int w = 1; w < static_cast<int>(blockDim.x) / kWarp; ++w) sum += by_warp[w];
  store_number(sum, partial.storage, partial.gradient, blockIdx.x);
}

// ---- launches ----

inline Tiles gradient_tiles(const Problem& p, int64_t element) {
  Tiles t = output_tiles(p, lanes_of(p, p.input, p.grad, element));
  if (p.kind == MapKind::spline && p.radial() > kStaged) t.functions = (p.radial() + kStaged - 1) / kStaged;
  return t;
}

template <class S>
cudaError_t launch_stored(const Problem& p, double* sums, cudaStream_t stream) {
  const Tiles tiles = gradient_tiles(p, sizeof(S));
  return with_kind(p.kind, [&](auto kind) {
    auto* kernel = grad_theta<S, kind.value, false>;
    if constexpr (kHasVectors<S>) kernel = tiles.vectors ? grad_theta<S, kind.value, true> : kernel;
    return launch(kernel, tiles.blocks(p.maps), tiles.threads, stream, p, tiles, sums);
  });
}

}  // namespace

int64_t partial_blocks(const Problem& p) { return gradient_tiles(p, p.element).per_map; }

cudaError_t launch_grad_theta(const Problem& p, const Partial& partial, cudaStream_t stream) {
  const cudaError_t error = with_storage(
      p.storage, [&](auto element) { return launch_stored<decltype(element)>(p, partial.sums, stream); });
  if (error != cudaSuccess) return error;
  const int64_t threads = partial.blocks > 4 * kWarp ? kMostThreads : kWarp;
  return launch(finish, partial.maps * partial.entries, threads, stream, partial);
}

}  // namespace stn::cuda
