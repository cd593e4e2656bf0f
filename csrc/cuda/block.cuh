// A block's part of the work and its threads' pixels; launches.
#pragma once

#include <cuda_runtime.h>

#include "problem.h"
#include "tuning.h"

namespace stn::cuda {

constexpr unsigned kWholeWarp = 0xffffffffu;

__device__ inline int thread_number() { return static_cast<int>(threadIdx.x); }
__device__ inline int lane_number() { return thread_number() % kWarp; }
__device__ inline int warp_number() { return thread_number() / kWarp; }

// A pointer that comes from shared memory, of which the compiler does not know where it points.
template <class P>
__device__ P in_global(P pointer) {
#if defined(__CUDA_ARCH__)
  __builtin_assume(__isGlobal(pointer));
#endif
  return pointer;
}

// What a block works on: a tile of a map's output, and channels.
struct Part {
  int map, column, row, slice, channel, channels;
  int function;  // of a spline, the first
  int place;     // among the map's blocks, for the same functions

  Part() = default;  // in shared memory
  __device__ Part(const Problem& p, const Tiles& t, uint32_t block) {
    uint32_t b = block;
    const auto part = [&](const Divisor& d) {
      const uint32_t q = d.quotient(b), rest = b - q * d.by;
      b = q;
      return static_cast<int>(rest);
    };
    column = part(t.across) * t.columns;
    row = part(t.down) * t.rows;
    slice = part(t.slices);
    channel = part(t.groups) * t.channels;
    channels = p.channels - channel < t.channels ? p.channels - channel : t.channels;
    map = static_cast<int>(b) / t.functions;
    function = (static_cast<int>(b) - map * t.functions) * kStaged;
    place = static_cast<int>(block - b * static_cast<uint32_t>(t.per_map));
  }
};

// This thread's pixels, counted from the tile's first one: `number` of them kWarpRows below one another.
struct Pixels {
  int column, row;

  __device__ explicit Pixels(const Tiles& t)
      : column(warp_number() % t.warps_across * kWarpColumns + lane_number() % kWarpColumns),
        row(warp_number() / t.warps_across * t.bands * kBandRows + lane_number() / kWarpColumns) {}
};

// ---- launches ----

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// lanes: that share a pixel. Small images are given small blocks; channels are divided over blocks where
// there are too few of these.
inline Tiles output_tiles(const Problem& p, int lanes) {
  Tiles t{};
  const int64_t width = p.axis[0].out, height = p.axis[1].out, slices = p.axis[2].out;
  t.warps_across = width > kWarpColumns ? 2 : 1;
  const int64_t warps = ceil_div(height, kBandRows), most = kMostWarps / t.warps_across;
  const int64_t warps_down = warps < most ? warps : most;
  t.bands = warps > most ? kBands : 1;
  t.functions = 1;
  t.lanes = lanes;
  t.columns = t.warps_across * kWarpColumns;
  t.rows = static_cast<int>(warps_down) * t.bands * kBandRows;
  t.threads = t.warps_across * warps_down * kWarp;
  const int64_t across = ceil_div(width, t.columns), down = ceil_div(height, t.rows);
  int64_t groups = 1;
  t.channels = p.channels;
  while (t.channels >= 2 * kLeastChannels && across * down * slices * groups * p.maps < kWantedBlocks) {
    t.channels = (t.channels + 1) / 2;
    groups = ceil_div(p.channels, t.channels);
  }
  t.across = divisor(across);
  t.down = divisor(down);
  t.slices = divisor(slices);
  t.groups = divisor(groups);
  t.per_map = across * down * slices * groups;
  return t;
}

// Tiles of which a thread has kTogether pixels and no more.
inline Tiles one_band(int64_t height, Tiles t) {
  t.rows /= t.bands;
  t.bands = 1;
  t.down = divisor(ceil_div(height, t.rows));
  t.per_map = int64_t{1} * t.across.by * t.down.by * t.slices.by * t.groups.by;
  return t;
}

// Lanes that share a pixel of images whose channels lie side by side, so that they read sectors together.
inline int lanes_of(const Problem& p, const Batch& images, int64_t element) {
  int lanes = 1;
  while (images.channel == element && lanes * element < kSector && 2 * lanes <= p.channels) lanes *= 2;
  return lanes > 2 ? lanes : 1;
}

constexpr int64_t kMostBlocks = 0x7fffffff;

template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), int64_t blocks, int64_t threads, cudaStream_t stream,
                   const Arguments&... arguments) {
  if (blocks > kMostBlocks) return cudaErrorInvalidConfiguration;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

// Of blocks that each take parts of the work until none is left: of work that may turn out to be none.
template <class... Parameters, class... Arguments>
cudaError_t launch_loop(void (*kernel)(Parameters...), int64_t parts, int64_t threads, cudaStream_t stream,
                        const Arguments&... arguments) {
  return launch(kernel, parts < kLoopBlocks ? parts : kLoopBlocks, threads, stream, arguments...);
}

}  // namespace stn::cuda
