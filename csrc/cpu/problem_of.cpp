#include "problem_of.h"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace stn::cpu {
namespace {

constexpr int64_t kLine = 64;  // bytes that are written past the caches together

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

template <class S>
int64_t bits_as(S value) {
  int64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(value));
  return bits;
}

template <class S>
int64_t nearest_integer(double value) {
  constexpr auto least = static_cast<double>(std::numeric_limits<S>::min()),
                 most = static_cast<double>(std::numeric_limits<S>::max());
  if (value >= most) return bits_as(std::numeric_limits<S>::max());
  return std::isnan(value) ? 0 : bits_as(static_cast<S>(std::nearbyint(std::max(value, least))));
}

// A value in images of that dtype: of integers the nearest one, and 0 of what is not a number.
int64_t bits_of(double value, at::ScalarType type) {
  switch (type) {
    case at::kDouble:
      return bits_as(value);
    case at::kFloat:
      return bits_as(static_cast<float>(value));
    case at::kHalf:
      return bits_as(c10::Half(static_cast<float>(value)));
    case at::kBFloat16:
      return bits_as(c10::BFloat16(static_cast<float>(value)));
    case at::kByte:
      return nearest_integer<uint8_t>(value);
    case at::kChar:
      return nearest_integer<int8_t>(value);
    case at::kShort:
      return nearest_integer<int16_t>(value);
    case at::kUInt16:
      return nearest_integer<uint16_t>(value);
    case at::kInt:
      return nearest_integer<int32_t>(value);
    case at::kUInt32:
      return nearest_integer<uint32_t>(value);
    case at::kLong:
      return nearest_integer<int64_t>(value);
    case at::kUInt64:
      return nearest_integer<uint64_t>(value);
    default:
      return !std::isnan(value) && value != 0;  // bool
  }
}

// Small and read once: not worth an operator of its own.
std::vector<double> doubles(const at::Tensor& t) {
  const bool readable = t.scalar_type() == at::kFloat || t.scalar_type() == at::kDouble;
  const at::Tensor from = (readable ? t : t.to(at::kDouble)).contiguous();
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
  p_.nan_bits = bits_of(std::numeric_limits<double>::quiet_NaN(), like.scalar_type());
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
  if (map.fill) fill(*map.fill, like.scalar_type());
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

void Call::fill(const at::Tensor& values, at::ScalarType type) {
  const auto channels = static_cast<size_t>(p_.channels);
  fill_ = doubles(values);
  for (const double value : fill_) fill_bits_.push_back(bits_of(value, type));
  if (values.scalar_type() == type) {  // it may have more digits than a double
    const at::Tensor from = values.contiguous();
    const auto* element = static_cast<const char*>(from.const_data_ptr());
    for (int64_t& bits : fill_bits_) {
      std::memcpy(&bits, element, static_cast<size_t>(p_.element));
      element += p_.element;
    }
  }
  for (double& value : fill_) {
    if (p_.storage != Storage::f64) value = static_cast<double>(static_cast<float>(value));
    if (std::isfinite(value)) continue;
    fill_is_infinite_ = true;
    value = 0;
  }
  if (values.numel() == 1) {
    fill_ = std::vector<double>(channels, fill_[0]);
    fill_bits_ = std::vector<int64_t>(channels, fill_bits_[0]);
  }
  p_.fill = fill_.data();
  p_.fill_bits = fill_bits_.data();
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
  p_.past_caches = output.numel() * size >= kLargeResult && p_.output.axis[0] == 1 &&
                   aligned(p_.output.axis[1]) && aligned(p_.output.channel) && aligned(p_.output.batch) &&
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
