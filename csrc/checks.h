// Every check of the operators' arguments, once: for forward and backward, and for every backend.
// Nothing has touched the tensors' memory when these run.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>
#include <c10/core/SymIntArrayRef.h>
#include <c10/util/Exception.h>

#include <optional>
#include <string>
#include <string_view>

#include "sampling/padding.h"

namespace stn {

// What all operators are told of where output pixels fall, and of how they are read there.
struct Map {
  const char* name;  // of the function that takes such maps
  at::Tensor theta;
  std::optional<at::Tensor> points, tangent, index, fill;
  bool nearest;
  Padding padding;
  bool align_corners;

  int64_t count() const { return theta.size(0); }
  bool has_perspective() const { return !points && theta.size(1) == theta.size(2); }
  // Whether images are read bilinearly through affine maps, for which there are kernels of their own.
  bool is_plain() const { return !points && !tangent && !nearest && theta.size(1) == 2; }
};

// As Python spells it.
inline std::string dtype_name(const at::Tensor& tensor) {
  return "torch." + std::string(c10::getDtypeNames(tensor.scalar_type()).first);
}

inline Padding parse_padding(std::string_view op, std::string_view name) {
  if (name == "zeros") return Padding::zeros;
  if (name == "border") return Padding::border;
  if (name == "reflection") return Padding::reflection;
  TORCH_CHECK_VALUE(false, op, ": expected padding_mode 'zeros', 'border' or 'reflection', but got '", name,
                    "'");
}

inline bool parse_nearest(std::string_view op, std::string_view mode) {
  TORCH_CHECK_VALUE(mode == "bilinear" || mode == "nearest", op,
                    ": expected mode 'bilinear' or 'nearest', but got '", mode, "'");
  return mode == "nearest";
}

// Other integers, and truth values, are moved as they are, with mode "nearest".
inline bool is_interpolated(at::ScalarType type) {
  return type == at::kFloat || type == at::kDouble || type == at::kHalf || type == at::kBFloat16 ||
         type == at::kByte || type == at::kShort || type == at::kUInt16;
}

// spatial: the lengths of images, (height, width), or of volumes, (depth, height, width).
inline void check_lengths(std::string_view op, const char* name, at::IntArrayRef spatial) {
  for (const int64_t length : spatial) {
    TORCH_CHECK_VALUE(length > 0, op, ": expected ", name, " of positive integers, but got ", spatial);
  }
}

inline void check_images(std::string_view op, const char* name, const at::Tensor& images) {
  TORCH_CHECK_VALUE(images.dim() == 4 || images.dim() == 5, op, ": expected ", name,
                    " of shape (N, C, H, W) or (N, C, D, H, W), but got ", images.sizes());
  const at::ScalarType type = images.scalar_type();
  TORCH_CHECK_TYPE(
      is_interpolated(type) || c10::isIntegralType(type, /*includeBool=*/true), op, ": expected ", name,
      " of dtype torch.float32, float64, float16, bfloat16, or of integers, but got ", dtype_name(images));
  check_lengths(op, name, images.sizes().slice(2));
}

// Images that gradients are of, or are taken by.
inline void check_differentiable(std::string_view op, const char* name, const at::Tensor& images) {
  check_images(op, name, images);
  TORCH_CHECK_TYPE(images.is_floating_point(), op, ": expected ", name,
                   " of a floating-point dtype, but got ", dtype_name(images), ", which has no gradient");
}

// Of `count` images with the channels and dtype of others.
inline void check_size(std::string_view op, at::IntArrayRef size, int64_t count, const at::Tensor& images) {
  TORCH_CHECK_VALUE(size.size() == static_cast<size_t>(images.dim() - 2), op, ": expected size of ",
                    images.dim() == 4 ? "two positive integers (height, width)"
                                      : "three positive integers (depth, height, width)",
                    ", but got ", size);
  check_lengths(op, "size", size);
  double bytes = static_cast<double>(count) * static_cast<double>(images.size(1) * images.element_size());
  for (const int64_t length : size) bytes *= static_cast<double>(length);
  TORCH_CHECK_VALUE(bytes < 0x1p63, op, ": expected size of a result below 2^63 bytes, but got ", size);
}

inline void check_device(std::string_view op, const char* name, const at::Tensor& tensor,
                         const at::Tensor& images) {
  TORCH_CHECK_VALUE(tensor.device() == images.device(), op, ": expected ", name, " on ", images.device(),
                    ", as the images, but got ", tensor.device());
}

inline void check_like_images(std::string_view op, const char* name, const at::Tensor& tensor,
                              const at::Tensor& images) {
  TORCH_CHECK_TYPE(tensor.is_floating_point(), op, ": expected ", name,
                   " of a floating-point dtype, but got ", dtype_name(tensor));
  check_device(op, name, tensor, images);
}

inline void check_theta(std::string_view op, const Map& map, const at::Tensor& images) {
  const at::Tensor& theta = map.theta;
  check_like_images(op, "theta", theta, images);
  const auto shape = [&](int64_t rows, int64_t columns) {
    return theta.dim() == 3 && theta.size(1) == rows && theta.size(2) == columns;
  };
  if (map.points) {
    const at::Tensor& points = *map.points;
    check_like_images(op, "points", points, images);
    TORCH_CHECK_VALUE(images.dim() == 4, op, ": expected images of shape (N, C, H, W), but got ",
                      images.sizes());
    TORCH_CHECK_VALUE(points.dim() == 2 && points.size(1) == 2, op,
                      ": expected points of shape (K, 2), but got ", points.sizes());
    TORCH_CHECK_VALUE(shape(2, points.size(0) + 3), op, ": expected theta of shape (N, 2, ",
                      points.size(0) + 3, "), three columns more than there are points, but got ",
                      theta.sizes());
  } else if (images.dim() == 4) {
    TORCH_CHECK_VALUE(shape(2, 3) || shape(3, 3), op,
                      ": expected theta of shape (N, 2, 3), or (N, 3, 3) for projective maps, but got ",
                      theta.sizes());
  } else {
    TORCH_CHECK_VALUE(shape(3, 4), op, ": expected theta of shape (N, 3, 4), for volumes, but got ",
                      theta.sizes());
  }
  if (map.tangent) {
    check_like_images(op, "tangent", *map.tangent, images);
    TORCH_CHECK_VALUE(map.tangent->sizes() == theta.sizes(), op, ": expected tangent of shape ",
                      theta.sizes(), ", as theta, but got ", map.tangent->sizes());
  }
}

// batch: of the images that the maps read.
inline void check_sharing(std::string_view op, const Map& map, int64_t batch, const at::Tensor& images) {
  if (!map.index) {
    TORCH_CHECK_VALUE(map.count() == batch || batch == 1, op, ": expected theta of shape (N, ",
                      map.theta.size(1), ", ", map.theta.size(2), ") with N = ", batch,
                      ", as the input's batch, but got ", map.theta.sizes());
    return;
  }
  const at::Tensor& index = *map.index;
  TORCH_CHECK_TYPE(index.scalar_type() == at::kLong, op, ": expected index of dtype torch.int64, but got ",
                   dtype_name(index));
  TORCH_CHECK_VALUE(index.dim() == 1 && index.size(0) == map.count(), op, ": expected index of shape (",
                    map.count(), "), an image for each theta, but got ", index.sizes());
  check_device(op, "index", index, images);
}

inline void check_fill(std::string_view op, const Map& map, const at::Tensor& images) {
  if (!map.fill) return;
  const at::Tensor& fill = *map.fill;
  TORCH_CHECK_TYPE(!fill.is_complex(), op, ": expected fill of real numbers, but got ", dtype_name(fill));
  TORCH_CHECK_VALUE(fill.dim() <= 1 && (fill.numel() == 1 || fill.numel() == images.size(1)), op,
                    ": expected fill of one number, or of ", images.size(1),
                    ", one for each channel, but got ", fill.sizes());
  TORCH_CHECK_VALUE(map.padding == Padding::zeros, op, ": expected padding_mode 'zeros' with fill");
  check_device(op, "fill", fill, images);
}

inline void check_sample(const at::Tensor& input, const Map& map, at::IntArrayRef size) {
  const char* op = map.name;
  check_images(op, "input", input);
  TORCH_CHECK_TYPE(
      map.nearest || is_interpolated(input.scalar_type()), op,
      ": expected input of dtype torch.float32, float64, float16, bfloat16, uint8, int16 or uint16, "
      "or mode 'nearest', but got ",
      dtype_name(input));
  check_theta(op, map, input);
  check_size(op, size, map.count(), input);
  check_sharing(op, map, input.size(0), input);
  check_fill(op, map, input);
}

inline void check_adjoint(const at::Tensor& grad, const Map& map, int64_t images, at::IntArrayRef size) {
  const std::string op = std::string(map.name) + "'s adjoint";
  check_differentiable(op, "grad", grad);
  check_size(op, size, images, grad);
  check_theta(op, map, grad);
  TORCH_CHECK_VALUE(grad.size(0) == map.count(), op, ": expected grad of ", map.count(),
                    " images, one for each theta, but got ", grad.sizes());
  check_sharing(op, map, images, grad);
}

inline void check_moments(const at::Tensor& grad, const at::Tensor& input, const Map& map) {
  const std::string op = std::string(map.name) + "'s moments";
  check_differentiable(op, "input", input);
  check_differentiable(op, "grad", grad);
  check_theta(op, map, input);
  check_sharing(op, map, input.size(0), input);
  TORCH_CHECK_VALUE(grad.dim() == input.dim() && grad.size(0) == map.count() && grad.size(1) == input.size(1),
                    op, ": expected grad of ", map.count(), " images of ", input.size(1),
                    " channels, as the output, but got ", grad.sizes());
  TORCH_CHECK_TYPE(grad.dtype() == input.dtype(), op, ": expected grad of dtype ", dtype_name(input),
                   ", as input, but got ", dtype_name(grad));
  check_device(op, "grad", grad, input);
  check_fill(op, map, input);
}

}  // namespace stn
