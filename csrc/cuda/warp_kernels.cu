// The three primitives for any map, images or volumes, any layout and any weights (warp.h) on the GPU. No
// atomics: sums have one order, results the same bits.
#include <cuda_runtime.h>
#include <math.h>

#include <type_traits>

#include "kernels.h"
#include "launch.h"

namespace stn::cuda {
namespace {

__device__ int thread_number() { return static_cast<int>(threadIdx.y * kColumns + threadIdx.x); }

// ---- where an output pixel falls --------------------------------------------------------------------------

// The output's normalized coordinates of column j of a row; rows are counted over all slices.
template <int dims>
struct Spot {
  double x[dims];

  template <class T>
  __device__ Spot(const Warp<T>& w, int64_t row, int64_t j) {
    x[0] = normalized(j, w.out[0], w.align_corners);
    x[1] = normalized(row % w.out[1], w.out[1], w.align_corners);
    if (dims == 3) x[dims - 1] = normalized(row / w.out[1], w.out[2], w.align_corners);
  }
};

// The radial function of a thin plate spline's point.
template <class T>
__device__ T radial_at(const double* point, double x, double y) {
  const T dx = static_cast<T>(x - point[0]), dy = static_cast<T>(y - point[1]);
  return radial_function(dx * dx + dy * dy);
}

// The streams' values and, with a tangent, their derivatives along it; and what follows from these: the
// coordinates in pixels and their derivatives.
template <int dims, bool tangent>
struct Place {
  double u[dims + 1], du[dims + 1], at[dims], along[dims];

  template <class T>
  __device__ Place(const Warp<T>& w, int64_t map, const Spot<dims>& spot) {
    const int64_t first = map * w.streams() * w.basis;
    add_up(w, w.theta + first, spot, u);
    if (tangent) add_up(w, w.tangent + first, spot, du);
    const double inverse = w.perspective ? over_depth(u[dims]) : 1;
    for (int d = 0; d < dims; ++d) {
      const PixelScale to(w.in[d], w.align_corners);
      const double x = inverse == 0 ? HUGE_VAL : u[d] * inverse;
      at[d] = x * to.scale + to.center;
      if (!tangent) continue;
      const double dx = w.perspective ? (du[d] - u[d] * inverse * du[dims]) * inverse : du[d];
      along[d] = finite_or_zero(dx * to.scale);
    }
  }

 private:
  template <class T>
  static __device__ void add_up(const Warp<T>& w, const double* coefficients, const Spot<dims>& spot,
                                double* to) {
    const int64_t radial = w.radial();
    for (int s = 0; s < dims + 1; ++s) {
      to[s] = 0;
      if (s == w.streams()) continue;
      const double* c = coefficients + s * w.basis + radial;
      for (int d = 0; d < dims; ++d) to[s] += c[d] * spot.x[d];
      to[s] += c[dims];
    }
    if (dims != 2 || radial == 0) return;
    T x = 0, y = 0;
    for (int64_t f = 0; f < radial; ++f) {
      const T value = radial_at<T>(w.points + 2 * f, spot.x[0], spot.x[1]);
      x += static_cast<T>(coefficients[f]) * value;
      y += static_cast<T>(coefficients[w.basis + f]) * value;
    }
    to[0] += static_cast<double>(x);
    to[1] += static_cast<double>(y);
  }
};

// ---- taps -------------------------------------------------------------------------------------------------

template <Padding padding, class T>
__device__ AxisTaps<T> taps_of(double at, int64_t length, int64_t stored, bool align_corners, bool nearest) {
  T whole, frac;
  split_any<padding>(at, length, align_corners, &whole, &frac);
  const T n = static_cast<T>(length), highest = static_cast<T>(stored - 2);
  return nearest ? nearest_taps<padding>(whole, frac, n, highest, align_corners)
                 : axis_taps<padding>(whole, frac, n, highest, align_corners);
}

// Not inlined: a kernel calls it for each axis.
template <class T>
__device__ __noinline__ AxisTaps<T> taps_along(double at, int64_t length, int64_t stored, Padding padding,
                                               bool align_corners, bool nearest) {
  switch (padding) {
    case Padding::border:
      return taps_of<Padding::border, T>(at, length, stored, align_corners, nearest);
    case Padding::reflection:
      return taps_of<Padding::reflection, T>(at, length, stored, align_corners, nearest);
    default:
      return taps_of<Padding::zeros, T>(at, length, stored, align_corners, nearest);
  }
}

// A pixel's 2^dims taps; bit d of a tap's number says which of axis d's pair it is.
template <int dims, class T>
struct Taps {
  AxisTaps<T> axis[dims];
  T along[dims];
  int first[dims];

