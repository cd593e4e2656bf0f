// The thin plate spline's radial function, r^2 log r^2 (Bookstein 1989, up to a factor that theta absorbs), a
// vector at a time. Included by level sources only; see kernels.h.
#pragma once

#include "simd.h"

namespace stn::cpu {
namespace STN_LEVEL {

// A positive normal number as 2^exponent (1 + z), with 1 + z in [sqrt(1/2), sqrt(2)).
template <class T>
struct Binary {
  Vec<T> exponent, z;

  STN_INLINE explicit Binary(Vec<T> x) {
    typedef typename Simd<T>::Mask Int;
    constexpr int fraction = sizeof(T) == 4 ? 23 : 52;  // bits
    constexpr T root_half = T(0.70710678118654752440);
    Int bits, least;
    const Vec<T> from = Vec<T>{} + root_half;
    __builtin_memcpy(&bits, &x, sizeof(bits));
    __builtin_memcpy(&least, &from, sizeof(least));
    const Int whole = (bits - least) >> fraction;
    const Int rest = bits - (whole << fraction);
    __builtin_memcpy(&z, &rest, sizeof(z));
    z -= 1;
    exponent = __builtin_convertvector(whole, Vec<T>);
  }
};

constexpr double kLog2 = 0.69314718055994530942;

// The natural logarithm of positive normal numbers. log(1 + z) is 2 artanh(z / (2 + z)), the series of which
// ends below rounding.
STN_INLINE Vec<double> log_of(Vec<double> x) {
  const Binary<double> b(x);
  const Vec<double> s = b.z / (2 + b.z), s2 = s * s;
  Vec<double> series{};
  for (int k = 11; k >= 0; --k) series = series * s2 + 2.0 / (2 * k + 1);
  return b.exponent * kLog2 + s * series;
}

// Without a division: log(1 + z) is z times the polynomial with the least greatest error there, 5e-9 before
// rounding.
STN_INLINE Vec<float> log_of(Vec<float> x) {
  constexpr float factors[] = {0.0869284286f, -0.145770885f, 0.150676103f,  -0.165329125f, 0.199388396f,
                               -0.250032877f, 0.333350096f,  -0.499999728f, 0.999999881f};
  const Binary<float> b(x);
  Vec<float> sum = Vec<float>{} + factors[0];
  for (int k = 1; k < 9; ++k) sum = sum * b.z + factors[k];
  return b.exponent * static_cast<float>(kLog2) + sum * b.z;
}

// At such a distance along the axes from its control point.
template <class T>
STN_INLINE Vec<T> radial_of(Vec<T> dx, Vec<T> dy) {
  const Vec<T> r2 = dx * dx + dy * dy, tiny = Vec<T>{} + T(1e-30);  // r^2 log r^2 is as good as 0 there
  return r2 * log_of(greater(r2, tiny));
}

// At pixels (x + k * step, y), for one control point.
template <class T>
STN_INLINE void fill_radial(double x, double step, double y, const double* point, int64_t count, T* values) {
  constexpr int lanes = Simd<T>::lanes;
  const T dx = static_cast<T>(x - point[0]), dy = static_cast<T>(y - point[1]);
  Vec<T> number = lane_numbers<T>();
  for (int64_t k = 0; k < count; k += lanes, number += lanes) {
    store(values + k, radial_of<T>(dx + static_cast<T>(step) * number, Vec<T>{} + dy));
  }
}

}  // namespace STN_LEVEL
}  // namespace stn::cpu
