// The three primitives over affine maps on the GPU. No atomics: sums have one order, results the same bits.
// S is the type that images are stored in, T the one that is computed with (Computed<S>).
#include <cuda_runtime.h>
#include <math.h>

#include <type_traits>

#include "cuda/half_conversions.h"
#include "kernels.h"
#include "launch.h"

namespace stn::cuda {
namespace {

// A block's threads: those of sample and moments work on a tile of kTileWidth x kRows output
// pixels, a warp on each row; those of adjoint on kColumns x kAdjointRows input pixels.
// Their second launch bound, of blocks that fit a multiprocessor together, is the highest without spills.
constexpr int kTileWidth = kWalk, kAdjointRows = 16;
constexpr int kAdjointChannels = 4;  // whose sums a thread holds at a time

// Half types are read and written as they are, and computed with in float.
template <class S>
struct ComputedIn {
  using type = float;
};
template <>
struct ComputedIn<double> {
  using type = double;
};
template <class S>
using Computed = typename ComputedIn<S>::type;

__device__ float load(float x) { return x; }
__device__ double load(double x) { return x; }
__device__ float load(Half x) { return half_to_float(x); }
__device__ float load(BFloat16 x) {  // a float's upper half
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}
__device__ void store(float x, float* to) { *to = x; }
__device__ void store(double x, double* to) { *to = x; }
__device__ void store(float x, Half* to) { *to = float_to_half(x); }
__device__ void store(float x, BFloat16* to) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;  // to the nearest, ties to even
  to->bits = static_cast<uint16_t>(x == x ? rounded : 0x7fff);
}

// How a launch's blocks divide images into tiles, and their channels into groups; and how many of a warp's
// lanes share a pixel, each with channels of its own: neighbouring lanes then read neighbouring memory in any
// layout.
struct Tiles {
  int height, width, lanes;  // of a tile; lanes to a pixel
  int stack;                 // tiles below one another that a block works through
  int64_t down, across, channels, groups;

  int64_t per_image() const { return down * across * groups; }
};

int lanes_to_a_pixel(int64_t channels, int64_t channel_stride) {
  int lanes = 1;
  while (channel_stride == 1 && lanes < kColumns && lanes < channels) lanes *= 2;
  return lanes;
}

template <class S>
Tiles output_tiles(const Problem<S>& p) {
  const int lanes = lanes_to_a_pixel(p.channels, p.input.channel);
  return {kRows,
          kTileWidth,
          lanes,
          1,
          ceil_div(p.frame.out_height, kRows),
          ceil_div(p.frame.out_width, kTileWidth),
          p.channels,
          1};
}

template <class S>
Tiles sample_tiles(const Problem<S>& p) {
  Tiles t = output_tiles(p);
  while (t.channels > t.lanes && t.per_image() * p.batches < kBlocksWanted) {
    t.channels = ceil_div(t.channels, 2);
    t.groups = ceil_div(p.channels, t.channels);
  }
  return t;
}

// By the image's size alone, so that its sums have one order whatever the batch; and so few blocks that one
// is soon done with adding up theirs.
template <class S>
Tiles moment_tiles(const Problem<S>& p) {
  Tiles t = output_tiles(p);
  while (t.per_image() > kBlocksWanted && t.down > 1) {
    t.stack *= 2;
    t.down = ceil_div(p.frame.out_height, t.stack * kRows);
  }
  return t;
}

template <class S>
Tiles input_tiles(const Problem<S>& p) {
  const int lanes = lanes_to_a_pixel(ceil_div(p.channels, kAdjointChannels), p.grad.channel);
  const int64_t channels = lanes * kAdjointChannels;
  return {kAdjointRows,
          kColumns,
          lanes,
          1,
          ceil_div(p.frame.height, kAdjointRows),
          ceil_div(p.frame.width, kColumns),
          channels,
          ceil_div(p.channels, channels)};
}

// This thread's part of the work: its block's tile and channels, and which of them are its own.
struct Place {
  int64_t n, channel_begin, channel_end;
  int64_t channel;  // the first of its own
  int row, column;
  int channels, channel_step, pixel, pixel_step;  // pixels: in a row of the tile

  template <class S>
  __device__ Place(const Problem<S>& p, const Tiles& t, int64_t block) {
    int64_t b = block;
    column = static_cast<int>(b % t.across) * t.width;
    b /= t.across;
    row = static_cast<int>(b % t.down) * t.height * t.stack;
    b /= t.down;
    channel_begin = b % t.groups * t.channels;
    n = b / t.groups;
    channel_end = channel_begin + t.channels < p.channels ? channel_begin + t.channels : p.channels;
    const int lane = static_cast<int>(threadIdx.x);
    channel = channel_begin + lane % t.lanes;
    channel_step = t.lanes;
    channels = static_cast<int>((channel_end - channel + channel_step - 1) / channel_step);
    pixel = lane / t.lanes;
    pixel_step = kColumns / t.lanes;
  }
};

// ---- coordinates ------------------------------------------------------------------------------------------

template <class T>
struct Split {
  T whole, frac;
};

// Not inlined: rarely needed, and not to take registers from what always is.
template <Padding padding, class T>
__device__ __noinline__ Split<T> split_far(double x, int64_t length, bool align_corners) {
  Split<T> s;
  split_any<padding>(x, length, align_corners, &s.whole, &s.frac);
  return s;
}

// The walks along a tile's rows, shared by its threads: one thread computes in double what all then step in
// T.
template <class T>
struct TileWalks {
  AxisMap map[2];
  T whole[2][kRows], frac[2][kRows], head[2], rest[2];
  bool exact[2][kRows];