  template <bool tangent>
  __device__ Taps(const Warp<T>& w, const Place<dims, tangent>& place) {
    for (int d = 0; d < dims; ++d) {
      axis[d] = taps_along<T>(place.at[d], w.in[d], w.stored[d], w.padding, w.align_corners, w.nearest);
      first[d] = static_cast<int>(axis[d].tap);
      along[d] = tangent ? static_cast<T>(place.along[d]) : T(0);
    }
  }

  // A pixel that stands alone has no neighbour; and a length beyond T's bits was rounded.
  __device__ bool exists(const Warp<T>& w, int t) const {
    bool inside = true;
    for (int d = 0; d < dims; ++d) inside &= first[d] + (t >> d & 1) < w.in[d];
    return inside;
  }

  __device__ int64_t offset(const int64_t* strides) const {
    int64_t sum = 0;
    for (int d = 0; d < dims; ++d) sum += first[d] * strides[d];
    return sum;
  }

  // Whether no tap of a pixel can have a weight, or its coordinate is not a number.
  __device__ bool empty() const {
    bool none = false;
    for (int d = 0; d < dims; ++d) {
      const AxisTaps<T>& a = axis[d];
      none |= a.w0 != a.w0 || a.w1 != a.w1 || (a.w0 == 0 && a.w1 == 0 && a.d0 == 0 && a.d1 == 0);
    }
    return none;
  }
};

template <int dims>
__device__ int64_t tap_offset(const int64_t* strides, int t) {
  int64_t sum = 0;
  for (int d = 0; d < dims; ++d) sum += (t >> d & 1) * strides[d];
  return sum;
}

// The elements before an output pixel in one channel.
template <class T, class I>
__device__ int64_t offset_of(const Warp<T>& w, const I& images, int64_t row, int64_t j) {
  return row % w.out[1] * images.axis[1] + row / w.out[1] * images.axis[2] + j * images.axis[0];
}

// ---- sample -----------------------------------------------------------------------------------------------

// How a launch divides the maps' outputs: into blocks, each of `stack` times kThreads pixels, and into groups
// of channels, or of basis functions.
struct Division {
  int64_t stack, blocks, size, groups;

