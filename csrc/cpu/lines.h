// Any map on the CPU (../warp.h), where pixels are walked row by row: what is computed once for each map.
#pragma once

#include "../warp.h"

namespace stn::cpu {

// The linear part of a map's streams, in the output's pixels counted from its centre; and the radial
// functions' coefficients.
struct Lines {
  const double* radial[kMaxAxes + 1];
  double x[kMaxAxes + 1], y[kMaxAxes + 1], z[kMaxAxes + 1], one[kMaxAxes + 1];
  double centre[kMaxAxes];

  // A row's part of stream s.
  STN_INLINE double row(int s, int dims, int64_t i, int64_t slice) const {
    const double plane = y[s] * (static_cast<double>(i) - centre[1]) + one[s];
    return dims == 3 ? plane + z[s] * (static_cast<double>(slice) - centre[2]) : plane;
  }
};

// What is computed once for each map.
struct MapLines {
  Lines value, tangent;
  double scale[kMaxAxes], centre[kMaxAxes];  // from normalised coordinates to the input's pixels
  double bend;                               // pixels that radial functions add within the output, at most
};

template <class T>
struct Warp : stn::Warp<T> {
  const MapLines* lines;  // of each map (map_lines)
  bool past_caches;       // how the result is written
};

template <class T>
STN_INLINE Lines lines_of(const stn::Warp<T>& w, const double* coefficients) {
  Lines l{};
  double per_pixel[kMaxAxes];
  for (int d = 0; d < kMaxAxes; ++d) {
    per_pixel[d] = normalised_step(w.out[d], w.align_corners);
    l.centre[d] = 0.5 * static_cast<double>(w.out[d] - 1);
  }
  for (int s = 0; s < w.streams(); ++s) {
    l.radial[s] = coefficients + s * w.basis;
    const double* linear = l.radial[s] + w.radial();
    l.x[s] = linear[0] * per_pixel[0];
    l.y[s] = linear[1] * per_pixel[1];
    l.z[s] = w.dims == 3 ? linear[2] * per_pixel[2] : 0;
    l.one[s] = linear[w.dims];
  }
  return l;
}

template <class T>
STN_INLINE MapLines map_lines(const stn::Warp<T>& w, int64_t map) {
  MapLines m{};
  const int64_t first = map * w.streams() * w.basis;
  m.value = lines_of(w, w.theta + first);
  if (w.tangent) m.tangent = lines_of(w, w.tangent + first);
  for (int d = 0; d < kMaxAxes; ++d) {
    const PixelScale to(w.in[d], w.align_corners);
    m.scale[d] = to.scale;
    m.centre[d] = to.centre;
  }
  for (int64_t f = 0; f < w.radial(); ++f) {
    const double *point = w.points + 2 * f, x = 1 + __builtin_fabs(point[0]),
                 y = 1 + __builtin_fabs(point[1]), r2 = x * x + y * y;
    for (int d = 0; d < 2; ++d) {
      // r2 log r2 is at least -1 / e, and log r2 at most r2 / e.
      m.bend += __builtin_fabs(m.value.radial[d][f] * m.scale[d]) * 0.368 * (1 + r2 * r2);
    }
  }
  return m;
}

}  // namespace stn::cpu
