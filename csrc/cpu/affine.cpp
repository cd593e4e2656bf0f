// The operators on the CPU: tensors to kernels, and the work over the threads.
//
// Work is divided by shape alone, never by the number of threads, so that sums have one order and results the
// same bits whatever the threads.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/constant_pad_nd.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>
#include <memory>

#include "checks.h"
#include "level.h"
#include "tensors.h"

namespace stn::cpu {
namespace {

constexpr int64_t kUnit = 1 << 14;   // output values that are worth a task of their own
constexpr int64_t kGrain = 1 << 15;  // and those that are worth waking a thread
constexpr int64_t kMaxUnits = 64;    // parts of one image

// Images whose rows the kernels can read: neighbours side by side, at least two each way, offsets in 32 bits.
at::Tensor readable(const at::Tensor& images) {
  const int64_t height = images.size(2), width = images.size(3);
  if (height < 2 || width < 2) return at::constant_pad_nd(images, {0, width < 2, 0, height < 2});
  const bool rows = images.stride(3) == 1;
  const bool small = (height - 1) * images.stride(2) + width <= std::numeric_limits<int32_t>::max();
  return rows && small ? images : images.contiguous();
}

void check_pixels(at::IntArrayRef in_size) {
  TORCH_CHECK_VALUE(in_size[0] * in_size[1] <= std::numeric_limits<int32_t>::max(),
                    "affine_sample: expected images of at most 2^31 - 1 pixels on the CPU, but got ",
                    in_size);
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
  check_pixels(input.sizes().slice(2));
  const auto format = input.suggest_memory_format();
  const at::Tensor output = at::empty({input.size(0), input.size(1), size[0], size[1]}, input.options());
  if (output.numel() > 0) {
    const at::Tensor images = readable(input), t = float_or_double(theta);
    AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), "affine_sample", [&] {
      auto p = make_problem<scalar_t>(input, input.sizes().slice(2), size, align_corners, padding, t);
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

at::Tensor moments(const at::Tensor& grad, const at::Tensor& input, const at::Tensor& theta,
                   c10::string_view padding_mode, bool align_corners) {
  const Padding padding = parse_padding("affine_sample_moments", {padding_mode.data(), padding_mode.size()});
  check_moments(grad, input, theta);
  check_pixels(input.sizes().slice(2));
  const at::Tensor images = readable(input), t = float_or_double(theta), g = grad.contiguous();
  const at::Tensor grad_theta =
      at::empty(theta.sizes(), t.options().memory_format(at::MemoryFormat::Contiguous));
  if (input.numel() == 0) return grad_theta.zero_().to(theta.scalar_type());
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), "affine_sample_moments", [&] {
    auto p = make_problem<scalar_t>(input, input.sizes().slice(2), grad.sizes().slice(2), align_corners,
                                    padding, t);
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
      for (int k = 0; k < kMoments; ++k) {
        const double value = theta_gradient(total[k], k, p.frame);
        if (p.theta_is_double) {
          grad_theta.mutable_data_ptr<double>()[n * kMoments + k] = value;
        } else {
          grad_theta.mutable_data_ptr<float>()[n * kMoments + k] = static_cast<float>(value);
        }
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
  check_pixels(size);
  const auto format = grad.suggest_memory_format();
  const at::Tensor grad_input = at::empty({grad.size(0), grad.size(1), size[0], size[1]}, grad.options());
  if (grad_input.numel() > 0) {
    const at::Tensor t = float_or_double(theta), g = grad.contiguous();
    AT_DISPATCH_FLOATING_TYPES(grad.scalar_type(), "affine_sample_adjoint", [&] {
      auto p = make_problem<scalar_t>(grad, size, grad.sizes().slice(2), align_corners, padding, t);
      p.grad = images_in<scalar_t>(g);
      p.grad_input = images_out<scalar_t>(grad_input);
      const Tiling down(size[0]), across(size[1]);
      const int64_t tiles = down.count * across.count, groups = ceil_div(p.channels, kAdjointChannels);
      const int64_t units = p.batches * groups * tiles;
      const int64_t values = ceil_div(std::max(grad.numel(), grad_input.numel()), units);
      const int64_t grain = std::max<int64_t>(1, kGrain / values);
      at::parallel_for(0, units, grain, [&](int64_t begin, int64_t end) {
        std::unique_ptr<scalar_t[]> scratch(new scalar_t[static_cast<size_t>(kTileScratch)]);
        for (int64_t u = begin; u < end; ++u) {
          const int64_t n = u / tiles / groups, c = u / tiles % groups * kAdjointChannels;
          const int64_t y = u % tiles / across.count, x = u % across.count;
          const Tile tile{down.begin(y), across.begin(x), down.extent(y), across.extent(x)};
          kernels<scalar_t>().adjoint(p, n, c, std::min(kAdjointChannels, p.channels - c), tile,
                                      scratch.get());
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
