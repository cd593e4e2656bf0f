// From tensors to the kernels' Problem.
#pragma once

#include <ATen/core/Tensor.h>

#include "../checks.h"
#include "problem.h"

namespace stn::cuda {

// A call, and the tensors that its Problem points into. The tensors' device is the current one.
class Call {
 public:
  // like: the images whose dtype and channels the call has. Sizes are (height, width), or (depth, height,
  // width).
  Call(const Map& map, const at::Tensor& like, int64_t images, at::IntArrayRef in_size,
       at::IntArrayRef out_size);
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  void read(const at::Tensor& input);
  void write(const at::Tensor& output);
  void read_grad(const at::Tensor& grad);
  void write_grad_input(const at::Tensor& grad_input);

  const Problem& problem() const { return p_; }

 private:
  Problem p_{};
  at::Tensor theta_, tangent_, points_, index_, fill_;

  Batch batch(const at::Tensor& t, const void* data);
};

}  // namespace stn::cuda
