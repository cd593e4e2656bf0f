// Rows of pixels between memory, as they are stored there, and numbers to compute with: the one place that
// knows dtypes and interleaved channels. Included by level sources only; see problem.h.
#pragma once

#include "../problem.h"
#include "simd.h"

namespace stn::cpu {
namespace STN_LEVEL {

struct F16 {
  uint16_t bits;
};
struct BF16 {
  uint16_t bits;
};

// ---- a vector's conversion ----

template <class T, class S>
struct Raw {
  typedef S V __attribute__((vector_size(Simd<T>::lanes * sizeof(S))));
};
typedef Raw<float, uint16_t>::V HalfBits;  // a float's lane each
typedef Raw<float, uint32_t>::V WordBits;

template <class To, class From>
STN_INLINE To same_bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "as many bits");
  To to;
  __builtin_memcpy(&to, &from, sizeof(to));
  return to;
}

// Without instructions for it: the exponent is rebased by a multiplication, which is exact, subnormal numbers
// included.
STN_INLINE Vec<float> from_half(HalfBits h) {
#if defined(STN_LEVEL_AVX512)
  return _mm512_cvtph_ps((__m256i)h);
#elif defined(STN_LEVEL_AVX2)
  return _mm256_cvtph_ps((__m128i)h);
#else
  const WordBits bits = __builtin_convertvector(h, WordBits), rest = (bits & 0x7FFF) << 13;
  const Vec<float> rebased = same_bits<Vec<float>>(rest) * 0x1p112f;
  const WordBits infinite = (WordBits)(rest >= WordBits{} + (31u << 23)) & (255u << 23);
  return same_bits<Vec<float>>(same_bits<WordBits>(rebased) | infinite | (bits & 0x8000) << 16);
#endif
}

// To the nearest, ties to even.
STN_INLINE HalfBits to_half(Vec<float> v) {
#if defined(STN_LEVEL_AVX512)
  return (HalfBits)_mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(STN_LEVEL_AVX2)
  return (HalfBits)_mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  const WordBits bits = same_bits<WordBits>(v), sign = bits & 0x80000000u, size = bits ^ sign;
  // Below 2^-14, to a multiple of 2^-24: where floats have that for their last digit the sum rounds to it.
  const WordBits small = same_bits<WordBits>(same_bits<Vec<float>>(size) + 0.5f) - (126u << 23);
  const WordBits normal = (size + 0xFFF + (size >> 13 & 1) - (112u << 23)) >> 13;
  const WordBits is_small = (WordBits)(size < WordBits{} + (113u << 23));
  const WordBits is_large = (WordBits)(size >= WordBits{} + (143u << 23) - 0x1000);
  const WordBits is_nan = (WordBits)(size > WordBits{} + (255u << 23));
  const WordBits finite = (is_small & small) | (~is_small & normal);
  const WordBits half = (is_large & 0x7C00) | (~is_large & finite);
  return __builtin_convertvector((is_nan & 0x7E00) | (~is_nan & half) | sign >> 16, HalfBits);
#endif
}

STN_INLINE Vec<float> from_bfloat(HalfBits b) {
  return same_bits<Vec<float>>(__builtin_convertvector(b, WordBits) << 16);
}

STN_INLINE HalfBits to_bfloat(Vec<float> v) {
  const WordBits bits = same_bits<WordBits>(v), rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
  const WordBits is_nan = (WordBits)(v != v);
  return __builtin_convertvector((is_nan & 0x7FC0) | (~is_nan & rounded), HalfBits);
}

// Small integers to a float's lane each; compilers take many more steps.
template <class S>
STN_INLINE IndexVec<float> spread_bits(typename Raw<float, S>::V raw) {
  constexpr bool bytes = sizeof(S) == 1, has_sign = S(-1) < S(0);
#if defined(STN_LEVEL_AVX512)
  if constexpr (bytes)
    return (IndexVec<float>)_mm512_cvtepu8_epi32((__m128i)raw);
  else if constexpr (has_sign)
    return (IndexVec<float>)_mm512_cvtepi16_epi32((__m256i)raw);
  else
    return (IndexVec<float>)_mm512_cvtepu16_epi32((__m256i)raw);
#elif defined(STN_LEVEL_AVX2)
  if constexpr (bytes)
    return (IndexVec<float>)_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(same_bits<int64_t>(raw)));
  else if constexpr (has_sign)
    return (IndexVec<float>)_mm256_cvtepi16_epi32((__m128i)raw);
  else
    return (IndexVec<float>)_mm256_cvtepu16_epi32((__m128i)raw);