  template <class S>
  __device__ void init(const Problem<S>& p, int64_t n) {
    const int thread = threadIdx.y * kColumns + threadIdx.x;
    if (thread < 2) map[thread] = axis_map(p, n, thread);
  }

  // After init, and for each of a block's tiles.
  __device__ void go_to(const Place& at) {
    const int thread = threadIdx.y * kColumns + threadIdx.x;
    __syncthreads();
    if (thread < 2 * kRows) {
      const int axis = thread / kRows, r = thread % kRows;
      const AxisMap& m = map[axis];
      const double begin = m.at(at.row + r, at.column), end = begin + m.x * (kTileWidth - 1);
      exact[axis][r] = fabs(begin) <= kExactCoordinate && fabs(end) <= kExactCoordinate;
      const Walk<T> walk(exact[axis][r] ? begin : 0, m.x);
      whole[axis][r] = walk.whole;
      frac[axis][r] = walk.frac;
      if (r == 0) {
        head[axis] = walk.head;
        rest[axis] = walk.rest;
      }
    }
    __syncthreads();
  }

  template <Padding padding>
  __device__ AxisTaps<T> taps(const Frame& f, const Place& at, int axis, int number) const {
    const int r = threadIdx.y;
    const int64_t length = axis == 0 ? f.width : f.height;
    T w, fraction;
    if (exact[axis][r]) {
      step(static_cast<T>(number), head[axis], rest[axis], frac[axis][r], &w, &fraction);
      w += whole[axis][r];
    } else {
      const Split<T> far =
          split_far<padding, T>(map[axis].at(at.row + r, at.column + number), length, f.align_corners);
      w = far.whole;
      fraction = far.frac;
    }
    return axis_taps<padding>(w, fraction, static_cast<T>(length),
                              static_cast<T>(length < 2 ? 0 : length - 2), f.align_corners);
  }
};

// A pixel's four taps in memory. Those that take no part are not read.
template <class S>
struct TapReader {
  using T = Computed<S>;
  const S* at;
  int64_t row, pixel;
  bool use00, use01, use10, use11;

  __device__ TapReader(const Problem<S>& p, const AxisTaps<T>& x, const AxisTaps<T>& y, const S* plane) {
    const int column = static_cast<int>(x.tap), line = static_cast<int>(y.tap);
    row = p.input.row;
    pixel = p.input.pixel;
    at = plane + line * row + column * pixel;
    // A single pixel is stored alone; and a length beyond T's bits was rounded.
    const bool x0 = (x.w0 != 0 || x.d0 != 0) && column < p.frame.width;
    const bool x1 = (x.w1 != 0 || x.d1 != 0) && column + 1 < p.frame.width;
    const bool y0 = (y.w0 != 0 || y.d0 != 0) && line < p.frame.height;
    const bool y1 = (y.w1 != 0 || y.d1 != 0) && line + 1 < p.frame.height;
    use00 = y0 && x0;
    use01 = y0 && x1;
    use10 = y1 && x0;
    use11 = y1 && x1;
  }

