// The operators on CUDA: tensors to launches, on the tensors' device and the current stream.
#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

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
  using type = __half;
};
template <>
struct StoredAs<at::BFloat16> {
  using type = __nv_bfloat16;
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

// The kernels count pixels along an axis in 32 bits, a tile beyond the last one included.
void check_lengths(at::IntArrayRef in_size, at::IntArrayRef out_size) {
  constexpr int64_t longest = int64_t{1} << 30;
  for (const at::IntArrayRef size : {in_size, out_size}) {
    TORCH_CHECK_VALUE(size[0] <= longest && size[1] <= longest,
                      "affine_sample: expected at most 2^30 rows and columns on CUDA, but got ", size);
  }
}

at::Tensor sample(const at::Tensor& input, const at::Tensor& theta, at::IntArrayRef size,
                  c10::string_view padding_mode, bool align_corners) {
  const Padding padding = parse_padding("affine_sample", {padding_mode.data(), padding_mode.size()});
  check_sample(input, theta, size);
  check_lengths(input.sizes().slice(2), size);
  const c10::cuda::CUDAGuard guard(input.device());
  const at::Tensor output = at::empty({input.size(0), input.size(1), size[0], size[1]},
                                      input.options().memory_format(input.suggest_memory_format()));
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
  check_moments(grad, input, theta);
  check_lengths(input.sizes().slice(2), grad.sizes().slice(2));
  const c10::cuda::CUDAGuard guard(input.device());
  const at::Tensor t = float_or_double(theta);
  const at::Tensor grad_theta =
      at::empty(theta.sizes(), t.options().memory_format(at::MemoryFormat::Contiguous));
  if (input.numel() == 0) return grad_theta.zero_().to(theta.scalar_type());
  with_storage(input, [&](auto element) {
    using S = decltype(element);
    auto p = make_problem<S>(input, input.sizes().slice(2), grad.sizes().slice(2), align_corners, padding, t);
    p.input = images_in<S>(input);
    p.grad = images_in<S>(grad);
    const at::Tensor partial =
        at::empty({p.batches, moment_blocks(p), kMoments}, t.options().dtype(at::kDouble));
    C10_CUDA_CHECK(launch_moments(p, partial.mutable_data_ptr<double>(), grad_theta.mutable_data_ptr(),
                                  c10::cuda::getCurrentCUDAStream()));
  });
  return grad_theta.to(theta.scalar_type());
}

at::Tensor adjoint(const at::Tensor& grad, const at::Tensor& theta, at::IntArrayRef size,
                   c10::string_view padding_mode, bool align_corners) {
  const Padding padding = parse_padding("affine_sample_adjoint", {padding_mode.data(), padding_mode.size()});
  check_adjoint(grad, theta, size);
  check_lengths(size, grad.sizes().slice(2));
  const c10::cuda::CUDAGuard guard(grad.device());
  const at::Tensor grad_input = at::empty({grad.size(0), grad.size(1), size[0], size[1]},
                                          grad.options().memory_format(grad.suggest_memory_format()));
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

}  // namespace

TORCH_LIBRARY_IMPL(stn_ext, CUDA, m) {
  m.impl("affine_sample", &sample);
  m.impl("affine_sample_moments", &moments);
  m.impl("affine_sample_adjoint", &adjoint);
}

}  // namespace stn::cuda
