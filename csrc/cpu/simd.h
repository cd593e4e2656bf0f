// Vectors of pixels, as the compiler's own vector types: STN_VECTOR_BYTES wide, in the namespace of one SIMD
// level. Included by level sources only; see kernels.h.
#pragma once

#include <cstdint>
#include <cstring>

#include "../sampling.h"

// After a lambda's parameters.
#define STN_LAMBDA __attribute__((always_inline))

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

// A pointer of whose origin the compiler knows nothing: otherwise it derives the addresses in one row from
// those in another, and runs out of registers.
template <class P>
STN_INLINE P* opaque(P* p) {
  __asm__("" : "+r"(p));
  return p;
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

// Four numbers that belong together.
template <class T>
struct Quad {
  typedef T V __attribute__((vector_size(4 * sizeof(T))));
};

// The sum of each of four vectors.
template <class T>
STN_INLINE void sum_lanes_of_four(const Vec<T>* v, T* sums) {
  for (int k = 0; k < 4; ++k) {
    T s = 0;
    for (int lane = 0; lane < Simd<T>::lanes; ++lane) s += v[k][lane];
    sums[k] = s;
  }
}

// Each lane's a, b, c, d side by side, lane after lane.
template <class T>
STN_INLINE void store_interleaved(T* out, Vec<T> a, Vec<T> b, Vec<T> c, Vec<T> d) {
  for (int lane = 0; lane < Simd<T>::lanes; ++lane) {
    store(out + 4 * lane, typename Quad<T>::V{a[lane], b[lane], c[lane], d[lane]});
  }
}

// Rows to columns: a vector's lanes of as many vectors.
template <class T>
STN_INLINE void transpose(Vec<T>* v) {
  constexpr int lanes = Simd<T>::lanes;
  alignas(64) T rows[lanes][lanes], columns[lanes][lanes];
  for (int k = 0; k < lanes; ++k) store(rows[k], v[k]);
  for (int k = 0; k < lanes; ++k) {
    for (int lane = 0; lane < lanes; ++lane) columns[k][lane] = rows[lane][k];
  }
  for (int k = 0; k < lanes; ++k) v[k] = load<Vec<T>>(columns[k]);
}

// out[x] = here[4 x] + here[4 x - 3] + above[4 x + 2] + above[4 x - 1]: see the adjoint.
template <class T>
STN_INLINE void collect_row(const T* here, const T* above, T* out, int64_t width) {
  for (int64_t x = 0; x < width; ++x) {
    out[x] = (here[4 * x - 3] + above[4 * x - 1]) + (here[4 * x] + above[4 * x + 2]);
  }
}

#if defined(STN_LEVEL_AVX2)
template <>
STN_INLINE void sum_lanes_of_four<float>(const Vec<float>* v, float* sums) {
  const __m256 s = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
  _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1)));
}

template <>
STN_INLINE void store_interleaved<float>(float* out, Vec<float> a, Vec<float> b, Vec<float> c, Vec<float> d) {
  const __m256 ab_low = _mm256_unpacklo_ps(a, b), ab_high = _mm256_unpackhi_ps(a, b);
  const __m256 cd_low = _mm256_unpacklo_ps(c, d), cd_high = _mm256_unpackhi_ps(c, d);
  const __m256 q0 = _mm256_shuffle_ps(ab_low, cd_low, 0x44), q1 = _mm256_shuffle_ps(ab_low, cd_low, 0xEE);
  const __m256 q2 = _mm256_shuffle_ps(ab_high, cd_high, 0x44), q3 = _mm256_shuffle_ps(ab_high, cd_high, 0xEE);
  store(out, _mm256_permute2f128_ps(q0, q1, 0x20));
  store(out + 8, _mm256_permute2f128_ps(q2, q3, 0x20));
  store(out + 16, _mm256_permute2f128_ps(q0, q1, 0x31));
  store(out + 24, _mm256_permute2f128_ps(q2, q3, 0x31));
}

template <>
STN_INLINE void transpose<float>(Vec<float>* v) {
  __m256 pair[8], four[8];
  for (int k = 0; k < 8; k += 2) {
    pair[k] = _mm256_unpacklo_ps(v[k], v[k + 1]);
    pair[k + 1] = _mm256_unpackhi_ps(v[k], v[k + 1]);
  }
  for (int k = 0; k < 8; k += 4) {
    four[k] = _mm256_shuffle_ps(pair[k], pair[k + 2], 0x44);
    four[k + 1] = _mm256_shuffle_ps(pair[k], pair[k + 2], 0xEE);
    four[k + 2] = _mm256_shuffle_ps(pair[k + 1], pair[k + 3], 0x44);
    four[k + 3] = _mm256_shuffle_ps(pair[k + 1], pair[k + 3], 0xEE);
  }
  for (int k = 0; k < 4; ++k) {
    v[k] = _mm256_permute2f128_ps(four[k], four[k + 4], 0x20);
    v[k + 4] = _mm256_permute2f128_ps(four[k], four[k + 4], 0x31);
  }
}

// Both of a pixel's elements of a row lie at the ends of four that are loaded together; eight pixels at a
// time.
template <>
STN_INLINE void collect_row<float>(const float* here, const float* above, float* out, int64_t width) {
  const __m256i in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  for (int64_t x = 0; x < width; x += 8) {
    __m256 pair[4];
    for (int k = 0; k < 4; ++k) {
      // [x - 1].1 ... [x].0 and [x - 1].3 ... [x].2: their first and last elements belong together.
      pair[k] = _mm256_add_ps(_mm256_loadu_ps(here + 4 * x + 8 * k - 3),
                              _mm256_loadu_ps(above + 4 * x + 8 * k - 1));
    }
    const __m256 ends01 = _mm256_shuffle_ps(pair[0], pair[1], 0xCC),
                 ends23 = _mm256_shuffle_ps(pair[2], pair[3], 0xCC);
    const __m256 sums = _mm256_permutevar8x32_ps(_mm256_hadd_ps(ends01, ends23), in_order);
    store_some(out + x, sums, width - x);
  }
}
#endif

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
