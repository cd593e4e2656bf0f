// The CPU's two ways to carry out an operator, for float32 and float64; arguments are checked, results are
// not empty.
#pragma once

#include "operators.h"

namespace stn::cpu {

// Bilinear sampling through affine maps (Map::is_plain).
void affine_sample(const at::Tensor& input, const Map& map, const at::Tensor& output);
at::Tensor affine_moments(const at::Tensor& grad, const at::Tensor& input, const Map& map);
void affine_adjoint(const at::Tensor& grad, const Map& map, const at::Tensor& grad_input);

// Everything.
void warp_sample(const at::Tensor& input, const Map& map, const at::Tensor& output);
at::Tensor warp_moments(const at::Tensor& grad, const at::Tensor& input, const Map& map);
void warp_adjoint(const at::Tensor& grad, const Map& map, const at::Tensor& grad_input);

}  // namespace stn::cpu
