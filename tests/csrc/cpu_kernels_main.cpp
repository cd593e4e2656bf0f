// Runs every CPU kernel over many problems in buffers of exactly the right size, for AddressSanitizer to
// watch: random and hostile maps, sizes from one pixel up. Prints a line for each level.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "cpu/kernels.h"

namespace {

using stn::Padding;
using stn::cpu::Kernels;
using stn::cpu::Tile;

std::mt19937 generator(0);

double uniform(double low, double high) {
  return std::uniform_real_distribution<double>(low, high)(generator);
}
int64_t integer(int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(generator);
}

// Entries of theta: mostly ordinary, at times zero, huge, infinite or not a number.
double entry() {
  const double inf = std::numeric_limits<double>::infinity();
  const double special[] = {0, 1, -1, 1e-30, 1e8, -1e12, 1e30, -1e300, inf, -inf, std::nan("")};
  return integer(0, 3) == 0 ? special[integer(0, 10)] : uniform(-2.5, 2.5);
}

// A buffer without a byte to spare on either side; malloc, so that its contents are indeterminate too.
template <class T>
struct Buffer {
  std::unique_ptr<T[]> data;
  Buffer(int64_t n, bool random) : data(new T[static_cast<size_t>(n)]) {
    for (int64_t k = 0; random && k < n; ++k) data[static_cast<size_t>(k)] = static_cast<T>(uniform(-1, 1));
  }
  T* get() { return data.get(); }
};

template <class T, class F>
void for_tiles(const stn::Problem<T>& p, const F& f) {
  constexpr int64_t size = stn::cpu::kTile;
  for (int64_t top = 0; top < p.frame.height; top += size) {
    for (int64_t left = 0; left < p.frame.width; left += size) {
      f(Tile{top, left, std::min(size, p.frame.height - top), std::min(size, p.frame.width - left)});
    }
  }
}

// The kernels that take an image's rows.
template <class T>
void run_rows(const Kernels<T>& kernels, const stn::Problem<T>& p, int64_t n, bool channels_last) {
  const std::vector<T> zeros(static_cast<size_t>(p.channels));
  for (int64_t begin = 0; begin < p.frame.out_height; begin += 7) {
    const int64_t end = std::min(begin + 7, p.frame.out_height), c = p.channels / 2;
    double sums[stn::kMoments];
    if (channels_last) {
      kernels.sample_channels_last(p, n, begin, end, zeros.data());
      kernels.moments_channels_last(p, n, begin, end, zeros.data(), sums);
    } else {
      kernels.sample(p, n, 0, p.channels, begin, end);
      kernels.sample(p, n, c, p.channels - c, begin, end);
      kernels.moments(p, n, c, p.channels - c, begin, end, sums);
    }
  }
}

// The kernels that take tiles of the input.
template <class T>
void run_tiles(const Kernels<T>& kernels, const stn::Problem<T>& p, int64_t n) {
  Buffer<T> cells(kernels.group * stn::cpu::kTileCells, false),
      quads(stn::cpu::quad_scratch(stn::cpu::kQuadChannels), false);
  for (int64_t c = 0; c < p.channels; c += kernels.group) {
    const int64_t channels = std::min(kernels.group, p.channels - c);
    for_tiles(p, [&](const Tile& tile) { kernels.adjoint_group(p, n, c, channels, tile, cells.get()); });
  }
  for (int64_t c = 0; c < p.channels; c += stn::cpu::kQuadChannels) {
    const int64_t channels = std::min(stn::cpu::kQuadChannels, p.channels - c);
    for_tiles(p, [&](const Tile& tile) { kernels.adjoint(p, n, c, channels, tile, quads.get()); });
  }
}

template <class T>
void run_once(const Kernels<T>& kernels) {
  stn::Problem<T> p{};
  const int64_t longest = integer(0, 4) == 0 ? 200 : 40;
  p.frame = {integer(1, longest), integer(1, longest), integer(1, longest), integer(1, longest),
             integer(0, 1) == 1};
  p.batches = integer(1, 2);
  p.channels = integer(1, 6);
  p.stored_height = p.frame.height < 2 ? 2 : p.frame.height;
  p.stored_width = p.frame.width < 2 ? 2 : p.frame.width;
  p.padding = static_cast<Padding>(integer(0, 2));
  std::vector<double> theta(static_cast<size_t>(6 * p.batches));
  for (double& t : theta) t = entry();
  p.theta = theta.data();
  p.theta_is_double = true;

  p.channels = integer(0, 3) == 0 ? integer(7, 20) : p.channels;
  const int64_t stored = p.stored_height * p.stored_width, in = p.frame.height * p.frame.width;
  const int64_t out = p.frame.out_height * p.frame.out_width, planes = p.batches * p.channels;
  Buffer<T> input(planes * stored, true), grad(planes * out, true), output(planes * out, false);
  Buffer<T> grad_input(planes * in, false);
  const auto images = [&](T* data, int64_t height, int64_t width, bool last) -> stn::Images<T> {
    const int64_t c = p.channels, pixels = height * width;
    return last ? stn::Images<T>{data, c * pixels, 1, width * c, c}
                : stn::Images<T>{data, c * pixels, pixels, width, 1};
  };
  for (bool last : {false, true}) {
    const auto constant = [](stn::Images<T> i) {
      return stn::Images<const T>{i.data, i.batch, i.channel, i.row, i.pixel};
    };
    p.input = constant(images(input.get(), p.stored_height, p.stored_width, last));
    p.grad = constant(images(grad.get(), p.frame.out_height, p.frame.out_width, last));
    p.output = images(output.get(), p.frame.out_height, p.frame.out_width, last);
    p.grad_input = images(grad_input.get(), p.frame.height, p.frame.width, last);
    for (int64_t n = 0; n < p.batches; ++n) {
      run_rows(kernels, p, n, last);
      run_tiles(kernels, p, n);
    }
  }
}

void run(const stn::cpu::Level& level) {
  for (int k = 0; k < 250; ++k) {
    run_once(level.f32);
    run_once(level.f64);
  }
  std::printf("%s done\n", level.name);
}

}  // namespace

int main() {
  run(stn::cpu::portable_level());
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) run(stn::cpu::avx2_level());
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    run(stn::cpu::avx512_level());
  }
#endif
}
