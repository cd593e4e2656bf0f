// The end of theta's gradient: blocks' sums are added in one order. For kernels that have warps to spare.
#pragma once

#include "block.cuh"
#include "launches.h"
#include "storage.cuh"

namespace stn::cuda {

// By warp number `number` of warps().
__device__ inline void finish_gradient(const Partial& partial, int64_t number) {
  const int each = partial.entries + (partial.largest != nullptr);
  const int64_t map = number / each;
  const auto entry = static_cast<int>(number - map * each);
  if (map >= partial.maps) return;
  if (entry == partial.entries) {
    uint32_t most = 0;
    for (int64_t b = lane_number(); b < partial.blocks; b += kWarp) {
      const uint32_t other = partial.most[map * partial.blocks + b];
      most = other > most ? other : most;
    }
    for (int step = kWarp / 2; step > 0; step /= 2) {
      const uint32_t other = __shfl_xor_sync(kWholeWarp, most, step);
      most = other > most ? other : most;
    }
    if (lane_number() == 0) partial.largest[map] = most;
    return;
  }
  const double* from = partial.sums + map * partial.blocks * partial.entries + entry;
  double sum = 0;
  for (int64_t b = lane_number(); b < partial.blocks; b += kWarp) sum += from[b * partial.entries];
  for (int step = kWarp / 2; step > 0; step /= 2) sum += __shfl_xor_sync(kWholeWarp, sum, step);
  if (lane_number() == 0) store_number(sum, partial.storage, partial.gradient, map * partial.entries + entry);
}

}  // namespace stn::cuda
