// The thin plate spline's radial function, r^2 log r^2 (Bookstein 1989, up to a factor that theta absorbs), a
// vector at a time. Included by level sources only; see kernels.h.
#pragma once

#include "simd.h"

namespace stn::cpu {
namespace STN_LEVEL {

template <class T>
struct FloatBits;
template <>
struct FloatBits<float> {
  static constexpr int fraction = 23, bias = 127, terms = 6;
};
template <>
struct FloatBits<double> {
  static constexpr int fraction = 52, bias = 1023, terms = 12;
};

// The natural logarithm of positive normal numbers: of 2^e m, with m in [sqrt(1/2), sqrt(2)), it is e log 2
// plus 2 artanh((m - 1) / (m + 1)), the series of which ends below rounding.
template <class T>
STN_INLINE Vec<T> log_of(Vec<T> x) {
  typedef FloatBits<T> Bits;
  typedef typename Simd<T>::Mask Int;
  Int bits;
  __builtin_memcpy(&bits, &x, sizeof(bits));
  constexpr T root_half = T(0.70710678118654752440), log_2 = T(0.69314718055994530942);
  const Int one = (Int{} + 1) << Bits::fraction;
  // The exponent that leaves m in [1/2, 1), and m itself.
  const Int exponent = (bits >> Bits::fraction) - (Bits::bias - 1);
  const Int m_bits = (bits & (one - 1)) | ((Int{} + (Bits::bias - 1)) << Bits::fraction);
  Vec<T> m;
  __builtin_memcpy(&m, &m_bits, sizeof(m));
  const auto low = m < root_half;
  m = low ? m + m : m;
  const Vec<T> e = __builtin_convertvector(exponent, Vec<T>) - (low ? Vec<T>{} + 1 : Vec<T>{});
  const Vec<T> s = (m - 1) / (m + 1), s2 = s * s;
  Vec<T> series{};
  for (int k = Bits::terms - 1; k >= 0; --k) series = series * s2 + T(2) / T(2 * k + 1);
  return e * log_2 + s * series;
}

// At pixels (x + k * step, y), for one control point.
template <class T>
STN_INLINE void fill_radial(double x, double step, double y, const double* point, int64_t count, T* values) {
  constexpr int lanes = Simd<T>::lanes;
  const T dx = static_cast<T>(x - point[0]), dy = static_cast<T>(y - point[1]);
  Vec<T> number = lane_numbers<T>();
  for (int64_t k = 0; k < count; k += lanes, number += lanes) {
    const Vec<T> away = dx + static_cast<T>(step) * number, r2 = away * away + dy * dy;
    constexpr T tiny = T(1e-30);  // r^2 log r^2 is as good as 0 there
    const auto near = r2 < tiny;
    store(values + k, near ? Vec<T>{} : r2 * log_of<T>(near ? Vec<T>{} + 1 : r2));
  }
}

}  // namespace STN_LEVEL
}  // namespace stn::cpu
