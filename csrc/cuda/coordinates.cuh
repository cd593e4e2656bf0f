// Where output pixels fall. A block plans its tile once in double. Of float images its threads then walk it
// in integers: a coordinate is a 64-bit number of 2^-32 pixels, whose fraction keeps its digits however far
// it lies from the origin. Tiles that are not tame (huge, not numbers, near the horizon), and images of
// double, are computed in double pixel by pixel, by functions of their own.
#pragma once

#include <assert.h>

#include "../sampling/maps.h"
#include "radial.cuh"
#include "rare.h"

namespace stn::cuda {

// A sum of the output's coordinates, counted in pixels from its center.
struct Line {
  double x, y, z, one;

  __device__ double at(double j, double i, double k) const { return x * j + (y * i + (z * k + one)); }
};

// A stream of a map's coefficients, without radial functions.
__device__ inline Line stream_line(const Problem& p, const Numbers& from, int map, int stream) {
  const int dims = dims_of(p.kind);
  const int64_t k = (static_cast<int64_t>(map) * streams_of(p.kind) + stream) * p.basis + p.radial();
  return {number(from, k) * p.axis[0].step, number(from, k + 1) * p.axis[1].step,
          dims == 3 ? number(from, k + 2) * p.axis[2].step : 0, number(from, k + dims)};
}

// Pixels from the origin; what splines may add. Their sum is still a 32-bit integer.
constexpr double kTame = 1 << 28;
constexpr float kMostBend = 1 << 28;

struct AxisPlan {
  Line line;     // of the coordinate in pixels; of its numerator where the map has perspective
  Line tangent;  // of its derivative along the tangent
  // In 2^-32 pixels, of the tile's first pixel and from a pixel to the next. With perspective: of the pixel
  // in its middle, and in 2^-46 pixels of what the numerator adds to that.
  int64_t origin, by_column, by_row;
  float along, along_column, along_row;  // the tangent's, from the tile's first pixel
  bool tame;
};

struct DepthPlan {
  Line line, tangent;
  int64_t by_column, by_row;   // in 2^-62 of the depth in the middle
  float inverse, column, row;  // in the middle; and, relative to it, from a pixel to the next
  float along, along_column, along_row;

  // One over the depth of a tame tile's pixel, counted from the tile's middle.
  __device__ float inverse_at(int j, int i) const { return __fdividef(inverse, 1 + column * j + row * i); }
};

// As finite_or_zero, which is of double alone.
template <class T>
__device__ T finite_or_none(T x) {
  return x - x == 0 ? x : T(0);
}

struct Nothing {};
template <bool yes, class A>
struct If {
  using type = A;
};
template <class A>
struct If<false, A> {
  using type = Nothing;
};

// What a block's threads share.
template <MapKind kind_, class T>
struct Plan {
  static constexpr MapKind kind = kind_;
  static constexpr int dims = dims_of(kind);
  static constexpr bool perspective = kind == MapKind::projective, curved = kind == MapKind::spline;

  AxisPlan axis[dims];
  typename If<perspective, DepthPlan>::type depth;
  typename If<curved, Staged<T>>::type staged;
  double first[kMaxAxes];  // the tile's first pixel, counted from the output's center
  int half_columns, half_rows;
  Part part;          // whose row is the tile's
  const char* input;  // the image that the map reads, from the block's first channel on
  char* output;       // the tile's first pixel in the output, or in its gradient, likewise