  // And goes on to the next plane.
  __device__ void read(T v[4], int64_t step) {
    v[0] = use00 ? load(at[0]) : T(0);
    v[1] = use01 ? load(at[pixel]) : T(0);
    v[2] = use10 ? load(at[row]) : T(0);
    v[3] = use11 ? load(at[row + pixel]) : T(0);
    at += step;
  }
};

// ---- sample -----------------------------------------------------------------------------------------------

template <Padding padding, class S>
__global__ void __launch_bounds__(kThreads, sizeof(S) < 8 ? 4 : 2) sample(Problem<S> p, Tiles tiles) {
  using T = Computed<S>;
  __shared__ TileWalks<T> walks;
  const Place at(p, tiles, blockIdx.x);
  walks.init(p, at.n);
  walks.go_to(at);
  const int i = at.row + static_cast<int>(threadIdx.y);
  if (i >= p.frame.out_height) return;
  const S* image = p.input.data + p.image_of(at.n) * p.input.batch + at.channel * p.input.channel;
  S* output = p.output.data + at.n * p.output.batch + at.channel * p.output.channel + i * p.output.row;
  const int64_t image_step = at.channel_step * p.input.channel,
                output_step = at.channel_step * p.output.channel;
#pragma unroll 1
  for (int number = at.pixel; number < kTileWidth; number += at.pixel_step) {
    const int j = at.column + number;
    if (j >= p.frame.out_width) return;
    const AxisTaps<T> x = walks.template taps<padding>(p.frame, at, 0, number);
    const AxisTaps<T> y = walks.template taps<padding>(p.frame, at, 1, number);
    TapReader<S> reader(p, x, y, image);
    S* out = output + j * p.output.pixel;
#pragma unroll 2
    for (int c = at.channels; c > 0; --c) {
      T v[4];
      reader.read(v, image_step);
      store(y.w0 * (x.w0 * v[0] + x.w1 * v[1]) + y.w1 * (x.w0 * v[2] + x.w1 * v[3]), out);
      out += output_step;
    }
  }
}

// ---- moments ----------------------------------------------------------------------------------------------

template <class V>
__device__ V sum_over_warp(V value) {
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}

// Adds the moments of a tile's row to those of the warp that works on it.
template <Padding padding, class S, class T>
__device__ void row_moments(const Problem<S>& p, const Place& at, const TileWalks<T>& walks,
                            double* moments) {
  const int i = at.row + static_cast<int>(threadIdx.y);
  const S* image = p.input.data + p.image_of(at.n) * p.input.batch + at.channel * p.input.channel;
  const S* grad = p.grad.data + at.n * p.grad.batch + at.channel * p.grad.channel + i * p.grad.row;
  const int64_t image_step = at.channel_step * p.input.channel, grad_step = at.channel_step * p.grad.channel;
  T sums[4] = {};  // of gx, gx * number, gy, gy * number
#pragma unroll 1
  for (int number = at.pixel; number < kTileWidth; number += at.pixel_step) {
    const int j = at.column + number;
    if (i >= p.frame.out_height || j >= p.frame.out_width) break;
    const AxisTaps<T> x = walks.template taps<padding>(p.frame, at, 0, number);
    const AxisTaps<T> y = walks.template taps<padding>(p.frame, at, 1, number);
    TapReader<S> reader(p, x, y, image);
    const S* g = grad + j * p.grad.pixel;
    T s[4] = {};  // over channels, of the output's gradient times each tap
#pragma unroll 2
    for (int c = at.channels; c > 0; --c) {
      T v[4];
      reader.read(v, image_step);
      const T w = load(*g);
      for (int k = 0; k < 4; ++k) s[k] += w * v[k];
      g += grad_step;
    }
    const T gx = y.w0 * (x.d0 * s[0] + x.d1 * s[1]) + y.w1 * (x.d0 * s[2] + x.d1 * s[3]);
    const T gy = x.w0 * (y.d0 * s[0] + y.d1 * s[2]) + x.w1 * (y.d0 * s[1] + y.d1 * s[3]);
    sums[0] += gx;
    sums[1] += gx * static_cast<T>(number);
    sums[2] += gy;
    sums[3] += gy * static_cast<T>(number);
  }
  for (int axis = 0; axis < 2; ++axis) {
    const T total = sum_over_warp(sums[2 * axis]), numbered = sum_over_warp(sums[2 * axis + 1]);
    if (threadIdx.x == 0) {
      const AxisMap& m = walks.map[axis];
      double* to = moments + 3 * axis;
      to[0] += numbered + static_cast<T>(static_cast<double>(at.column) - m.center_j) * total;
      to[1] += static_cast<T>(static_cast<double>(i) - m.center_i) * total;
      to[2] += total;
    }
  }
}

// The moments of each block's tiles.
template <Padding padding, class S>
__global__ void __launch_bounds__(kThreads, sizeof(S) < 8 ? 2 : 1)
    tile_moments(Problem<S> p, Tiles tiles, double* partial) {
  __shared__ TileWalks<Computed<S>> walks;
  __shared__ double by_warp[kRows][kMoments];  // a row of threads is a warp
  Place at(p, tiles, blockIdx.x);
  if (threadIdx.x == 0) {
    for (int k = 0; k < kMoments; ++k) by_warp[threadIdx.y][k] = 0;
  }
  walks.init(p, at.n);
#pragma unroll 1
  for (int number = 0; number < tiles.stack; ++number) {
    walks.go_to(at);
    row_moments<padding>(p, at, walks, by_warp[threadIdx.y]);
    at.row += kRows;
  }
  __syncthreads();
  const int k = threadIdx.y * kColumns + threadIdx.x;
  if (k < kMoments) {
    double sum = 0;
    for (int row = 0; row < kRows; ++row) sum += by_warp[row][k];
    partial[static_cast<int64_t>(blockIdx.x) * kMoments + k] = sum;
  }
}

// What the first launch of a backward leaves to the second: the moments of each image's blocks, and where
// theta's gradient, of theta's dtype, is to go. No images: nothing to do.
struct Partial {
  const double* moments;
  int64_t blocks, images;
  void* grad_theta;
  bool is_double;
};

// Theta's gradient of image n, by one block: the partial moments in a fixed order, and the chain rule.
__device__ __noinline__ void finish_moments(const Partial& partial, const Frame& frame, int64_t n) {
  constexpr int kLanes = kThreads / kMoments;  // to a moment: neighbouring threads read neighbouring values
  __shared__ double sums[kLanes][kMoments];
  const int thread = static_cast<int>(threadIdx.y * kColumns + threadIdx.x);
  const int k = thread % kMoments, lane = thread / kMoments;
  if (lane < kLanes) {
    double sum = 0;
    for (int64_t b = lane; b < partial.blocks; b += kLanes) {
      sum += partial.moments[(n * partial.blocks + b) * kMoments + k];
    }
    sums[lane][k] = sum;
  }
  __syncthreads();
  if (thread >= kMoments) return;
  double sum = 0;
  for (int l = 0; l < kLanes; ++l) sum += sums[l][k];
  sum = theta_gradient(sum, k, frame);
  if (partial.is_double) {
    static_cast<double*>(partial.grad_theta)[n * kMoments + k] = sum;
  } else {
    static_cast<float*>(partial.grad_theta)[n * kMoments + k] = static_cast<float>(sum);
  }
}

__global__ void __launch_bounds__(kThreads)
    theta_gradients(const __grid_constant__ Partial partial, const __grid_constant__ Frame frame) {
  finish_moments(partial, frame, blockIdx.x);
}

// ---- adjoint ----------------------------------------------------------------------------------------------
//
// A gather: each input pixel looks for the output pixels whose taps it is. Reflection repeats a pixel without
// end, once in each copy of the image; what is said here of a pixel holds for each of its repetitions.
//
// Where the map has an inverse, a thread finds the few output pixels that lie within 1 of its own pixel.
// Where it has none worth the name, and at the outer pixels that border stretches to infinity, they may be
// many, and a block's threads search for one pixel together. Where it is not finite, most pixels are touched
// by none, and nobody searches for these.

constexpr double kFar = 1e15;             // beyond, reflection has no fraction left to fold (split_any)
constexpr double kMargin = 1 + 1.0 / 64;  // of a window's half width, 1: rounding loses no output pixel

// An interval of one axis' coordinates.
struct Window {
  double low, high;
};

// The copies of an input axis that the output reaches: numbers `first` to `last`, odd ones mirrored.
template <Padding padding>
struct Copies {
  int64_t length, first, last;
  double period, origin;
  bool align_corners, folded;  // folded: repetitions are not told apart, one window has them all
  bool inner, outer;           // whether coordinates may touch the pixels inside, and the outer ones

