// Runs every CPU kernel of the level that is named over many problems in buffers of exactly the right size,
// for AddressSanitizer to watch: random and hostile maps, sizes from one pixel up, every dtype and layout.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "cpu/problem.h"

namespace {

using stn::Padding;
using stn::cpu::Batch;
using stn::cpu::Kernels;
using stn::cpu::Problem;
using stn::cpu::Storage;

std::mt19937 generator(0);

double uniform(double low, double high) {
  return std::uniform_real_distribution<double>(low, high)(generator);
}
int64_t integer(int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(generator);
}

// Entries of theta: mostly ordinary, at times zero, huge, infinite or not a number.
double entry(bool ordinary) {
  const double inf = std::numeric_limits<double>::infinity();
  const double special[] = {0, 1, -1, 1e-30, 1e8, -1e12, 1e30, -1e300, inf, -inf, std::nan("")};
  return !ordinary && integer(0, 3) == 0 ? special[integer(0, 10)] : uniform(-1.5, 1.5);
}

// A buffer without a byte to spare on either side; malloc, so that its contents are indeterminate too.
struct Buffer {
  std::unique_ptr<char[]> data;
  Buffer(int64_t bytes, bool random) : data(new char[static_cast<size_t>(bytes)]) {
    for (int64_t k = 0; random && k < bytes; ++k)
      data[static_cast<size_t>(k)] = static_cast<char>(integer(0, 63));
  }
};

int64_t size_of(Storage storage) {
  switch (storage) {
    case Storage::f64:
      return 8;
    case Storage::f32:
      return 4;
    case Storage::u8:
      return 1;
    default:
      return 2;
  }
}

Batch batch(const Buffer& memory, const int64_t* size, int64_t channels, bool last) {
  const int64_t pixel = last ? channels : 1, pixels = size[0] * size[1] * size[2];
  return {memory.data.get(),
          channels * pixels,
          last ? 1 : pixels,
          {pixel, size[0] * pixel, size[0] * size[1] * pixel}};
}

// What a problem points into.
struct Given {
  Problem p{};
  std::vector<double> theta, tangent, points, fill;
  std::vector<int64_t> index, bits;

  explicit Given(Storage storage) {
    p.storage = storage;
    p.element = size_of(storage);
    p.dims = static_cast<int>(integer(0, 3) == 0 ? 3 : 2);
    const int64_t count = p.dims == 2 && integer(0, 2) == 0 ? integer(1, 7) : 0;
    p.perspective = p.dims == 2 && count == 0 && integer(0, 2) == 0;
    p.nearest = integer(0, 3) == 0;
    p.align_corners = integer(0, 1) == 1;
    p.padding = static_cast<Padding>(integer(0, 2));
    for (int d = 0; d < stn::kMaxAxes; ++d) {
      const int64_t longest = p.dims == 3 ? 16 : (integer(0, 3) == 0 ? 170 : 40);
      p.in[d] = d < p.dims ? integer(1, longest) : 1;
      p.out[d] = d < p.dims ? integer(1, longest) : 1;
    }
    p.maps = integer(1, 3);
    p.images = integer(1, 2);
    p.channels = integer(0, 2) == 0 ? integer(5, 36) : integer(1, 4);
    p.basis = p.dims + 1 + count;
    theta.resize(static_cast<size_t>(p.maps * p.streams() * p.basis));
    const bool ordinary = integer(0, 1) == 1;
    for (double& t : theta) t = entry(ordinary);
    tangent = theta;
    for (double& t : tangent) t = entry(false);
    points.resize(static_cast<size_t>(2 * count));
    for (double& x : points) x = uniform(-1, 1);
    index.resize(static_cast<size_t>(p.maps));
    for (int64_t& image : index) image = integer(0, p.images - 1);
    fill.assign(static_cast<size_t>(p.channels), 7);
    bits.assign(fill.size(), 3);
    p.theta = theta.data();
    if (integer(0, 4) == 0) p.tangent = tangent.data();
    if (count > 0) p.points = points.data();
    if (p.padding == Padding::zeros && integer(0, 1) == 1) {
      p.fill = fill.data();
      p.fill_bits = bits.data();
    }
    p.index = index.data();
  }
};

// The workspace, whose cells must be zeros at the end too.
template <class T>
struct Workspace {
  static constexpr size_t align = 64;
  std::vector<char> memory;
  explicit Workspace(const Kernels<T>& kernels)
      : memory(static_cast<size_t>(kernels.workspace_bytes) + align) {}
  void* get() {
    return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(memory.data()) + align - 1) / align * align);
  }
};

