// The weights of a pixel's taps: two along each axis, whose products are the weights of 2^dims.
#pragma once

#include "maps.h"

namespace stn {

// What the two neighbors of a coordinate contribute along one axis: value = w0 * pixel[0] + w1 * pixel[1],
// d(value) / d(coordinate) = d0 * pixel[0] + d1 * pixel[1].
template <class V>
struct AxisWeights {
  V w0, w1, d0, d1;
};

// The weight of tap `t` of 2^dims, whose bit d says which of axis d's pair it is: the product over the axes,
// of the derivatives along those in `by`.
template <int dims, class A>
STN_INLINE auto tap_product(const A* a, int t, int by) {
  decltype(a->w0 + a->w0) w{};
  for (int d = 0; d < dims; ++d) {
    const bool second = t >> d & 1;
    const auto factor = by >> d & 1 ? (second ? a[d].d1 : a[d].d0) : (second ? a[d].w1 : a[d].w0);
    w = d == 0 ? factor : w * factor;
  }
  return w;
}

// A tap's weight; or, along a tangent of the coordinates, its derivative.
template <int dims, bool tangent, class A, class V>
STN_INLINE V value_weight(const A* a, const V* along, int t) {
  if (!tangent) return tap_product<dims>(a, t, 0);
  V w{};
  for (int d = 0; d < dims; ++d) w += along[d] * tap_product<dims>(a, t, 1 << d);
  return w;
}

// The derivative of that by coordinate d. Between pixels the weights are linear in each coordinate, so that
// only mixed second derivatives are not 0.
template <int dims, bool tangent, class A, class V>
STN_INLINE V slope_weight(const A* a, const V* along, int t, int d) {
  if (!tangent) return tap_product<dims>(a, t, 1 << d);
  V w{};
  for (int e = 0; e < dims; ++e) {
    if (e != d) w += along[e] * tap_product<dims>(a, t, 1 << d | 1 << e);
  }
  return w;
}

}  // namespace stn