  __device__ void init(int64_t length_, bool align_corners_, const AxisMap& m) {
    length = length_;
    align_corners = align_corners_;
    first = last = 0;
    folded = false;
    // The coordinates of a row of the map that is not finite are infinite, which padding takes to the outer
    // pixels, or not numbers, which touch nothing.
    const bool numbers = m.x == m.x && m.y == m.y && m.one == m.one;
    inner = m.x - m.x == 0 && m.y - m.y == 0 && m.one - m.one == 0;
    outer = inner || (numbers && padding != Padding::zeros);
    period = static_cast<double>(align_corners ? length - 1 : length);
    origin = align_corners ? 0 : -0.5;
    if (padding != Padding::reflection) return;
    const double reach = fabs(m.x) * m.center_j + fabs(m.y) * m.center_i;
    folded = period == 0 || !(fabs(m.one) + reach < kFar);
    if (folded) return;
    // One more on either side: a pixel outside a copy has neighbours in it.
    first = static_cast<int64_t>(copy_of(m.one - reach)) - 1;
    last = static_cast<int64_t>(copy_of(m.one + reach)) + 1;
  }

  // f(copy), in order
  template <class F>
  __device__ void each(const F& f) const {
    if (padding != Padding::reflection) {
      f(0);
    } else {
      for (int64_t copy = first; copy <= last; ++copy) f(copy);
    }
  }

  __device__ int64_t count() const { return last - first + 1; }
  __device__ void join() {
    first = last = 0;
    folded = true;
  }

  __device__ double copy_of(double x) const { return floor((x - origin) / period); }

  // Whether coordinates may touch pixel `at`.
  __device__ bool reaches(int64_t at) const { return at == 0 || at == length - 1 ? outer : inner; }

  // Whether the copy after this one has the same repetition of pixel `at`.
  __device__ bool is_next_ones(int64_t at, int64_t copy) const {
    return padding == Padding::reflection && align_corners && at == (copy & 1 ? 0 : length - 1);
  }

