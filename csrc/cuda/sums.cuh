// Sums whose order does not matter: whole numbers of a unit, which native atomics add up in any order to the
// same bits. The unit is a power of two, chosen by the largest number that is added and by how many there
// are, so that nothing overflows.
//
// A number v, scaled so that |v| <= 2^high, is two digits: high = round(v), low = round((v - high) * 2^low).
// In float, 64 bits hold both, as high * 2^low + low; double has a word for each. The error of a sum of n
// numbers is at most n / 2 of low's units, and rounding it to T.
//
// A word's lowest three bits say which numbers that are not finite were added: what is added to the others is
// a multiple of 8 and leaves them as they are. So an infinity stays one, and two that differ give NaN.
#pragma once

#include <cuda_runtime.h>
#include <math.h>

#include <cstdint>
#include <cstring>

#include "rare.h"

namespace stn::cuda {

using Word = unsigned long long;

constexpr int kFlagBits = 3;
constexpr Word kPlusInfinity = 1, kMinusInfinity = 2, kNotANumber = 4;

template <class T>
constexpr int kWords = sizeof(T) > 4 ? 2 : 1;  // of a sum

// Bits of the two digits.
struct Digits {
  int high, low;
};

constexpr int kLeastHigh = 2, kWindowHigh = 20, kWindowLow = 18;

// terms: how many numbers are added up to one sum, at most.
template <class T>
Digits digits_of(double terms) {
  const int more = terms > 1 ? ilogb(terms) + 2 : 2;  // bits of a sum beyond a term's, and of roundings
  const auto between = [](int value, int most) {
    return value < kLeastHigh ? kLeastHigh : value < most ? value : most;
  };
  constexpr int bits = 63 - kFlagBits;
  if (sizeof(T) > 4) return {between(bits - more, 52), between(bits - more, 52)};
  return {between(bits - kWindowLow - more, kWindowHigh), kWindowLow};
}

// The magnitude's bits, which order as magnitudes do, and its exponent e: it is less than 2^e.
__device__ inline uint32_t magnitude_bits(float x) { return __float_as_uint(x) & 0x7fffffffu; }
__device__ inline Word magnitude_bits(double x) {
  return static_cast<Word>(__double_as_longlong(x)) & 0x7fffffffffffffffull;
}
__device__ inline bool is_finite(float x) { return magnitude_bits(x) < 0x7f800000u; }
__device__ inline bool is_finite(double x) { return magnitude_bits(x) < 0x7ff0000000000000ull; }

template <class T>
struct MagnitudeBitsOf {
  using type = uint32_t;
};
template <>
struct MagnitudeBitsOf<double> {
  using type = Word;
};
template <class T>
using MagnitudeBits = typename MagnitudeBitsOf<T>::type;

// 2^e in each type, within the normal numbers.
__device__ inline float power_of_two(int e, float) {
  return __uint_as_float(static_cast<uint32_t>(e + 127) << 23);
}
__device__ inline double power_of_two(int e, double) {
  return __longlong_as_double(static_cast<long long>(e + 1023) << 52);
}

// The exponent of the numbers that are added, from the bits of the largest one's magnitude. What is smaller
// than 2^-100 (2^-900) by as much as digits go is rounded to nothing.
__device__ inline int exponent_of(uint32_t bits) {
  const int e = static_cast<int>(bits >> 23) - 126;
  return e < -100 ? -100 : e;
}
__device__ inline int exponent_of(Word bits) {
  const int e = static_cast<int>(bits >> 52) - 1022;
  return e < -900 ? -900 : e;
}

// ---- digits of a scaled number ----

// Its low digit has kWindowLow bits. Adding 1.5 * 2^23 rounds to a whole number, which are the sum's low
// bits.
struct ShortDigits {
  int high, low;

  __device__ explicit ShortDigits(float v) {
    constexpr float shift = 12582912;
    const float sum = v + shift;
    const float rest = v - (sum - shift);
    high = __float_as_int(sum) - 0x4b400000;
    low = __float_as_int(fmaf(rest, 1 << kWindowLow, shift)) - 0x4b400000;
  }
};

__device__ inline Word word_of(int high, int low) {
  const long long units = static_cast<long long>(high) * (1 << kWindowLow) + low;
  return static_cast<Word>(units) << kFlagBits;
}

// Adds a scaled number to the sum at `to`; stride: from a sum's first word to its second.
__device__ inline void add(float v, const Digits&, Word* to, int64_t) {
  const ShortDigits d(v);
  atomicAdd(to, word_of(d.high, d.low));
}
__device__ inline void add(double v, const Digits& digits, Word* to, int64_t stride) {
  const long long high = __double2ll_rn(v);
  const double rest = v - static_cast<double>(high);
  const long long low = __double2ll_rn(rest * power_of_two(digits.low, 0.0));
  atomicAdd(to, static_cast<Word>(high) << kFlagBits);
  atomicAdd(to + stride, static_cast<Word>(low));
}

// Adds what is not finite.
template <class T>
__device__ void flag(T v, Word* to) {
  atomicOr(to, v > 0 ? kPlusInfinity : v < 0 ? kMinusInfinity : kNotANumber);
}

// ---- the sum ----

template <class T>
__device__ T not_finite(Word flags) {
  const bool plus = flags == kPlusInfinity, minus = flags == kMinusInfinity;
  return plus ? static_cast<T>(HUGE_VAL) : minus ? -static_cast<T>(HUGE_VAL) : static_cast<T>(NAN);
}

// e: as exponent_of.
__device__ inline void read_sum(const Word* from, int64_t, const Digits& digits, int e, float* sum) {
  const Word word = *from, flags = word & ((1 << kFlagBits) - 1);
  const long long units = static_cast<long long>(word) >> kFlagBits;
  *sum = flags ? not_finite<float>(flags) : ldexpf(__ll2float_rn(units), e - digits.high - digits.low);
}
__device__ inline void read_sum(const Word* from, int64_t stride, const Digits& digits, int e, double* sum) {
  const Word word = *from, flags = word & ((1 << kFlagBits) - 1);
  const long long high = static_cast<long long>(word) >> kFlagBits;
  const double low = static_cast<double>(static_cast<long long>(from[stride]));
  const double units = static_cast<double>(high) + low * power_of_two(-digits.low, 0.0);
  *sum = flags ? not_finite<double>(flags) : ldexp(units, e - digits.high);
}

}  // namespace stn::cuda
