// The gradient of the input for maps whose inverse tells which few output pixels read a pixel of the input
// (inverse.cuh): these are looked at, and those less than 1 away along all axes are its own. No atomics, one
// store a value; sums have one order. Maps without such an inverse are the scatter's.
//
// A block plans its tile of the input once in double, as others plan a tile of the output. Its threads walk
// the inverse over it, which gives the output's coordinates of a pixel as whole numbers of 2^-32 pixels; from
// their fractions and the map's slopes follow the distances of all candidates, and so their weights.
#include <type_traits>

#include "dispatch.h"
#include "grad_input.h"
#include "inverse.cuh"

namespace stn::cuda {
namespace {

template <MapKind kind_, class T>
struct GatherPlan {
  static constexpr MapKind kind = kind_;
  static constexpr int dims = dims_of(kind);
  static constexpr bool perspective = kind == MapKind::projective;

  int candidates;                     // along an axis
  Line line[dims];                    // output pixels, counted from the first; times the inverse's depth
  Line over_line;                     // that depth
  Line forward[dims], forward_depth;  // as Inverse's
  double middle[dims];                // the output's center
  double first[3];                    // the tile's first pixel, from the input's center
  AxisPlan axis[dims];
  typename If<perspective, DepthPlan>::type depth;
  int half_columns, half_rows;
  T slope[dims][dims];  // of input coordinate d by output coordinate e; its numerator's
  T bend[2], place[2];  // of the depth; the tile's first pixel
  // Of a steep map: the first candidate of the tile's first pixel, and where it falls from there, and the
  // steps from it, in 2^-32 pixels.
  bool steep;
  int nearby[dims];
  int64_t origin[dims], step[dims][dims];
  T over, over_column, over_row;  // the inverse's depth in the tile's first pixel, and from one to the next
};

// By one thread for each axis. Not inlined: numbers in double are not to take registers from the pixels.
template <MapKind kind, class T>
__device__ __noinline__ void plan_gather(const Problem& p, const Inverse<kind>& v, int column, int row,
                                         int slice, const Tiles& tiles, int d, GatherPlan<kind, T>* plan) {
  const double j = column - p.axis[0].center, i = row - p.axis[1].center,
               k = kind == MapKind::volume ? slice - p.axis[2].center : 0, middle = p.axis[d].middle;
  const Line &b = v.back[d], &o = v.over;
  const Line l = {b.x + middle * o.x, b.y + middle * o.y, b.z, b.one + middle * o.one};
  plan->line[d] = l;
  plan->forward[d] = v.forward[d];
  plan->middle[d] = middle;
  if constexpr (kind == MapKind::projective)
    plan_quotient(l, o, j, i, tiles, &plan->axis[d], d == 0 ? &plan->depth : nullptr);
  else
    plan_line(l, j, i, k, tiles, &plan->axis[d]);
  const double by[3] = {v.forward[d].x, v.forward[d].y, v.forward[d].z};
#pragma unroll
  for (int e = 0; e < dims_of(kind); ++e) plan->slope[d][e] = static_cast<T>(by[e]);
  if constexpr (kind != MapKind::projective && sizeof(T) == 4) {
    double q[3] = {};
#pragma unroll
    for (int e = 0; e < dims_of(kind); ++e) {
      const double whole = floor(v.back[e].at(j, i, k) + p.axis[e].middle);
      const bool near = fabs(whole) < kTame;  // else no output pixel is
      if (e == d) plan->nearby[e] = near ? static_cast<int>(whole) : 0;
      q[e] = (near ? whole : 0) - p.axis[e].middle;
      plan->step[d][e] = fixed_point(by[e], 0x1p32);
    }
    const double at = v.forward[d].at(q[0], q[1], q[2]) - (d == 0 ? j : d == 1 ? i : k);
    plan->origin[d] = fabs(at) < kTame ? fixed_point(at, 0x1p32) : 0;
  }
  if (d != 0) return;
  plan->candidates = v.candidates;
  plan->steep = v.steep;
  plan->first[0] = j, plan->first[1] = i, plan->first[2] = k;
  plan->half_columns = tiles.columns / 2;
  plan->half_rows = tiles.rows / 2;
  plan->over_line = o;
  plan->forward_depth = v.depth;
  plan->bend[0] = static_cast<T>(v.depth.x), plan->bend[1] = static_cast<T>(v.depth.y);
  plan->place[0] = static_cast<T>(j), plan->place[1] = static_cast<T>(i);
  plan->over = static_cast<T>(o.at(j, i, k));
  plan->over_column = static_cast<T>(o.x), plan->over_row = static_cast<T>(o.y);
}

// A pixel's candidates: the first along each axis, and how far the pixel's output coordinates lie behind it.
template <int dims, class T>
struct Candidates {
  int first[dims];
  T behind[dims];
};

// n: candidates along an axis. Of an even number, as many lie to either side; of an odd one, the middle one
// is the nearest.
template <int n, MapKind kind, class T, int dims = dims_of(kind)>
__device__ Candidates<dims, T> candidates_of(const GatherPlan<kind, T>& plan, int column, int row) {
  Candidates<dims, T> c;
  if constexpr (sizeof(T) == 4) {
    int64_t at[1][dims];
    walk<1>(plan, column, row, at);
#pragma unroll
    for (int d = 0; d < dims; ++d) {
      const auto low = static_cast<uint32_t>(at[0][d]);
      const int whole = static_cast<int>(at[0][d] >> 32) + (n % 2 ? static_cast<int>(low >> 31) : 0);
      const T rest = (n % 2 ? static_cast<T>(static_cast<int32_t>(low)) : static_cast<T>(low)) * 0x1p-32f;
      c.first[d] = whole - (n - 1) / 2;
      c.behind[d] = rest + static_cast<T>((n - 1) / 2);
    }
  } else {
    const double j = plan.first[0] + column, i = plan.first[1] + row, k = plan.first[2];
    const double inverse = kind == MapKind::projective ? 1 / plan.over_line.at(j, i, k) : 1;
    for (int d = 0; d < dims; ++d) {
      const double at = plan.line[d].at(j, i, k) * inverse, whole = n % 2 ? rint(at) : floor(at);
      // What is far from the output stays so.
      const double held = fmin(fmax(whole, -kTame), kTame);
      c.first[d] = static_cast<int>(held == held ? held : -kTame) - (n - 1) / 2;
      c.behind[d] = at - whole + (n - 1) / 2;
    }
  }
  return c;
}

template <class T>
__device__ T saturated(T x) {
  return fmin(fmax(x, T(0)), T(1));
}
template <>
__device__ inline float saturated(float x) {
  return __saturatef(x);
}

__device__ inline float over(float x) { return __fdividef(1, x); }
__device__ inline double over(double x) { return 1 / x; }

// How far the first candidate falls from the pixel, times the depth's ratio of the two places: of steep maps
// the slopes' products would lose bits.
template <MapKind kind, int dims>
__device__ __forceinline__ void exact_distances(const GatherPlan<kind, float>& plan,
                                                const Candidates<dims, float>& c, int column, int row,
                                                float (&from)[dims]) {
  const int offset[3] = {column, row, 0};
#pragma unroll
  for (int d = 0; d < dims; ++d) {
    int64_t at = plan.origin[d] - (static_cast<int64_t>(offset[d]) << 32);
#pragma unroll
    for (int e = 0; e < dims; ++e) at += plan.step[d][e] * (c.first[e] - plan.nearby[e]);
    // It is less than 2 kSteepest, so that it fits 32 bits in 2^-24 pixels.
    from[d] = static_cast<float>(static_cast<int32_t>(at >> 8)) * 0x1p-24f;
  }
}
template <MapKind kind, int dims>
__device__ __forceinline__ void exact_distances(const GatherPlan<kind, double>& plan,
                                                const Candidates<dims, double>& c, int column, int row,
                                                double (&from)[dims]) {
  double q[3] = {};
#pragma unroll
  for (int e = 0; e < dims; ++e) q[e] = c.first[e] - plan.middle[e];
  const double x[3] = {plan.first[0] + column, plan.first[1] + row, plan.first[2]};
  const double over = kind == MapKind::projective ? plan.over_line.at(x[0], x[1], x[2]) : 1;
  const double depth = plan.forward_depth.at(q[0], q[1], q[2]);
#pragma unroll
  for (int d = 0; d < dims; ++d) from[d] = (plan.forward[d].at(q[0], q[1], q[2]) - x[d] * depth) * over;
}

// What each candidate weighs in a pixel, 0 where it does not touch it. Roundings are spelled out: else the
// compiler chooses them, and may choose others for another layout of the same images.
template <int n, int count, MapKind kind, class T, int dims>
__device__ void weigh(const GatherPlan<kind, T>& plan, const Candidates<dims, T>& c, int column, int row,
                      T (&weight)[count]) {
  T slope[dims][dims], bend[2] = {}, from[dims], bent = 1;
#pragma unroll
  for (int d = 0; d < dims; ++d) {
#pragma unroll
    for (int e = 0; e < dims; ++e) slope[d][e] = plan.slope[d][e];
  }
  if constexpr (kind == MapKind::projective) {
    const T scale = fma(plan.over_row, T(row), fma(plan.over_column, T(column), plan.over));
    const T place[2] = {plan.place[0] + column, plan.place[1] + row};
    for (int e = 0; e < 2; ++e) {
      for (int d = 0; d < 2; ++d) slope[d][e] = fma(-place[d], plan.bend[e], slope[d][e]) * scale;
      bend[e] = plan.bend[e] * scale;
      bent = fma(-bend[e], c.behind[e], bent);
    }
  }
#pragma unroll
  for (int d = 0; d < dims; ++d) {
    from[d] = 0;
#pragma unroll
    for (int e = 0; e < dims; ++e) from[d] = fma(-slope[d][e], c.behind[e], from[d]);
  }
  if (sizeof(T) == 8 || (n == 2 && kind != MapKind::projective && plan.steep)) {
    STN_RARE();
    exact_distances(plan, c, column, row, from);
  }
#pragma unroll
  for (int t = 0; t < count; ++t) {
    T inverse = 1;
    if constexpr (kind == MapKind::projective)
      inverse = over(fma(bend[1], T(t / n), fma(bend[0], T(t % n), bent)));
    weight[t] = 1;
#pragma unroll
    for (int d = 0; d < dims; ++d) {
      T distance = from[d];
      if (t / (n * n) > 0) distance = fma(slope[d][dims - 1], T(t / (n * n)), distance);
      if (t / n % n > 0) distance = fma(slope[d][1], T(t / n % n), distance);
      if (t % n > 0) distance = fma(slope[d][0], T(t % n), distance);
      const T own = saturated(1 - fabs(distance * inverse));
      weight[t] = d == 0 ? own : weight[t] * own;
    }
  }
}

// How gradients lie: packed, with pixels side by side and rows less than 2^31 bytes apart; in any way; or
// with their channels side by side, as vectors (lanes_of).
enum class Layout { any, packed, vectors };

// Bytes from a gradient to its neighbors.
template <class S, Layout layout>
struct Steps {
  int64_t by[3];

