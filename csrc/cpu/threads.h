// How work is divided over threads, and which maps read which image.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.h"
#include "tensors.h"

namespace stn::cpu {

constexpr int64_t kUnit = 1 << 14;   // output values that are worth a task of their own
constexpr int64_t kGrain = 1 << 15;  // and those that are worth waking a thread

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