  // Where pixel `at` is repeated in a copy.
  __device__ int64_t place(int64_t at, int64_t copy) const {
    if (padding != Padding::reflection) return at;
    const int64_t step = align_corners ? length - 1 : length;
    return copy * step + (copy & 1 ? step - (align_corners ? 0 : 1) - at : at);
  }

  // The coordinates that may touch pixel `at` in a copy.
  __device__ Window window(int64_t at, int64_t copy) const {
    if (folded) return {-HUGE_VAL, HUGE_VAL};
    const double center = static_cast<double>(place(at, copy));
    Window w{center - kMargin, center + kMargin};
    if (padding == Padding::border && at == 0) w.low = -HUGE_VAL;
    if (padding == Padding::border && at == length - 1) w.high = HUGE_VAL;
    return w;
  }

  // The weight of pixel `at` at a coordinate, in one copy.
  template <class T>
  __device__ T weight(double x, int64_t at, int64_t copy) const {
    // A coordinate is of one copy alone, so that no output pixel is taken twice.
    if (padding == Padding::reflection && !folded && copy_of(x) != static_cast<double>(copy)) return 0;
    T whole, frac;
    split_any<padding>(x, length, align_corners, &whole, &frac);
    const Coordinate<T> c = fold<padding>(whole, frac, static_cast<T>(length), align_corners);
    const T distance = fabs((c.whole - static_cast<T>(at)) + c.frac);
    return distance < 1 ? 1 - distance : T(0);  // 0 for NaN
  }
};

// The map of one image as the search for its output pixels needs it.
template <Padding padding, class T>
struct Search {
  AxisMap x, y;
  Copies<padding> cx, cy;
  bool close;  // all output pixels that touch a pixel are close to each other, and T tells them apart
  // Only where close. Of the inverse map, (row, column) = center + inverse (y - one, x - one), the entries,
  // and how far a pixel's window reaches in rows; the map's own slopes, and half a window's columns by each
  // axis.
  T row_x, row_y, column_x, column_y, reach;
  T x_column, x_row, y_column, y_row;
  T per_x, per_y, half_x, half_y;

  template <class S>
  __device__ __noinline__ void init(const Problem<S>& p, int64_t n) {
    const Frame& f = p.frame;
    x = axis_map(p, n, 0);
    y = axis_map(p, n, 1);
    cx.init(f.width, f.align_corners, x);
    cy.init(f.height, f.align_corners, y);
    const double searches = static_cast<double>(cx.count()) * static_cast<double>(cy.count());
    if (searches > static_cast<double>(f.out_height * f.out_width + 16)) {
      cx.join();
      cy.join();
    }
    const double det = x.x * y.y - x.y * y.x;
    const double jx = y.y / det, jy = -x.y / det, ix = -y.x / det, iy = x.x / det;
    const double columns = fabs(jx) + fabs(jy), rows = fabs(ix) + fabs(iy);
    // Coordinates are sums of two products, which cancel in maps that are nearly singular.
    const double spread_x = fabs(x.x) * columns + fabs(x.y) * rows,
                 spread_y = fabs(y.x) * columns + fabs(y.y) * rows;
    constexpr double most = 16;
    constexpr int64_t longest = 1 << 22;
    close = columns < most && rows < most && spread_x < most && spread_y < most && fabs(x.one) < kFar &&
            fabs(y.one) < kFar && f.out_width < longest && f.out_height < longest && !cx.folded && !cy.folded;
    row_x = static_cast<T>(ix);
    row_y = static_cast<T>(iy);
    column_x = static_cast<T>(jx);
    column_y = static_cast<T>(jy);
    reach = static_cast<T>(rows * kMargin);
    x_column = static_cast<T>(x.x);
    x_row = static_cast<T>(x.y);
    y_column = static_cast<T>(y.x);
    y_row = static_cast<T>(y.y);
    constexpr double huge = 1e18;  // for slopes of 0, so that 0 times it is still 0
    per_x = static_cast<T>(fabs(x.x) * huge > 1 ? 1 / x.x : huge);
    per_y = static_cast<T>(fabs(y.x) * huge > 1 ? 1 / y.x : huge);
    half_x = static_cast<T>(kMargin) * fabs(per_x);
    half_y = static_cast<T>(kMargin) * fabs(per_y);
  }

  // Whether any output pixel may touch a pixel.
  __device__ bool reaches(int64_t px, int64_t py) const { return cx.reaches(px) && cy.reaches(py); }

  // Whether a thread alone finds what touches a pixel.
  __device__ bool alone(const Frame& f, int64_t px, int64_t py) const {
    const bool outer = px == 0 || py == 0 || px == f.width - 1 || py == f.height - 1;
    return !reaches(px, py) || (close && !(padding == Padding::border && outer));
  }

