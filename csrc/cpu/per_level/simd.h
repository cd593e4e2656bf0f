// Vectors of pixels, as the compiler's own vector types: STN_VECTOR_BYTES wide, in the namespace of one SIMD
// level. Included by level sources only; see kernels.h.
#pragma once

#include <cstdint>
#include <cstring>

#include "../../sampling/maps.h"
#include "../tuning.h"

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
struct Simd<int32_t> {
  static constexpr int lanes = STN_VECTOR_BYTES / 4;
  typedef int32_t V __attribute__((vector_size(STN_VECTOR_BYTES)));
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

// Past the caches, where the processor can: for results that no cache would keep until they are used. To be
// ended by end_streams. p is aligned to the vector.
template <class V, class P>
STN_INLINE void stream(P* p, V v) {
  store(p, v);
}

STN_INLINE void end_streams() {
#if defined(__x86_64__)
  __builtin_ia32_sfence();
#endif
}

// Asks for memory before it is needed: the rows of windows and tiles are too short for the processor to
// foresee the next ones.
STN_INLINE void expect(const void* from, int64_t bytes) {
  for (int64_t k = 0; k < bytes; k += 64) __builtin_prefetch(static_cast<const char*>(from) + k);
}

// Loaded once, however often it is used: the compiler would rather read memory twice.
template <class V>
STN_INLINE V in_register(V v) {
#if defined(STN_LEVEL_AVX2) || defined(STN_LEVEL_AVX512)  // whose registers hold whole vectors
  __asm__("" : "+v"(v));
#endif
  return v;
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

// So many, in whole vectors.
template <class T>
STN_INLINE void store_zeros(T* to, int64_t values) {
  for (int64_t x = 0; x < values; x += Simd<T>::lanes) store(to + x, Vec<T>{});
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

// The second one where a lane is not a number.
template <class V>
STN_INLINE V lesser(V a, V b) {
  return a < b ? a : b;
}
template <class V>
STN_INLINE V greater(V a, V b) {
  return a > b ? a : b;
}

// Brought into [0, last].
template <class T>
STN_INLINE Vec<T> clamp(Vec<T> v, Vec<T> last) {
  return greater(lesser(v, last), Vec<T>{});
}

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

// Where pixel k's quad lies: whole vectors of pixels one after the other, each in the order in which its
// quads come without moving anything across 16-byte lanes.
template <class T>
constexpr int quad_at(int k) {
  constexpr int lanes = Simd<T>::lanes;
  return lanes < 4 ? 4 * k : k / lanes * 4 * lanes + k % lanes % 4 * lanes + k % lanes / 4 * 4;
}

// The four pixels that each of a vector of pixels lies between.
template <class T>
struct Taps {
  Vec<T> v00, v01, v10, v11;
};

// pairs holds two rows of an image, a pixel of the upper one before that of the lower one; tap: how many such
// pairs lie before each pixel's.
template <class T>
STN_INLINE Taps<T> load_quads(const T* pairs, const int32_t* tap) {
  Taps<T> t;
  for (int k = 0; k < Simd<T>::lanes; ++k) {
    const T* quad = pairs + 2 * static_cast<int64_t>(tap[k]);
    t.v00[k] = quad[0];
    t.v10[k] = quad[1];
    t.v01[k] = quad[2];
    t.v11[k] = quad[3];
  }
  return t;
}

// For each offset the value there and the one after it.
template <class T>
STN_INLINE void load_pairs(const T* from, const int64_t* offset, Vec<T>* first, Vec<T>* second) {
  for (int k = 0; k < Simd<T>::lanes; ++k) {
    (*first)[k] = from[offset[k]];
    (*second)[k] = from[offset[k] + 1];
  }
}

// out[quad_at(k) ...] = a[k], b[k], c[k], d[k] for each lane k.
template <class T>
STN_INLINE void store_quads(T* out, Vec<T> a, Vec<T> b, Vec<T> c, Vec<T> d) {
  for (int k = 0; k < Simd<T>::lanes; ++k) {
    store(out + quad_at<T>(k), typename Quad<T>::V{a[k], b[k], c[k], d[k]});
  }
}

// out = a[0], b[0], a[1], b[1], ...
template <class T>
STN_INLINE void store_alternating(T* out, Vec<T> a, Vec<T> b) {
  for (int k = 0; k < Simd<T>::lanes; ++k) {
    out[2 * k] = a[k];
    out[2 * k + 1] = b[k];
  }
}

// All lanes of v as one, by f of vectors of half as many again and again. It takes v apart in memory, where v
// is not to be before.
template <class T, int lanes, class V, class F>
STN_INLINE T reduce_lanes(const V& v, const F& f) {
  if constexpr (lanes == 1) {
    return v[0];
  } else {
    typedef T Half __attribute__((vector_size(lanes / 2 * sizeof(T))));
    Half low, high;
    __builtin_memcpy(&low, &v, sizeof(Half));
    __builtin_memcpy(&high, reinterpret_cast<const char*>(&v) + sizeof(Half), sizeof(Half));
    return reduce_lanes<T, lanes / 2>(f(low, high), f);
  }
}

// Whether each of so many second offsets is the one after the first, and no first one negative; whole
// vectors.
template <int count>
STN_INLINE bool side_by_side(const int64_t* first, const int64_t* second) {
  constexpr int lanes = STN_VECTOR_BYTES / 8;
  typedef int64_t V __attribute__((vector_size(STN_VECTOR_BYTES)));
  V apart{};
  for (int k = 0; k < count; k += lanes) {
    const V a = load<V>(first + k), b = load<V>(second + k);
    apart |= (b - a - 1) | (a < 0);
  }
  return reduce_lanes<int64_t, lanes>(in_register(apart), [](auto a, auto b) STN_LAMBDA { return a | b; }) ==
         0;
}

template <class T>
STN_INLINE T least_lane(Vec<T> v) {
  return reduce_lanes<T, Simd<T>::lanes>(in_register(v),
                                         [](auto a, auto b) STN_LAMBDA { return lesser(a, b); });
}

template <class T>
STN_INLINE T greatest_lane(Vec<T> v) {
  return reduce_lanes<T, Simd<T>::lanes>(in_register(v),
                                         [](auto a, auto b) STN_LAMBDA { return greater(a, b); });
}

template <class T>
STN_INLINE T sum_lanes(Vec<T> v) {
  return reduce_lanes<T, Simd<T>::lanes>(in_register(v), [](auto a, auto b) STN_LAMBDA { return a + b; });
}

// The sum of each of four vectors.
template <class T>
STN_INLINE void sum_lanes_of_four(const Vec<T>* v, T* sums) {
  for (int k = 0; k < 4; ++k) sums[k] = sum_lanes<T>(v[k]);
}

// Rows to columns: as many vectors as one has lanes.
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

// The sums of as many vectors' lanes as one has: a lane each. v is left transposed.
template <class T>
STN_INLINE Vec<T> sum_vectors(Vec<T>* v) {
  constexpr int lanes = Simd<T>::lanes;
  transpose<T>(v);
  for (int count = lanes / 2; count > 0; count /= 2) {
    for (int k = 0; k < count; ++k) v[k] += v[k + count];
  }
  return v[0];
}

// put(x, sums) for each vector of here[4 x] + here[4 x - 3] + above[4 x + 2] + above[4 x - 1], the last of
// which may reach beyond the width: see Cells.
template <class T, class Put>
STN_INLINE void collect_row(const T* here, const T* above, int64_t width, const Put& put) {
  for (int64_t x = 0; x < width; x += Simd<T>::lanes) {
    Vec<T> sums;
    for (int k = 0; k < Simd<T>::lanes; ++k, here += 4, above += 4) {
      sums[k] = (here[-3] + above[-1]) + (here[0] + above[2]);
    }
    put(x, sums);
  }
}

}  // namespace STN_LEVEL
}  // namespace stn::cpu

#if defined(STN_LEVEL_AVX2)
#include "simd_avx2.h"
#elif defined(STN_LEVEL_AVX512)
#include "simd_avx512.h"
#endif

#if defined(STN_LEVEL_AVX2) || defined(STN_LEVEL_AVX512)
namespace stn::cpu {
namespace STN_LEVEL {

// Words are moved as floats are.
template <>
STN_INLINE Taps<int32_t> load_quads<int32_t>(const int32_t* pairs, const int32_t* tap) {
  const Taps<float> t = load_quads(reinterpret_cast<const float*>(pairs), tap);
  return {(Vec<int32_t>)t.v00, (Vec<int32_t>)t.v01, (Vec<int32_t>)t.v10, (Vec<int32_t>)t.v11};
}

template <>
STN_INLINE void store_alternating<int32_t>(int32_t* out, Vec<int32_t> a, Vec<int32_t> b) {
  store_alternating<float>(reinterpret_cast<float*>(out), (Vec<float>)a, (Vec<float>)b);
}

}  // namespace STN_LEVEL
}  // namespace stn::cpu
#endif

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
