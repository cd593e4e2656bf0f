// What stands outside an image: the one place that says it, for windows, rows and their transposes.
#pragma once

#include "maps.h"

namespace stn {

enum class Padding : int { zeros, border, reflection };

// Pixels from where the image ends to where its mirrored copy does: the mirrors stand at the outer pixels'
// outer edges or, with aligned corners, at their centers.
template <class V>
STN_INLINE V mirror_span(V length, bool align_corners) {
  const V one = V{} + 1;
  return align_corners ? (length > one ? length - one : length) : length;
}

// Which pixel of an axis stands at place `at`, a whole number: within the image the one that is there,
// outside of it the outer one (border), the mirrored one (reflection) or none, -1 (zeros). V: a
// floating-point number or a vector of them.
template <Padding padding, class V>
STN_INLINE V source_index(V at, V length, bool align_corners) {
  const V zero{}, one = zero + 1, last = length - one;
  if constexpr (padding == Padding::zeros) {
    return (at >= zero) & (at <= last) ? at : zero - one;
  } else if constexpr (padding == Padding::border) {
    const V from = at > zero ? at : zero;
    return from < last ? from : last;
  } else {
    const V span = mirror_span(length, align_corners), period = span + span;
    const V phase =
        at - period * Floor<V>::of(at / period);  // a quotient of whole numbers: its floor is exact
    return phase > last ? span + last - phase : phase;
  }
}

// f(padding), as a type whose value it is.
template <Padding padding>
struct PaddingIs {
  static constexpr Padding value = padding;
};
template <class F>
STN_INLINE auto with_padding(Padding padding, const F& f) {
  switch (padding) {
    case Padding::zeros:
      return f(PaddingIs<Padding::zeros>());
    case Padding::border:
      return f(PaddingIs<Padding::border>());
    case Padding::reflection:
      return f(PaddingIs<Padding::reflection>());
  }
  __builtin_unreachable();
}

// The same of one whole number; most lie within the image.
STN_INLINE int64_t source_index(int64_t at, int64_t length, Padding padding, bool align_corners) {
  if (at >= 0 && at < length) return at;
  if (padding == Padding::zeros) return -1;
  if (padding == Padding::border) return at < 0 ? 0 : length - 1;
  return static_cast<int64_t>(
      source_index<Padding::reflection>(static_cast<double>(at), static_cast<double>(length), align_corners));
}

// Where padding folds the plane, grid_sample gives a coordinate at exactly an outer pixel's center the slope
// 0. Beyond it the slope of what stands there is 0 by itself, or, mirrored, has its sign.
// Whether a whole coordinate is such a place.
template <Padding padding, class V>
STN_INLINE auto is_outer(V at, V length, bool align_corners) {
  const V zero{};
  if constexpr (padding == Padding::reflection) {
    const V span = mirror_span(length, align_corners);
    return at - span * Floor<V>::of(at / span) == zero;
  } else {
    return at == zero;  // behind the last pixel its own value follows
  }
}

}  // namespace stn