  __device__ bool tame() const {
    bool all = true;
    for (int d = 0; d < dims; ++d) all &= axis[d].tame;
    return all;
  }
};

__device__ inline int64_t fixed_point(double x, double unit) { return static_cast<int64_t>(rint(x * unit)); }

// Coordinates that are the quotient of two lines, of a tile whose first pixel is (j, i, k) from the center.
// to: where the depth's own part goes, or null.
__device__ inline void plan_quotient(const Line& l, const Line& depth, double j, double i, const Tiles& t,
                                     AxisPlan* a, DepthPlan* to) {
  const double mj = j + t.columns / 2, mi = i + t.rows / 2, at_middle = depth.at(mj, mi, 0),
               over = 1 / at_middle;
  // The numerator less the middle's coordinate times the depth is linear too, and small.
  const double x = rint(l.at(mj, mi, 0) * over * 0x1p32) * 0x1p-32;
  const double column = (l.x - x * depth.x) * over, row_step = (l.y - x * depth.y) * over;
  const double depth_column = depth.x * over, depth_row = depth.y * over;
  const double bend = 0.5 * (fabs(depth_column) * t.columns + fabs(depth_row) * t.rows);
  const double reach = 0.5 * (fabs(column) * t.columns + fabs(row_step) * t.rows);
  a->tame = at_middle > 1e-30 && at_middle < 1e30 && bend < 0.5 && reach < 0x1p13 && fabs(x) < kTame / 2;
  a->origin = a->tame ? fixed_point(x, 0x1p32) : 0;
  a->by_column = a->tame ? fixed_point(column, 0x1p46) : 0;
  a->by_row = a->tame ? fixed_point(row_step, 0x1p46) : 0;
  if (!to) return;
  to->by_column = a->tame ? fixed_point(depth_column, 0x1p62) : 0;
  to->by_row = a->tame ? fixed_point(depth_row, 0x1p62) : 0;
  to->inverse = static_cast<float>(over);
  to->column = static_cast<float>(depth_column);
  to->row = static_cast<float>(depth_row);
}

// The same of a line alone.
__device__ inline void plan_line(const Line& l, double j, double i, double k, const Tiles& t, AxisPlan* a) {
  const double origin = l.at(j, i, k), reach = fabs(l.x) * t.columns + fabs(l.y) * t.rows;
  a->tame = fabs(origin) + reach < kTame;
  const double unit = a->tame ? 0x1p32 : 0;
  a->origin = a->tame ? fixed_point(origin, unit) : 0;
  a->by_column = a->tame ? fixed_point(l.x, unit) : 0;
  a->by_row = a->tame ? fixed_point(l.y, unit) : 0;
}

// By one thread for each axis.
template <MapKind kind, class T>
__device__ void plan_axis(const Problem& p, const Part& part, const Tiles& t, int d, Plan<kind, T>* plan) {
  AxisPlan& a = plan->axis[d];
  const double scale = p.axis[d].scale, center = p.axis[d].center;
  const double j = part.column - p.axis[0].middle, i = part.row - p.axis[1].middle,
               k = part.slice - p.axis[2].middle;
  Line l = stream_line(p, p.theta, part.map, d), depth{};
  l = {l.x * scale, l.y * scale, l.z * scale, l.one * scale};
  if (d == 0) {
    plan->first[0] = j;
    plan->first[1] = i;
    plan->first[2] = k;
  }
  if (p.tangent.data) {
    const Line by = stream_line(p, p.tangent, part.map, d);
    a.tangent = {by.x * scale, by.y * scale, by.z * scale, by.one * scale};
    a.along = static_cast<float>(a.tangent.at(j, i, k));
    a.along_column = static_cast<float>(a.tangent.x);
    a.along_row = static_cast<float>(a.tangent.y);
  }
  if constexpr (kind == MapKind::projective) {
    depth = stream_line(p, p.theta, part.map, 2);
    a.line = l = {l.x + center * depth.x, l.y + center * depth.y, 0, l.one + center * depth.one};
    plan_quotient(l, depth, j, i, t, &a, d == 0 ? &plan->depth : nullptr);
    if (d != 0) return;
    DepthPlan& to = plan->depth;
    to.line = depth;
    if (!p.tangent.data) return;
    to.tangent = stream_line(p, p.tangent, part.map, 2);
    to.along = static_cast<float>(to.tangent.at(j, i, 0));
    to.along_column = static_cast<float>(to.tangent.x);
    to.along_row = static_cast<float>(to.tangent.y);
  } else {
    l.one += center;
    a.line = l;
    plan_line(l, j, i, k, t, &a);
  }
}

template <MapKind kind, class T>
__device__ void plan_memory(const Problem& p, const Part& part, const Tiles& t, const Batch& output,
                            Plan<kind, T>* plan) {
  int64_t image = p.index ? p.index[part.map] : p.images == 1 ? 0 : part.map;
  assert(image >= 0 && image < p.images);  // an index of an image beyond the input's batch
  image = image < 0 ? 0 : image < p.images ? image : p.images - 1;
  plan->input = p.input.data + image * p.input.batch + part.channel * p.input.channel;
  plan->output = output.data + part.map * output.batch + part.channel * output.channel +
                 part.column * output.axis[0] + part.row * output.axis[1] + part.slice * output.axis[2];
  plan->half_columns = t.columns / 2;
  plan->half_rows = t.rows / 2;
  plan->part = part;
}

// By all threads of a block, whose plan is complete when it returns. find_part(): the block's part; output:
// the output, or its gradient.
template <MapKind kind, class T, class F>
__device__ void plan_tile(const Problem& p, const F& find_part, const Tiles& t, const Batch& output,
                          Plan<kind, T>* plan) {
  if (thread_number() < plan->dims) {
    STN_RARE();
    const Part part = find_part();
    plan_axis(p, part, t, thread_number(), plan);
    if (thread_number() == 0) plan_memory(p, part, t, output, plan);
  }
  __syncthreads();
}

// ---- walks of tame tiles ----

// A thread's next pixels, from the tile's pixel (j, i) on: coordinates in 2^-32 pixels.
template <int count, class Plan, int dims>
__device__ void walk(const Plan& plan, int j, int i, int64_t (&at)[count][dims]) {
  if constexpr (Plan::kind != MapKind::projective) {
#pragma unroll
    for (int d = 0; d < dims; ++d) {
      const AxisPlan& a = plan.axis[d];
      // Of numbers that are not negative, the product takes two instructions.
      const auto along = [](int64_t step, int pixels) {
        return static_cast<int64_t>(static_cast<uint64_t>(step) * static_cast<uint32_t>(pixels));
      };
      at[0][d] = a.origin + along(a.by_column, j) + along(a.by_row, i);
#pragma unroll
      for (int k = 1; k < count; ++k) at[k][d] = at[k - 1][d] + a.by_row * kWarpRows;
    }
  } else {
    j -= plan.half_columns;
    i -= plan.half_rows;
    const DepthPlan& w = plan.depth;
    int64_t depth = (int64_t{1} << 62) + w.by_column * j + w.by_row * i, sum[dims];
#pragma unroll
    for (int d = 0; d < dims; ++d) sum[d] = plan.axis[d].by_column * j + plan.axis[d].by_row * i;
#pragma unroll
    for (int k = 0; k < count; ++k) {
      const auto high = static_cast<int32_t>(depth >> 32);  // in 2^-30
      const auto low = static_cast<uint32_t>(depth);
      const float inverse = __fdividef(1, static_cast<float>(high));
#pragma unroll
      for (int d = 0; d < dims; ++d) {
        // The quotient in 2^-16 pixels, and from what is left to divide the rest of it.
        const auto rough = static_cast<int32_t>(
            rintf(static_cast<float>(static_cast<int32_t>(sum[d] >> 32)) * (inverse * 0x1p32f)));
        const int64_t left = sum[d] - static_cast<int64_t>(rough) * high -
                             ((static_cast<int64_t>(rough) * static_cast<int64_t>(low)) >> 32);
        const float rest = static_cast<float>(static_cast<int32_t>(left >> 8)) * (inverse * 0x1p24f);
        at[k][d] =
            plan.axis[d].origin + static_cast<int64_t>(rough) * 65536 + static_cast<int32_t>(rintf(rest));
        sum[d] += plan.axis[d].by_row * kWarpRows;
      }
      depth += w.by_row * kWarpRows;
    }
  }
}

// A coordinate's fraction; of one just below a whole number it may be 1.
__device__ inline float fraction(int64_t at) {
  return static_cast<float>(static_cast<uint32_t>(at)) * 0x1p-32f;
}

// Whether a coordinate's fraction, as a float, is neither 0 nor 1.
__device__ inline bool is_between(int64_t at) { return static_cast<uint32_t>(at) - 1 < 0xffffff7fu; }

// ---- any tile ----

// A coordinate as a whole number and a fraction in [0, 1]. Not a number becomes whole 0, frac NaN.
template <class T>
struct Split {
  int whole;
  T frac;
};

// What lies far outside is brought to where it means the same: next to the image or, where the padding
// repeats, into the first period.
template <class T>
__device__ Split<T> split(double x, int length, Padding padding, bool align_corners) {
  const double last = length - 1;
  if (repeats(padding)) {
    const double period = period_of(padding, static_cast<double>(length), align_corners);
    if (fabs(x) > 1e15) {
      x = x > 0 ? last : 0;  // no fraction is left to fold
    } else {
      x -= period * floor(x / period);
    }
  } else {
    x = x < -2 ? -2 : x > last + 2 ? last + 2 : x;
  }
  const double whole = x == x ? floor(x) : 0;
  return {static_cast<int>(whole), static_cast<T>(x - whole)};
}

// Where a pixel falls, and what derivatives need besides.
template <int dims, class T>
struct Spot {
  Split<T> at[dims];
  T along[dims];     // the coordinates' derivatives along the tangent
  T centered[dims];  // their distances from the input's center
  T inverse, ratio;  // one over the depth; the depth's derivative along the tangent times that
};

// The tile's pixel (j, i), in double. Not inlined: of float images it is rarely needed, and is not to take
// registers from what always is; so it leaves what it finds in shared memory.
template <MapKind kind, int dims, class T>
__device__ __noinline__ void exact_spot(const Problem& p, const Plan<kind, T>& plan, int j, int i,
                                        Bend<T> bend, Spot<dims, T>* to) {
  constexpr bool projective = kind == MapKind::projective, spline = kind == MapKind::spline;
  const bool tangent = p.tangent.data != nullptr;
  const double x = plan.first[0] + j, y = plan.first[1] + i, z = plan.first[2];
  double inverse = 1, ddepth = 0;
  if constexpr (projective) {
    inverse = over_depth(plan.depth.line.at(x, y, z));
    if (tangent) ddepth = plan.depth.tangent.at(x, y, z);
    to->inverse = static_cast<T>(inverse);
    to->ratio = static_cast<T>(finite_or_zero(ddepth * inverse));
  }
#pragma unroll
  for (int d = 0; d < dims; ++d) {
    double at = plan.axis[d].line.at(x, y, z), along = tangent ? plan.axis[d].tangent.at(x, y, z) : 0;
    if (spline) at += static_cast<double>(bend.by[d]);
    if (spline) along += static_cast<double>(bend.by[2 + d]);
    if (projective) {
      const double centered = at * inverse - p.axis[d].center;
      to->centered[d] = static_cast<T>(finite_or_zero(centered));
      along = (along - centered * ddepth) * inverse;
      at = inverse == 0 ? HUGE_VAL : at * inverse;
    }
    to->along[d] = static_cast<T>(finite_or_zero(along));
    to->at[d] = split<T>(at, p.axis[d].in, p.padding, p.align_corners);
  }
}

// Of the tile's pixel (j, i). shared: room for it, of this thread's own.
template <MapKind kind, int dims, class T>
__device__ Spot<dims, T> spot_of(const Problem& p, const Plan<kind, T>& plan, int j, int i,
                                 const Bend<T>& bend, Spot<dims, T>* shared) {
  constexpr bool projective = kind == MapKind::projective, spline = kind == MapKind::spline;
  const bool tangent = p.tangent.data != nullptr;
  Spot<dims, T> s{};
  bool exact = true;
  if constexpr (sizeof(T) == 4) {
    exact = !plan.tame() || (spline && !(fabsf(bend.by[0]) < kMostBend && fabsf(bend.by[1]) < kMostBend));
    if (!exact) {
      int64_t at[1][dims];
      walk<1>(plan, j, i, at);
      for (int d = 0; d < dims; ++d) {
        if (spline) at[0][d] += static_cast<int64_t>(bend.by[d] * 0x1p32f);
        s.at[d] = {static_cast<int>(at[0][d] >> 32), fraction(at[0][d])};
        if (tangent) {
          const AxisPlan& a = plan.axis[d];
          s.along[d] =
              finite_or_none(a.along + a.along_column * j + a.along_row * i + (spline ? bend.by[2 + d] : 0));
        }
      }
      if constexpr (projective) {
        const DepthPlan& w = plan.depth;
        s.inverse = w.inverse_at(j - plan.half_columns, i - plan.half_rows);
        const float ddepth = tangent ? w.along + w.along_column * j + w.along_row * i : 0;
        s.ratio = ddepth * s.inverse;
        for (int d = 0; d < dims; ++d) {
          s.centered[d] = (s.at[d].whole - static_cast<float>(p.axis[d].center)) + s.at[d].frac;
          s.along[d] = finite_or_none((s.along[d] - s.centered[d] * ddepth) * s.inverse);
        }
      }
    }
  }
  if (exact) {
    exact_spot(p, plan, j, i, bend, shared);
    s = *shared;
  }
  return s;
}

}  // namespace stn::cuda
