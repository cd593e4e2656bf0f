// The gradient of the input for affine maps of images whose inverse tells which few output pixels read a
// pixel of the input (inverse.cuh): these are looked at, and those less than 1 away along both axes are its
// own. No atomics, one store a value; sums have one order. Maps without such an inverse are the scatter's.
//
// A block plans its tile of the input once in double. Of float images its threads then find the output pixel
// nearest to where the inverse takes theirs, in float, which may be off by one where two are equally near;
// and how far that one falls from theirs, in whole numbers of 2^-32 pixels, from which the weights of all
// candidates follow.
#include <type_traits>

#include "block.cuh"
#include "dispatch.h"
#include "grad_input.h"
#include "inverse.cuh"
#include "rare.h"
#include "storage.cuh"

namespace stn::cuda {
namespace {

// The tile's first pixel lies `origin` (x, y) before where output pixel (first_j, first_i) falls.
template <class T>
struct TilePlan {
  Inverse inverse;
  bool usable, touched,
      inside;  // touched: whether any output pixel may read the tile; inside: all candidates exist
  int first_j, first_i;
  double origin[2];
  int64_t fixed_origin[2], by_j[2], by_i[2];  // in 2^-32 pixels
  float rest_j, rest_i, jx, jy, ix, iy;       // where the inverse takes the tile's pixels, counted from first
  T xj, xi, yj, yi;
};

// By one thread.
template <class T>
__device__ void plan_gather(const Problem& p, const Part& part, const Tiles& tiles, TilePlan<T>* plan) {
  const Inverse& v = plan->inverse;
  plan->usable = plan->inverse.of(p, part.map);
  if (!plan->usable) return;
  const double mx = part.column + 0.5 * (tiles.columns - 1) - v.x0,
               my = part.row + 0.5 * (tiles.rows - 1) - v.y0;
  const double j = v.jx * mx + v.jy * my, i = v.ix * mx + v.iy * my;  // of the tile's middle
  const double half_j = 0.5 * (fabs(v.jx) * tiles.columns + fabs(v.jy) * tiles.rows) + v.reach_j + 1;
  const double half_i = 0.5 * (fabs(v.ix) * tiles.columns + fabs(v.iy) * tiles.rows) + v.reach_i + 1;
  const double last_j = p.axis[0].out - 1, last_i = p.axis[1].out - 1;
  plan->touched = j + half_j >= 0 && j - half_j <= last_j && i + half_i >= 0 && i - half_i <= last_i;
  plan->inside = j - half_j >= 0 && j + half_j <= last_j && i - half_i >= 0 && i + half_i <= last_i;
  if (!plan->touched) return;  // and what follows fits its types
  plan->first_j = static_cast<int>(rint(j));
  plan->first_i = static_cast<int>(rint(i));
  plan->origin[0] = v.x0 + v.xj * plan->first_j + v.xi * plan->first_i - part.column;
  plan->origin[1] = v.y0 + v.yj * plan->first_j + v.yi * plan->first_i - part.row;
  constexpr double unit = 4294967296.0;
  const double by[2][2] = {{v.xj, v.xi}, {v.yj, v.yi}};
  for (int d = 0; d < 2; ++d) {
    plan->fixed_origin[d] = static_cast<int64_t>(rint(plan->origin[d] * unit));
    plan->by_j[d] = static_cast<int64_t>(rint(by[d][0] * unit));
    plan->by_i[d] = static_cast<int64_t>(rint(by[d][1] * unit));
  }
  plan->jx = static_cast<float>(v.jx), plan->jy = static_cast<float>(v.jy);
  plan->ix = static_cast<float>(v.ix), plan->iy = static_cast<float>(v.iy);
  plan->rest_j = static_cast<float>(j - plan->first_j - v.jx * 0.5 * (tiles.columns - 1) -
                                    v.jy * 0.5 * (tiles.rows - 1));
  plan->rest_i = static_cast<float>(i - plan->first_i - v.ix * 0.5 * (tiles.columns - 1) -
                                    v.iy * 0.5 * (tiles.rows - 1));
  plan->xj = static_cast<T>(v.xj), plan->xi = static_cast<T>(v.xi);
  plan->yj = static_cast<T>(v.yj), plan->yi = static_cast<T>(v.yi);
}

// The output pixel (j, i) nearest to where the inverse takes a pixel, and how far from that it falls, (x, y).
template <class T>
struct Nearest {
  int j, i;
  T x, y;

