// The operators on CUDA: tensors to launches, on the tensors' device and the current stream.
#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/cuda/EmptyTensor.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <tuple>

#include "checks.h"
#include "kernels.h"
#include "tensors.h"

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
Images<const S> images_in(const at::Tensor& t) {
  return strided(t, static_cast<const S*>(t.const_data_ptr()));
}

template <class S>
Images<S> images_out(const at::Tensor& t) {
  return strided(t, static_cast<S*>(t.mutable_data_ptr()));
}

// The kernels count pixels along an axis, and channels, in 32 bits, a tile beyond the last one included.
void check_lengths(const at::Tensor& images, at::IntArrayRef other_size) {
  constexpr int64_t longest = int64_t{1} << 30;
  for (const at::IntArrayRef size : {images.sizes().slice(1), other_size}) {
    for (const int64_t length : size) {
      TORCH_CHECK_VALUE(length <= longest,
                        "affine_sample: expected at most 2^30 channels, rows and columns on CUDA, but got ",
                        images.sizes(), " and ", other_size);
    }
  }
}

// Not at::empty, which fills what it gives where deterministic algorithms are asked for: every element is
// written. In the memory format of `like`.
at::Tensor empty_images(const at::Tensor& like, at::IntArrayRef size) {
  return at::detail::empty_cuda({like.size(0), like.size(1), size[0], size[1]},
                                like.options().memory_format(like.suggest_memory_format()));
}

// Theta's gradient, and what the first launch of moments leaves for the second; theta is from
// float_or_double.
struct ThetaGradient {
  at::Tensor partial, gradient;

  template <class S>
  ThetaGradient(const Problem<S>& p, const at::Tensor& theta)
      : partial(at::detail::empty_cuda({p.batches, moment_blocks(p), kMoments},
                                       theta.options().dtype(at::kDouble))),
        gradient(at::detail::empty_cuda(theta.sizes(), theta.options())) {}

  double* moments() const { return static_cast<double*>(partial.mutable_data_ptr()); }
};

at::Tensor sample(const at::Tensor& input, const at::Tensor& theta, at::IntArrayRef size,
                  c10::string_view padding_mode, bool align_corners) {
  const Padding padding = parse_padding("affine_sample", {padding_mode.data(), padding_mode.size()});
  check_sample(input, theta, size);
  check_lengths(input, size);
  const c10::cuda::CUDAGuard guard(input.device());
  const at::Tensor output = empty_images(input, size);
  if (output.numel() == 0) return output;
  const at::Tensor t = float_or_double(theta);
  with_storage(input, [&](auto element) {
    using S = decltype(element);
    auto p = make_problem<S>(input, input.sizes().slice(2), size, align_corners, padding, t);
    p.input = images_in<S>(input);
    p.output = images_out<S>(output);
    C10_CUDA_CHECK(launch_sample(p, c10::cuda::getCurrentCUDAStream()));
  });
  return output;
}

at::Tensor moments(const at::Tensor& grad, const at::Tensor& input, const at::Tensor& theta,
                   c10::string_view padding_mode, bool align_corners) {
  const Padding padding = parse_padding("affine_sample_moments", {padding_mode.data(), padding_mode.size()});
  check_moments("affine_sample_moments", grad, input, theta);
  check_lengths(input, grad.sizes().slice(2));
  const c10::cuda::CUDAGuard guard(input.device());
  if (input.numel() == 0) return at::zeros(theta.sizes(), theta.options());
  const at::Tensor t = float_or_double(theta);
  at::Tensor grad_theta;
  with_storage(input, [&](auto element) {
    using S = decltype(element);
    auto p = make_problem<S>(input, input.sizes().slice(2), grad.sizes().slice(2), align_corners, padding, t);
    p.input = images_in<S>(input);
    p.grad = images_in<S>(grad);
    const ThetaGradient to(p, t);
    C10_CUDA_CHECK(
        launch_moments(p, to.moments(), to.gradient.mutable_data_ptr(), c10::cuda::getCurrentCUDAStream()));
    grad_theta = to.gradient;
  });
  return grad_theta.to(theta.scalar_type());
}

at::Tensor adjoint(const at::Tensor& grad, const at::Tensor& theta, at::IntArrayRef size,
                   c10::string_view padding_mode, bool align_corners) {
  const Padding padding = parse_padding("affine_sample_adjoint", {padding_mode.data(), padding_mode.size()});
  check_adjoint(grad, theta, size);
  check_lengths(grad, size);
  const c10::cuda::CUDAGuard guard(grad.device());
  const at::Tensor grad_input = empty_images(grad, size);
  if (grad_input.numel() == 0) return grad_input;
  const at::Tensor t = float_or_double(theta);
  with_storage(grad, [&](auto element) {
    using S = decltype(element);
    auto p = make_problem<S>(grad, size, grad.sizes().slice(2), align_corners, padding, t);
    p.grad = images_in<S>(grad);
    p.grad_input = images_out<S>(grad_input);
    C10_CUDA_CHECK(launch_adjoint(p, c10::cuda::getCurrentCUDAStream()));
  });
  return grad_input;
}

std::tuple<at::Tensor, at::Tensor> backward(const at::Tensor& grad, const at::Tensor& input,
                                            const at::Tensor& theta, c10::string_view padding_mode,
                                            bool align_corners) {
  const Padding padding = parse_padding("affine_sample_backward", {padding_mode.data(), padding_mode.size()});
  check_moments("affine_sample_backward", grad, input, theta);
  check_lengths(input, grad.sizes().slice(2));
  const c10::cuda::CUDAGuard guard(input.device());
  const at::IntArrayRef size = input.sizes().slice(2);
  const at::Tensor grad_input = empty_images(grad, size);
  if (input.numel() == 0) return {grad_input, at::zeros(theta.sizes(), theta.options())};
  const at::Tensor t = float_or_double(theta);
  at::Tensor grad_theta;
  with_storage(input, [&](auto element) {
    using S = decltype(element);
    auto p = make_problem<S>(input, size, grad.sizes().slice(2), align_corners, padding, t);
    p.input = images_in<S>(input);
    p.grad = images_in<S>(grad);
    p.grad_input = images_out<S>(grad_input);
    const ThetaGradient to(p, t);
    C10_CUDA_CHECK(
        launch_backward(p, to.moments(), to.gradient.mutable_data_ptr(), c10::cuda::getCurrentCUDAStream()));
    grad_theta = to.gradient;
  });
  return {grad_input, grad_theta.to(theta.scalar_type())};
}

}  // namespace

TORCH_LIBRARY_IMPL(stn_ext, CUDA, m) {
  m.impl("affine_sample", &sample);
  m.impl("affine_sample_moments", &moments);
  m.impl("affine_sample_adjoint", &adjoint);
  m.impl("affine_sample_backward", &backward);
}

}  // namespace stn::cuda
