#include "parallel.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

#include "level.h"

namespace stn::cpu {
namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Memory of a thread's own, aligned to cache lines; `zero`: zeros.
class Memory {
 public:
  Memory() = default;
  Memory(size_t bytes, bool zero)
      : memory_(zero ? std::calloc(bytes + kLine, 1) : std::malloc(bytes + kLine)) {
    if (!memory_) throw std::bad_alloc();
  }
  void* get() const {
    const auto address = reinterpret_cast<uintptr_t>(memory_.get());
    return reinterpret_cast<void*>((address + kLine - 1) / kLine * kLine);
  }
  explicit operator bool() const { return memory_ != nullptr; }

 private:
  static constexpr size_t kLine = 64;
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  std::unique_ptr<void, Free> memory_;
};

// Kept from call to call: to have memory anew costs as much as a small image.
template <class T>
void* workspace() {
  thread_local Memory memory;
  if (!memory) memory = Memory(static_cast<size_t>(kernels<T>().workspace_bytes), true);
  return memory.get();
}

template <class T>
class Values {
 public:
  explicit Values(int64_t count) {
    if (count > 0) memory_ = Memory(static_cast<size_t>(count) * sizeof(T), false);
  }
  T* get() const { return memory_ ? static_cast<T*>(memory_.get()) : nullptr; }

 private:
  Memory memory_;
};

// Channels that are worked on together: whole vectors where there are enough of them, or a few planes.
template <class T>
int64_t granule(const Problem& p) {
  const int64_t group = kernels<T>().group;
  return p.channels >= group ? group : std::min(p.channels, kFew);
}

// Whether maps share what radial functions cost: of few channels. Of many, what a map's tile costs is shared
// by its channels.
bool shares_radial(const Problem& p) { return p.points && p.channels <= kFew; }

// The division of the maps, of the output's rows and of the channels.
template <class T>
struct Units {
  int64_t maps, rows, channels;  // of one
  int64_t across, down, deep;    // and how many there are
  const Problem& p;

  explicit Units(const Problem& problem) : p(problem) {
    maps = shares_radial(p) ? std::min(p.maps, kSharedMaps) : 1;
    const int64_t row = maps * p.out[0], tile = tile_rows(p.out[0], tile_pixels<T>(p));
    // Whole tiles, as equal as they can be; of many channels a whole image where it is small, whose window
    // then serves all its tiles.
    int64_t wanted = std::max(ceil_div(kUnit, row * p.channels), p.dims == 2 ? tile : 1);
    if (p.channels >= kernels<T>().group && p.rows() * row * kernels<T>().group <= kTask) wanted = p.rows();
    rows = ceil_div(p.rows(), ceil_div(p.rows(), wanted));
    const int64_t unit = granule<T>(p);
    channels = std::min(p.channels, ceil_div(ceil_div(kUnit, rows * row), unit) * unit);
    // The nearest pixel is moved as it lies in memory.
    const bool moved = p.nearest && is_interleaved(p.input) && p.maps >= kStripes;
    if (p.points || moved || p.channels - channels < unit) channels = p.channels;
    across = ceil_div(p.maps, maps);
    down = ceil_div(p.rows(), rows);
    deep = ceil_div(p.channels, channels);
  }

  int64_t count() const { return across * down * deep; }
  int64_t parts() const { return down * deep; }  // of each map
  Unit at(int64_t k) const {
    const int64_t map = k / parts() * maps, c = k % parts() / down * channels, row = k % down * rows;
    return {map, std::min(map + maps, p.maps),  c, std::min(c + channels, p.channels),
            row, std::min(row + rows, p.rows())};
  }
  int64_t grain() const {
    const int64_t values = maps * rows * p.out[0] * channels;
    return std::max<int64_t>(1, kGrain / values);
  }
};

// f(unit, its number, workspace, memory for radial functions), over all threads.
template <class T, class F>
void for_units(const Units<T>& units, const F& f) {
  at::parallel_for(0, units.count(), units.grain(), [&](int64_t begin, int64_t end) {
    const Values<T> radial(radial_values(units.p));
    for (int64_t k = begin; k < end; ++k) f(units.at(k), k, workspace<T>(), radial.get());
  });
}

// The division of the input's gradient into stripes of images and channels.
template <class T>
struct Stripes {
  int64_t images, channels, length;  // of one
  int64_t across, deep, down;        // and how many there are
  const Problem& p;

