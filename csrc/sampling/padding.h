// What stands outside an image: the one place that says it, for windows, rows and their transposes, on the
// CPU and on GPUs.
#pragma once

#include "maps.h"

namespace stn {

enum class Padding : int { zeros, border, reflection };

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

// ---- paddings that repeat ----

// Whether the image's pixels come again and again beyond its edges. With the others nothing changes any more
// next to the image.
STN_INLINE constexpr bool repeats(Padding padding) {
  switch (padding) {
    case Padding::zeros:
    case Padding::border:
      return false;
    case Padding::reflection:
      return true;
  }
  __builtin_unreachable();
}

// Pixels from where the image ends to where its mirrored copy does: the mirrors stand at the outer pixels'
// outer edges or, with aligned corners, at their centers.
template <class V>
STN_INLINE V mirror_span(V length, bool align_corners) {
  const V one = V{} + 1;
  return align_corners ? (length > one ? length - one : length) : length;
}

// After how many places they come again.
template <class V>
STN_INLINE V period_of(Padding padding, V length, bool align_corners) {
  switch (padding) {
    case Padding::zeros:
    case Padding::border:
      break;  // never
    case Padding::reflection:
      return mirror_span(length, align_corners) * 2;
  }
  return length;
}

// Which of them stands at a place of the first period. span: mirror_span; last: the last pixel.
template <class V>
STN_INLINE V pixel_of_phase(Padding padding, V phase, V span, V last) {
  switch (padding) {
    case Padding::zeros:
    case Padding::border:
      break;
    case Padding::reflection:
      return phase > last ? span + last - phase : phase;
  }
  return phase;
}

// Pixels that stand side by side from a place on: the first of them, how many, and whether they run forth.
struct Run {
  int64_t first, count;
  bool forth;

  STN_INLINE Run(Padding padding, int64_t at, int64_t length, bool align_corners) {
    const int64_t last = length - 1, period = period_of(padding, length, align_corners);
    const auto periods =
        static_cast<int64_t>(__builtin_floor(static_cast<double>(at) / static_cast<double>(period)));
    const int64_t phase = at - periods * period;
    first = pixel_of_phase(padding, phase, mirror_span(length, align_corners), last);
    forth = phase <= last;
    count = forth ? length - first : first + 1;
  }
};

// ---- any padding ----

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
    static_assert(repeats(padding), "one way each");
    const V period = period_of(padding, length, align_corners);
    const V phase =
        at - period * Floor<V>::of(at / period);  // a quotient of whole numbers: its floor is exact
    return pixel_of_phase(padding, phase, mirror_span(length, align_corners), last);
  }
}

// The same of one whole number; most lie within the image.
STN_INLINE int64_t source_index(int64_t at, int64_t length, Padding padding, bool align_corners) {
  if (at >= 0 && at < length) return at;
  return with_padding(padding, [&](auto p) STN_LAMBDA {
    return static_cast<int64_t>(
        source_index<p.value>(static_cast<double>(at), static_cast<double>(length), align_corners));
  });
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

// The same of a place's phase, where the padding repeats, and of the place itself elsewhere.
template <class V>
STN_INLINE bool is_outer_phase(Padding padding, V phase, V span) {
  switch (padding) {
    case Padding::zeros:
    case Padding::border:
      return phase == 0;
    case Padding::reflection:
      return phase == 0 || phase == span;
  }
  __builtin_unreachable();
}

}  // namespace stn
