// The three primitives over affine maps on the GPU. No atomics: sums have one order, results the same bits.
#include "kernels.h"

#include <cuda_runtime.h>

#include <type_traits>

namespace stn::cuda {
namespace {

// A block of threads works on a tile of kTileWidth x kRows output pixels; each thread on kTileWidth / kColumns of
// them, in one row.
constexpr int kColumns = 32, kRows = 8, kThreads = kColumns * kRows;
constexpr int kTileWidth = kWalk;
constexpr int64_t kBlocksWanted = 2048;  // enough to fill any GPU; more only where the work gives them

__host__ __device__ int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How a launch's blocks divide an image's rows, columns and channels.
struct Tiles {
  int64_t down, across, channels, groups;  // channels: in a group of them

  int64_t per_image() const { return down * across * groups; }
};

template <class T>
Tiles tiles_of(const Problem<T>& p, bool split_channels) {
  Tiles t{ceil_div(p.frame.out_height, kRows), ceil_div(p.frame.out_width, kTileWidth), p.channels, 1};
  while (split_channels && t.channels > 1 && t.per_image() * p.batches < kBlocksWanted) {
    t.channels = ceil_div(t.channels, 2);
    t.groups = ceil_div(p.channels, t.channels);
  }
  return t;
}

// This block's part of the work.
struct Place {
  int64_t n, row, column, channel, channel_end;

  template <class T>
  __device__ Place(const Problem<T>& p, const Tiles& t) {
    int64_t b = blockIdx.x;
    column = b % t.across * kTileWidth;
    b /= t.across;
    row = b % t.down * kRows;
    b /= t.down;
    channel = b % t.groups * t.channels;
    n = b / t.groups;
    channel_end = channel + t.channels < p.channels ? channel + t.channels : p.channels;
  }
};

// ---- coordinates -------------------------------------------------------------------------------------------

// The walks along a tile's rows, shared by its threads: one thread computes in double what all then step in T.
template <class T>
struct TileWalks {
  AxisMap map[2];
  T whole[2][kRows], frac[2][kRows], head[2], rest[2];
  bool exact[2][kRows];

  __device__ void init(const Problem<T>& p, const Place& at) {
    const int thread = threadIdx.y * kColumns + threadIdx.x;
    if (thread < 2) map[thread] = axis_map(p, at.n, thread);
    __syncthreads();
    if (thread < 2 * kRows) {
      const int axis = thread / kRows, r = thread % kRows;
      const AxisMap& m = map[axis];
      const double begin = m.at(at.row + r, at.column), end = begin + m.x * (kTileWidth - 1);
      exact[axis][r] = fabs(begin) <= kExactCoordinate && fabs(end) <= kExactCoordinate;
      const Walk<T> walk(exact[axis][r] ? begin : 0, m.x);
      whole[axis][r] = walk.whole;
      frac[axis][r] = walk.frac;
      head[axis] = walk.head;
      rest[axis] = walk.rest;
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
      split_any<padding>(map[axis].at(at.row + r, at.column + number), length, f.align_corners, &w, &fraction);
    }
    return axis_taps<padding>(w, fraction, static_cast<T>(length), static_cast<T>(length < 2 ? 2 : length),
                              f.align_corners);
  }
};

// A pixel's four taps in memory. Those that take no part are not read.
template <class T>
struct TapReader {
  int64_t offset, row, pixel;
  bool use00, use01, use10, use11;

  __device__ TapReader(const Problem<T>& p, const AxisTaps<T>& x, const AxisTaps<T>& y) {
    const int64_t column = static_cast<int64_t>(x.tap), line = static_cast<int64_t>(y.tap);
    row = p.input.row;
    pixel = p.input.pixel;
    offset = line * row + column * pixel;
    const bool x0 = x.w0 != 0 || x.d0 != 0, x1 = (x.w1 != 0 || x.d1 != 0) && column + 1 < p.frame.width;
    const bool y0 = y.w0 != 0 || y.d0 != 0, y1 = (y.w1 != 0 || y.d1 != 0) && line + 1 < p.frame.height;
    use00 = y0 && x0;
    use01 = y0 && x1;
    use10 = y1 && x0;
    use11 = y1 && x1;
  }