  int64_t per_map() const { return blocks * groups; }
};

template <class T>
__host__ __device__ int64_t output_pixels(const Warp<T>& w) {
  return w.out[0] * w.rows();
}

template <int dims, bool tangent, class T>
__global__ void __launch_bounds__(kThreads, 1)
    sample(const __grid_constant__ Warp<T> w, const __grid_constant__ Division division) {
  const int64_t block = blockIdx.x % division.blocks, group = blockIdx.x / division.blocks;
  const int64_t map = group / division.groups, begin = group % division.groups * division.size;
  const int64_t end = begin + division.size < w.channels ? begin + division.size : w.channels;
  const int64_t pixel = block * kThreads + thread_number();
  if (pixel >= output_pixels(w)) return;
  const int64_t row = pixel / w.out[0], j = pixel % w.out[0];
  const Place<dims, tangent> place(w, map, Spot<dims>(w, row, j));
  const Taps<dims, T> taps(w, place);
  T weight[1 << dims];
  for (int t = 0; t < 1 << dims; ++t) {
    weight[t] = taps.exists(w, t) ? value_weight<dims, tangent>(taps.axis, taps.along, t) : T(0);
  }
  const T* from = w.input.data + w.image_of(map) * w.input.batch + taps.offset(w.input.axis);
  T* to = w.output.data + map * w.output.batch + offset_of(w, w.output, row, j);
#pragma unroll 1
  for (int64_t c = begin; c < end; ++c) {
    T sum = 0;
    for (int t = 0; t < 1 << dims; ++t) {
      if (weight[t] != 0) sum += weight[t] * from[c * w.input.channel + tap_offset<dims>(w.input.axis, t)];
    }
    to[c * w.output.channel] = sum;
  }
}

// ---- moments ----------------------------------------------------------------------------------------------

// The derivatives of the loss by an output pixel's streams, by[s][thread].
template <int dims, bool tangent, class T>
__device__ void stream_gradients(const Warp<T>& w, int64_t map, int64_t row, int64_t j,
                                 const Spot<dims>& spot, double (*by)[kThreads]) {
  const Place<dims, tangent> place(w, map, spot);
  const Taps<dims, T> taps(w, place);
  T slope[dims][1 << dims], sums[1 << dims] = {};
  bool used[1 << dims];
  const bool curved = tangent && w.perspective;  // tangents then depend on theta
  for (int t = 0; t < 1 << dims; ++t) {
    used[t] = false;
    for (int d = 0; d < dims; ++d) {
      slope[d][t] = slope_weight<dims, tangent>(taps.axis, taps.along, t, d);
      used[t] |= slope[d][t] != 0 || (curved && slope_weight<dims, false>(taps.axis, taps.along, t, d) != 0);
    }
    used[t] &= taps.exists(w, t);
  }
  const T* image = w.input.data + w.image_of(map) * w.input.batch + taps.offset(w.input.axis);
  const T* grad = w.grad.data + map * w.grad.batch + offset_of(w, w.grad, row, j);
#pragma unroll 1
  for (int64_t c = 0; c < w.channels; ++c) {
    const T g = grad[c * w.grad.channel];
    for (int t = 0; t < 1 << dims; ++t) {
      if (used[t]) sums[t] += g * image[c * w.input.channel + tap_offset<dims>(w.input.axis, t)];
    }
  }
  double by_at[kMaxAxes] = {}, by_along[kMaxAxes] = {};
  for (int d = 0; d < dims; ++d) {
    T at = 0, along = 0;
    for (int t = 0; t < 1 << dims; ++t) {
      if (slope[d][t] != 0) at += slope[d][t] * sums[t];
      const T plain = curved ? slope_weight<dims, false>(taps.axis, taps.along, t, d) : T(0);
      if (plain != 0) along += plain * sums[t];
    }
    by_at[d] = static_cast<double>(at);
    by_along[d] = static_cast<double>(along);
  }
  const StreamGradient gradient(w, by_at, by_along, place.u, place.du);
  for (int s = 0; s < dims + 1; ++s) by[s][thread_number()] = gradient.by[s];
}

// Function `f` of the basis there.
template <int dims, class T>
__device__ double basis_value(const Warp<T>& w, int64_t f, const double (*spots)[kThreads], int k) {
  const int64_t linear = f - w.radial();
  if (linear < 0) return static_cast<double>(radial_at<T>(w.points + 2 * f, spots[0][k], spots[1][k]));
  return linear < dims ? spots[linear][k] : 1;
}

// partial: (maps, blocks, streams, basis). A block's threads first have a pixel each, whose derivatives all
// then read: a thread sums for one function of the basis, over every so many pixels.
template <int dims, bool tangent, class T>
__global__ void __launch_bounds__(kThreads, 1)
    tile_moments(const __grid_constant__ Warp<T> w, const __grid_constant__ Division division,
                 double* partial) {
  __shared__ double by[dims + 1][kThreads], spots[dims][kThreads];
  const int thread = thread_number();
  const int64_t block = blockIdx.x % division.blocks, group = blockIdx.x / division.blocks;
  const int64_t map = group / division.groups, begin = group % division.groups * division.size;
  const int functions = static_cast<int>(w.basis - begin < division.size ? w.basis - begin : division.size);
  const int lanes = kThreads / functions, lane = thread / functions;
  const int64_t f = begin + thread % functions;
  double sums[dims + 1] = {};
#pragma unroll 1
  for (int64_t k = 0; k < division.stack; ++k) {
    const int64_t pixel = (block * division.stack + k) * kThreads + thread;
    const int64_t row = pixel / w.out[0], j = pixel % w.out[0];
    const Spot<dims> spot(w, row, j);
    for (int d = 0; d < dims; ++d) spots[d][thread] = spot.x[d];
    if (pixel < output_pixels(w)) {
      stream_gradients<dims, tangent>(w, map, row, j, spot, by);
    } else {
      for (int s = 0; s < dims + 1; ++s) by[s][thread] = 0;
    }
    __syncthreads();
#pragma unroll 1
    for (int i = lane; lane < lanes && i < kThreads; i += lanes) {
      const double value = basis_value<dims>(w, f, spots, i);
      for (int s = 0; s < dims + 1; ++s) sums[s] += by[s][i] * value;
    }
    __syncthreads();
  }
  for (int s = 0; s < dims + 1; ++s) by[s][thread] = sums[s];
  __syncthreads();
  if (lane != 0) return;
  double* to = partial + (map * division.blocks + block) * w.streams() * w.basis + f;
  for (int s = 0; s < w.streams(); ++s) {
    double total = 0;
    for (int l = 0; l < lanes; ++l) total += by[s][l * functions + thread];
    to[s * w.basis] = total;
  }
}

// Theta's gradient: the blocks' sums in a fixed order, a warp for each entry.
__global__ void __launch_bounds__(kThreads, 1)
    sum_moments(const double* partial, int64_t blocks, int64_t entries, int64_t maps, double* gradients) {
  const int64_t number = static_cast<int64_t>(blockIdx.x) * kRows + threadIdx.y;
  if (number >= maps * entries) return;
  const double* from = partial + number / entries * blocks * entries + number % entries;
  double sum = 0;
  for (int64_t b = threadIdx.x; b < blocks; b += kColumns) sum += from[b * entries];
  for (int step = kColumns / 2; step > 0; step /= 2) sum += __shfl_xor_sync(kWholeWarp, sum, step);
  if (threadIdx.x == 0) gradients[number] = sum;
}

// ---- adjoint ----------------------------------------------------------------------------------------------
//
// A gather by tiles of the input: a block goes over the bundles of output pixels whose taps may lie in its
// tile, in order, and of each stages those whose taps do; its threads, who own the tile's pixels, add what
// touches theirs. Maps may fold, so there is no inverse to ask.

constexpr int kOwned = 4;                                                 // input pixels of a thread
constexpr int kGroup = 4;                                                 // channels of a block
constexpr int kParts = static_cast<int>(kWalk * kBundleRows / kThreads);  // of a bundle
static_assert(kThreads % kWalk == 0);

// A tile's lengths; a thread's pixels are kStep apart along the last axis.
template <int dims>
struct TileShape;
template <>
struct TileShape<2> {
  static constexpr int length[kMaxAxes] = {32, 32, 1}, step = 8;
};
template <>
struct TileShape<3> {
  static constexpr int length[kMaxAxes] = {16, 8, 8}, step = 2;
};

template <int dims>
__host__ __device__ int64_t tiles_along(int64_t length, int d) {
  constexpr int x = TileShape<dims>::length[0], y = TileShape<dims>::length[1],
                z = TileShape<dims>::length[2];
  const int size = d == 0 ? x : d == 1 ? y : z;
  return (length + size - 1) / size;
}

// This thread's place among the block's threads that are chosen, in order, and how many these are.
__device__ int place_among_chosen(bool chosen, int* count) {
  __shared__ int counts[kRows];
  const unsigned mask = __ballot_sync(kWholeWarp, chosen);
  if (threadIdx.x == 0) counts[threadIdx.y] = __popc(mask);
  __syncthreads();
  int before = __popc(mask & ((1u << threadIdx.x) - 1)), all = 0;
  for (int row = 0; row < kRows; ++row) {
    if (row < static_cast<int>(threadIdx.y)) before += counts[row];
    all += counts[row];
  }
  __syncthreads();
  *count = all;
  return before;
}

__device__ int least(int a, int b) { return a < b ? a : b; }
__device__ int most(int a, int b) { return a > b ? a : b; }

// The taps of each map's bundles of output pixels, a block for each.
template <int dims, class T>
__global__ void __launch_bounds__(kThreads, 1) bound(const __grid_constant__ Warp<T> w, WarpBox* boxes) {
  __shared__ int lows[dims][kRows], highs[dims][kRows];
  constexpr int far = 0x7fffffff;
  const Bundles bundles(w);
  const int64_t map = blockIdx.x / bundles.count, bundle = blockIdx.x % bundles.count;
  int low[dims], high[dims];
  for (int d = 0; d < dims; ++d) low[d] = far, high[d] = -1;
#pragma unroll 1
  for (int part = 0; part < kParts; ++part) {
    const int k = part * kThreads + thread_number();
    const int64_t row = bundles.row(bundle) + k / kWalk, j = bundles.column(bundle) + k % kWalk;
    if (row >= w.rows() || j >= w.out[0]) continue;
    const Taps<dims, T> taps(w, Place<dims, false>(w, map, Spot<dims>(w, row, j)));
    if (taps.empty()) continue;
    for (int d = 0; d < dims; ++d) {
      low[d] = least(low[d], taps.first[d]);
      high[d] = most(high[d], taps.first[d]);
    }
  }
  for (int d = 0; d < dims; ++d) {
    for (int step = kColumns / 2; step > 0; step /= 2) {
      low[d] = least(low[d], __shfl_xor_sync(kWholeWarp, low[d], step));
      high[d] = most(high[d], __shfl_xor_sync(kWholeWarp, high[d], step));
    }
    if (threadIdx.x == 0) lows[d][threadIdx.y] = low[d], highs[d][threadIdx.y] = high[d];
  }
  __syncthreads();
  const int d = thread_number();
  if (d >= dims) return;
  for (int row = 0; row < kRows; ++row) {
    lows[d][0] = least(lows[d][0], lows[d][row]);
    highs[d][0] = most(highs[d][0], highs[d][row]);
  }
  boxes[blockIdx.x].low[d] = lows[d][0];
  boxes[blockIdx.x].high[d] = highs[d][0];
}

// Output pixels with taps in the block's tile.
template <int dims, class T>
struct Staged {
  int first[dims][kThreads];  // counted from the tile's first pixel
  T weight[1 << dims][kThreads], grad[kGroup][kThreads];
};

// What a block works on: a tile of an image, and some of its channels.
struct TileWork {
  WarpTile tile;
  int64_t image, channel;
  int channels;

