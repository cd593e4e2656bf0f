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

// Sample and moments over planes work on tiles of the output: what they need of the input, and where their
// pixels fall in it, stays in a first-level cache.
constexpr int64_t kTileColumns = 64, kTilePixels = 1600;  // at most

STN_INLINE int64_t tile_columns(int64_t width) { return width <= kTileColumns ? width : 48; }
STN_INLINE int64_t tile_rows(int64_t width) { return kTilePixels / tile_columns(width); }

constexpr int64_t kQuadChannels = 4;  // channels that adjoint takes together

// The primitives, in the forms that suit a problem; affine.cpp chooses.
template <class T>
struct Kernels {
  int64_t group;  // channels in a vector

  // Planes of pixels that lie side by side.
  // output of rows [begin, end) of channels [c, c + channels) of image n.
  void (*sample)(const Problem<T>&, int64_t n, int64_t c, int64_t channels, int64_t begin, int64_t end);
  // The moments of those rows and channels.
  void (*moments)(const Problem<T>&, int64_t n, int64_t c, int64_t channels, int64_t begin, int64_t end,
                  double* sums);
  // grad_input of one tile of up to kQuadChannels channels from c on, of image n; any layout.
  // scratch: quad_scratch(channels) values.
  void (*adjoint)(const Problem<T>&, int64_t n, int64_t c, int64_t channels, const Tile&, T* scratch);

  // Pixels with their channels side by side. zeros: as many as there are channels.
  void (*sample_channels_last)(const Problem<T>&, int64_t n, int64_t begin, int64_t end, const T* zeros);
  void (*moments_channels_last)(const Problem<T>&, int64_t n, int64_t begin, int64_t end, const T* zeros,
                                double* sums);

  // Up to `group` channels; any layout. scratch: as many values for each of kTileCells.
  void (*adjoint_group)(const Problem<T>&, int64_t n, int64_t c, int64_t channels, const Tile&, T* scratch);
};

// Whether so few output pixels fall on the input that what they add is written where it belongs at once.
STN_INLINE bool is_sparse(const Frame& f) { return f.height * f.width >= 8 * f.out_height * f.out_width; }

// With the ring, and what the ring's last cell adds to below it and to its right.
constexpr int64_t kTileCells = (kTile + 3) * (kTile + 4) + 16;
// For `channels` channels: four values a cell, and what vectors may read behind them.
STN_INLINE int64_t quad_scratch(int64_t channels) { return channels * 4 * kTileCells + 64; }

struct Level {
  const char* name;
  Kernels<float> f32;
  Kernels<double> f64;
};

Level portable_level();
#if defined(__x86_64__)
Level avx2_level();
Level avx512_level();
#endif

}  // namespace stn::cpu