  Stripes(const Problem& problem, bool apart) : p(problem) {
    images = shares_radial(p) ? std::min(p.images, kSharedImages) : 1;
    across = ceil_div(p.images, images);
    const int64_t in_pixels = p.in[0] * p.in[1] * p.in[2], out_pixels = p.out[0] * p.rows();
    const int64_t pixels = std::max(in_pixels, out_pixels), unit = granule<T>(p);
    channels =
        std::min(p.channels, unit > kFew ? unit : ceil_div(ceil_div(kTask, pixels * images), unit) * unit);
    if (p.points) channels = p.channels;
    deep = ceil_div(p.channels, channels);
    const int64_t all = p.in[p.dims - 1], least = p.dims == 2 ? kStripeRows : kStripeSlices;
    int64_t wanted = std::min(ceil_div(kStripes, across * deep), ceil_div(pixels * channels, kTask));
    wanted = std::min(wanted, all / least);
    if (apart) wanted = std::max(wanted, ceil_div(in_pixels * images * channels, kApart));
    length = ceil_div(all, std::max<int64_t>(wanted, 1));
    down = ceil_div(all, length);
  }

  int64_t count() const { return across * deep * down; }
  int64_t parts() const { return deep * down; }
  Stripe at(int64_t k) const {
    const int64_t image = k / parts() * images, c = k % parts() / down * channels, first = k % down * length;
    Stripe s{};
    s.image_begin = image;
    s.image_end = std::min(image + images, p.images);
    s.channel_begin = c;
    s.channel_end = std::min(c + channels, p.channels);
    s.begin = first;
    s.end = std::min(first + length, p.in[p.dims - 1]);
    return s;
  }
  int64_t grain() const {
    const int64_t in_pixels = p.in[0] * p.in[1] * p.in[2], out_pixels = p.out[0] * p.rows();
    const int64_t values = std::max(in_pixels, out_pixels) * images * channels / down;
    return std::max<int64_t>(1, kGrain / 2 / std::max<int64_t>(values, 1));
  }
};

// Which rows of the input the tiles of each map touch (maps, tiles).
template <class T>
std::vector<Range> ranges_of(const Problem& p) {
  const int64_t tiles = Tiles(p, tile_pixels<T>(p)).count();
  std::vector<Range> ranges(static_cast<size_t>(p.maps * tiles));
  at::parallel_for(0, p.maps, 1, [&](int64_t begin, int64_t end) {
    const Values<T> radial(radial_values(p));
    for (int64_t n = begin; n < end; ++n) {
      kernels<T>().ranges(p, n, workspace<T>(), radial.get(), ranges.data() + n * tiles);
    }
  });
  return ranges;
}

// The sums of `parts` parts of each entry, in order.
std::vector<double> totals(const std::vector<double>& sums, size_t parts) {
  std::vector<double> total(sums.size() / std::max<size_t>(parts, 1));
  for (size_t part = 0; part < parts; ++part) {
    for (size_t k = 0; k < total.size(); ++k) total[k] += sums[part * total.size() + k];
  }
  return total;
}

}  // namespace

void run_sample(const Problem& p) {
  with_type(p, [&](auto type) {
    using T = decltype(type);
    for_units(Units<T>(p), [&](const Unit& unit, int64_t, void* workspace, T* radial) {
      kernels<T>().sample(p, unit, workspace, radial);
    });
  });
}

std::vector<double> run_grad_theta(const Problem& p) {
  return with_type(p, [&](auto type) {
    using T = decltype(type);
    const Units<T> units(p);
    const int64_t own = p.streams() * p.basis, parts = units.parts();
    std::vector<double> sums(static_cast<size_t>(parts * p.maps * own));
    for_units(units, [&](const Unit& unit, int64_t k, void* workspace, T* radial) {
      double* to = sums.data() + (k % parts * p.maps + unit.map_begin) * own;
      kernels<T>().grad_theta(p, unit, workspace, radial, to);
    });
    return totals(sums, static_cast<size_t>(parts));
  });
}

std::vector<double> run_backward(const Problem& p, const std::vector<Readers>& readers, bool theta) {
  return with_type(p, [&](auto type) {
    using T = decltype(type);
    const bool apart = is_apart(p);
    const Stripes<T> stripes(p, apart);
    const int64_t entries = p.maps * p.streams() * p.basis, parts = stripes.parts();
    std::vector<double> sums(static_cast<size_t>(theta ? parts * entries : 0));
    const std::vector<Range> ranges = stripes.down > 1 ? ranges_of<T>(p) : std::vector<Range>();
    at::parallel_for(0, stripes.count(), stripes.grain(), [&](int64_t begin, int64_t end) {
      const Values<T> radial(radial_values(p));
      const Values<T> memory(apart ? stripes.images * stripe_values(p, stripes.at(0)) : 0);
      for (int64_t k = begin; k < end; ++k) {
        Stripe s = stripes.at(k);
        s.readers = readers.data();
        s.ranges = ranges.empty() ? nullptr : ranges.data();
        s.gradients = theta ? sums.data() + k % parts * entries : nullptr;
        s.grad_input = true;
        kernels<T>().backward(p, s, workspace<T>(), radial.get(), memory.get());
      }
    });
    return totals(sums, static_cast<size_t>(theta ? parts : 0));
  });
}

}  // namespace stn::cpu
