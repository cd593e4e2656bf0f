// Runs every CPU kernel of the level that is named over many problems in buffers of exactly the right size,
// for AddressSanitizer to watch: random and hostile maps, sizes from one pixel up.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
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

// Zeros, which must be zeros at the end too.
template <class T>
struct Zeros : Buffer<T> {
  int64_t count;

  explicit Zeros(int64_t n) : Buffer<T>(n, false), count(n) { std::fill_n(this->get(), n, T(0)); }
  ~Zeros() {
    for (int64_t k = 0; k < count; ++k) {
      if (this->get()[k] == 0) continue;
      std::fprintf(stderr, "scratch: element %lld of %lld is not 0\n", static_cast<long long>(k),
                   static_cast<long long>(count));
      std::exit(1);
    }
  }
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
  Zeros<T> cells(kernels.group * stn::cpu::kTileCells),
      quads(stn::cpu::quad_scratch(stn::cpu::kQuadChannels));
  const stn::cpu::Readers readers{&n, &n + 1};
  for (int64_t c = 0; c < p.channels; c += kernels.group) {
    const int64_t channels = std::min(kernels.group, p.channels - c);
    for_tiles(
        p, [&](const Tile& tile) { kernels.adjoint_group(p, n, readers, c, channels, tile, cells.get()); });
  }
  for (int64_t c = 0; c < p.channels; c += stn::cpu::kQuadChannels) {
    const int64_t channels = std::min(stn::cpu::kQuadChannels, p.channels - c);
    for_tiles(p, [&](const Tile& tile) { kernels.adjoint(p, n, readers, c, channels, tile, quads.get()); });
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

// The first image is read by all maps.
template <class T>
void run_warp_adjoint(const Kernels<T>& kernels, const stn::cpu::Warp<T>& w, const stn::WarpBox* boxes) {
  std::vector<int64_t> all(static_cast<size_t>(w.maps));
  for (size_t n = 0; n < all.size(); ++n) all[n] = static_cast<int64_t>(n);
  const std::vector<stn::cpu::Readers> readers{{all.data(), all.data() + all.size()}, {nullptr, nullptr}};
  const bool planar = stn::cpu::is_planar(w);
  const int64_t most = planar ? stn::cpu::kTile : 1 << 30, group = integer(0, 1) ? kernels.group : 4;
  Buffer<T> radial(stn::cpu::radial_slots(w) * stn::cpu::radial_values(w), false);
  Zeros<T> scratch(std::max(kernels.group * stn::cpu::kTileCells, stn::cpu::quad_scratch(4)));
  int64_t size[stn::kMaxAxes];
  for (int d = 0; d < stn::kMaxAxes; ++d) size[d] = std::min<int64_t>(most, integer(1, 64));
  for (int64_t x = 0; x < w.in[0]; x += size[0]) {
    for (int64_t y = 0; y < w.in[1]; y += size[1]) {
      for (int64_t z = 0; z < w.in[2]; z += size[2]) {
        const stn::WarpTile tile{
            {x, y, z},
            {std::min(size[0], w.in[0] - x), std::min(size[1], w.in[1] - y), std::min(size[2], w.in[2] - z)}};
        for (int64_t c = 0; c < w.channels; c += group) {
          const int64_t channels = std::min(group, w.channels - c);
          kernels.warp_adjoint(w, {0, w.images, c, channels, tile, readers.data(), boxes}, radial.get(),
                               scratch.get());
        }
      }
    }
  }
}

// The general kernels, over any kind of map.
template <class T>
void run_warp(const Kernels<T>& kernels) {
  stn::cpu::Warp<T> w{};
  w.dims = static_cast<int>(integer(2, 3));
  const int64_t points = w.dims == 2 && integer(0, 2) == 0 ? integer(1, 7) : 0;
  w.perspective = w.dims == 2 && points == 0 && integer(0, 1) == 1;
  w.nearest = integer(0, 2) == 0;
  w.align_corners = integer(0, 1) == 1;
  w.padding = static_cast<Padding>(integer(0, 2));
  int64_t stored = 1, in = 1, out = 1;
  for (int d = 0; d < stn::kMaxAxes; ++d) {
    const int64_t longest = w.dims == 3 ? 20 : (integer(0, 4) == 0 ? 150 : 40);
    w.in[d] = d < w.dims ? integer(1, longest) : 1;
    w.out[d] = d < w.dims ? integer(1, longest) : 1;
    w.stored[d] = d < w.dims ? std::max<int64_t>(w.in[d], 2) : 1;
    stored *= w.stored[d];
    in *= w.in[d];
    out *= w.out[d];
  }
  w.maps = integer(1, 3);
  w.images = integer(1, 2);
  w.channels = integer(0, 3) == 0 ? integer(7, 20) : integer(1, 6);
  w.basis = w.dims + 1 + points;
  std::vector<double> theta(static_cast<size_t>(w.maps * w.streams() * w.basis)), tangent(theta.size());
  for (double& t : theta) t = entry();
  for (double& t : tangent) t = entry();
  std::vector<double> positions(static_cast<size_t>(2 * points));
  for (double& x : positions) x = uniform(-1, 1);
  std::vector<int64_t> index(static_cast<size_t>(w.maps));
  for (int64_t& image : index) image = integer(0, w.images - 1);
  w.theta = theta.data();
  if (integer(0, 1) == 1) w.tangent = tangent.data();
  if (points > 0) w.points = positions.data();
  w.index = index.data();
  std::vector<stn::cpu::MapLines> lines;
  for (int64_t map = 0; map < w.maps; ++map) lines.push_back(stn::cpu::map_lines(w, map));
  w.lines = lines.data();

  Buffer<T> input(w.images * w.channels * stored, true), grad(w.maps * w.channels * out, true);
  Buffer<T> output(w.maps * w.channels * out, false), grad_input(w.images * w.channels * in, false);
  const auto volumes = [&](auto* data, const int64_t* size) {
    const int64_t pixels = size[0] * size[1] * size[2];
    return stn::Volumes<std::remove_pointer_t<decltype(data)>>{
        data, w.channels * pixels, pixels, {1, size[0], size[0] * size[1]}};
  };
  w.input = volumes(static_cast<const T*>(input.get()), w.stored);
  w.grad = volumes(static_cast<const T*>(grad.get()), w.out);
  w.output = volumes(output.get(), w.out);
  w.grad_input = volumes(grad_input.get(), w.in);
  const stn::cpu::WarpPart part{0, w.maps, 0, w.channels, 0, w.rows()};
  Buffer<T> radial(stn::cpu::radial_values(w), false);
  std::vector<double> gradients(theta.size());
  kernels.warp_sample(w, part, radial.get());
  kernels.warp_moments(w, part, radial.get(), gradients.data());
  std::vector<stn::WarpBox> boxes(static_cast<size_t>(w.maps * stn::Bundles(w).count));
  kernels.warp_boxes(w, part, radial.get(), boxes.data());
  run_warp_adjoint(kernels, w, boxes.data());
}

void run(const stn::cpu::Level& level) {
  for (int k = 0; k < 250; ++k) {
    run_once(level.f32);
    run_once(level.f64);
    run_warp(level.f32);
    run_warp(level.f64);
  }
  std::printf("%s done\n", level.name);
}

}  // namespace

// Prints a line at the end; nothing where the CPU lacks the level.
int main(int, char** names) {
  const auto wanted = [&](const char* name) { return std::strcmp(names[1], name) == 0; };
  if (wanted("portable")) run(stn::cpu::portable_level());
#if defined(__x86_64__)
  if (wanted("avx2") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    run(stn::cpu::avx2_level());
  }
  if (wanted("avx512") && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    run(stn::cpu::avx512_level());
  }
#endif
}
