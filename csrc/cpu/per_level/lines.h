// What is computed once for each map that is not affine, or whose pixels are walked row by row.
#pragma once

#include "../problem.h"

namespace stn::cpu {

// The linear part of a map's streams, in the output's pixels counted from its center; and the radial
// functions' coefficients.
struct Lines {
  const double* radial[kMaxAxes + 1];
  double x[kMaxAxes + 1], y[kMaxAxes + 1], z[kMaxAxes + 1], one[kMaxAxes + 1];
  double center[kMaxAxes];

  // A row's part of stream s.
  STN_INLINE double row(int s, int dims, int64_t i, int64_t slice) const {
    const double plane = y[s] * (static_cast<double>(i) - center[1]) + one[s];
    return dims == 3 ? plane + z[s] * (static_cast<double>(slice) - center[2]) : plane;
  }
};

// What is computed once for each map.
struct MapLines {
  Lines value, tangent;
  double scale[kMaxAxes], center[kMaxAxes];  // from normalized coordinates to the input's pixels
  double bend;                               // pixels that radial functions add within the output, at most
};

STN_INLINE Lines lines_of(const Problem& p, const double* coefficients) {
  Lines l{};
  double per_pixel[kMaxAxes];
  for (int d = 0; d < kMaxAxes; ++d) {
    per_pixel[d] = normalized_step(p.out[d], p.align_corners);
    l.center[d] = 0.5 * static_cast<double>(p.out[d] - 1);
  }
  for (int s = 0; s < p.streams(); ++s) {
    l.radial[s] = coefficients + s * p.basis;
    const double* linear = l.radial[s] + p.radial();
    l.x[s] = linear[0] * per_pixel[0];
    l.y[s] = linear[1] * per_pixel[1];
    l.z[s] = p.dims == 3 ? linear[2] * per_pixel[2] : 0;
    l.one[s] = linear[p.dims];
  }
  return l;
}

STN_INLINE MapLines map_lines(const Problem& p, int64_t map) {
  MapLines m{};
  const int64_t first = map * p.streams() * p.basis;
  m.value = lines_of(p, p.theta + first);
  if (p.tangent) m.tangent = lines_of(p, p.tangent + first);
  for (int d = 0; d < kMaxAxes; ++d) {
    const PixelScale to(p.in[d], p.align_corners);
    m.scale[d] = to.scale;
    m.center[d] = to.center;
  }
  for (int64_t f = 0; f < p.radial(); ++f) {
    const double *point = p.points + 2 * f, x = 1 + __builtin_fabs(point[0]),
                 y = 1 + __builtin_fabs(point[1]), r2 = x * x + y * y;
    for (int d = 0; d < 2; ++d) {
      // r2 log r2 is at least -1 / e, and log r2 at most r2 / e.
      m.bend += __builtin_fabs(m.value.radial[d][f] * m.scale[d]) * 0.368 * (1 + r2 * r2);
    }
  }
  return m;
}

}  // namespace stn::cpu
