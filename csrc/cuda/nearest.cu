// sample with the nearest pixel: no weights, an index a pixel, and values moved as they are, whatever their
// dtype.
#include <cuda_runtime.h>

#include "dispatch.h"
#include "launches.h"
#include "taps.cuh"

namespace stn::cuda {
namespace {

constexpr int64_t kOutside = -1, kNotANumber = -2;  // instead of bytes to a pixel

template <class E>
struct NearestIn {
  using type = float;
};
template <>
struct NearestIn<uint64_t> {
  using type = double;
};

template <int dims, class T>
__device__ int64_t nearest_place(const Problem& p, const Spot<dims, T>& spot) {
  int64_t place = 0;
  bool number = true, inside = true;
#pragma unroll
  for (int d = 0; d < dims; ++d) {
    const int at = source_of(rounded(spot.at[d]), p.axis[d], p.padding);
    number &= spot.at[d].frac == spot.at[d].frac;
    inside &= at >= 0;
    place += at * p.input.axis[d];
  }
  return number ? inside ? place : kOutside : kNotANumber;
}

// E: what an element is moved as.
template <class E, MapKind kind>
__global__ void __launch_bounds__(kMostThreads, kind == MapKind::affine ? kResident<sizeof(E) == 8, true> : 2)
    nearest(const __grid_constant__ Problem p, const __grid_constant__ Tiles tiles) {
  using T = typename NearestIn<E>::type;
  __shared__ Plan<kind, T> plan;
  __shared__ Spot<dims_of(kind), T> spots[kMostThreads];
  plan_tile(p, [&] { return Part(p, tiles, blockIdx.x); }, tiles, p.output, &plan);
  const Part& part = plan.part;
  const Pixels at(tiles);
  const int columns = p.axis[0].out - part.column,
            rows = p.axis[1].out - part.row;  // from the tile's first on
  const E* fill = static_cast<const E*>(p.fill);
#pragma unroll 1
  for (int band = 0; band < tiles.bands; ++band) {
    const int i = at.row + band * kBandRows;
    Bend<T> bend[kTogether] = {};
    if constexpr (kind == MapKind::spline)
      bend_of(p, part.map, part.column + at.column, part.row + i, &plan.staged, bend);
    if (at.column >= columns) continue;
    int64_t place[kTogether];
#pragma unroll
    for (int k = 0; k < kTogether; ++k) {
      place[k] =
          nearest_place(p, spot_of(p, plan, at.column, i + k * kWarpRows, bend[k], spots + thread_number()));
    }
    const char* from = in_global(plan.input);
    char* first = in_global(plan.output) + at.column * p.output.axis[0] + i * p.output.axis[1];
#pragma unroll 1
    for (int c = 0; c < part.channels; ++c) {
      E value[kTogether];
#pragma unroll
      for (int k = 0; k < kTogether; ++k) {
        if (place[k] >= 0) {
          value[k] = *reinterpret_cast<const E*>(from + place[k]);
        } else {
          const bool outside = place[k] == kOutside;
          value[k] = !outside ? static_cast<E>(p.nan_bits)
                     : fill   ? fill[(part.channel + c) * p.fill_step]
                              : E(0);
        }
      }
      char* to = first;
#pragma unroll
      for (int k = 0; k < kTogether; ++k) {
        if (i + k * kWarpRows < rows) *reinterpret_cast<E*>(to) = value[k];
        to += p.output.axis[1] * kWarpRows;
      }
      from += p.input.channel;
      first += p.output.channel;
    }
  }
}

// ---- launches ----

template <class E>
cudaError_t launch_moved(const Problem& p, cudaStream_t stream) {
  const Tiles tiles = output_tiles(p);
  return with_kind(p.kind, [&](auto kind) {
    return launch(nearest<E, kind.value>, tiles.blocks(p.maps), tiles.threads, stream, p, tiles);
  });
}

}  // namespace

cudaError_t launch_nearest(const Problem& p, cudaStream_t stream) {
  switch (p.element) {
    case 1:
      return launch_moved<uint8_t>(p, stream);
    case 2:
      return launch_moved<uint16_t>(p, stream);
    case 4:
      return launch_moved<uint32_t>(p, stream);
    case 8:
      return launch_moved<uint64_t>(p, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace stn::cuda