  __device__ void read(const T* plane, T v[4]) const {
    const T* at = plane + offset;
    v[0] = use00 ? at[0] : T(0);
    v[1] = use01 ? at[pixel] : T(0);
    v[2] = use10 ? at[row] : T(0);
    v[3] = use11 ? at[row + pixel] : T(0);
  }
};

// ---- sample ------------------------------------------------------------------------------------------------

template <Padding padding, class T>
__global__ void __launch_bounds__(kThreads) sample(Problem<T> p, Tiles tiles) {
  __shared__ TileWalks<T> walks;
  const Place at(p, tiles);
  walks.init(p, at);
  const int64_t i = at.row + threadIdx.y;
  if (i >= p.frame.out_height) return;
  const T* image = p.input.data + at.n * p.input.batch;
  T* output = p.output.data + at.n * p.output.batch + i * p.output.row;
  for (int number = threadIdx.x; number < kTileWidth; number += kColumns) {
    const int64_t j = at.column + number;
    if (j >= p.frame.out_width) return;
    const AxisTaps<T> x = walks.template taps<padding>(p.frame, at, 0, number);
    const AxisTaps<T> y = walks.template taps<padding>(p.frame, at, 1, number);
    const TapReader<T> reader(p, x, y);
    for (int64_t c = at.channel; c < at.channel_end; ++c) {
      T v[4];
      reader.read(image + c * p.input.channel, v);
      output[c * p.output.channel + j * p.output.pixel] =
          y.w0 * (x.w0 * v[0] + x.w1 * v[1]) + y.w1 * (x.w0 * v[2] + x.w1 * v[3]);
    }
  }
}

// ---- moments -----------------------------------------------------------------------------------------------

template <class V>
__device__ V sum_over_warp(V value) {
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}

template <Padding padding, class T>
__global__ void __launch_bounds__(kThreads) tile_moments(Problem<T> p, Tiles tiles, double* partial) {
  __shared__ TileWalks<T> walks;
  __shared__ T by_warp[kRows][kMoments];  // a row of threads is a warp
  const Place at(p, tiles);
  walks.init(p, at);
  const int64_t i = at.row + threadIdx.y;
  const T* image = p.input.data + at.n * p.input.batch;
  const T* grad = p.grad.data + at.n * p.grad.batch + i * p.grad.row;
  T sums[4] = {};  // of gx, gx * number, gy, gy * number
  for (int number = threadIdx.x; number < kTileWidth; number += kColumns) {
    const int64_t j = at.column + number;
    if (i >= p.frame.out_height || j >= p.frame.out_width) break;
    const AxisTaps<T> x = walks.template taps<padding>(p.frame, at, 0, number);
    const AxisTaps<T> y = walks.template taps<padding>(p.frame, at, 1, number);
    const TapReader<T> reader(p, x, y);
    T s[4] = {};  // over channels, of the output's gradient times each tap
    for (int64_t c = 0; c < p.channels; ++c) {
      T v[4];
      reader.read(image + c * p.input.channel, v);
      const T g = grad[c * p.grad.channel + j * p.grad.pixel];
      for (int k = 0; k < 4; ++k) s[k] += g * v[k];
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
      by_warp[threadIdx.y][3 * axis] = numbered + static_cast<T>(static_cast<double>(at.column) - m.centre_j) * total;
      by_warp[threadIdx.y][3 * axis + 1] = static_cast<T>(static_cast<double>(i) - m.centre_i) * total;
      by_warp[threadIdx.y][3 * axis + 2] = total;
    }
  }
  __syncthreads();
  const int k = threadIdx.y * kColumns + threadIdx.x;
  if (k < kMoments) {
    double sum = 0;
    for (int row = 0; row < kRows; ++row) sum += by_warp[row][k];
    partial[static_cast<int64_t>(blockIdx.x) * kMoments + k] = sum;
  }
}

// One block an image, one warp a moment: the tiles' sums in a fixed order, and from them theta's gradient.
template <class T>
__global__ void __launch_bounds__(32 * kMoments) theta_gradients(Problem<T> p, int64_t tiles, const double* partial,
                                                                 void* grad_theta) {
  const int64_t n = blockIdx.x;
  const int k = threadIdx.y;
  double sum = 0;
  for (int64_t t = threadIdx.x; t < tiles; t += 32) sum += partial[(n * tiles + t) * kMoments + k];
  sum = theta_gradient(sum_over_warp(sum), k, p.frame);
  if (threadIdx.x != 0) return;
  if (p.theta_is_double) {
    static_cast<double*>(grad_theta)[n * kMoments + k] = sum;
  } else {
    static_cast<float*>(grad_theta)[n * kMoments + k] = static_cast<float>(sum);
  }
}

// ---- adjoint -----------------------------------------------------------------------------------------------
//
// A gather: each input pixel looks for the output pixels whose taps it is. Their coordinates lie within 1 of it; with
// padding that repeats the image, within 1 of one of its copies.

// An interval of one axis' coordinates, in the copy of the image of which it is a part.
struct Window {
  double low, high;
  int64_t copy;
};

// The copy of the image in which a coordinate lies; even ones are as the image is, odd ones mirrored.
__device__ double copy_of(double x, double period, double origin) { return floor((x - origin) / period); }

template <Padding padding>
struct Copies {
  int64_t length, first, last;
  double period, origin;
  bool align_corners;

