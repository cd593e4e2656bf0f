// The radial functions of thin plate splines: what they add to coordinates, and what they take of gradients.
#pragma once

#include "block.cuh"
#include "storage.cuh"

namespace stn::cuda {

// r^2 log r^2, of r^2: the radial function, up to a factor that theta absorbs.
__device__ inline float radial_function(float r2) { return r2 < 1e-30f ? 0 : r2 * logf(r2); }
__device__ inline double radial_function(double r2) { return r2 < 1e-30 ? 0 : r2 * log(r2); }

// The normalized coordinates of an output pixel.
template <class T>
__device__ T normalized_at(const Axis& a, int pixel) {
  return static_cast<T>(pixel - a.middle) * static_cast<T>(a.step);
}

// Control points and their coefficients, in pixels, of x and y and of their tangents.
template <class T>
struct Staged {
  T x[kStaged], y[kStaged], by[4][kStaged];
};

// What radial functions add to coordinates and to their tangents, in pixels.
template <class T>
struct Bend {
  T by[4];
};

__device__ inline int staged(const Problem& p, int first) {
  return p.radial() - first < kStaged ? p.radial() - first : kStaged;
}

template <class T>
__device__ void stage(const Problem& p, int map, int first, Staged<T>* to) {
  for (int f = thread_number(); f < staged(p, first); f += static_cast<int>(blockDim.x)) {
    to->x[f] = static_cast<T>(number(p.points, 2 * (first + f)));
    to->y[f] = static_cast<T>(number(p.points, 2 * (first + f) + 1));
    for (int d = 0; d < 2; ++d) {
      const int64_t k = (static_cast<int64_t>(map) * 2 + d) * p.basis + first + f;
      to->by[d][f] = static_cast<T>(number(p.theta, k) * p.axis[d].scale);
      if (p.tangent.data) to->by[2 + d][f] = static_cast<T>(number(p.tangent, k) * p.axis[d].scale);
    }
  }
}

// Of a thread's next pixels, from (column, row) of the output on; by all threads of a block.
template <int count, class T>
__device__ void bend_of(const Problem& p, int map, int column, int row, Staged<T>* s,
                        Bend<T> (&bend)[count]) {
  const T x = normalized_at<T>(p.axis[0], column);
  T y[count];
#pragma unroll
  for (int k = 0; k < count; ++k) y[k] = normalized_at<T>(p.axis[1], row + k * kWarpRows);
#pragma unroll 1
  for (int first = 0; first < p.radial(); first += kStaged) {
    __syncthreads();
    stage(p, map, first, s);
    __syncthreads();
#pragma unroll 1
    for (int f = 0; f < staged(p, first); ++f) {
      const T dx = x - s->x[f];
#pragma unroll
      for (int k = 0; k < count; ++k) {
        const T dy = y[k] - s->y[f], value = radial_function(dx * dx + dy * dy);
        bend[k].by[0] += s->by[0][f] * value;
        bend[k].by[1] += s->by[1][f] * value;
        if (p.tangent.data) {
          bend[k].by[2] += s->by[2][f] * value;
          bend[k].by[3] += s->by[3][f] * value;
        }
      }
    }
  }
}

template <class V>
__device__ V sum_over_warp(V value) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(kWholeWarp, value, step);
  return value;
}

// Sums of gradients times radial functions, kStaged of them from number `first` on.
template <class T>
struct RadialSums {
  T x[kStaged], y[kStaged], sum[kMostWarps][2][kStaged];
  int first;

  // By all threads of a block.
  __device__ void begin(const Problem& p, int first_function) {
    if (thread_number() == 0) first = first_function;
    for (int f = thread_number(); f < kStaged; f += static_cast<int>(blockDim.x)) {
      const bool exists = f < staged(p, first_function);
      x[f] = exists ? static_cast<T>(number(p.points, 2 * (first_function + f))) : T(0);
      y[f] = exists ? static_cast<T>(number(p.points, 2 * (first_function + f) + 1)) : T(0);
      for (auto& warp : sum) warp[0][f] = warp[1][f] = 0;
    }
  }

  // Of a thread's next pixels; by all lanes of a warp.
  template <int count>
  __device__ void add(const Problem& p, int column, int row, const T (&by)[count][2]) {
    const T px = normalized_at<T>(p.axis[0], column);
    T py[count];
#pragma unroll
    for (int k = 0; k < count; ++k) py[k] = normalized_at<T>(p.axis[1], row + k * kWarpRows);
#pragma unroll 1
    for (int f = 0; f < staged(p, first); ++f) {
      T both[2] = {};
#pragma unroll
      for (int k = 0; k < count; ++k) {
        const T dx = px - x[f], dy = py[k] - y[f], value = radial_function(dx * dx + dy * dy);
        for (int s = 0; s < 2; ++s) both[s] += by[k][s] * value;
      }
      for (int s = 0; s < 2; ++s) {
        const T total = sum_over_warp(both[s]);
        if (lane_number() == 0) sum[warp_number()][s][f] += total;
      }
    }
  }

  // To a block's (streams, basis), `apart` from one to the next; by all threads.
  __device__ void leave(const Problem& p, double* to, int64_t apart) const {
    __syncthreads();
    for (int f = thread_number(); f < staged(p, first); f += static_cast<int>(blockDim.x)) {
      for (int s = 0; s < 2; ++s) {
        double total = 0;
        for (int w = 0; w < static_cast<int>(blockDim.x) / kWarp; ++w)
          total += static_cast<double>(sum[w][s][f]);
        to[(s * p.basis + first + f) * apart] = total * p.axis[s].scale;
      }
    }
  }
};

}  // namespace stn::cuda
