#include "problem_of.h"

#include <ATen/ops/zeros.h>

#include <algorithm>

namespace stn::cpu {
namespace {

constexpr int64_t kLarge = 8 << 20;  // bytes of a result of which caches keep too little for its reader
constexpr int64_t kLine = 64;        // bytes that are written past the caches together

Storage storage_of(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return Storage::f32;
    case at::kDouble:
      return Storage::f64;
    case at::kHalf:
      return Storage::f16;
    case at::kBFloat16:
      return Storage::bf16;
    case at::kByte:
      return Storage::u8;
    case at::kShort:
      return Storage::i16;
    case at::kUInt16:
      return Storage::u16;
    default:
      return Storage::f32;  // values are moved as they are
  }
}

// What stands for a coordinate that is not a number: NaN, or 0 where there is none.
int64_t nan_bits(at::ScalarType type) {
  switch (type) {
    case at::kDouble:
      return 0x7FF8000000000000;
    case at::kFloat:
      return 0x7FC00000;
    case at::kHalf:
      return 0x7E00;
    case at::kBFloat16:
      return 0x7FC0;
    default:
      return 0;
  }
}

// Small and read once: not worth an operator of its own.
std::vector<double> doubles(const at::Tensor& t) {
  const at::Tensor from = t.scalar_type() == at::kFloat || t.scalar_type() == at::kDouble
                              ? t.contiguous()
                              : t.to(at::kFloat).contiguous();
  std::vector<double> values(static_cast<size_t>(from.numel()));
  if (from.scalar_type() == at::kFloat) {
    std::copy_n(from.const_data_ptr<float>(), from.numel(), values.begin());
  } else {
    std::copy_n(from.const_data_ptr<double>(), from.numel(), values.begin());
  }
  return values;
}

}  // namespace

Call::Call(const Map& map, const at::Tensor& like, int64_t images, at::IntArrayRef in_size,
           at::IntArrayRef out_size)
    : theta_(doubles(map.theta)) {
  p_.dims = static_cast<int>(in_size.size());
  p_.perspective = map.has_perspective();
  p_.nearest = map.nearest;
  p_.align_corners = map.align_corners;
  p_.padding = map.padding;
  p_.storage = storage_of(like.scalar_type());
  p_.element = static_cast<int64_t>(like.element_size());
  p_.nan_bits = nan_bits(like.scalar_type());
  for (int d = 0; d < kMaxAxes; ++d) {
    const bool used = d < p_.dims;
    p_.in[d] = used ? in_size[static_cast<size_t>(p_.dims - 1 - d)] : 1;
    p_.out[d] = used ? out_size[static_cast<size_t>(p_.dims - 1 - d)] : 1;
  }
  p_.maps = map.count();
  p_.images = images;
  p_.channels = like.size(1);
  p_.basis = map.theta.size(2);
  p_.theta = theta_.data();
  if (map.tangent) {
    tangent_ = doubles(*map.tangent);
    p_.tangent = tangent_.data();
  }
  if (map.points) {
    points_ = doubles(*map.points);
    p_.points = points_.data();
  }
  if (map.index) {
    const at::Tensor index = map.index->contiguous();
    index_.assign(index.const_data_ptr<int64_t>(), index.const_data_ptr<int64_t>() + index.numel());
    // Checked where it is used: the tensor may be changed by another thread meanwhile.
    for (const int64_t image : index_) {
      TORCH_CHECK_INDEX(image >= 0 && image < images, map.name, ": expected index of images from 0 to ",
                        images - 1, ", but got ", image);
    }
  } else if (images != p_.maps) {
    index_.assign(static_cast<size_t>(p_.maps), 0);
  }
  if (!index_.empty()) p_.index = index_.data();
}

Batch Call::batch(const at::Tensor& t, void* data) const {
  Batch b{static_cast<char*>(data), t.stride(0), t.stride(1), {}};
  for (int d = 0; d < p_.dims; ++d) b.axis[d] = t.stride(t.dim() - 1 - d);
  return b;
}

void Call::read(const at::Tensor& input) {
  kept_[0] = input;
  p_.input = batch(input, const_cast<void*>(input.const_data_ptr()));
}

void Call::write(const at::Tensor& output) {
  kept_[1] = output;
  p_.output = batch(output, output.mutable_data_ptr());
  const int64_t size = p_.element;
  const auto aligned = [&](int64_t elements) { return elements * size % kLine == 0; };
  p_.past_caches = output.numel() * size >= kLarge && p_.output.axis[0] == 1 && aligned(p_.output.axis[1]) &&
                   aligned(p_.output.channel) && aligned(p_.output.batch) &&
                   reinterpret_cast<uintptr_t>(p_.output.data) % kLine == 0;
}

void Call::read_grad(const at::Tensor& grad, const at::Tensor& like) {
  kept_[1] = grad.contiguous(like.suggest_memory_format());
  p_.grad = batch(kept_[1], const_cast<void*>(kept_[1].const_data_ptr()));
}

void Call::write_grad_input(const at::Tensor& grad_input) {
  kept_[2] = grad_input;
  p_.grad_input = batch(grad_input, grad_input.mutable_data_ptr());
}

std::vector<Readers> Call::readers() {
  std::vector<int64_t> starts(static_cast<size_t>(p_.images) + 1);
  for (int64_t n = 0; n < p_.maps; ++n) ++starts[static_cast<size_t>(p_.image_of(n)) + 1];
  for (size_t k = 1; k < starts.size(); ++k) starts[k] += starts[k - 1];
  std::vector<int64_t> next(starts.begin(), starts.end() - 1);
  order_.resize(static_cast<size_t>(p_.maps));
  for (int64_t n = 0; n < p_.maps; ++n) {
    order_[static_cast<size_t>(next[static_cast<size_t>(p_.image_of(n))]++)] = n;
  }
  std::vector<Readers> readers;
  for (size_t k = 0; k + 1 < starts.size(); ++k) {
    readers.push_back({order_.data() + starts[k], order_.data() + starts[k + 1]});
  }
  return readers;
}

}  // namespace stn::cpu
