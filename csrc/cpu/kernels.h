// What the CPU kernels are called with: plain numbers and pointers. The kernels are compiled once for each
// SIMD level, from sources that include neither ATen nor the standard library's templates, so that no inline
// function compiled for a newer processor can be the one that the linker keeps for all.
#pragma once

#include <cstdint>

#include "../problem.h"

namespace stn::cpu {

// A tile of the input, whose gradient is computed in one piece.
struct Tile {
  int64_t top, left, height, width;
};
constexpr int64_t kTile = 64;  // pixels at most, either way

constexpr int64_t kAdjointChannels = 4;

template <class T>
struct Kernels {
  // output of rows [begin, end) of image n.
  void (*sample)(const Problem<T>&, int64_t n, int64_t begin, int64_t end);
  // The moments of rows [begin, end) of image n, over all channels.
  void (*moments)(const Problem<T>&, int64_t n, int64_t begin, int64_t end, double* sums);
  // grad_input of one tile of up to kAdjointChannels channels from c on, of image n. scratch: kTileScratch
  // values.
  void (*adjoint)(const Problem<T>&, int64_t n, int64_t c, int64_t channels, const Tile&, T* scratch);
};

// Values of scratch that adjoint needs: four for each cell of a tile and of the ring around it, and what a
// vector may read behind them.
constexpr int64_t kTileScratch = kAdjointChannels * 4 * (kTile + 3) * (kTile + 3) + 16;

struct Level {
  const char* name;
  Kernels<float> f32;
  Kernels<double> f64;
};

Level portable_level();
#if defined(__x86_64__)
Level avx2_level();
#endif

}  // namespace stn::cpu