  // low, high: of all coordinates of the output.
  __device__ Copies(int64_t length_, bool align_corners_, double low, double high)
      : length(length_), first(0), last(0), align_corners(align_corners_) {
    period = static_cast<double>(align_corners ? length - 1 : length);
    origin = align_corners ? 0 : -0.5;
    if (padding != Padding::reflection || period == 0) return;
    // Beyond this the fold loses its fraction (split_any), and no copy can be told.
    first = static_cast<int64_t>(copy_of(fmax(low, -1e15), period, origin));
    last = static_cast<int64_t>(copy_of(fmin(high, 1e15), period, origin));
  }

  // The window of pixel `at` in a copy.
  __device__ Window window(int64_t at, int64_t copy) const {
    constexpr double margin = 1.0 / 64, far = 1e300;
    if (padding == Padding::reflection && period > 0) {
      const int64_t mirrored = copy & 1 ? (align_corners ? length - 1 : length - 1) - at : at;
      const double centre = static_cast<double>(mirrored) + static_cast<double>(copy) * period;
      return {centre - 1 - margin, centre + 1 + margin, copy};
    }
    Window w{static_cast<double>(at) - 1 - margin, static_cast<double>(at) + 1 + margin, 0};
    if (padding != Padding::zeros && at == 0) w.low = -far;
    if (padding != Padding::zeros && at == length - 1) w.high = far;
    return w;
  }

  // The weight of pixel `at` at a coordinate, in one copy.
  template <class T>
  __device__ T weight(double x, int64_t at, int64_t copy) const {
    if (padding == Padding::reflection && period > 0) {
      // A coordinate is of one copy alone, so that no output pixel is taken twice.
      const bool far = !(fabs(x) < 1e15);
      const double its_copy = far ? 0 : copy_of(x, period, origin);
      if (its_copy != static_cast<double>(copy)) return 0;
    }
    T whole, frac;
    split_any<padding>(x, length, align_corners, &whole, &frac);
    const Coordinate<T> c = fold<padding>(whole, frac, static_cast<T>(length), align_corners);
    const T distance = fabs((c.whole - static_cast<T>(at)) + c.frac);
    return distance < 1 ? 1 - distance : T(0);  // 0 for NaN
  }
};

struct Range {
  int64_t begin, end;
};

__device__ Range intersect(Range a, double low, double high) {
  if (!(low < static_cast<double>(a.end)) || !(high >= static_cast<double>(a.begin))) return {0, 0};
  if (low > static_cast<double>(a.begin)) a.begin = static_cast<int64_t>(low);
  if (high < static_cast<double>(a.end - 1)) a.end = static_cast<int64_t>(high) + 1;
  return a;
}

// Output pixels of row i that fall into a window.
__device__ Range columns_in(const AxisMap& m, int64_t i, const Window& w, Range columns) {
  const double row = m.row(i);
  if (m.x == 0) return row >= w.low && row <= w.high ? columns : Range{0, 0};
  const double a = (w.low - row) / m.x + m.centre_j, b = (w.high - row) / m.x + m.centre_j;
  if (a != a || b != b) return columns;  // the map is not finite: try all
  return intersect(columns, fmin(a, b), fmax(a, b));
}

// Rows with pixels that fall into both windows, by the inverse map; all of them where it has none.
__device__ Range rows_in(const AxisMap& x, const AxisMap& y, const Window& wx, const Window& wy, int64_t height) {
  const Range all{0, height};
  const double det = x.x * y.y - x.y * y.x;
  const double a = -y.x / det, b = x.x / det;  // d(row) / d(x), d(row) / d(y)
  const double low = fmin(a * (wx.low - x.one), a * (wx.high - x.one)) + fmin(b * (wy.low - y.one), b * (wy.high - y.one));
  const double high =
      fmax(a * (wx.low - x.one), a * (wx.high - x.one)) + fmax(b * (wy.low - y.one), b * (wy.high - y.one));
  if (!(low <= high) || !(fabs(a) < 1e12) || !(fabs(b) < 1e12)) return all;
  return intersect(all, low + x.centre_i - 0.25, high + x.centre_i + 0.25);
}

// The least and the greatest coordinate of all output pixels.
__device__ void extent(const AxisMap& m, double* low, double* high) {
  const double reach = fabs(m.x) * m.centre_j + fabs(m.y) * m.centre_i;
  *low = m.one - reach;
  *high = m.one + reach;
}

constexpr int kAdjointChannels = 4;  // whose sums a thread holds at a time

// Adds what the output pixels in one pair of windows give to input pixel (py, px), in a fixed order.
template <Padding padding, class T>
__device__ void gather(const Problem<T>& p, const AxisMap& x, const AxisMap& y, const Copies<padding>& cx,
                       const Copies<padding>& cy, const Window& wx, const Window& wy, int64_t px, int64_t py,
                       const T* grad, int channels, T* sums) {
  const Range rows = rows_in(x, y, wx, wy, p.frame.out_height);
  for (int64_t i = rows.begin; i < rows.end; ++i) {
    const Range columns = columns_in(y, i, wy, columns_in(x, i, wx, {0, p.frame.out_width}));
    for (int64_t j = columns.begin; j < columns.end; ++j) {
      const T w = cy.template weight<T>(y.at(i, j), py, wy.copy) * cx.template weight<T>(x.at(i, j), px, wx.copy);
      if (w == 0) continue;
      const T* g = grad + i * p.grad.row + j * p.grad.pixel;
      for (int c = 0; c < channels; ++c) sums[c] += w * g[c * p.grad.channel];
    }
  }
}

template <Padding padding, class T>
__global__ void __launch_bounds__(kThreads) adjoint(Problem<T> p, int64_t groups) {
  const int64_t pixels = p.frame.height * p.frame.width;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= p.batches * groups * pixels) return;
  const int64_t px = index % p.frame.width, py = index / p.frame.width % p.frame.height;
  const int64_t group = index / pixels % groups, n = index / pixels / groups;
  const AxisMap x = axis_map(p, n, 0), y = axis_map(p, n, 1);
  double low, high;
  extent(x, &low, &high);
  const Copies<padding> cx(p.frame.width, p.frame.align_corners, low, high);
  extent(y, &low, &high);
  const Copies<padding> cy(p.frame.height, p.frame.align_corners, low, high);
  const int64_t channel = group * kAdjointChannels;
  const int channels = static_cast<int>(p.channels - channel < kAdjointChannels ? p.channels - channel : kAdjointChannels);
  const T* grad = p.grad.data + n * p.grad.batch + channel * p.grad.channel;
  T sums[kAdjointChannels] = {};
  for (int64_t ky = cy.first; ky <= cy.last; ++ky) {
    for (int64_t kx = cx.first; kx <= cx.last; ++kx) {
      gather<padding>(p, x, y, cx, cy, cx.window(px, kx), cy.window(py, ky), px, py, grad, channels, sums);
    }
  }
  T* out = p.grad_input.data + n * p.grad_input.batch + channel * p.grad_input.channel + py * p.grad_input.row +
           px * p.grad_input.pixel;
  for (int c = 0; c < channels; ++c) out[c * p.grad_input.channel] = sums[c];
}

// ---- launches ----------------------------------------------------------------------------------------------

template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), int64_t blocks, dim3 threads, cudaStream_t stream,
                   const Arguments&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = threads;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