  // Whether a tile has pixels for which a block's threads search together; outer: whether it has outer ones.
  __device__ bool together(bool outer) const {
    if (!cx.outer || !cy.outer) return false;
    return close ? padding == Padding::border && outer : outer || (cx.inner && cy.inner);
  }
};

template <class T>
__device__ T clamp(T value, T low, T high) {
  return value < low ? low : value > high ? high : value;
}

// What a thread gathers for: a pixel's channels.
template <class S>
struct Channels {
  using T = Computed<S>;
  const S* grad;  // of the first one
  int64_t step;
  int count;

  __device__ void add(T w, int64_t offset, T* sums) const {
    const S* g = grad + offset;
    for (int c = 0; c < kAdjointChannels; ++c) {
      if (c < count) sums[c] += w * load(g[c * step]);
    }
  }
};

// Adds what touches the pixel at (qx, qy), in a fixed order. Output pixels are counted from one that is near
// by, and coordinates from the pixel, so that T has all the bits it needs.
template <Padding padding, class T, class S>
__device__ void gather_close(const Search<padding, T>& s, const Problem<S>& p, int64_t qx, int64_t qy,
                             const Channels<S>& channels, T* sums) {
  const T dx = static_cast<T>(static_cast<double>(qx) - s.x.one),
          dy = static_cast<T>(static_cast<double>(qy) - s.y.one);
  const T last_row = static_cast<T>(p.frame.out_height - 1),
          last_column = static_cast<T>(p.frame.out_width - 1);
  const T i = clamp(Floor<T>::of(static_cast<T>(s.x.center_i) + s.row_x * dx + s.row_y * dy), T(0), last_row);
  const T j = clamp(Floor<T>::of(static_cast<T>(s.x.center_j) + s.column_x * dx + s.column_y * dy), T(0),
                    last_column);
  const int row = static_cast<int>(i), column = static_cast<int>(j);
  const T rx = static_cast<T>(s.x.at(row, column) - static_cast<double>(qx));
  const T ry = static_cast<T>(s.y.at(row, column) - static_cast<double>(qy));
  const T middle = -(s.row_x * rx + s.row_y * ry);
  const T top = clamp(ceil(middle - s.reach), -i, last_row - i + 1);
  const T bottom = clamp(Floor<T>::of(middle + s.reach), -i - 1, last_row - i);
  for (T di = top; di <= bottom; di += 1) {
    const T x = rx + s.x_row * di, y = ry + s.y_row * di;
    const T mx = -x * s.per_x, my = -y * s.per_y;
    const T low = fmax(mx - s.half_x, my - s.half_y), high = fmin(mx + s.half_x, my + s.half_y);
    const T left = clamp(ceil(low), -j, last_column - j + 1);
    const T right = clamp(Floor<T>::of(high), -j - 1, last_column - j);
    const int64_t line = (row + static_cast<int>(di)) * p.grad.row;
    for (T dj = left; dj <= right; dj += 1) {
      const T wx = 1 - fabs(x + s.x_column * dj), wy = 1 - fabs(y + s.y_column * dj);
      if (wx > 0 && wy > 0)
        channels.add(wx * wy, line + (column + static_cast<int>(dj)) * p.grad.pixel, sums);
    }
  }
}

struct Range {
  int begin, end;
};

__device__ Range intersect(Range a, double low, double high) {
  if (!(low < static_cast<double>(a.end)) || !(high >= static_cast<double>(a.begin))) return {0, 0};
  if (low > static_cast<double>(a.begin)) a.begin = static_cast<int>(low);
  if (high < static_cast<double>(a.end - 1)) a.end = static_cast<int>(high) + 1;
  return a;
}

// Output pixels of row i that fall into a window.
__device__ Range columns_in(const AxisMap& m, int i, const Window& w, Range columns) {
  const double row = m.row(i);
  if (row != row) return {0, 0};
  if (m.x == 0) return row >= w.low && row <= w.high ? columns : Range{0, 0};
  const double a = (w.low - row) / m.x + m.center_j, b = (w.high - row) / m.x + m.center_j;
  if (a != a || b != b) return columns;  // an infinite slope, and a window without end: try all
  return intersect(columns, fmin(a, b), fmax(a, b));
}

// Rows with pixels that fall into both windows, by the inverse map; all of them where it has none.
__device__ Range rows_in(const AxisMap& x, const AxisMap& y, const Window& wx, const Window& wy, int height) {
  const Range all{0, height};
  const double det = x.x * y.y - x.y * y.x;
  const double a = -y.x / det, b = x.x / det;  // d(row) / d(x), d(row) / d(y)
  const double x0 = a * (wx.low - x.one), x1 = a * (wx.high - x.one);
  const double y0 = b * (wy.low - y.one), y1 = b * (wy.high - y.one);
  const double low = fmin(x0, x1) + fmin(y0, y1), high = fmax(x0, x1) + fmax(y0, y1);
  if (!(fabs(det) < 1e30) || !(fabs(x.one) < kFar) || !(fabs(y.one) < kFar)) return all;
  if (!(low <= high) || !(fabs(a) < 1e12) || !(fabs(b) < 1e12)) return all;
  return intersect(all, low + x.center_i - 0.25, high + x.center_i + 0.25);
}

// Adds a thread's share of what touches input pixel (px, py).
template <Padding padding, class T, class S>
__device__ void gather_shared(const Search<padding, T>& s, const Problem<S>& p, int px, int py,
                              const Channels<S>& channels, T* sums) {
  constexpr int kAcross = 8,
                kDown = kThreads / kAcross;  // threads: neighbours read neighbours, in many rows at once
  const int thread = static_cast<int>(threadIdx.y * kColumns + threadIdx.x);
  const int height = static_cast<int>(p.frame.out_height), width = static_cast<int>(p.frame.out_width);
  s.cy.each([&](int64_t ky) {
    s.cx.each([&](int64_t kx) {
      const Window wx = s.cx.window(px, kx), wy = s.cy.window(py, ky);
      const Range rows = rows_in(s.x, s.y, wx, wy, height);
      for (int i = rows.begin + thread / kAcross; i < rows.end; i += kDown) {
        const Range columns = columns_in(s.y, i, wy, columns_in(s.x, i, wx, {0, width}));
        for (int j = columns.begin + thread % kAcross; j < columns.end; j += kAcross) {
          const T w =
              s.cy.template weight<T>(s.y.at(i, j), py, ky) * s.cx.template weight<T>(s.x.at(i, j), px, kx);
          if (w != 0) channels.add(w, i * p.grad.row + j * p.grad.pixel, sums);
        }
      }
    });
  });
}

// Sums each channel over the block's threads, in a fixed order; thread number c of the first warp gets
// channel c's.
template <class T>
__device__ T sum_over_block(const T* sums, T (*all)[kAdjointChannels]) {
  const int lane = static_cast<int>(threadIdx.x), channel = lane % kAdjointChannels;
  for (int c = 0; c < kAdjointChannels; ++c) all[threadIdx.y * kColumns + threadIdx.x][c] = sums[c];
  __syncthreads();
  T total = 0;
  if (threadIdx.y == 0) {
    for (int t = lane / kAdjointChannels; t < kThreads; t += kColumns / kAdjointChannels)
      total += all[t][channel];
    for (int step = kAdjointChannels; step < kColumns; step *= 2) {
      total += __shfl_xor_sync(0xffffffffu, total, step);
    }
  }
  __syncthreads();
  return total;
}

// The pixels of a tile that threads search for alone.
template <Padding padding, class T, class S>
__device__ void adjoint_alone(const Search<padding, T>& s, const Problem<S>& p, const Place& at) {
  const int count = at.channels;
  const Channels<S> channels{p.grad.data + at.n * p.grad.batch + at.channel * p.grad.channel,
                             at.channel_step * p.grad.channel, count};
  S* grad_input = p.grad_input.data + at.n * p.grad_input.batch + at.channel * p.grad_input.channel;
  for (int r = threadIdx.y; r < kAdjointRows; r += kRows) {
    for (int number = at.pixel; number < kColumns; number += at.pixel_step) {
      const int px = at.column + number, py = at.row + r;
      if (px >= p.frame.width || py >= p.frame.height || !s.alone(p.frame, px, py)) continue;
      T sums[kAdjointChannels] = {};
      if (s.reaches(px, py)) {
        s.cy.each([&](int64_t ky) {
          s.cx.each([&](int64_t kx) {
            if (s.cx.is_next_ones(px, kx) || s.cy.is_next_ones(py, ky)) return;
            gather_close(s, p, s.cx.place(px, kx), s.cy.place(py, ky), channels, sums);
          });
        });
      }
      S* out = grad_input + py * p.grad_input.row + px * p.grad_input.pixel;
      for (int c = 0; c < kAdjointChannels; ++c) {
        if (c < count) store(sums[c], out + c * at.channel_step * p.grad_input.channel);
      }
    }
  }
}

// And the others.
template <Padding padding, class T, class S>
__device__ __noinline__ void adjoint_together(const Search<padding, T>& s, const Problem<S>& p,
                                              const Tiles& tiles, int64_t block, T (*all)[kAdjointChannels]) {
  const Place at(p, tiles, block);
  for (int k = 0; k < kAdjointRows * kColumns; ++k) {
    const int px = at.column + k % kColumns, py = at.row + k / kColumns;
    if (px >= p.frame.width || py >= p.frame.height || s.alone(p.frame, px, py)) continue;
    for (int64_t c = at.channel_begin; c < at.channel_end; c += kAdjointChannels) {
      const int64_t left = at.channel_end - c;
      const int count = static_cast<int>(left < kAdjointChannels ? left : kAdjointChannels);
      const Channels<S> channels{p.grad.data + at.n * p.grad.batch + c * p.grad.channel, p.grad.channel,
                                 count};
      T sums[kAdjointChannels] = {};
      gather_shared(s, p, px, py, channels, sums);
      const T total = sum_over_block(sums, all);
      if (threadIdx.y == 0 && static_cast<int>(threadIdx.x) < count) {
        store(total, p.grad_input.data + at.n * p.grad_input.batch +
                         (c + threadIdx.x) * p.grad_input.channel + py * p.grad_input.row +
                         px * p.grad_input.pixel);
      }
    }
  }
}

// Its first blocks finish theta's gradient, where that is asked for too.
template <Padding padding, class S>
__global__ void __launch_bounds__(kThreads, sizeof(S) < 8 && padding != Padding::reflection ? 2 : 1)
    adjoint(const __grid_constant__ Problem<S> p, const __grid_constant__ Tiles tiles,
            const __grid_constant__ Partial partial) {
  using T = Computed<S>;
  __shared__ Search<padding, T> search;
  __shared__ T all[kThreads][kAdjointChannels];
  if (blockIdx.x < partial.images) {
    finish_moments(partial, p.frame, blockIdx.x);
    return;
  }
  const int64_t block = blockIdx.x - partial.images;
  const Place at(p, tiles, block);
  if (threadIdx.x == 0 && threadIdx.y == 0) search.init(p, at.n);
  __syncthreads();
  adjoint_alone(search, p, at);
  const bool outer = at.row == 0 || at.column == 0 || at.row + kAdjointRows >= p.frame.height ||
                     at.column + kColumns >= p.frame.width;
  if (search.together(outer)) adjoint_together(search, p, tiles, block, all);
}

// ---- launches ---------------------------------------------------------------------------------------------

// f(padding as a type)
template <class F>
cudaError_t launch_padding(Padding padding, const F& f) {
  switch (padding) {
    case Padding::zeros:
      return f(std::integral_constant<Padding, Padding::zeros>());
    case Padding::border:
      return f(std::integral_constant<Padding, Padding::border>());
    case Padding::reflection:
      return f(std::integral_constant<Padding, Padding::reflection>());
  }
  return cudaErrorInvalidValue;
}

template <class S>
cudaError_t launch_tile_moments(const Problem<S>& p, double* moments, cudaStream_t stream) {
  const Tiles tiles = moment_tiles(p);
  return launch_padding(p.padding, [&](auto padding) {
    return launch(tile_moments<padding.value, S>, tiles.per_image() * p.batches, stream, p, tiles, moments);
  });
}

template <class S>
cudaError_t launch_adjoint_and(const Problem<S>& p, const Partial& partial, cudaStream_t stream) {
  const Tiles tiles = input_tiles(p);
  return launch_padding(p.padding, [&](auto padding) {
    return launch(adjoint<padding.value, S>, partial.images + tiles.per_image() * p.batches, stream, p, tiles,
                  partial);
  });
}

template <class S>
Partial partial_of(const Problem<S>& p, const double* moments, void* grad_theta) {
  return {moments, moment_blocks(p), p.batches, grad_theta, p.theta_is_double};
}

}  // namespace

