// What the CPU kernels are called with: plain numbers and pointers. The kernels are compiled once for each
// SIMD level, from sources that include neither ATen nor the standard library's templates, so that no inline
// function compiled for a newer processor can be the one that the linker keeps for all.
#pragma once

#include <cstdint>

#include "lines.h"

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
STN_INLINE int64_t tile_rows(int64_t width, int64_t pixels) { return pixels / tile_columns(width); }

constexpr int64_t kQuadChannels = 4;  // channels that adjoint takes together

// The images that are sampled through maps `order[begin]` to `order[end - 1]`: all into one image's gradient.
struct Readers {
  const int64_t *begin, *end;
};

// ---- the general kernels' work (warp_kernels.h) ----

// Maps, channels, and rows of the output counted over its slices.
struct WarpPart {
  int64_t map_begin, map_end, channel_begin, channel_end, row_begin, row_end;
};

// What the radial functions over a tile take (radial_tiles.h).
constexpr int64_t kRadialStride = kTilePixels + kWalk;
constexpr int kRadialNodes = 6, kNodeStride = 48;
template <class T>
STN_INLINE int64_t radial_values(const Warp<T>& w) {
  return w.radial() * (kRadialStride + kNodeStride);
}

// Pixels in a tile of the output, at most. Of few channels, the radial functions there are read again and
// again, for map after map: they are to stay in a first-level cache.
template <class T>
STN_INLINE int64_t tile_pixels(const Warp<T>& w) {
  constexpr int64_t values = (28 << 10) / sizeof(T), least = 256;
  if (w.radial() == 0 || w.maps == 1 || w.channels > 4) return kTilePixels;
  const int64_t pixels = values / w.radial();
  return pixels < least ? least : pixels < kTilePixels ? pixels : kTilePixels;
}

// Radial functions of bundles that are kept, at most.
constexpr int64_t kRadialSlots = 8;
template <class T>
STN_INLINE int64_t radial_slots(const Warp<T>& w) {
  const int64_t count = Bundles(w).count;
  return count <= kRadialSlots ? count : 1;
}

// Channels, and rows of an image's gradient or slices of a volume's, that are computed in one piece, at most:
// where pixels are not worked on as planes are.
constexpr int64_t kWarpChannels = 8, kSlabRows = 64, kSlabSlices = 16;

// Whether a map's pixels lie in a plane, bilinear and without a tangent.
template <class T>
STN_INLINE bool is_planar(const Warp<T>& w) {
  return w.dims == 2 && !w.tangent && !w.nearest && w.in[0] < (1 << 24) && w.in[1] < (1 << 24);
}

// One tile of some channels of images [image_begin, image_end).
struct TilePart {
  int64_t image_begin, image_end, channel, channels;
  WarpTile tile;
  const Readers* readers;  // of each image
  const WarpBox* boxes;    // (maps, bundles); null where there is one tile only
};

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
  // grad_input of one tile of up to kQuadChannels channels from c on, of an image and its readers; any
  // layout. scratch: quad_scratch(channels) zeros, which it leaves zeros.
  void (*adjoint)(const Problem<T>&, int64_t image, const Readers&, int64_t c, int64_t channels, const Tile&,
                  T* scratch);

  // Pixels with their channels side by side. zeros: as many as there are channels.
  void (*sample_channels_last)(const Problem<T>&, int64_t n, int64_t begin, int64_t end, const T* zeros);
  void (*moments_channels_last)(const Problem<T>&, int64_t n, int64_t begin, int64_t end, const T* zeros,
                                double* sums);

  // Up to `group` channels; any layout. scratch: as many zeros for each of kTileCells.
  void (*adjoint_group)(const Problem<T>&, int64_t image, const Readers&, int64_t c, int64_t channels,
                        const Tile&, T* scratch);

  // Any map and any weights. radial: radial_values.
  void (*warp_sample)(const Warp<T>&, const WarpPart&, T* radial);
  // gradients: theta's, of the part's maps, to be added to.
  void (*warp_moments)(const Warp<T>&, const WarpPart&, T* radial, double* gradients);
  // boxes: (maps, bundles), of the bundles that a part has whole.
  void (*warp_boxes)(const Warp<T>&, const WarpPart&, T* radial, WarpBox* boxes);
  // grad_input of a part. radial: radial_slots times as many. Planes take up to kQuadChannels channels, or as
  // many as `group`; scratch is theirs, as for adjoint and adjoint_group.
  void (*warp_adjoint)(const Warp<T>&, const TilePart&, T* radial, T* scratch);
};

// Whether so few output pixels fall on the input that what they add is written where it belongs at once.
STN_INLINE bool is_sparse(const Frame& f) { return f.height * f.width >= 8 * f.out_height * f.out_width; }

// With the ring, what the ring's last cell adds to below it and to its right, and what aligns rows.
constexpr int64_t kTileCells = (kTile + 3) * (kTile + 8) + 16;
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
