// How work is divided over threads, and which maps read which image.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels.h"
#include "tensors.h"

namespace stn::cpu {

constexpr int64_t kUnit = 1 << 14;   // output values that are worth a task of their own
constexpr int64_t kGrain = 1 << 15;  // and those that are worth waking a thread

constexpr int64_t kLarge = 8 << 20;  // bytes of a result of which caches keep too little for its reader

// Values to work with, aligned as vectors are; nothing is in them yet.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t values)
      : memory_(new unsigned char[static_cast<size_t>(values) * sizeof(T) + kVector]) {
    const auto address = reinterpret_cast<uintptr_t>(memory_.get());
    values_ = reinterpret_cast<T*>((address + kVector - 1) / kVector * kVector);
  }
  T* get() const { return values_; }

 private:
  static constexpr size_t kVector = 64;  // bytes
  std::unique_ptr<unsigned char[]> memory_;
  T* values_;
};

template <class T>
Scratch<T> zero_scratch(int64_t values) {
  Scratch<T> scratch(values);
  std::fill_n(scratch.get(), values, T(0));
  return scratch;
}

// Whether to write images past the caches: a large result would only drive other data out of them.
template <class T>
bool streams(const at::Tensor& t, const Images<T>& to) {
  const auto aligned = [](int64_t elements) { return elements * int64_t{sizeof(T)} % kStreamed == 0; };
  return t.numel() * int64_t{sizeof(T)} >= kLarge && reinterpret_cast<uintptr_t>(to.data) % kStreamed == 0 &&
         to.pixel == 1 && aligned(to.row) && aligned(to.channel) && aligned(to.batch);
}

// An axis of the input in the fewest parts of at most `most` pixels, as equal as they can be in whole
// `unit`s.
struct Tiling {
  int64_t length, size, count;

  Tiling(int64_t n, int64_t most, int64_t unit)
      : length(n), size(ceil_div(ceil_div(n, ceil_div(n, most)), unit) * unit), count(ceil_div(n, size)) {}
  int64_t begin(int64_t k) const { return k * size; }
  int64_t extent(int64_t k) const { return std::min(size, length - k * size); }
};

// Of a tile's rows, so that each begins where streams can.
template <class T>
int64_t tiling_unit(bool streams) {
  return streams ? kStreamed / int64_t{sizeof(T)} : 1;
}

// The division of the channels for adjoint.
struct ChannelGroups {
  bool vectors;
  int64_t size, count, scratch;  // channels in a group, groups, values to work with

  // Of planes. group: channels in a vector.
  ChannelGroups(int64_t channels, int64_t group, bool sparse)
      : vectors(channels >= group && !sparse),
        size(vectors ? group : std::min(kQuadChannels, channels)),
        count(ceil_div(channels, size)),
        scratch(std::max(vectors ? kTileCells * group : 0, quad_scratch(std::min(kQuadChannels, size)))) {}
  // Of at most so many.
  ChannelGroups(int64_t channels, int64_t most)
      : vectors(false), size(std::min(most, channels)), count(ceil_div(channels, size)), scratch(0) {}
};

// The maps that read each image, in order.
class Sharing {
 public:
  Sharing(const Map& map, int64_t images)
      : order_(static_cast<size_t>(map.count())), starts_(static_cast<size_t>(images) + 1) {
    const at::Tensor index = shared_index(map, images);
    const auto image_of = [&](size_t n) {
      return index.defined() ? static_cast<size_t>(index.const_data_ptr<int64_t>()[n]) : n;
    };
    for (size_t n = 0; n < order_.size(); ++n) ++starts_[image_of(n) + 1];
    for (size_t k = 1; k < starts_.size(); ++k) starts_[k] += starts_[k - 1];
    std::vector<int64_t> next(starts_.begin(), starts_.end() - 1);
    for (size_t n = 0; n < order_.size(); ++n) {
      order_[static_cast<size_t>(next[image_of(n)]++)] = static_cast<int64_t>(n);
    }
  }

  int64_t images() const { return static_cast<int64_t>(starts_.size()) - 1; }
  Readers readers(int64_t image) const {
    const int64_t* start = starts_.data() + image;
    return {order_.data() + start[0], order_.data() + start[1]};
  }

 private:
  std::vector<int64_t> order_, starts_;
};

}  // namespace stn::cpu