template <class S>
cudaError_t launch_sample(const Problem<S>& p, cudaStream_t stream) {
  const Tiles tiles = sample_tiles(p);
  return launch_padding(p.padding, [&](auto padding) {
    return launch(sample<padding.value, S>, tiles.per_image() * p.batches, stream, p, tiles);
  });
}

template <class S>
int64_t moment_blocks(const Problem<S>& p) {
  return moment_tiles(p).per_image();
}

template <class S>
cudaError_t launch_moments(const Problem<S>& p, double* partial, void* grad_theta, cudaStream_t stream) {
  const cudaError_t error = launch_tile_moments(p, partial, stream);
  if (error != cudaSuccess) return error;
  return launch(theta_gradients, p.batches, stream, partial_of(p, partial, grad_theta), p.frame);
}

template <class S>
cudaError_t launch_adjoint(const Problem<S>& p, cudaStream_t stream) {
  return launch_adjoint_and(p, Partial{}, stream);
}

template <class S>
cudaError_t launch_backward(const Problem<S>& p, double* partial, void* grad_theta, cudaStream_t stream) {
  const cudaError_t error = launch_tile_moments(p, partial, stream);
  if (error != cudaSuccess) return error;
  return launch_adjoint_and(p, partial_of(p, partial, grad_theta), stream);
}

#define STN_INSTANTIATE(S)                                                              \
  template cudaError_t launch_sample(const Problem<S>&, cudaStream_t);                  \
  template int64_t moment_blocks(const Problem<S>&);                                    \
  template cudaError_t launch_moments(const Problem<S>&, double*, void*, cudaStream_t); \
  template cudaError_t launch_adjoint(const Problem<S>&, cudaStream_t);                 \
  template cudaError_t launch_backward(const Problem<S>&, double*, void*, cudaStream_t);
STN_INSTANTIATE(Half)
STN_INSTANTIATE(BFloat16)
STN_INSTANTIATE(float)
STN_INSTANTIATE(double)

}  // namespace stn::cuda
