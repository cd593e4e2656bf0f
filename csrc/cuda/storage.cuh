// Numbers as they are stored, and as they are computed with. Included by kernels alone.
#pragma once

#include <math.h>

#include <cstring>

#include "cuda/half_conversions.h"
#include "problem.h"

namespace stn::cuda {

template <class S>
struct ComputedIn {
  using type = float;
};
template <>
struct ComputedIn<double> {
  using type = double;
};
template <class S>
using Computed = typename ComputedIn<S>::type;

__device__ inline float load(const float* x) { return *x; }
__device__ inline double load(const double* x) { return *x; }
__device__ inline float load(const Half* x) { return half_to_float(*x); }
__device__ inline float load(const BFloat16* x) {  // a float's upper half
  const uint32_t bits = static_cast<uint32_t>(x->bits) << 16;
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}
__device__ inline float load(const uint8_t* x) { return *x; }
__device__ inline float load(const int16_t* x) { return *x; }
__device__ inline float load(const uint16_t* x) { return *x; }

__device__ inline void store(float x, float* to) { *to = x; }
__device__ inline void store(double x, double* to) { *to = x; }
__device__ inline void store(float x, Half* to) { *to = float_to_half(x); }
__device__ inline void store(float x, BFloat16* to) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;  // to the nearest, ties to even
  to->bits = static_cast<uint16_t>(x == x ? rounded : 0x7fc0);
}
// To the nearest, ties to even; brought into range; not a number becomes 0.
template <class S>
__device__ void store_integer(float x, float least, float most, S* to) {
  const float number = x == x ? x : 0;
  *to = static_cast<S>(static_cast<int>(rintf(fminf(fmaxf(number, least), most))));
}
__device__ inline void store(float x, uint8_t* to) { store_integer(x, 0, 255, to); }
__device__ inline void store(float x, int16_t* to) { store_integer(x, -32768, 32767, to); }
__device__ inline void store(float x, uint16_t* to) { store_integer(x, 0, 65535, to); }

// Whether a storage's numbers are read by vectors too.
template <class S>
constexpr bool kHasVectors = false;
template <>
constexpr bool kHasVectors<float> = true;
template <>
constexpr bool kHasVectors<Half> = true;
template <>
constexpr bool kHasVectors<BFloat16> = true;

// kVector bytes, as many numbers as they hold.
template <class S>
struct alignas(16) Vector {
  static constexpr int count = 16 / sizeof(S);
  S at[count];
};

// Bytes further on.
template <class S>
__device__ const S* ahead(const S* from, int64_t bytes) {
  return reinterpret_cast<const S*>(reinterpret_cast<const char*>(from) + bytes);
}

// Coefficient number k, by the few threads that plan a block.
__device__ inline double number(const Numbers& n, int64_t k) {
  switch (n.storage) {
    case Storage::f64:
      return static_cast<const double*>(n.data)[k];
    case Storage::f16:
      return static_cast<double>(load(static_cast<const Half*>(n.data) + k));
    case Storage::bf16:
      return static_cast<double>(load(static_cast<const BFloat16*>(n.data) + k));
    default:
      return static_cast<double>(static_cast<const float*>(n.data)[k]);
  }
}

__device__ inline void store_number(double x, Storage storage, void* data, int64_t k) {
  switch (storage) {
    case Storage::f64:
      return store(x, static_cast<double*>(data) + k);
    case Storage::f16:
      return store(static_cast<float>(x), static_cast<Half*>(data) + k);
    case Storage::bf16:
      return store(static_cast<float>(x), static_cast<BFloat16*>(data) + k);
    default:
      return store(static_cast<float>(x), static_cast<float*>(data) + k);
  }
}

}  // namespace stn::cuda
