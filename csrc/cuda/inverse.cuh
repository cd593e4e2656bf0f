// Which affine maps have an inverse that tells, for each pixel of the input, the few output pixels that read
// it.
#pragma once

#include "block.cuh"
#include "storage.cuh"

namespace stn::cuda {

// Output pixels that a pixel of the input looks at, at most: four times those of a turned image, 3 x 3.
constexpr int kMostCandidates = 36;
// Steps of the input's coordinates from one output pixel to the next, at most: beyond, what is gathered would
// lose bits of its weights, and little is gathered at all.
constexpr double kSteepest = 48;
constexpr double kFarthest = 1 << 28;  // coordinates

// A map in pixels, x = xj j + xi i + x0 and y likewise, and its inverse. Candidates lie within `reach` rows
// and columns of the output pixel nearest to where the inverse takes an input pixel.
struct Inverse {
  double xj, xi, x0, yj, yi, y0;
  double jx, jy, ix, iy;
  int reach_j, reach_i;

  // An output pixel that reads an input pixel falls less than 1 from it along both axes, so it lies less than
  // |jx| + |jy| from where the inverse takes that pixel, and the nearest one at most 1/2.
  static __device__ double reach(double by_x, double by_y) { return ceil(fabs(by_x) + fabs(by_y) - 0.498); }

  // False where the inverse is of no use, or where padding brings other output pixels.
  __device__ bool of(const Problem& p, int64_t map) {
    const auto row = [&](int axis, double* by_j, double* by_i, double* at) {
      const int64_t first = (map * 2 + axis) * 3;
      const Axis &a = p.axis[axis], &x = p.axis[0], &y = p.axis[1];
      *by_j = number(p.theta, first) * a.scale * x.step;
      *by_i = number(p.theta, first + 1) * a.scale * y.step;
      *at = number(p.theta, first + 2) * a.scale + a.center - *by_j * x.middle - *by_i * y.middle;
    };
    row(0, &xj, &xi, &x0);
    row(1, &yj, &yi, &y0);
    const double det = xj * yi - xi * yj;
    jx = yi / det, jy = -xi / det, ix = -yj / det, iy = xj / det;
    const double columns = reach(jx, jy), rows = reach(ix, iy);
    if (!((2 * columns + 1) * (2 * rows + 1) <= kMostCandidates)) return false;
    if (!(fabs(xj) + fabs(xi) <= kSteepest) || !(fabs(yj) + fabs(yi) <= kSteepest)) return false;
    if (!(fabs(x0) <= kFarthest) || !(fabs(y0) <= kFarthest)) return false;
    reach_j = columns < 1 ? 1 : static_cast<int>(columns);
    reach_i = rows < 1 ? 1 : static_cast<int>(rows);
    return p.padding == Padding::zeros || (stays(xj, xi, x0, p, 0) && stays(yj, yi, y0, p, 1));
  }

 private:
  // Whether no coordinate along an axis leaves the image, but for rounding.
  static __device__ bool stays(double by_j, double by_i, double at, const Problem& p, int axis) {
    const double j = by_j * (p.axis[0].out - 1), i = by_i * (p.axis[1].out - 1);
    constexpr double rounding = 1e-9;
    return at + fmin(j, 0.0) + fmin(i, 0.0) >= -rounding &&
           at + fmax(j, 0.0) + fmax(i, 0.0) <= p.axis[axis].in - 1 + rounding;
  }
};

}  // namespace stn::cuda