// f(padding as a type)
template <class F>
cudaError_t with_padding(Padding padding, const F& f) {
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

}  // namespace

template <class T>
cudaError_t launch_sample(const Problem<T>& p, cudaStream_t stream) {
  const Tiles tiles = tiles_of(p, true);
  return with_padding(p.padding, [&](auto padding) {
    return launch(sample<padding.value, T>, tiles.per_image() * p.batches, dim3(kColumns, kRows), stream, p, tiles);
  });
}

template <class T>
int64_t moment_blocks(const Problem<T>& p) {
  return tiles_of(p, false).per_image();
}

template <class T>
cudaError_t launch_moments(const Problem<T>& p, double* partial, void* grad_theta, cudaStream_t stream) {
  const Tiles tiles = tiles_of(p, false);
  const cudaError_t error = with_padding(p.padding, [&](auto padding) {
    return launch(tile_moments<padding.value, T>, tiles.per_image() * p.batches, dim3(kColumns, kRows), stream, p,
                  tiles, partial);
  });
  if (error != cudaSuccess) return error;
  return launch(theta_gradients<T>, p.batches, dim3(32, kMoments), stream, p, tiles.per_image(), partial, grad_theta);
}

template <class T>
cudaError_t launch_adjoint(const Problem<T>& p, cudaStream_t stream) {
  const int64_t groups = ceil_div(p.channels, kAdjointChannels);
  const int64_t pixels = p.batches * groups * p.frame.height * p.frame.width;
  return with_padding(p.padding, [&](auto padding) {
    return launch(adjoint<padding.value, T>, ceil_div(pixels, kThreads), dim3(kThreads), stream, p, groups);
  });
}

#define STN_INSTANTIATE(T)                                                                \
  template cudaError_t launch_sample(const Problem<T>&, cudaStream_t);                    \
  template int64_t moment_blocks(const Problem<T>&);                                      \
  template cudaError_t launch_moments(const Problem<T>&, double*, void*, cudaStream_t);   \
  template cudaError_t launch_adjoint(const Problem<T>&, cudaStream_t);
STN_INSTANTIATE(float)
STN_INSTANTIATE(double)

}  // namespace stn::cuda