  template <int dims, class T>
  static __device__ TileWork of(const Warp<T>& w, std::integral_constant<int, dims>) {
    TileWork work;
    int64_t k = blockIdx.x;
    for (int d = 0; d < kMaxAxes; ++d) {
      const int64_t count = tiles_along<dims>(w.in[d], d);
      constexpr int x = TileShape<dims>::length[0], y = TileShape<dims>::length[1],
                    z = TileShape<dims>::length[2];
      const int size = d == 0 ? x : d == 1 ? y : z;
      work.tile.first[d] = k % count * size;
      const int64_t left = w.in[d] - work.tile.first[d];
      work.tile.count[d] = left < size ? left : size;
      k /= count;
    }
    const int64_t groups = (w.channels + kGroup - 1) / kGroup;
    work.image = k / groups;
    work.channel = k % groups * kGroup;
    const int64_t left = w.channels - work.channel;
    work.channels = static_cast<int>(left < kGroup ? left : kGroup);
    return work;
  }
};

// Stages those of a bundle's part whose taps lie in the tile; how many they are.
template <int dims, bool tangent, class T>
__device__ int stage(const Warp<T>& w, const TileWork& work, int64_t map, int64_t row, int64_t j,
                     Staged<dims, T>* staged) {
  bool chosen = false;
  int first[dims];
  T weight[1 << dims];
  if (row < w.rows() && j < w.out[0]) {
    const Place<dims, tangent> place(w, map, Spot<dims>(w, row, j));
    const Taps<dims, T> taps(w, place);
    chosen = !taps.empty();
    for (int d = 0; d < dims; ++d) {
      first[d] = taps.first[d] - static_cast<int>(work.tile.first[d]);
      chosen &= first[d] >= -1 && first[d] < work.tile.count[d];
    }
    for (int t = 0; t < 1 << dims; ++t) weight[t] = value_weight<dims, tangent>(taps.axis, taps.along, t);
  }
  int count;
  const int place = place_among_chosen(chosen, &count);
  if (chosen) {
    for (int d = 0; d < dims; ++d) staged->first[d][place] = first[d];
    for (int t = 0; t < 1 << dims; ++t) staged->weight[t][place] = weight[t];
    const T* grad = w.grad.data + map * w.grad.batch + offset_of(w, w.grad, row, j);
    for (int c = 0; c < kGroup; ++c) {
      staged->grad[c][place] = c < work.channels ? grad[(work.channel + c) * w.grad.channel] : T(0);
    }
  }
  __syncthreads();
  return count;
}

// Adds what is staged to the pixels of a thread, `own` the first of them.
template <int dims, class T>
__device__ void add_staged(const Staged<dims, T>& staged, int count, const int* own, T (*sums)[kGroup]) {
#pragma unroll 1
  for (int i = 0; i < count; ++i) {
    unsigned number = 0, beyond = 0;
    for (int d = 0; d < dims - 1; ++d) {
      const unsigned second = static_cast<unsigned>(own[d] - staged.first[d][i]);
      number |= second << d;
      beyond |= second & ~1u;
    }
    if (beyond != 0) continue;
    for (int k = 0; k < kOwned; ++k) {
      const unsigned second =
          static_cast<unsigned>(own[dims - 1] + k * TileShape<dims>::step - staged.first[dims - 1][i]);
      if (second > 1) continue;
      const T weight = staged.weight[number | second << (dims - 1)][i];
      if (!(weight < 0 || weight > 0)) continue;  // 0, or not a number: such a coordinate has no taps
      for (int c = 0; c < kGroup; ++c) sums[k][c] += weight * staged.grad[c][i];
    }
  }
}

template <int dims, bool tangent, class T>
__global__ void __launch_bounds__(kThreads, 1)
    adjoint(const __grid_constant__ Warp<T> w, const WarpBox* boxes) {
  __shared__ Staged<dims, T> staged;
  __shared__ int chosen_bundles[kThreads];
  using Shape = TileShape<dims>;
  constexpr int across = Shape::length[0], down = Shape::length[1];
  const TileWork work = TileWork::of(w, std::integral_constant<int, dims>());
  const Bundles bundles(w);
  const int thread = thread_number();
  int own[kMaxAxes] = {thread % across, thread / across % down, thread / (across * down)};
  T sums[kOwned][kGroup] = {};
  const int64_t first_map = w.index ? 0 : work.image, last_map = w.index ? w.maps - 1 : work.image;
#pragma unroll 1
  for (int64_t map = first_map; map <= last_map; ++map) {
    if (w.image_of(map) != work.image) continue;
    const WarpBox* of_map = boxes + map * bundles.count;
#pragma unroll 1
    for (int64_t first = 0; first < bundles.count; first += kThreads) {
      const int64_t candidate = first + thread;
      const bool chosen = candidate < bundles.count && touches(of_map[candidate], work.tile, dims);
      int count;
      const int place = place_among_chosen(chosen, &count);
      if (chosen) chosen_bundles[place] = thread;
      __syncthreads();
#pragma unroll 1
      for (int k = 0; k < count * kParts; ++k) {
        const int64_t bundle = first + chosen_bundles[k / kParts];
        const int64_t top = bundles.row(bundle) + k % kParts * (kThreads / kWalk);
        if (top >= w.rows()) continue;  // for all threads
        const int64_t row = top + thread / kWalk, j = bundles.column(bundle) + thread % kWalk;
        const int touching = stage<dims, tangent>(w, work, map, row, j, &staged);
        add_staged<dims>(staged, touching, own, sums);
      }
    }
  }
  T* to = w.grad_input.data + work.image * w.grad_input.batch + work.channel * w.grad_input.channel;
  for (int k = 0; k < kOwned; ++k) {
    int64_t offset = 0;
    bool inside = true;
    for (int d = 0; d < dims; ++d) {
      const int at = own[d] + (d == dims - 1 ? k * Shape::step : 0);
      inside &= at < work.tile.count[d];
      offset += (work.tile.first[d] + at) * w.grad_input.axis[d];
    }
    for (int c = 0; c < kGroup; ++c) {
      if (inside && c < work.channels) to[offset + c * w.grad_input.channel] = sums[k][c];
    }
  }
}

// ---- launches ---------------------------------------------------------------------------------------------

// f(dims, whether there is a tangent), as types.
template <class T, class F>
cudaError_t with_shape(const Warp<T>& w, const F& f) {
  using Two = std::integral_constant<int, 2>;
  using Three = std::integral_constant<int, 3>;
  if (w.dims == 2) return w.tangent ? f(Two(), std::true_type()) : f(Two(), std::false_type());
  return w.tangent ? f(Three(), std::true_type()) : f(Three(), std::false_type());
}

template <class T>
Division sample_division(const Warp<T>& w) {
  Division d{1, ceil_div(output_pixels(w), kThreads), w.channels, 1};
  while (d.size > 1 && d.per_map() * w.maps < kBlocksWanted) {
    d.size = ceil_div(d.size, 2);
    d.groups = ceil_div(w.channels, d.size);
  }
  return d;
}

// By the output's size alone, so that its sums have one order whatever the batch.
template <class T>
Division moment_division(const Warp<T>& w) {
  const int64_t pixels = output_pixels(w);
  Division d{1, ceil_div(pixels, kThreads), kThreads, ceil_div(w.basis, kThreads)};
  while (d.blocks > kBlocksWanted) {
    d.stack *= 2;
    d.blocks = ceil_div(pixels, d.stack * kThreads);
  }
  return d;
}

}  // namespace

template <class T>
cudaError_t launch_warp_sample(const Warp<T>& w, cudaStream_t stream) {
  const Division division = sample_division(w);
  return with_shape(w, [&](auto dims, auto tangent) {
    return launch(sample<dims.value, tangent.value, T>, w.maps * division.per_map(), stream, w, division);
  });
}

template <class T>
int64_t warp_moment_blocks(const Warp<T>& w) {
  return moment_division(w).blocks;
}

template <class T>
cudaError_t launch_warp_moments(const Warp<T>& w, double* partial, double* gradients, cudaStream_t stream) {
  const Division division = moment_division(w);
  const cudaError_t error = with_shape(w, [&](auto dims, auto tangent) {
    return launch(tile_moments<dims.value, tangent.value, T>, w.maps * division.per_map(), stream, w,
                  division, partial);
  });
  if (error != cudaSuccess) return error;
  const int64_t entries = w.streams() * w.basis;
  return launch(sum_moments, ceil_div(w.maps * entries, kRows), stream, partial, division.blocks, entries,
                w.maps, gradients);
}

template <class T>
cudaError_t launch_warp_adjoint(const Warp<T>& w, WarpBox* boxes, cudaStream_t stream) {
  return with_shape(w, [&](auto dims, auto tangent) {
    const cudaError_t error = launch(bound<dims.value, T>, w.maps * Bundles(w).count, stream, w, boxes);
    if (error != cudaSuccess) return error;
    int64_t blocks = w.images * ceil_div(w.channels, kGroup);
    for (int d = 0; d < kMaxAxes; ++d) blocks *= tiles_along<dims.value>(w.in[d], d);
    return launch(adjoint<dims.value, tangent.value, T>, blocks, stream, w,
                  static_cast<const WarpBox*>(boxes));
  });
}

#define STN_INSTANTIATE(T)                                                                  \
  template cudaError_t launch_warp_sample(const Warp<T>&, cudaStream_t);                    \
  template int64_t warp_moment_blocks(const Warp<T>&);                                      \
  template cudaError_t launch_warp_moments(const Warp<T>&, double*, double*, cudaStream_t); \
  template cudaError_t launch_warp_adjoint(const Warp<T>&, WarpBox*, cudaStream_t);
STN_INSTANTIATE(float)
STN_INSTANTIATE(double)

}  // namespace stn::cuda
