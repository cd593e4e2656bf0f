// The call of an operator as the CUDA kernels see it: numbers and pointers, passed by value.
//
// A map is a fixed basis of functions of the output's coordinates times coefficients of each image's own,
// theta: the coordinates and 1 (affine), these and one radial function a control point (thin plate spline:
// Bookstein 1989), or three such sums, "streams", of which the last divides the others (projective).
#pragma once

#include <cstdint>

#include "../sampling/padding.h"

namespace stn::cuda {

enum class MapKind : int { affine, projective, spline, volume };

STN_INLINE constexpr int dims_of(MapKind kind) { return kind == MapKind::volume ? 3 : 2; }
STN_INLINE constexpr int streams_of(MapKind kind) {
  return kind == MapKind::affine || kind == MapKind::spline ? 2 : 3;
}

// How numbers are stored. Kernels compute in float, or in double for f64.
enum class Storage : int { f32, f64, f16, bf16, u8, i16, u16 };

// Pixels along an axis, and channels, at most: coordinates are told apart as 32-bit integers.
constexpr int64_t kLongest = int64_t{1} << 28, kLeastPlace = (int64_t{1} << 29) + 2;

// Coefficients in any floating-point dtype, contiguous; null: none.
struct Numbers {
  const void* data;
  Storage storage;
};

// A batch of images or volumes. Strides count bytes.
struct Batch {
  char* data;
  int64_t batch, channel, axis[kMaxAxes];
};

inline bool is_narrow(const Batch& b) { return b.axis[0] < int64_t{1} << 31 && b.axis[1] < int64_t{1} << 31; }

// Division of numbers below 2^31 by a number that the host knows.
struct Divisor {
  uint32_t by, factor;
  int shift;

  STN_INLINE uint32_t quotient(uint32_t n) const {
    return static_cast<uint32_t>((static_cast<uint64_t>(n) * factor) >> shift);
  }
};

inline Divisor divisor(int64_t by) {
  int bits = 0;
  while (int64_t{1} << bits < by) ++bits;
  // The next whole number above 2^(31 + bits) / by, which is less than 2^32: off by a factor of less than
  // 1 + 2^-31.
  const uint64_t factor = (uint64_t{1} << (31 + bits)) / static_cast<uint64_t>(by) + 1;
  return {static_cast<uint32_t>(by), static_cast<uint32_t>(factor), 31 + bits};
}

// An axis of the input and of the output.
struct Axis {
  int in, out;           // lengths
  double scale, center;  // from normalized coordinates to the input's pixels
  double step, middle;   // an output pixel's normalized coordinate is (j - middle) * step
  int span;              // mirror_span
  Divisor period;        // of a padding that repeats
  int bias;              // whole periods that make a place not negative
};

inline Axis axis_of(int64_t in, int64_t out, Padding padding, bool align_corners) {
  const PixelScale to(in, align_corners);
  const auto span = static_cast<int64_t>(mirror_span(static_cast<double>(in), align_corners));
  // Places are never below -kLeastPlace.
  const int64_t period = period_of(padding, in, align_corners),
                bias = (kLeastPlace + period - 1) / period * period;
  return {static_cast<int>(in),
          static_cast<int>(out),
          to.scale,
          to.center,
          normalized_step(out, align_corners),
          0.5 * static_cast<double>(out - 1),
          static_cast<int>(span),
          divisor(period),
          static_cast<int>(bias)};
}

// How a launch's blocks divide the output: into tiles of `columns` x `rows` pixels of a slice, and the
// channels into groups.
struct Tiles {
  int warps_across, bands;  // bands: of kBandRows rows, one after another by each warp
  int columns, rows, channels;
  int lanes;      // threads that share a pixel, where its channels lie side by side
  bool vectors;   // whether each of them takes kVector bytes of channels at a time
  int functions;  // groups of a spline's radial functions that blocks are for
  Divisor across, down, slices, groups;
  int64_t per_map, threads;

  STN_INLINE int64_t blocks(int64_t maps) const { return maps * per_map * functions; }
};

struct Problem {
  MapKind kind;
  Storage storage;
  Padding padding;
  bool nearest, align_corners;
  bool narrow;  // whether the strides of rows and pixels fit 32 bits
  Axis axis[kMaxAxes];
  int64_t maps, images;
  int channels, basis;             // basis: functions of a stream
  Numbers theta, tangent, points;  // (maps, streams, basis), the same or none, (basis - 3, 2)
  const int64_t* index;            // the image of each map; null: of the same number, or the only one
  // What stands outside, (channels,) or one value, of what is computed with, for nearest of what is stored;
  // null: 0.
  const void* fill;
  int fill_step;
  // For nearest, whose values are moved as they are: bytes of an element, and what stands for a coordinate
  // that is not a number.
  int element;
  int64_t nan_bits;
  Batch input, output, grad, grad_input;

  STN_INLINE int radial() const { return basis - (kind == MapKind::volume ? 4 : 3); }  // functions
};

}  // namespace stn::cuda
