// The operators on the CPU: tensors to kernels, and the work over the threads.
//
// Work is divided by shape alone, never by the number of threads, so that sums have one order and results the same
// bits whatever the threads.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>

#include "checks.h"
#include "level.h"

namespace stn::cpu {
namespace {

constexpr int64_t kUnit = 1 << 14;   // output values that are worth a task of their own
constexpr int64_t kGrain = 1 << 15;  // and those that are worth waking a thread
constexpr int64_t kMaxUnits = 64;    // parts of one image

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Images whose rows the kernels can read: neighbours side by side, at least two each way, offsets in 32 bits.
at::Tensor readable(const at::Tensor& images) {
  const int64_t height = images.size(2), width = images.size(3);
  if (height < 2 || width < 2) return at::constant_pad_nd(images, {0, width < 2, 0, height < 2});
  const bool rows = images.stride(3) == 1;
  const bool small = (height - 1) * images.stride(2) + width <= std::numeric_limits<int32_t>::max();
  return rows && small ? images : images.contiguous();
}

at::Tensor float_or_double(const at::Tensor& theta) {
  const at::Tensor t = theta.scalar_type() == at::kDouble ? theta : theta.to(at::kFloat);
  return t.contiguous();
}

template <class T, class Pointee>
Images<Pointee> images_of(const at::Tensor& t, Pointee* data) {
  return {data, t.stride(0), t.stride(1), t.stride(2), t.stride(3)};
}

template <class T>
Images<const T> images_in(const at::Tensor& t) {
  return images_of<T, const T>(t, t.const_data_ptr<T>());
}

template <class T>
Images<T> images_out(const at::Tensor& t) {
  return images_of<T, T>(t, t.mutable_data_ptr<T>());
}

template <class T>
Problem<T> problem(at::IntArrayRef in_size, at::IntArrayRef out_size, bool align_corners, Padding padding,
                   const at::Tensor& theta) {
  Problem<T> p{};
  p.frame = {in_size[0], in_size[1], out_size[0], out_size[1], align_corners};
  p.stored_height = std::max<int64_t>(in_size[0], 2);
  p.stored_width = std::max<int64_t>(in_size[1], 2);
  p.padding = padding;
  p.theta = theta.const_data_ptr();
  p.theta_is_double = theta.scalar_type() == at::kDouble;
  TORCH_CHECK_VALUE(in_size[0] * in_size[1] <= std::numeric_limits<int32_t>::max(),
                    "affine_sample: expected images of at most 2^31 - 1 pixels on the CPU, but got ", in_size);
  return p;
}

// The division of each image's output rows into parts.
struct Parts {
  int64_t rows, per_image;

  Parts(int64_t height, int64_t values_a_row)
      : rows(std::max(ceil_div(kUnit, std::max<int64_t>(values_a_row, 1)), ceil_div(height, kMaxUnits))),
        per_image(ceil_div(height, rows)) {}
};

// f(image, part of it), over all threads. values: of the output, in a part.
template <class F>
void for_parts(int64_t images, int64_t per_image, int64_t values, const F& f) {
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(values, 1));
  at::parallel_for(0, images * per_image, grain, [&](int64_t begin, int64_t end) {
    for (int64_t u = begin; u < end; ++u) f(u / per_image, u % per_image);
  });
}

at::Tensor sample(const at::Tensor& input, const at::Tensor& theta, at::IntArrayRef size,
                  c10::string_view padding_mode, bool align_corners) {
  const Padding padding = parse_padding("affine_sample", {padding_mode.data(), padding_mode.size()});
  check_sample(input, theta, size);
  const auto format = input.suggest_memory_format();
  const at::Tensor output = at::empty({input.size(0), input.size(1), size[0], size[1]}, input.options());
  if (output.numel() > 0) {
    const at::Tensor images = readable(input), t = float_or_double(theta);
    AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), "affine_sample", [&] {
      auto p = problem<scalar_t>(input.sizes().slice(2), size, align_corners, padding, t);
      p.batches = input.size(0);
      p.channels = input.size(1);
      p.input = images_in<scalar_t>(images);
      p.output = images_out<scalar_t>(output);
      const int64_t row = size[1] * p.channels;
      const Parts parts(size[0], row);
      for_parts(p.batches, parts.per_image, parts.rows * row, [&](int64_t n, int64_t part) {
        const int64_t begin = part * parts.rows;
        kernels<scalar_t>().sample(p, n, begin, std::min(begin + parts.rows, size[0]));
      });
    });
  }
  return output.contiguous(format);
}

// The sums are of derivatives by pixel coordinates; theta's entries scale them (AxisMap).
template <class Theta>
void store_theta_gradient(const double* sums, const Frame& f, Theta* out) {
  for (int axis = 0; axis < 2; ++axis) {
    const ThetaScale s = theta_scale(f, axis == 0 ? f.width : f.height);
    out[3 * axis] = static_cast<Theta>(sums[3 * axis] * s.x);
    out[3 * axis + 1] = static_cast<Theta>(sums[3 * axis + 1] * s.y);
    out[3 * axis + 2] = static_cast<Theta>(sums[3 * axis + 2] * s.one);
  }
}

