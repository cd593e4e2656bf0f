// Every check of the operators' arguments, once: for forward and backward, and for every backend.
// Nothing has touched the tensors' memory when these run.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/SymIntArrayRef.h>
#include <c10/util/Exception.h>

#include <string_view>

#include "sampling.h"

namespace stn {

inline Padding parse_padding(const char* op, std::string_view name) {
  if (name == "zeros") return Padding::zeros;
  if (name == "border") return Padding::border;
  if (name == "reflection") return Padding::reflection;
  TORCH_CHECK_VALUE(false, op, ": expected padding_mode 'zeros', 'border' or 'reflection', but got '", name,
                    "'");
}

inline void check_images(const char* op, const char* name, const at::Tensor& images) {
  TORCH_CHECK_VALUE(images.dim() == 4, op, ": expected ", name, " of shape (N, C, H, W), but got ",
                    images.sizes());
  TORCH_CHECK_TYPE(images.scalar_type() == at::kFloat || images.scalar_type() == at::kDouble, op,
                   ": expected ", name, " of dtype torch.float32 or torch.float64, but got ", images.dtype());
}

inline void check_size(const char* op, const char* name, at::IntArrayRef size) {
  TORCH_CHECK_VALUE(size.size() == 2 && size[0] > 0 && size[1] > 0, op, ": expected ", name,
                    " of two positive integers (height, width), but got ", size);
}

inline void check_theta(const char* op, const at::Tensor& theta, const char* name, const at::Tensor& images) {
  TORCH_CHECK_VALUE(
      theta.dim() == 3 && theta.size(0) == images.size(0) && theta.size(1) == 2 && theta.size(2) == 3, op,
      ": expected theta of shape (N, 2, 3) with N = ", images.size(0), ", as ", name, "'s batch, but got ",
      theta.sizes());
  TORCH_CHECK_TYPE(theta.is_floating_point(), op, ": expected theta of a floating-point dtype, but got ",
                   theta.dtype());
  TORCH_CHECK_VALUE(theta.device() == images.device(), op, ": expected theta on ", images.device(), ", as ",
                    name, ", but got ", theta.device());
}

inline void check_sample(const at::Tensor& input, const at::Tensor& theta, at::IntArrayRef size) {
  const char* op = "affine_sample";
  check_images(op, "input", input);
  check_size(op, "input's height and width", input.sizes().slice(2));
  check_size(op, "size", size);
  check_theta(op, theta, "input", input);
}

inline void check_adjoint(const at::Tensor& grad, const at::Tensor& theta, at::IntArrayRef size) {
  const char* op = "affine_sample_adjoint";
  check_images(op, "grad", grad);
  check_size(op, "grad's height and width", grad.sizes().slice(2));
  check_size(op, "size", size);
  check_theta(op, theta, "grad", grad);
}

inline void check_moments(const at::Tensor& grad, const at::Tensor& input, const at::Tensor& theta) {
  const char* op = "affine_sample_moments";
  check_images(op, "input", input);
  check_size(op, "input's height and width", input.sizes().slice(2));
  check_images(op, "grad", grad);
  check_size(op, "grad's height and width", grad.sizes().slice(2));
  TORCH_CHECK_VALUE(grad.size(0) == input.size(0) && grad.size(1) == input.size(1), op, ": expected grad of ",
                    input.size(0), " images of ", input.size(1), " channels, as input, but got ",
                    grad.sizes());
  TORCH_CHECK_TYPE(grad.dtype() == input.dtype(), op, ": expected grad of dtype ", input.dtype(),
                   ", as input, but got ", grad.dtype());
  TORCH_CHECK_VALUE(grad.device() == input.device(), op, ": expected grad on ", input.device(),
                    ", as input, but got ", grad.device());
  check_theta(op, theta, "input", input);
}

}  // namespace stn
