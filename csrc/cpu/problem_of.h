// From tensors to the kernels' Problem.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "../checks.h"
#include "problem.h"

namespace stn::cpu {

// A call, and the memory that its Problem points into.
class Call {
 public:
  // like: the images whose dtype and layout the call has.
  Call(const Map& map, const at::Tensor& like, int64_t images, at::IntArrayRef in_size,
       at::IntArrayRef out_size);
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  void read(const at::Tensor& input);
  void write(const at::Tensor& output);
  // grad: of the output; like: images whose layout it is given.
  void read_grad(const at::Tensor& grad, const at::Tensor& like);
  void write_grad_input(const at::Tensor& grad_input);

  const Problem& problem() const { return p_; }
  // Sums have 0 in the place of what is not finite.
  bool fill_is_infinite() const { return fill_is_infinite_; }
  // The maps that read each image, in order.
  std::vector<Readers> readers();
  int64_t theta_entries() const { return p_.maps * p_.streams() * p_.basis; }

 private:
  Problem p_{};
  std::vector<double> theta_, tangent_, points_, fill_;
  std::vector<int64_t> index_, order_, fill_bits_;
  bool fill_is_infinite_ = false;
  at::Tensor kept_[3];

  void fill(const at::Tensor& values, at::ScalarType type);
  Batch batch(const at::Tensor& t, void* data) const;
};

// f(T()), of the type that images are computed with.
template <class F>
auto with_type(const Problem& p, const F& f) {
  return p.storage == Storage::f64 ? f(double()) : f(float());
}

}  // namespace stn::cpu