  __device__ explicit Steps(const Batch& grad)
      : by{layout == Layout::packed ? static_cast<int64_t>(sizeof(S)) : grad.axis[0],
           layout == Layout::packed ? static_cast<int32_t>(grad.axis[1]) : grad.axis[1], grad.axis[2]} {}
  template <int n>
  __device__ int64_t offset(int t) const {
    return t % n * by[0] + t / n % n * by[1] + t / (n * n) * by[2];
  }
};

// What the candidates of a pixel weigh, and from which gradient on they are found. Whether all of them exist.
template <int n, class S, Layout layout, MapKind kind, class T, int count>
__device__ bool find_candidates(const Problem& p, const GatherPlan<kind, T>& plan,
                                const Steps<S, layout>& step, int column, int row, T (&weight)[count],
                                const char** from) {
  constexpr int dims = dims_of(kind);
  const Candidates<dims, T> c = candidates_of<n>(plan, column, row);
  weigh<n>(plan, c, column, row, weight);
  bool inside = true;
#pragma unroll
  for (int d = 0; d < dims; ++d) {
    inside &= c.first[d] >= 0 && c.first[d] <= p.axis[d].out - n;
    *from += c.first[d] * step.by[d];
  }
  if (!inside) {
    STN_RARE();
#pragma unroll
    for (int t = 0; t < count; ++t) {
      const int at[3] = {t % n, t / n % n, t / (n * n)};
      for (int d = 0; d < dims; ++d) {
        const bool exists = static_cast<unsigned>(c.first[d] + at[d]) < static_cast<unsigned>(p.axis[d].out);
        weight[t] = exists ? weight[t] : T(0);
      }
    }
  }
  return inside;
}

// A pixel, channel by channel.
template <int n, class S, Layout layout, MapKind kind, class T>
__device__ void gather_pixel(const Problem& p, const GatherPlan<kind, T>& plan, int column, int row,
                             const char* grad, char* to, int channels) {
  constexpr int dims = dims_of(kind), count = dims == 3 ? n * n * n : n * n;
  const Steps<S, layout> step(p.grad);
  T weight[count];
  const char* from = grad;
  const bool inside = find_candidates<n>(p, plan, step, column, row, weight, &from);
  // A candidate that does not touch the pixel takes no part, whatever its gradient is.
  const auto sum_of = [&](const char* first, bool careful) {
    T sum = 0;
#pragma unroll
    for (int t = 0; t < count; ++t) {
      if (!careful || weight[t] > 0)
        sum = fma(weight[t], load(reinterpret_cast<const S*>(first + step.template offset<n>(t))), sum);
    }
    return sum;
  };
  const auto put = [&](T sum) {
    if (inside && !(sum - sum == 0)) {
      STN_RARE();
      sum = sum_of(from, true);
    }
    store(sum, reinterpret_cast<S*>(to));
    from += p.grad.channel;
    to += p.grad_input.channel;
  };
  int left = channels;
  if (!inside) {
    STN_RARE();
    for (; left > 0; --left) put(sum_of(from, true));
  }
  // Two at a time where registers allow: the loads of both come before the first is used.
  constexpr int together = count <= 9 && sizeof(T) == 4 ? 2 : 1;
#pragma unroll 1
  for (; left >= together; left -= together) {
    T sum[together];
#pragma unroll
    for (int k = 0; k < together; ++k) sum[k] = sum_of(from + k * p.grad.channel, false);
#pragma unroll
    for (const T one : sum) put(one);
  }
  if (together > 1 && left > 0) put(sum_of(from, false));
}

// What the lanes that share a pixel need.
struct Shared {
  const char* from;
  char* to;  // null: there is no such pixel
  float weight[16];
};

// The pixels of a warp, a lane each, of which `lanes` at a time take a vector of channels each.
template <int n, class S, MapKind kind>
__device__ void gather_vectors(const Problem& p, const GatherPlan<kind, float>& plan, int column, int row,
                               const char* grad, char* to, int channels, int lanes, Shared* shared) {
  using V = Vector<S>;
  const Steps<S, Layout::vectors> step(p.grad);
  Shared* const all = shared + warp_number() * kWarp;
  {
    float weight[n * n];
    const char* from = grad;
    find_candidates<n>(p, plan, step, column, row, weight, &from);
    all[lane_number()].from = from;
    all[lane_number()].to = to;
    for (int t = 0; t < n * n; ++t) all[lane_number()].weight[t] = weight[t];
  }
  __syncwarp();
  const int first = lane_number() % lanes;
#pragma unroll 1
  for (int other = lane_number() / lanes; other < kWarp; other += kWarp / lanes) {
    const Shared& pixel = all[other];
    if (!pixel.to) continue;
#pragma unroll 1
    for (int c = first; c * V::count < channels; c += lanes) {
      V result;
      float sum[V::count] = {};
#pragma unroll 1
      for (int t = 0; t < n * n; t += n) {
        V value[n];
        const V* const row =
            reinterpret_cast<const V*>(in_global(pixel.from) + step.template offset<n>(t)) + c;
#pragma unroll
        for (int b = 0; b < n; ++b) {
          if (pixel.weight[t + b] > 0) value[b] = *ahead(row, b * step.by[0]);
        }
#pragma unroll
        for (int b = 0; b < n; ++b) {
          const float weight = pixel.weight[t + b];
#pragma unroll
          for (int k = 0; k < V::count; ++k) {
            if (weight > 0) sum[k] = fma(weight, load(&value[b].at[k]), sum[k]);
          }
        }
      }
#pragma unroll
      for (int k = 0; k < V::count; ++k) store(sum[k], &result.at[k]);
      reinterpret_cast<V*>(in_global(pixel.to))[c] = result;
    }
  }
  __syncwarp();
}

// Blocks of a multiprocessor: candidates' weights are held in registers, 9 or 16, of volumes 27.
template <class S, MapKind kind, Layout layout>
constexpr int kGathering = sizeof(S) == 8                                         ? 1
                           : layout == Layout::vectors || kind == MapKind::volume ? 2
                           : layout == Layout::any || kind == MapKind::projective ? 3
                                                                                  : 4;

// Inverts maps, a thread each, and lists those that are left to the scatter.
template <MapKind kind>
__global__ void __launch_bounds__(kWarp)
    invert(const __grid_constant__ Problem p, const __grid_constant__ Tiles tiles, Inverse<kind>* inverses,
           const __grid_constant__ Leftover leftover) {
  const int64_t map = static_cast<int64_t>(blockIdx.x) * kWarp + thread_number();
  if (map >= p.maps) return;
  Inverse<kind> inverse;
  const bool usable = inverse.of(p, static_cast<int>(map), tiles);
  if (!usable) {
    inverse.candidates = 0;
    leftover.list[atomicAdd(leftover.count, 1ull)] = static_cast<int>(map);
  }
  inverses[map] = inverse;
}

template <class S, MapKind kind, Layout layout>
__global__ void __launch_bounds__(kMostThreads, kGathering<S, kind, layout>)
    gather(const __grid_constant__ Problem p, const __grid_constant__ Tiles tiles,
           const Inverse<kind>* inverses) {
  using T = Computed<S>;
  __shared__ GatherPlan<kind, T> plan;
  __shared__ Shared shared[layout == Layout::vectors ? kMostThreads : 1];
  const Part part(p, tiles, blockIdx.x);
  const Inverse<kind>& inverse = inverses[part.map];
  if (inverse.candidates == 0) return;
  if (thread_number() < plan.dims) {
    STN_RARE();
    plan_gather(p, inverse, part.column, part.row, part.slice, tiles, thread_number(), &plan);
  }
  __syncthreads();
  const Pixels pixels(tiles);
  const char* grad = p.grad.data + part.map * p.grad.batch + part.channel * p.grad.channel;
  char* to = p.grad_input.data + part.map * p.grad_input.batch + part.channel * p.grad_input.channel +
             part.slice * p.grad_input.axis[2] + (part.column + pixels.column) * p.grad_input.axis[0] +
             (part.row + pixels.row) * p.grad_input.axis[1];
  const bool own = part.column + pixels.column < p.axis[0].in;
  bool reached = true;  // else no output pixel is near
  for (int d = 0; sizeof(T) == 4 && d < plan.dims; ++d) reached &= plan.axis[d].tame;
#pragma unroll 1
  for (int r = pixels.row; r < tiles.bands * kBandRows + pixels.row; r += kWarpRows) {
    const bool exists = own && part.row + r < p.axis[1].in;
    const auto pixel = [&](auto n) {
      if constexpr (layout == Layout::vectors) {
        gather_vectors<decltype(n)::value, S>(p, plan, pixels.column, r, grad, exists ? to : nullptr,
                                              part.channels, tiles.lanes, shared);
      } else {
        if (exists)
          gather_pixel<decltype(n)::value, S, layout>(p, plan, pixels.column, r, grad, to, part.channels);
      }
    };
    if (!reached) {
      STN_RARE();
      for (int c = 0; exists && c < part.channels; ++c)
        store(T(0), reinterpret_cast<S*>(to + c * p.grad_input.channel));
    } else if (plan.candidates == 3) {
      pixel(std::integral_constant<int, 3>());
    } else if (plan.candidates == 2) {
      STN_RARE();
      pixel(std::integral_constant<int, 2>());
    } else if constexpr (kMostCandidates<kind> == 4) {
      STN_RARE();
      pixel(std::integral_constant<int, 4>());
    }
    to += kWarpRows * p.grad_input.axis[1];
  }
}

// The input's tiles are those of an output of its size.
Tiles input_tiles(Problem p) {
  for (Axis& a : p.axis) a.out = a.in;
  const bool images = p.kind != MapKind::volume;
  return output_tiles(p, images ? lanes_of(p, p.grad, p.grad_input, p.element) : Lanes{1, false});
}

}  // namespace

int64_t inverse_bytes(MapKind kind) {
  int64_t bytes = 0;
  with_kind(kind, [&](auto known) {
    bytes = static_cast<int64_t>(sizeof(Inverse<known.value>));
    return cudaSuccess;
  });
  return bytes;
}

cudaError_t launch_gather(const Problem& p, void* inverses, const Leftover& leftover, cudaStream_t stream) {
  const Tiles tiles = input_tiles(p);
  return with_kind(p.kind, [&](auto kind) {
    if constexpr (kind.value == MapKind::spline) {
      return cudaErrorInvalidValue;
    } else {
      auto* const all = static_cast<Inverse<kind.value>*>(inverses);
      const cudaError_t error =
          launch(invert<kind.value>, ceil_div(p.maps, kWarp), kWarp, stream, p, tiles, all, leftover);
      if (error != cudaSuccess) return error;
      return with_storage(p.storage, [&](auto element) {
        using S = decltype(element);
        if constexpr (kind.value == MapKind::volume && sizeof(S) == 8) {
          return cudaErrorInvalidValue;
        } else {
          const bool packed = p.narrow && p.grad.axis[0] == static_cast<int64_t>(sizeof(S));
          auto* kernel = packed ? gather<S, kind.value, Layout::packed> : gather<S, kind.value, Layout::any>;
          if constexpr (kHasVectors<S> && kind.value != MapKind::volume)
            kernel = tiles.vectors ? gather<S, kind.value, Layout::vectors> : kernel;
          return launch(kernel, tiles.blocks(p.maps), tiles.threads, stream, p, tiles, all);
        }
      });
    }
  });
}

}  // namespace stn::cuda