at::Tensor moments(const at::Tensor& grad, const at::Tensor& input, const at::Tensor& theta,
                   c10::string_view padding_mode, bool align_corners) {
  const Padding padding = parse_padding("affine_sample_moments", {padding_mode.data(), padding_mode.size()});
  check_moments(grad, input, theta);
  const at::Tensor images = readable(input), t = float_or_double(theta), g = grad.contiguous();
  const at::Tensor grad_theta = at::empty(theta.sizes(), t.options().memory_format(at::MemoryFormat::Contiguous));
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), "affine_sample_moments", [&] {
    auto p = problem<scalar_t>(input.sizes().slice(2), grad.sizes().slice(2), align_corners, padding, t);
    p.batches = input.size(0);
    p.channels = input.size(1);
    p.input = images_in<scalar_t>(images);
    p.grad = images_in<scalar_t>(g);
    const int64_t height = p.frame.out_height, row = p.frame.out_width * p.channels;
    const Parts parts(height, row);
    const at::Tensor sums = at::empty({p.batches, parts.per_image, kMoments}, t.options().dtype(at::kDouble));
    double* all = sums.mutable_data_ptr<double>();
    for_parts(p.batches, parts.per_image, parts.rows * row, [&](int64_t n, int64_t part) {
      const int64_t begin = part * parts.rows;
      double* out = all + (n * parts.per_image + part) * kMoments;
      kernels<scalar_t>().moments(p, n, begin, std::min(begin + parts.rows, height), out);
    });
    for (int64_t n = 0; n < p.batches; ++n) {
      double* total = all + n * parts.per_image * kMoments;
      for (int64_t k = kMoments; k < parts.per_image * kMoments; ++k) total[k % kMoments] += total[k];
      if (p.theta_is_double) {
        store_theta_gradient(total, p.frame, grad_theta.mutable_data_ptr<double>() + n * kMoments);
      } else {
        store_theta_gradient(total, p.frame, grad_theta.mutable_data_ptr<float>() + n * kMoments);
      }
    }
  });
  return grad_theta.to(theta.scalar_type());
}

// An axis in the fewest parts of at most kTile pixels, as equal as they can be.
struct Tiling {
  int64_t length, size, count;

  explicit Tiling(int64_t n) : length(n), size(ceil_div(n, ceil_div(n, kTile))), count(ceil_div(n, size)) {}
  int64_t begin(int64_t k) const { return k * size; }
  int64_t extent(int64_t k) const { return std::min(size, length - k * size); }
};

at::Tensor adjoint(const at::Tensor& grad, const at::Tensor& theta, at::IntArrayRef size,
                   c10::string_view padding_mode, bool align_corners) {
  const Padding padding = parse_padding("affine_sample_adjoint", {padding_mode.data(), padding_mode.size()});
  check_adjoint(grad, theta, size);
  const auto format = grad.suggest_memory_format();
  const at::Tensor grad_input = at::empty({grad.size(0), grad.size(1), size[0], size[1]}, grad.options());
  if (grad_input.numel() > 0) {
    const at::Tensor t = float_or_double(theta);
    AT_DISPATCH_FLOATING_TYPES(grad.scalar_type(), "affine_sample_adjoint", [&] {
      auto p = problem<scalar_t>(size, grad.sizes().slice(2), align_corners, padding, t);
      p.batches = grad.size(0);
      p.channels = grad.size(1);
      p.grad = images_in<scalar_t>(grad);
      p.grad_input = images_out<scalar_t>(grad_input);
      const Tiling down(size[0]), across(size[1]);
      const int64_t tiles = down.count * across.count;
      const int64_t values = ceil_div(std::max(grad.numel(), grad_input.numel()), p.batches * p.channels * tiles);
      const int64_t grain = std::max<int64_t>(1, kGrain / values);
      at::parallel_for(0, p.batches * p.channels * tiles, grain, [&](int64_t begin, int64_t end) {
        std::unique_ptr<scalar_t[]> scratch(new scalar_t[static_cast<size_t>(tile_scratch())]);
        for (int64_t u = begin; u < end; ++u) {
          const int64_t image = u / tiles, y = u % tiles / across.count, x = u % across.count;
          const Tile tile{down.begin(y), across.begin(x), down.extent(y), across.extent(x)};
          kernels<scalar_t>().adjoint(p, image / p.channels, image % p.channels, tile, scratch.get());
        }
      });
    });
  }
  return grad_input.contiguous(format);
}

}  // namespace

TORCH_LIBRARY_IMPL(stn_ext, CPU, m) {
  m.impl("affine_sample", &sample);
  m.impl("affine_sample_moments", &moments);
  m.impl("affine_sample_adjoint", &adjoint);
}

}  // namespace stn::cpu
