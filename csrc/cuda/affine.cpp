// Bilinear sampling through affine maps on CUDA: tensors to launches, on the current stream.
#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include "backend.h"
#include "cuda/tensors.h"
#include "kernels.h"

namespace stn::cuda {
namespace {

// A dtype's elements as the kernels know them.
template <class T>
struct StoredAs {
  using type = T;
};
template <>
struct StoredAs<at::Half> {
  using type = Half;
};
template <>
struct StoredAs<at::BFloat16> {
  using type = BFloat16;
};

// f(an element of the images' dtype, of which only the type matters)
template <class F>
void with_storage(const at::Tensor& images, const F& f) {
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, images.scalar_type(), "affine_sample",
                                  [&] { f(typename StoredAs<scalar_t>::type{}); });
}

template <class S>
Images<const S> stored_in(const at::Tensor& t) {
  return strided(t, static_cast<const S*>(t.const_data_ptr()));
}

template <class S>
Images<S> stored_out(const at::Tensor& t) {
  return strided(t, static_cast<S*>(t.mutable_data_ptr()));
}

// What maps read: a single image stands for as many as there are maps.
at::Tensor images_read(const at::Tensor& input, const Map& map) {
  return map.index ? input : input.expand({map.count(), -1, -1, -1});
}

at::Tensor index_of(const Map& map) { return map.index ? map.index->contiguous() : at::Tensor(); }

// Theta's gradient, and what the first launch of moments leaves for the second; theta is from
// float_or_double.
struct ThetaGradient {
  at::Tensor partial, gradient;

  template <class S>
  ThetaGradient(const Problem<S>& p, const at::Tensor& theta)
      : partial(empty({p.batches, moment_blocks(p), kMoments}, theta.options().dtype(at::kDouble))),
        gradient(empty(theta.sizes(), theta.options())) {}

  double* moments() const { return static_cast<double*>(partial.mutable_data_ptr()); }
};

}  // namespace

void affine_sample(const at::Tensor& input, const Map& map, const at::Tensor& output) {
  const at::Tensor images = images_read(input, map), theta = float_or_double(map.theta),
                   index = index_of(map);
  with_storage(input, [&](auto element) {
    using S = decltype(element);
    auto p =
        make_problem<S>(map, theta, index, input.size(1), input.sizes().slice(2), output.sizes().slice(2));
    p.input = stored_in<S>(images);
    p.output = stored_out<S>(output);
    C10_CUDA_CHECK(launch_sample(p, c10::cuda::getCurrentCUDAStream()));
  });
}

at::Tensor affine_moments(const at::Tensor& grad, const at::Tensor& input, const Map& map) {
  const at::Tensor images = images_read(input, map), theta = float_or_double(map.theta),
                   index = index_of(map);
  at::Tensor grad_theta;
  with_storage(input, [&](auto element) {
    using S = decltype(element);
    auto p = make_problem<S>(map, theta, index, input.size(1), input.sizes().slice(2), grad.sizes().slice(2));
    p.input = stored_in<S>(images);
    p.grad = stored_in<S>(grad);
    const ThetaGradient to(p, theta);
    C10_CUDA_CHECK(
        launch_moments(p, to.moments(), to.gradient.mutable_data_ptr(), c10::cuda::getCurrentCUDAStream()));
    grad_theta = to.gradient;
  });
  return grad_theta;
}

void affine_adjoint(const at::Tensor& grad, const Map& map, const at::Tensor& grad_input) {
  const at::Tensor theta = float_or_double(map.theta);
  with_storage(grad, [&](auto element) {
    using S = decltype(element);
    auto p =
        make_problem<S>(map, theta, {}, grad.size(1), grad_input.sizes().slice(2), grad.sizes().slice(2));
    p.grad = stored_in<S>(grad);
    p.grad_input = stored_out<S>(grad_input);
    C10_CUDA_CHECK(launch_adjoint(p, c10::cuda::getCurrentCUDAStream()));
  });
}

at::Tensor affine_backward(const at::Tensor& grad, const at::Tensor& input, const Map& map,
                           const at::Tensor& grad_input) {
  const at::Tensor theta = float_or_double(map.theta);
  at::Tensor grad_theta;
  with_storage(input, [&](auto element) {
    using S = decltype(element);
    auto p = make_problem<S>(map, theta, {}, input.size(1), input.sizes().slice(2), grad.sizes().slice(2));
    p.input = stored_in<S>(input);
    p.grad = stored_in<S>(grad);
    p.grad_input = stored_out<S>(grad_input);
    const ThetaGradient to(p, theta);
    C10_CUDA_CHECK(
        launch_backward(p, to.moments(), to.gradient.mutable_data_ptr(), c10::cuda::getCurrentCUDAStream()));
    grad_theta = to.gradient;
  });
  return grad_theta;
}

}  // namespace stn::cuda