#else
  (void)bytes, (void)has_sign;
  return __builtin_convertvector(raw, IndexVec<float>);
#endif
}

// And back, of numbers in range.
template <class S>
STN_INLINE typename Raw<float, S>::V gather_bits(IndexVec<float> v) {
  typedef typename Raw<float, S>::V To;
#if defined(STN_LEVEL_AVX512)
  if constexpr (sizeof(S) == 1)
    return (To)_mm512_cvtepi32_epi8((__m512i)v);
  else
    return (To)_mm512_cvtepi32_epi16((__m512i)v);
#elif defined(STN_LEVEL_AVX2)
  const __m128i low = _mm256_castsi256_si128((__m256i)v), high = _mm256_extracti128_si256((__m256i)v, 1);
  const __m128i words = S(-1) < S(0) ? _mm_packs_epi32(low, high) : _mm_packus_epi32(low, high);
  if constexpr (sizeof(S) == 1)
    return same_bits<To>(_mm_cvtsi128_si64(_mm_packus_epi16(words, words)));
  else
    return (To)words;
#else
  return __builtin_convertvector(v, To);
#endif
}

template <class T, class S>
STN_INLINE Vec<T> widened(typename Raw<T, S>::V raw) {
  if constexpr (sizeof(S) < 4) {
    return __builtin_convertvector(spread_bits<S>(raw), Vec<T>);
  } else {
    return raw;
  }
}

// To the nearest, ties to even; brought into range; not a number becomes 0.
template <class T, class S>
STN_INLINE typename Raw<T, S>::V narrowed(Vec<T> v) {
  if constexpr (sizeof(S) < 4) {
    constexpr bool has_sign = S(-1) < S(0);
    constexpr T least = has_sign ? -32768 : 0, most = has_sign ? 32767 : sizeof(S) == 1 ? 255 : 65535;
    constexpr T round = T(3 << 22);  // whose last digit is 1
    const Vec<T> number = v == v ? v : Vec<T>{};
    const Vec<T> in_range = lesser(greater(number, Vec<T>{} + least), Vec<T>{} + most);
    const IndexVec<T> whole = __builtin_convertvector((in_range + round) - round, IndexVec<T>);
    return gather_bits<S>(whole);
  } else {
    return v;
  }
}

// Elements of S in memory; how vectors of them are loaded and stored.
template <class T, class S>
struct Element {
  typedef S Bits;
  static STN_INLINE Vec<T> load(typename Raw<T, S>::V raw) { return widened<T, S>(raw); }
  static STN_INLINE typename Raw<T, S>::V store(Vec<T> v) { return narrowed<T, S>(v); }
};
template <>
struct Element<float, F16> {
  typedef uint16_t Bits;
  static STN_INLINE Vec<float> load(HalfBits raw) { return from_half(raw); }
  static STN_INLINE HalfBits store(Vec<float> v) { return to_half(v); }
};
template <>
struct Element<float, BF16> {
  typedef uint16_t Bits;
  static STN_INLINE Vec<float> load(HalfBits raw) { return from_bfloat(raw); }
  static STN_INLINE HalfBits store(Vec<float> v) { return to_bfloat(v); }
};

// ---- rows ----

// f(k, count): whole vectors of a row, the last of which goes back over the one before it; a row that is
// shorter than one comes at once.
template <class T, class F>
STN_INLINE void for_vectors(int64_t count, const F& f) {
  constexpr int64_t lanes = Simd<T>::lanes;
  int64_t k = 0;
  for (; k + lanes <= count; k += lanes) f(k, lanes);
  if (k == count) return;
  count > lanes ? f(count - lanes, lanes) : f(int64_t{0}, count);
}