template <class T>
void run_stripes(const Kernels<T>& kernels, const Problem& p, Workspace<T>* workspace) {
  std::vector<std::vector<int64_t>> maps(static_cast<size_t>(p.images));
  for (int64_t n = 0; n < p.maps; ++n) maps[static_cast<size_t>(p.index[n])].push_back(n);
  std::vector<stn::cpu::Readers> readers;
  for (const auto& of : maps) readers.push_back({of.data(), of.data() + of.size()});
  Buffer radial(stn::cpu::radial_values(p) * int64_t{sizeof(T)}, false);
  auto* values = reinterpret_cast<T*>(radial.data.get());
  const int64_t tiles = stn::cpu::Tiles(p, stn::cpu::tile_pixels<T>(p)).count();
  std::vector<stn::cpu::Range> ranges(static_cast<size_t>(p.maps * tiles));
  for (int64_t n = 0; n < p.maps; ++n) {
    kernels.ranges(p, n, workspace->get(), values, ranges.data() + n * tiles);
  }
  std::vector<double> gradients(static_cast<size_t>(p.maps * p.streams() * p.basis));
  const int64_t all = p.in[p.dims - 1], length = integer(1, all), group = integer(1, p.channels);
  for (int64_t begin = 0; begin < all; begin += length) {
    for (int64_t c = 0; c < p.channels; c += group) {
      stn::cpu::Stripe s{0,
                         p.images,
                         c,
                         std::min(c + group, p.channels),
                         begin,
                         std::min(begin + length, all),
                         readers.data(),
                         length < all ? ranges.data() : nullptr,
                         p.nearest ? nullptr : gradients.data(),
                         true};
      Buffer sums(p.images * stn::cpu::stripe_values(p, s) * int64_t{sizeof(T)}, false);
      kernels.backward(p, s, workspace->get(), values, reinterpret_cast<T*>(sums.data.get()));
    }
  }
}

template <class T>
void run_once(const Kernels<T>& kernels, Storage storage, Workspace<T>* workspace) {
  Given given(storage);
  Problem& p = given.p;
  const int64_t in = p.in[0] * p.in[1] * p.in[2] * p.channels * p.element,
                out = p.out[0] * p.rows() * p.channels * p.element;
  Buffer input(p.images * in, true), grad(p.maps * out, true), output(p.maps * out, false),
      grad_input(p.images * in, false);
  const bool last = p.dims == 2 && integer(0, 1) == 1;
  p.input = batch(input, p.in, p.channels, last);
  p.grad = batch(grad, p.out, p.channels, last);
  p.output = batch(output, p.out, p.channels, last);
  p.grad_input = batch(grad_input, p.in, p.channels, last);
  Buffer radial(stn::cpu::radial_values(p) * int64_t{sizeof(T)}, false);
  auto* values = reinterpret_cast<T*>(radial.data.get());
  std::vector<double> gradients(static_cast<size_t>(p.maps * p.streams() * p.basis));
  const int64_t half = integer(1, p.channels), row = integer(1, p.rows());
  for (int64_t c = 0; c < p.channels; c += half) {
    for (int64_t i = 0; i < p.rows(); i += row) {
      const stn::cpu::Unit unit{0, p.maps, c, std::min(c + half, p.channels), i, std::min(i + row, p.rows())};
      if (!(p.nearest && p.tangent)) kernels.sample(p, unit, workspace->get(), values);
      if (!p.nearest) kernels.grad_theta(p, unit, workspace->get(), values, gradients.data());
    }
  }
  run_stripes(kernels, p, workspace);
}

void run(const stn::cpu::Level& level) {
  Workspace<float> floats(level.f32);
  Workspace<double> doubles(level.f64);
  for (int k = 0; k < 250; ++k) {
    for (const Storage storage :
         {Storage::f32, Storage::f32, Storage::f16, Storage::bf16, Storage::u8, Storage::i16, Storage::u16}) {
      run_once(level.f32, storage, &floats);
    }
    run_once(level.f64, Storage::f64, &doubles);
  }
  std::printf("%s done\n", level.name);
}

}  // namespace

// Prints a line at the end; nothing where the CPU lacks the level.
int main(int, char** names) {
  const auto wanted = [&](const char* name) { return std::strcmp(names[1], name) == 0; };
  if (wanted("portable")) run(stn::cpu::portable_level());
#if defined(__x86_64__)
  if (wanted("avx2") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c")) {
    run(stn::cpu::avx2_level());
  }
  if (wanted("avx512") && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    run(stn::cpu::avx512_level());
  }
#endif
}
