// CUDA's two ways to carry out an operator; arguments are checked, results are not empty, the tensors' device
// is the current one.
#pragma once

#include <tuple>

#include "operators.h"

namespace stn::cuda {

// Not at::empty, which fills what it gives where deterministic algorithms are asked for: every element is
// written.
at::Tensor empty(at::IntArrayRef shape, const at::TensorOptions& options);

// Bilinear sampling through affine maps (Map::is_plain): float32, float64, float16 and bfloat16.
// Map n reads image n, or as its index says.
void affine_sample(const at::Tensor& input, const Map& map, const at::Tensor& output);
at::Tensor affine_moments(const at::Tensor& grad, const at::Tensor& input, const Map& map);
// Map n reads image n.
void affine_adjoint(const at::Tensor& grad, const Map& map, const at::Tensor& grad_input);
at::Tensor affine_backward(const at::Tensor& grad, const at::Tensor& input, const Map& map,
                           const at::Tensor& grad_input);  // theta's gradient

// Everything, in float32 and float64.
void warp_sample(const at::Tensor& input, const Map& map, const at::Tensor& output);
at::Tensor warp_moments(const at::Tensor& grad, const at::Tensor& input, const Map& map);
void warp_adjoint(const at::Tensor& grad, const Map& map, const at::Tensor& grad_input);

}  // namespace stn::cuda