// Channel c of pixel k lies at from[k * pixel + c] and goes to to[c * stride + k].
template <class T, class S, int channels>
STN_INLINE void load_interleaved(const typename Element<T, S>::Bits* from, int64_t count, T* to,
                                 int64_t stride) {
  typedef typename Element<T, S>::Bits Bits;
  constexpr int lanes = Simd<T>::lanes;
  for_vectors<T>(count, [&](int64_t k, int64_t n) STN_LAMBDA {
    alignas(64) Bits part[channels][lanes];
    if (n == lanes) {
      for (int i = 0; i < lanes; ++i) {
        for (int c = 0; c < channels; ++c) part[c][i] = from[(k + i) * channels + c];
      }
    } else {
      __builtin_memset(part, 0, sizeof(part));
      for (int i = 0; i < n; ++i) {
        for (int c = 0; c < channels; ++c) part[c][i] = from[(k + i) * channels + c];
      }
    }
    for (int c = 0; c < channels; ++c) {
      store_some(to + c * stride + k, Element<T, S>::load(load<typename Raw<T, Bits>::V>(part[c])), n);
    }
  });
}

template <class T, class S>
void load_row(const void* memory, int64_t channels, int64_t pixel, int64_t count, T* to, int64_t stride) {
  typedef typename Element<T, S>::Bits Bits;
  typedef typename Raw<T, Bits>::V RawVec;
  const Bits* from = static_cast<const Bits*>(memory);
  if (channels == 1 && pixel == 1) {
    for_vectors<T>(count, [&](int64_t k, int64_t n) STN_LAMBDA {
      store_some(to + k, Element<T, S>::load(load_some<RawVec>(from + k, n)), n);
    });
    return;
  }
  if (channels == pixel && channels == 3) return load_interleaved<T, S, 3>(from, count, to, stride);
  if (channels == pixel && channels == 4) return load_interleaved<T, S, 4>(from, count, to, stride);
  if (channels == pixel && channels == 2) return load_interleaved<T, S, 2>(from, count, to, stride);
  constexpr int lanes = Simd<T>::lanes;
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t k = 0; k < count; k += lanes) {
      alignas(64) Bits part[lanes] = {};
      const int64_t n = count - k < lanes ? count - k : lanes;
      for (int64_t i = 0; i < n; ++i) part[i] = from[(k + i) * pixel + c];
      store_some(to + c * stride + k, Element<T, S>::load(load<RawVec>(part)), n);
    }
  }
}

template <class T, class S, int channels>
STN_INLINE void store_interleaved(const T* from, int64_t stride, int64_t count,
                                  typename Element<T, S>::Bits* to) {
  typedef typename Element<T, S>::Bits Bits;
  constexpr int lanes = Simd<T>::lanes;
  for_vectors<T>(count, [&](int64_t k, int64_t n) STN_LAMBDA {
    alignas(64) Bits part[channels][lanes];
    for (int c = 0; c < channels; ++c) {
      store(part[c], Element<T, S>::store(load_some<Vec<T>>(from + c * stride + k, n)));
    }
    if (n == lanes) {
      for (int i = 0; i < lanes; ++i) {
        for (int c = 0; c < channels; ++c) to[(k + i) * channels + c] = part[c][i];
      }
    } else {
      for (int i = 0; i < n; ++i) {
        for (int c = 0; c < channels; ++c) to[(k + i) * channels + c] = part[c][i];
      }
    }
  });
}

template <class T, class S>
void store_row(const T* from, int64_t stride, int64_t channels, int64_t pixel, int64_t count, void* memory) {
  typedef typename Element<T, S>::Bits Bits;
  Bits* to = static_cast<Bits*>(memory);
  if (channels == 1 && pixel == 1) {
    for_vectors<T>(count, [&](int64_t k, int64_t n) STN_LAMBDA {
      store_some(to + k, Element<T, S>::store(load_some<Vec<T>>(from + k, n)), n);
    });
    return;
  }
  if (channels == pixel && channels == 3) return store_interleaved<T, S, 3>(from, stride, count, to);
  if (channels == pixel && channels == 4) return store_interleaved<T, S, 4>(from, stride, count, to);
  if (channels == pixel && channels == 2) return store_interleaved<T, S, 2>(from, stride, count, to);
  constexpr int lanes = Simd<T>::lanes;
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t k = 0; k < count; k += lanes) {
      alignas(64) Bits part[lanes];
      const int64_t n = count - k < lanes ? count - k : lanes;
      store(part, Element<T, S>::store(load_some<Vec<T>>(from + c * stride + k, n)));
      for (int64_t i = 0; i < n; ++i) to[(k + i) * pixel + c] = part[i];
    }
  }
}

