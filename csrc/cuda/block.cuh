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

// Lanes that share a pixel of images whose channels lie side by side, and whether they take vectors.
struct Lanes {
  int count;
  bool vectors;
};

inline bool is_aligned(const Batch& b) {
  int64_t bits = reinterpret_cast<intptr_t>(b.data) | b.batch;
  for (const int64_t stride : b.axis) bits |= stride;
  return bits % kVector == 0;
}

// from, to: that are read, or read and written, pixel by pixel.
inline Lanes lanes_of(const Problem& p, const Batch& from, const Batch& to, int64_t element) {
  if (from.channel != element || p.channels < 3) return {1, false};
  const int64_t bytes = p.channels * element;
  const bool floats = p.storage == Storage::f32 || p.storage == Storage::f16 || p.storage == Storage::bf16;
  const bool vectors =
      floats && to.channel == element && bytes % kVector == 0 && is_aligned(from) && is_aligned(to);
  const int64_t each = vectors ? kVector : element, most = vectors ? kLine : kSector;
  int count = 1;
  while (count * each < most && 2 * count * each <= bytes) count *= 2;
  return count > 2 || vectors ? Lanes{count, vectors} : Lanes{1, false};
}

// Small images are given small blocks; channels are divided over blocks where there are too few of these.
inline Tiles output_tiles(const Problem& p, Lanes lanes = {1, false}) {
  Tiles t{};
  const int64_t width = p.axis[0].out, height = p.axis[1].out, slices = p.axis[2].out;
  t.warps_across = width > kWarpColumns ? 2 : 1;
  const int64_t warps = ceil_div(height, kBandRows), most = kMostWarps / t.warps_across;
  const int64_t warps_down = warps < most ? warps : most;
  t.bands = warps > most ? kBands : 1;
  const int64_t tiles =
      ceil_div(width, t.warps_across * kWarpColumns) * ceil_div(warps, most * kBands) * slices;
  if (warps > 2 * kBands * most && tiles * p.maps >= kManyTiles) t.bands = 2 * kBands;
  t.functions = 1;
  t.lanes = lanes.count;
  t.vectors = lanes.vectors;
  t.columns = t.warps_across * kWarpColumns;
  t.rows = static_cast<int>(warps_down) * t.bands * kBandRows;
  t.threads = t.warps_across * warps_down * kWarp;
  const int64_t across = ceil_div(width, t.columns), down = ceil_div(height, t.rows);
  int64_t groups = 1;
  t.channels = p.channels;
  // Of channels that lie side by side whole lines are read.
  const bool apart = lanes.count == 1;
  const int64_t wanted = apart ? kWantedBlocks : kWantedBlocks / 4;
  const int least = apart ? kLeastChannels : kLine;
  while (t.channels % 2 == 0 && t.channels >= 2 * least &&
         across * down * slices * groups * p.maps < wanted) {
    t.channels /= 2;
    groups *= 2;
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
