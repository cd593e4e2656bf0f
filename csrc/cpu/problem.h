// The call of an operator as the CPU's kernels see it: plain numbers and pointers. The kernels are compiled
// once for each SIMD level, from sources that include neither ATen nor the standard library's templates, so
// that no inline function compiled for a newer processor can be the one that the linker keeps for all.
//
// A map is a fixed basis of functions of the output's coordinates times coefficients of each image's own,
// theta: the coordinates and 1 (affine), these and one radial function a control point (thin plate spline:
// Bookstein 1989), or three such sums of which the last divides the others (projective). What it gives are
// normalized coordinates.
#pragma once

#include <cstdint>

#include "../sampling/padding.h"
#include "tuning.h"

namespace stn::cpu {

// How images are stored; kernels compute in float, or in double for f64.
enum class Storage : int { f32, f64, f16, bf16, u8, i16, u16 };

// A batch of images or volumes. Strides count elements.
struct Batch {
  char* data;
  int64_t batch, channel, axis[kMaxAxes];
};

struct Problem {
  int dims;  // 2, or 3 for volumes
  bool perspective, nearest, align_corners;
  Padding padding;
  Storage storage;
  int64_t in[kMaxAxes], out[kMaxAxes];  // lengths along x, y, z; z is 1 for images
  int64_t maps, images, channels;
  int64_t basis;          // functions
  const double* theta;    // (maps, streams(), basis)
  const double* tangent;  // as theta, or null: the weights' derivatives along it take the weights' place
  const double* points;   // of the radial functions, (basis - 3, 2), or null
  const int64_t* index;   // the image of each map; null: of the same number
  const double* fill;     // (channels,): what lies outside with Padding::zeros; null: zeros
  // For nearest, whose values are moved as they are: bytes of an element, and the bits of fill and of what
  // stands for a coordinate that is not a number.
  int64_t element;
  const int64_t* fill_bits;
  int64_t nan_bits;
  Batch input, output, grad, grad_input;
  bool past_caches;  // whether the result's rows are written past the caches, to which they are aligned then

  STN_INLINE int streams() const { return dims + perspective; }
  STN_INLINE int64_t radial() const { return basis - dims - 1; }  // functions
  STN_INLINE int64_t image_of(int64_t map) const { return index ? index[map] : map; }
  STN_INLINE int64_t rows() const { return out[1] * out[2]; }  // of the output, all slices'
  STN_INLINE double fill_of(int64_t channel) const { return fill ? fill[channel] : 0; }
};

STN_INLINE bool is_interleaved(const Batch& images) { return images.channel == 1 && images.axis[0] > 1; }

// Whether the input's gradient is added up in vectors of channels that lie side by side.
STN_INLINE bool has_vectors(const Problem& p) { return is_interleaved(p.grad_input) && p.channels > kFew; }

// Whether it is added up apart from where it is stored: in another dtype, or in planes where there are none.
STN_INLINE bool is_apart(const Problem& p) {
  const bool direct = p.storage == Storage::f32 || p.storage == Storage::f64;
  return !direct || (p.dims == 2 && p.grad_input.axis[0] != 1 && !has_vectors(p));
}

// ---- the work of one task ----

// Maps, channels, and rows of the output counted over its slices.
struct Unit {
  int64_t map_begin, map_end, channel_begin, channel_end, row_begin, row_end;
};

// Maps that read one image, in order.
struct Readers {
  const int64_t *begin, *end;
};

// Whole coordinates under those of a tile's pixels along an axis, both inclusive.
struct Range {
  int64_t low, high;
};

// Images, channels, and a stripe of each image: rows, or slices of volumes. All output pixels that fall on it
// are this task's.
struct Stripe {
  int64_t image_begin, image_end, channel_begin, channel_end, begin, end;
  const Readers* readers;  // of each image
  const Range* ranges;  // (maps, tiles): the rows that a tile's pixels touch; null where there is one stripe
  double* gradients;    // (maps, streams, basis), theta's, to be added to; null: not wanted
  bool grad_input;      // whether it is wanted
};

// Values of one image's part of a stripe.
STN_INLINE int64_t stripe_values(const Problem& p, const Stripe& s) {
  return (s.channel_end - s.channel_begin) * (s.end - s.begin) * p.in[0] * (p.dims == 3 ? p.in[1] : 1);
}

// ---- tiles of the output ----

STN_INLINE int64_t tile_columns(int64_t width) { return width <= kTileColumns ? width : kWideTileColumns; }
STN_INLINE int64_t tile_rows(int64_t width, int64_t pixels) { return pixels / tile_columns(width); }

struct OutTile {
  int64_t top, left, rows, columns;
};

// What the radial functions over a tile take (radial_tiles.h).
constexpr int64_t kRadialStride = kTilePixels + kWalk;
constexpr int kNodeStride = 48;  // of kRadialNodes^2, in whole vectors
STN_INLINE int64_t radial_values(const Problem& p) { return p.radial() * (kRadialStride + kNodeStride); }

// Pixels in a tile, at most. Of few channels, radial functions are read again and again, for map after map:
// they are to stay in a first-level cache.
template <class T>
STN_INLINE int64_t tile_pixels(const Problem& p) {
  if (p.radial() == 0 || p.maps == 1 || p.channels > 4) return kTilePixels;
  const int64_t pixels = kRadialBytes / int64_t{sizeof(T)} / p.radial();
  return pixels < kRadialPixels ? kRadialPixels : pixels < kTilePixels ? pixels : kTilePixels;
}

// The tiles of the output, numbered along its rows.
struct Tiles {
  int64_t width, all_rows, columns, rows, across, down;

  STN_INLINE Tiles(const Problem& p, int64_t pixels)
      : width(p.out[0]),
        all_rows(p.rows()),
        columns(tile_columns(width)),
        rows(tile_rows(width, pixels)),
        across((width + columns - 1) / columns),
        down((all_rows + rows - 1) / rows) {}

  STN_INLINE int64_t count() const { return across * down; }
  STN_INLINE OutTile at(int64_t k) const {
    const int64_t top = k / across * rows, left = k % across * columns;
    return {top, left, all_rows - top < rows ? all_rows - top : rows,
            width - left < columns ? width - left : columns};
  }
};

// ---- the table of kernels ----

template <class T>
struct Kernels {
  int64_t group;            // channels in a vector
  int64_t workspace_bytes;  // of zeros, aligned to a cache line; of a thread's own, from call to call
  // radial: room for radial_values.
  void (*sample)(const Problem&, const Unit&, void* workspace, T* radial);
  // gradients: theta's (maps, streams, basis) of the unit's maps, to be added to.
  void (*grad_theta)(const Problem&, const Unit&, void* workspace, T* radial, double* gradients);
  // sums: room for stripe_values of each image.
  void (*backward)(const Problem&, const Stripe&, void* workspace, T* radial, T* sums);
  // ranges: (tiles,), of one map.
  void (*ranges)(const Problem&, int64_t map, void* workspace, T* radial, Range* ranges);
};

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