// A vector of elements of S, of which one with a negative offset is `outside`.
template <class T, class S>
STN_INLINE Vec<T> gather_vector(const typename Element<T, S>::Bits* from, const int64_t* offset, T outside) {
  typedef typename Element<T, S>::Bits Bits;
  constexpr int lanes = Simd<T>::lanes;
  typedef int64_t Offsets __attribute__((vector_size(lanes * sizeof(int64_t))));
  alignas(64) Bits bits[lanes];
  for (int i = 0; i < lanes; ++i) bits[i] = from[offset[i] < 0 ? 0 : offset[i]];
  const Vec<T> v = Element<T, S>::load(load<typename Raw<T, Bits>::V>(bits));
  Offsets sign;
  __builtin_memcpy(&sign, offset, sizeof(sign));
  sign >>= 63;
  const auto none = __builtin_convertvector(sign, typename Simd<T>::Mask);
  return none ? Vec<T>{} + outside : v;
}

// Two taps' values, in whole vectors; a negative offset is that of `outside`. Most pixels have both taps in
// memory side by side.
template <class T, class S>
void gather_row(const void* memory, const int64_t* first, const int64_t* second, int64_t count, T outside,
                T* to_first, T* to_second) {
  const auto* from = static_cast<const typename Element<T, S>::Bits*>(memory);
  constexpr int lanes = Simd<T>::lanes;
  constexpr bool converts = sizeof(*from) != sizeof(T);
  for (int64_t k = 0; k < count; k += lanes) {
    Vec<T> a, b;
    if (!converts && side_by_side<lanes>(first + k, second + k)) {
      load_pairs<T>(static_cast<const T*>(memory), first + k, &a, &b);
    } else {
      a = gather_vector<T, S>(from, first + k, outside);
      b = gather_vector<T, S>(from, second + k, outside);
    }
    store(to_first + k, a);
    store(to_second + k, b);
  }
}

// A dtype's rows.
template <class T>
struct Rows {
  bool direct;   // stored as T
  int64_t size;  // bytes of an element
  void (*load)(const void* from, int64_t channels, int64_t pixel, int64_t count, T* to, int64_t stride);
  void (*store)(const T* from, int64_t stride, int64_t channels, int64_t pixel, int64_t count, void* to);
  void (*gather)(const void* from, const int64_t* first, const int64_t* second, int64_t count, T outside,
                 T* to_first, T* to_second);
};

template <class T, class S>
constexpr Rows<T> rows_as() {
  return {false, sizeof(typename Element<T, S>::Bits), load_row<T, S>, store_row<T, S>, gather_row<T, S>};
}

STN_INLINE Rows<double> rows_of(Storage, double*) {
  Rows<double> rows = rows_as<double, double>();
  rows.direct = true;
  return rows;
}

STN_INLINE Rows<float> rows_of(Storage storage, float*) {
  switch (storage) {
    case Storage::f32: {
      Rows<float> rows = rows_as<float, float>();
      rows.direct = true;
      return rows;
    }
    case Storage::f16:
      return rows_as<float, F16>();
    case Storage::bf16:
      return rows_as<float, BF16>();
    case Storage::u8:
      return rows_as<float, uint8_t>();
    case Storage::i16:
      return rows_as<float, int16_t>();
    case Storage::u16:
      return rows_as<float, uint16_t>();
    case Storage::f64:
      break;  // computed with in double
  }
  __builtin_unreachable();
}

}  // namespace STN_LEVEL
}  // namespace stn::cpu
