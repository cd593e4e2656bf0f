// A pixel's taps: where they lie in memory and what they weigh.
#pragma once

#include "../sampling/taps.h"
#include "coordinates.cuh"

namespace stn::cuda {

// A place's phase of a padding that repeats, by 32-bit integers, whose division the host has prepared.
__device__ inline int phase_of(int at, const Axis& a) {
  const uint32_t n = static_cast<uint32_t>(at + a.bias);
  return static_cast<int>(n - a.period.quotient(n) * a.period.by);
}

// Which pixel of an axis stands at a place, -1 where there is none: source_index (sampling/padding.h).
__device__ inline int source_of(int at, const Axis& a, Padding padding) {
  if (static_cast<unsigned>(at) < static_cast<unsigned>(a.in)) return at;
  if (padding == Padding::zeros) return -1;
  const int last = a.in - 1;
  if (!repeats(padding)) return at < 0 ? 0 : last;
  return pixel_of_phase(padding, phase_of(at, a), a.span, last);
}

__device__ inline bool is_outer_place(int at, const Axis& a, Padding padding) {
  return is_outer_phase(padding, repeats(padding) ? phase_of(at, a) : at, a.span);
}

// The weights of a place's pair of neighbors.
template <class T>
__device__ AxisWeights<T> axis_weights(const Split<T>& s, const Axis& a, Padding padding) {
  const bool clamped = padding != Padding::zeros && s.frac == 0 && is_outer_place(s.whole, a, padding);
  const T slope = clamped ? T(0) : T(1);
  return {1 - s.frac, s.frac, -slope, slope};
}

// The nearest whole number, to the even one of two.
template <class T>
__device__ int rounded(const Split<T>& s) {
  const bool odd = s.whole & 1;
  return s.whole + (s.frac > T(0.5) || (s.frac == T(0.5) && odd));
}

// A pixel's 2^dims taps in a channel; bit d of a tap's number says which of axis d's pair it is. What lies
// outside has no place in memory.
template <int dims>
struct Places {
  int64_t first, step[dims];  // bytes to the first tap, and to the other of each pair
  unsigned exist;             // a bit for each tap

  template <class T>
  __device__ Places(const Problem& p, const Batch& images, const Split<T> (&at)[dims]) : first(0) {
    bool inside[dims][2];
#pragma unroll
    for (int d = 0; d < dims; ++d) {
      const int a = source_of(at[d].whole, p.axis[d], p.padding),
                b = source_of(at[d].whole + 1, p.axis[d], p.padding);
      inside[d][0] = a >= 0;
      inside[d][1] = b >= 0;
      const int begin = a >= 0 ? a : 0, end = b >= 0 ? b : begin;
      first += begin * images.axis[d];
      step[d] = (end - begin) * images.axis[d];
    }
    exist = 0;
#pragma unroll
    for (int t = 0; t < 1 << dims; ++t) {
      bool all = true;
#pragma unroll
      for (int d = 0; d < dims; ++d) all &= inside[d][t >> d & 1];
      exist |= static_cast<unsigned>(all) << t;
    }
  }

  __device__ int64_t offset(int t) const {
    int64_t sum = first;
#pragma unroll
    for (int d = 0; d < dims; ++d) sum += t >> d & 1 ? step[d] : 0;
    return sum;
  }
};

// The next pixels of a thread in a tame tile, of images of narrow strides: where they fall, in 2^-32 pixels,
// and where the first tap of each lies in memory. Whether all taps lie inside and none has a weight of 0.
template <int count, MapKind kind, int dims>
__device__ bool inside_of(const Problem& p, const Plan<kind, float>& plan, int j, int i,
                          const Bend<float> (&bend)[count], const char* image, int64_t (&at)[count][dims],
                          const char* (&from)[count]) {
  bool inside = true;
  walk<count>(plan, j, i, at);
#pragma unroll
  for (int k = 0; k < count; ++k) {
    from[k] = image;
#pragma unroll
    for (int d = 0; d < dims; ++d) {
      if constexpr (kind == MapKind::spline) {
        const bool bounded = fabsf(bend[k].by[d]) < kMostBend;
        inside &= bounded;
        at[k][d] += static_cast<int64_t>(bounded ? bend[k].by[d] * 0x1p32f : 0);
      }
      const int whole = static_cast<int>(at[k][d] >> 32);
      inside &=
          static_cast<unsigned>(whole) < static_cast<unsigned>(p.axis[d].in - 1) && is_between(at[k][d]);
      // A multiply-add; a volume's slices may be further apart.
      const int64_t stride = d < 2 ? static_cast<int32_t>(p.input.axis[d]) : p.input.axis[d];
      from[k] += whole * stride;
    }
  }
  return inside;
}

}  // namespace stn::cuda
