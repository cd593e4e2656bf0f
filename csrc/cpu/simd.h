// Vectors of pixels, as the compiler's own vector types: STN_VECTOR_BYTES wide, in the namespace of one SIMD level.
// Included by level sources only; see kernels.h.
#pragma once

#include <cstdint>
#include <cstring>

#include "../sampling.h"

namespace stn::cpu {
namespace STN_LEVEL {

template <class T>
struct Simd;

template <>
struct Simd<float> {
  static constexpr int lanes = STN_VECTOR_BYTES / 4;
  typedef float V __attribute__((vector_size(STN_VECTOR_BYTES)));
  typedef int32_t Index __attribute__((vector_size(STN_VECTOR_BYTES)));  // one a lane
  typedef int32_t Mask __attribute__((vector_size(STN_VECTOR_BYTES)));
};

template <>
struct Simd<double> {
  static constexpr int lanes = STN_VECTOR_BYTES / 8;
  typedef double V __attribute__((vector_size(STN_VECTOR_BYTES)));
  typedef int32_t Index __attribute__((vector_size(STN_VECTOR_BYTES / 2)));
  typedef int64_t Mask __attribute__((vector_size(STN_VECTOR_BYTES)));
};

template <class T>
using Vec = typename Simd<T>::V;
template <class T>
using IndexVec = typename Simd<T>::Index;

template <class V, class P>
STN_INLINE V load(const P* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof(V));
  return v;
}

template <class V, class P>
STN_INLINE void store(P* p, V v) {
  __builtin_memcpy(p, &v, sizeof(V));
}

// The first `count` lanes; the others are 0.
template <class V, class P>
STN_INLINE V load_some(const P* p, int64_t count) {
  if (count >= static_cast<int64_t>(sizeof(V) / sizeof(P))) return load<V>(p);
  V v{};
  __builtin_memcpy(&v, p, static_cast<size_t>(count) * sizeof(P));
  return v;
}

template <class V, class P>
STN_INLINE void store_some(P* p, V v, int64_t count) {
  if (count >= static_cast<int64_t>(sizeof(V) / sizeof(P))) {
    store(p, v);
  } else {
    __builtin_memcpy(p, &v, static_cast<size_t>(count) * sizeof(P));
  }
}

// 0, 1, 2, ...
template <class T>
STN_INLINE Vec<T> lane_numbers() {
  Vec<T> v;
  for (int k = 0; k < Simd<T>::lanes; ++k) v[k] = static_cast<T>(k);
  return v;
}

template <class T>
STN_INLINE IndexVec<T> to_index(Vec<T> v) {
  return __builtin_convertvector(v, IndexVec<T>);
}

// Floor of coordinates, and of quotients of them: their magnitude is bounded by kExactCoordinate.
template <class T>
STN_INLINE Vec<T> floor_of(Vec<T> x) {
  typedef decltype(x < x) Int;
  const Vec<T> truncated = __builtin_convertvector(__builtin_convertvector(x, Int), Vec<T>);
  return truncated - (truncated > x ? Vec<T>{} + 1 : Vec<T>{});
}

#if defined(STN_LEVEL_AVX2)
template <>
STN_INLINE Vec<float> floor_of<float>(Vec<float> x) {
  return _mm256_floor_ps(x);
}
template <>
STN_INLINE Vec<double> floor_of<double>(Vec<double> x) {
  return _mm256_floor_pd(x);
}
#endif

// The lanes of v where keep is set, 0 elsewhere.
template <class V, class M>
STN_INLINE V keep_lanes(M keep, V v) {
  return (V)((M)v & keep);
}

template <class T>
STN_INLINE T sum_lanes(Vec<T> v) {
  T s = 0;
  for (int k = 0; k < Simd<T>::lanes; ++k) s += v[k];
  return s;
}

// Two neighbours, left and right, of one pixel a lane.
template <class T>
struct Pairs {
  Vec<T> left, right;
};

// row[tap[k]] and row[tap[k] + 1] for each lane k: one load serves both.
#if defined(STN_LEVEL_AVX2)
// Broadcasts and blends: neither needs the one port that shuffles share.
STN_INLINE __m256d broadcast_pair(const float* p) {
  return _mm256_broadcast_sd(reinterpret_cast<const double*>(p));
}

STN_INLINE __m256 four_pairs(const float* a, const float* b, const float* c, const float* d) {
  const __m256d low = _mm256_blend_pd(broadcast_pair(a), broadcast_pair(b), 0b0010);
  const __m256d high = _mm256_blend_pd(broadcast_pair(c), broadcast_pair(d), 0b1000);
  return _mm256_castpd_ps(_mm256_blend_pd(low, high, 0b1100));
}

STN_INLINE Pairs<float> load_pairs(const float* row, const int32_t* tap) {
  const __m256 even = four_pairs(row + tap[0], row + tap[1], row + tap[4], row + tap[5]);
  const __m256 odd = four_pairs(row + tap[2], row + tap[3], row + tap[6], row + tap[7]);
  return {_mm256_shuffle_ps(even, odd, 0x88), _mm256_shuffle_ps(even, odd, 0xDD)};
}

STN_INLINE __m256d two_pairs(const double* a, const double* b) {
  return _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd(a)), _mm_loadu_pd(b), 1);
}

STN_INLINE Pairs<double> load_pairs(const double* row, const int32_t* tap) {
  const __m256d even = two_pairs(row + tap[0], row + tap[2]);
  const __m256d odd = two_pairs(row + tap[1], row + tap[3]);
  return {_mm256_unpacklo_pd(even, odd), _mm256_unpackhi_pd(even, odd)};
}
#else
template <class T>
STN_INLINE Pairs<T> load_pairs(const T* row, const int32_t* tap) {
  Pairs<T> p;
  for (int k = 0; k < Simd<T>::lanes; ++k) {
    p.left[k] = row[tap[k]];
    p.right[k] = row[tap[k] + 1];
  }
  return p;
}
#endif

}  // namespace STN_LEVEL
}  // namespace stn::cpu

namespace stn {
template <>
struct Floor<cpu::STN_LEVEL::Vec<float>> {
  static STN_INLINE cpu::STN_LEVEL::Vec<float> of(cpu::STN_LEVEL::Vec<float> x) {
    return cpu::STN_LEVEL::floor_of<float>(x);
  }
};
template <>
struct Floor<cpu::STN_LEVEL::Vec<double>> {
  static STN_INLINE cpu::STN_LEVEL::Vec<double> of(cpu::STN_LEVEL::Vec<double> x) {
    return cpu::STN_LEVEL::floor_of<double>(x);
  }
};
}  // namespace stn