  __device__ Nearest(const TilePlan<T>& plan, int column, int row) {
    const float fx = static_cast<float>(column), fy = static_cast<float>(row);
    const int dj = static_cast<int>(rintf(fmaf(plan.jx, fx, fmaf(plan.jy, fy, plan.rest_j))));
    const int di = static_cast<int>(rintf(fmaf(plan.ix, fx, fmaf(plan.iy, fy, plan.rest_i))));
    j = plan.first_j + dj;
    i = plan.first_i + di;
    if constexpr (sizeof(T) == 4) {
      x = distance(plan, 0, dj, di, column);
      y = distance(plan, 1, dj, di, row);
    } else {
      const Inverse& v = plan.inverse;
      x = plan.origin[0] + v.xj * dj + v.xi * di - column;
      y = plan.origin[1] + v.yj * dj + v.yi * di - row;
    }
  }

 private:
  // It is less than 2 kSteepest, so that it fits 32 bits in 2^-24 pixels.
  static __device__ float distance(const TilePlan<T>& plan, int d, int dj, int di, int place) {
    const int64_t at = plan.fixed_origin[d] + plan.by_j[d] * dj + plan.by_i[d] * di;
    return static_cast<float>(static_cast<int32_t>((at - (static_cast<int64_t>(place) << 32)) >> 8)) *
           0x1p-24f;
  }
};

template <class T>
__device__ T saturated(T x) {
  return fmin(fmax(x, T(0)), T(1));
}
template <>
__device__ inline float saturated(float x) {
  return __saturatef(x);
}

// Of a candidate that falls (x, y) from a pixel: what it weighs there, 0 where it does not touch it.
template <class T>
__device__ T weight_of(T x, T y) {
  return saturated(1 - fabs(x)) * saturated(1 - fabs(y));
}

// One pixel of 3 x 3 candidates, channel by channel. inside: all of them exist.
template <bool inside, bool packed, class S>
__device__ void gather_near(const Problem& p, const TilePlan<Computed<S>>& plan,
                            const Nearest<Computed<S>>& at, const char* grad, char* to, int channels) {
  using T = Computed<S>;
  T weight[3][3];
#pragma unroll
  for (int a = 0; a < 3; ++a) {
#pragma unroll
    for (int b = 0; b < 3; ++b) {
      const T x = at.x + (plan.xi * (a - 1) + plan.xj * (b - 1)),
              y = at.y + (plan.yi * (a - 1) + plan.yj * (b - 1));
      weight[a][b] = weight_of(x, y);
      if constexpr (!inside) {
        const bool exists = static_cast<unsigned>(at.i + a - 1) < static_cast<unsigned>(p.axis[1].out) &&
                            static_cast<unsigned>(at.j + b - 1) < static_cast<unsigned>(p.axis[0].out);
        weight[a][b] = exists ? weight[a][b] : T(0);
      }
    }
  }
  // Of packed gradients a multiply-add each.
  const int64_t pixel = packed ? static_cast<int64_t>(sizeof(S)) : p.grad.axis[0];
  const int64_t row = packed ? static_cast<int32_t>(p.grad.axis[1]) : p.grad.axis[1];
  const char* from[3];
  from[0] = grad + ((at.i - 1) * row + (at.j - 1) * pixel);
  from[1] = from[0] + row;
  from[2] = from[1] + row;
#pragma unroll 1
  for (int c = 0; c < channels; ++c) {
    T sum = 0;
#pragma unroll
    for (int a = 0; a < 3; ++a) {
#pragma unroll
      for (int b = 0; b < 3; ++b) {
        if (weight[a][b] > 0) sum += weight[a][b] * load(reinterpret_cast<const S*>(from[a] + b * pixel));
      }
      from[a] += p.grad.channel;
    }
    store(sum, reinterpret_cast<S*>(to));
    to += p.grad_input.channel;
  }
}

// One pixel with more candidates.
template <class S>
__device__ void gather_far(const Problem& p, const TilePlan<Computed<S>>& plan,
                           const Nearest<Computed<S>>& at, const char* grad, char* to, int channels) {
  using T = Computed<S>;
  const Inverse& v = plan.inverse;
#pragma unroll 1
  for (int c = 0; c < channels; ++c) {
    T sum = 0;
#pragma unroll 1
    for (int a = -v.reach_i; a <= v.reach_i; ++a) {
#pragma unroll 1
      for (int b = -v.reach_j; b <= v.reach_j; ++b) {
        const int i = at.i + a, j = at.j + b;
        const T weight = weight_of(at.x + (plan.xi * a + plan.xj * b), at.y + (plan.yi * a + plan.yj * b));
        if (!(weight > 0) || i < 0 || j < 0 || i >= p.axis[1].out || j >= p.axis[0].out) continue;
        sum += weight * load(reinterpret_cast<const S*>(grad + i * p.grad.axis[1] + j * p.grad.axis[0]));
      }
    }
    store(sum, reinterpret_cast<S*>(to));
    grad += p.grad.channel;
    to += p.grad_input.channel;
  }
}

// packed: whether the gradient's pixels lie side by side, and its rows less than 2^31 bytes apart.
template <class S, bool packed>
__global__ void __launch_bounds__(kMostThreads, sizeof(S) < 8 ? 4 : 2)
    gather(const __grid_constant__ Problem p, const __grid_constant__ Tiles tiles,
           const __grid_constant__ Leftover leftover) {
  using T = Computed<S>;
  __shared__ TilePlan<T> plan;
  const Part part(p, tiles, blockIdx.x);
  if (thread_number() == 0) {
    STN_RARE();
    plan_gather(p, part, tiles, &plan);
    if (!plan.usable && part.place == 0) leftover.list[atomicAdd(leftover.count, 1ull)] = part.map;
  }
  __syncthreads();
  if (!plan.usable) return;
  const Pixels pixels(tiles);
  const char* grad = p.grad.data + part.map * p.grad.batch + part.channel * p.grad.channel;
  char* to = p.grad_input.data + part.map * p.grad_input.batch + part.channel * p.grad_input.channel;
  const int column = part.column + pixels.column;
  if (column >= p.axis[0].in) return;
#pragma unroll 1
  for (int k = 0; k < kTogether * tiles.bands; ++k) {
    const int r = pixels.row + k * kWarpRows, row = part.row + r;
    if (row >= p.axis[1].in) return;
    char* const out = to + (row * p.grad_input.axis[1] + column * p.grad_input.axis[0]);
    if (!plan.touched) {
      STN_RARE();
      for (int c = 0; c < part.channels; ++c)
        store(T(0), reinterpret_cast<S*>(out + c * p.grad_input.channel));
      continue;
    }
    const Nearest<T> at(plan, pixels.column, r);
    if (plan.inverse.reach_j > 1 || plan.inverse.reach_i > 1) {
      STN_RARE();
      gather_far<S>(p, plan, at, grad, out, part.channels);
    } else if (plan.inside) {
      gather_near<true, packed, S>(p, plan, at, grad, out, part.channels);
    } else {
      STN_RARE();
      gather_near<false, packed, S>(p, plan, at, grad, out, part.channels);
    }
  }
}

// The input's tiles are those of an output of its size.
Tiles input_tiles(Problem p) {
  for (Axis& a : p.axis) a.out = a.in;
  return output_tiles(p, 1);
}

template <class S>
cudaError_t launch(const Problem& p, const Leftover& leftover, cudaStream_t stream) {
  const Tiles tiles = input_tiles(p);
  const bool packed = p.narrow && p.grad.axis[0] == static_cast<int64_t>(sizeof(S));
  return stn::cuda::launch(packed ? gather<S, true> : gather<S, false>, tiles.blocks(p.maps), tiles.threads,
                           stream, p, tiles, leftover);
}

}  // namespace

cudaError_t launch_gather(const Problem& p, const Leftover& leftover, cudaStream_t stream) {
  return with_storage(p.storage,
                      [&](auto element) { return launch<decltype(element)>(p, leftover, stream); });
}

}  // namespace stn::cuda
