// The inverse of a map, from the input's pixels to the output's, where it tells which few output pixels read
// a pixel of the input. Affine maps of images and volumes, and maps in perspective.
#pragma once

#include "coordinates.cuh"

namespace stn::cuda {

// Steps of the input's coordinates from one output pixel to the next, at most: beyond, what is gathered would
// lose bits of its weights, and little is gathered at all.
constexpr double kSteepest = 48, kSteep = 2;
constexpr double kLongestGathered = 1 << 26;  // an axis of the output

// Of a pixel of the input, output pixels beside each other along an axis that are looked at.
template <MapKind kind>
constexpr int kMostCandidates = kind == MapKind::volume ? 3 : 4;

// Coordinates are pixels from the centers of input and output, x = (numerator of q) / (depth of q), and the
// other way around.
template <MapKind kind>
struct Inverse {
  static constexpr int dims = dims_of(kind);

  Line forward[dims], depth;  // of output pixels
  Line back[dims], over;      // of input pixels
  int candidates;             // along an axis
  bool steep;                 // whether slopes are too large for distances in float

  // False where the inverse is of no use, or where padding brings other output pixels.
  __device__ bool of(const Problem& p, int map, const Tiles& tiles) {
    for (int d = 0; d < dims; ++d) {
      const Line l = stream_line(p, p.theta, map, d);
      const double scale = p.axis[d].scale;
      forward[d] = {l.x * scale, l.y * scale, l.z * scale, l.one * scale};
    }
    depth = kind == MapKind::projective ? stream_line(p, p.theta, map, 2) : Line{0, 0, 0, 1};
    invert();
    // One less than the least depth, and the largest, where output pixels lie.
    const double hx = p.axis[0].middle + 1, hy = p.axis[1].middle + 1;
    const double bend = fabs(depth.x) * hx + fabs(depth.y) * hy, most = depth.one + bend;
    if (kind == MapKind::projective) {
      // Positive; nearly even around a pixel; and on each tile that an output pixel falls on, the inverse's
      // depth, which is one over the other, is that of a tame one.
      if (!(depth.one - bend > 4 * (fabs(depth.x) + fabs(depth.y)) && depth.one - bend > 1e-30 &&
            most < 1e30))
        return false;
      if (!(2 * (fabs(over.x) * tiles.columns + fabs(over.y) * tiles.rows) * most < 1)) return false;
    }
    double reach = 0;
    steep = false;
    for (int d = 0; d < dims; ++d) {
      if (!(p.axis[d].out <= kLongestGathered)) return false;
      const double steepest = steepness(p, d);
      if (!(steepest <= (kind == MapKind::projective ? 2 * kSteep : kSteepest) * (depth.one - bend)))
        return false;
      steep |= steepest > kSteep;
      const double far = p.axis[d].middle + 1;
      const double own = most * fmax(spread(back[d], far), spread(back[d], -far));
      if (!(own <= 0.5 * kMostCandidates<kind>)) return false;
      reach = fmax(reach, own);
    }
    candidates = reach <= 1 ? 2 : reach <= 1.5 ? 3 : 4;
    if (steep && candidates > 2) return false;  // sheared by much
    return p.padding == Padding::zeros || stays(p, depth.one - bend);
  }

 private:
  // Of volumes the linear part's inverse, of images that of the 3 x 3 matrix, by cofactors.
  __device__ void invert() {
    constexpr bool volume = kind == MapKind::volume;
    const Line rows[3] = {forward[0], forward[1], volume ? forward[dims - 1] : depth};
    double m[3][3], inverse[3][3];
    for (int r = 0; r < 3; ++r)
      m[r][0] = rows[r].x, m[r][1] = rows[r].y, m[r][2] = volume ? rows[r].z : rows[r].one;
    double det = 0;
    for (int r = 0; r < 3; ++r) {
      for (int c = 0; c < 3; ++c) {
        const int r1 = (c + 1) % 3, r2 = (c + 2) % 3, c1 = (r + 1) % 3, c2 = (r + 2) % 3;
        inverse[r][c] = m[r1][c1] * m[r2][c2] - m[r1][c2] * m[r2][c1];
      }
      det += m[0][r] * inverse[r][0];
    }
    const auto line = [&](int r) {
      const double x = inverse[r][0] / det, y = inverse[r][1] / det, z = inverse[r][2] / det;
      if (!volume) return Line{x, y, 0, z};
      return Line{x, y, z, -(x * rows[0].one + y * rows[1].one + z * rows[2].one)};
    };
    for (int d = 0; d < dims; ++d) back[d] = line(d);
    over = volume ? Line{0, 0, 0, 1} : line(2);
    if (kind == MapKind::affine) over = {0, 0, 0, 1};
  }

  // How far an output coordinate moves at most with an input pixel's coordinates, where it is q, times the
  // inverse's depth.
  __device__ double spread(const Line& l, double q) const {
    return fabs(l.x - q * over.x) + fabs(l.y - q * over.y) + fabs(l.z);
  }

  // How far an input coordinate moves from an output pixel to its neighbors at most, times the depth.
  __device__ double steepness(const Problem& p, int d) const {
    const double far = p.axis[d].center + 2;
    const Line& l = forward[d];
    return fabs(l.x) + fabs(l.y) + fabs(l.z) + far * (fabs(depth.x) + fabs(depth.y));
  }

  // Whether no coordinate leaves the image, but for rounding.
  __device__ bool stays(const Problem& p, double least_depth) const {
    bool all = least_depth > 0;
    for (int corner = 0; corner < 1 << dims; ++corner) {
      const auto side = [&](int d) { return corner >> d & 1 ? p.axis[d].middle : -p.axis[d].middle; };
      const double j = side(0), i = side(1), k = dims == 3 ? side(dims - 1) : 0;
      for (int d = 0; d < dims; ++d) {
        const double at = forward[d].at(j, i, k) / depth.at(j, i, k) + p.axis[d].center;
        all &= at >= -1e-9 && at <= p.axis[d].in - 1 + 1e-9;
      }
    }
    return all;
  }
};

}  // namespace stn::cuda
