#include "call.h"

namespace stn::cuda {
namespace {

MapKind kind_of(const Map& map) {
  if (map.points) return MapKind::spline;
  if (map.has_perspective()) return MapKind::projective;
  return map.theta.size(1) == 3 ? MapKind::volume : MapKind::affine;
}

Storage storage_of(at::ScalarType type) {
  switch (type) {
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
      return Storage::f32;  // or values are moved as they are
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

Numbers numbers_of(const at::Tensor& t) {
  return t.defined() ? Numbers{t.const_data_ptr(), storage_of(t.scalar_type())} : Numbers{};
}

}  // namespace

Call::Call(const Map& map, const at::Tensor& like, int64_t images, at::IntArrayRef in_size,
           at::IntArrayRef out_size)
    : theta_(map.theta.contiguous()) {
  p_.kind = kind_of(map);
  p_.storage = storage_of(like.scalar_type());
  p_.padding = map.padding;
  p_.nearest = map.nearest;
  p_.align_corners = map.align_corners;
  p_.narrow = true;
  const size_t dims = in_size.size();
  for (size_t d = 0; d < kMaxAxes; ++d) {
    p_.axis[d] = d < dims
                     ? axis_of(in_size[dims - 1 - d], out_size[dims - 1 - d], map.padding, map.align_corners)
                     : axis_of(1, 1, map.padding, map.align_corners);
  }
  p_.maps = map.count();
  p_.images = images;
  p_.channels = static_cast<int>(like.size(1));
  p_.basis = static_cast<int>(map.theta.size(2));
  p_.element = static_cast<int>(like.element_size());
  p_.nan_bits = nan_bits(like.scalar_type());
  if (map.tangent) tangent_ = map.tangent->contiguous();
  if (map.points) points_ = map.points->contiguous();
  p_.theta = numbers_of(theta_);
  p_.tangent = numbers_of(tangent_);
  p_.points = numbers_of(points_);
  if (map.fill) {
    const at::ScalarType type = like.scalar_type();
    const auto computed = type == at::kDouble ? at::kDouble : at::kFloat;
    fill_ = *map.fill;
    // What pictures cannot hold is brought into their range, as values between pixels are.
    if (map.nearest && type == at::kByte) fill_ = fill_.to(at::kDouble).nan_to_num(0).clamp(0, 255).round();
    fill_ = fill_.to(map.nearest ? type : computed).contiguous();
    p_.fill = fill_.const_data_ptr();
    p_.fill_step = fill_.numel() == 1 ? 0 : 1;
  }
  if (map.index) {
    index_ = map.index->contiguous();
    p_.index = index_.const_data_ptr<int64_t>();
  }
}

Batch Call::batch(const at::Tensor& t, const void* data) {
  const int64_t size = t.element_size();
  Batch b{static_cast<char*>(const_cast<void*>(data)), t.stride(0) * size, t.stride(1) * size, {}};
  for (int64_t d = 0; d < t.dim() - 2; ++d) b.axis[d] = t.stride(t.dim() - 1 - d) * size;
  p_.narrow = p_.narrow && is_narrow(b);
  return b;
}

void Call::read(const at::Tensor& input) { p_.input = batch(input, input.const_data_ptr()); }
void Call::write(const at::Tensor& output) { p_.output = batch(output, output.mutable_data_ptr()); }
void Call::read_grad(const at::Tensor& grad) { p_.grad = batch(grad, grad.const_data_ptr()); }
void Call::write_grad_input(const at::Tensor& grad_input) {
  p_.grad_input = batch(grad_input, grad_input.mutable_data_ptr());
}

}  // namespace stn::cuda
