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
#include <vector>

#include "checks.h"
#include "level.h"
#include "tensors.h"

namespace stn::cpu {
namespace {

constexpr int64_t kUnit = 1 << 14;    // output values that are worth a task of their own
constexpr int64_t kGrain = 1 << 15;   // and those that are worth waking a thread
constexpr int64_t kMaxUnits = 64;     // parts of one image
constexpr int64_t kPacked = 1 << 19;  // bytes of an image packed, at most

// How a problem's channels are worked on.
enum class Layout { planes, channels_last };

Layout layout_of(const at::Tensor& images) {
  const bool last = images.size(1) > 1 && images.suggest_memory_format() == at::MemoryFormat::ChannelsLast;
  return last ? Layout::channels_last : Layout::planes;
}

at::MemoryFormat format_of(Layout layout) {
  return layout == Layout::planes ? at::MemoryFormat::Contiguous : at::MemoryFormat::ChannelsLast;
}

// Images as the kernels can read them: at least two pixels each way, offsets in 32 bits, and pixels (or,
// channels last, channels) side by side.
at::Tensor readable(const at::Tensor& images, Layout layout) {
  const int64_t height = images.size(2), width = images.size(3);
  at::Tensor t = images;
  if (height < 2 || width < 2) t = at::constant_pad_nd(images, {0, width < 2, 0, height < 2});
  const bool last = layout == Layout::channels_last;
  const int64_t pixel = t.stride(3), row = t.stride(2);
  const bool side_by_side = last ? t.stride(1) == 1 && pixel > 0 && row % pixel == 0 : pixel == 1;
  const bool small =
      side_by_side && (t.size(2) - 1) * (row / pixel) + t.size(3) <= std::numeric_limits<int32_t>::max();
  return small ? t : t.contiguous(format_of(layout));
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

// Where there are many channels in planes, a vector of them is packed and worked on together, if the packed
// image stays in a core's cache and enough is read from it.
template <class T>
bool packs(const Problem<T>& p, Layout layout) {
  const int64_t stored = p.stored_height * p.stored_width;
  const int64_t group = kernels<T>().group;
  return layout == Layout::planes && p.channels >= group && stored * group * int64_t{sizeof(T)} <= kPacked &&
         4 * p.frame.out_height * p.frame.out_width >= stored;
}

// f(image, first channel, channels, scratch) over groups of channels and all threads; values: of a channel's
// output.
template <class T, class F>
void for_groups(const Problem<T>& p, int64_t values, int64_t scratch_values, const F& f) {
  const int64_t group = kernels<T>().group, groups = ceil_div(p.channels, group);
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(values * group, 1));
  at::parallel_for(0, p.batches * groups, grain, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<T[]> scratch(new T[static_cast<size_t>(scratch_values)]);
    for (int64_t u = begin; u < end; ++u) {
      const int64_t c = u % groups * group;
      f(u / groups, c, std::min(group, p.channels - c), scratch.get());
    }
  });
}

template <class T>
void sample_planes_or_pixels(const Problem<T>& p, Layout layout) {
  const auto& k = kernels<T>();
  const Frame& f = p.frame;
  if (packs(p, layout)) {
    for_groups(p, f.out_height * f.out_width, p.stored_height * p.stored_width * k.group,
               [&](int64_t n, int64_t c, int64_t channels, T* scratch) {
                 k.sample_group(p, n, c, channels, scratch);
               });
    return;
  }
  const int64_t row = f.out_width * p.channels;
  const Parts parts(f.out_height, row);
  const std::vector<T> zeros(static_cast<size_t>(layout == Layout::channels_last ? p.channels : 0));
  for_parts(p.batches, parts.per_image, parts.rows * row, [&](int64_t n, int64_t part) {
    const int64_t begin = part * parts.rows, end = std::min(begin + parts.rows, f.out_height);
    if (layout == Layout::planes) {
      k.sample(p, n, begin, end);
    } else {
      k.sample_channels_last(p, n, begin, end, zeros.data());
    }
  });
}

at::Tensor sample(const at::Tensor& input, const at::Tensor& theta, at::IntArrayRef size,
                  c10::string_view padding_mode, bool align_corners) {
  const Padding padding = parse_padding("affine_sample", {padding_mode.data(), padding_mode.size()});
  check_sample(input, theta, size);
  check_pixels(input.sizes().slice(2));
  const Layout layout = layout_of(input);
  const at::Tensor output = at::empty({input.size(0), input.size(1), size[0], size[1]},
                                      input.options().memory_format(input.suggest_memory_format()));
  if (output.numel() == 0) return output;
  const at::Tensor images = readable(input, layout), t = float_or_double(theta);
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), "affine_sample", [&] {
    auto p = make_problem<scalar_t>(input, input.sizes().slice(2), size, align_corners, padding, t);
    p.input = images_in<scalar_t>(images);
    p.output = images_out<scalar_t>(output);
    sample_planes_or_pixels(p, layout);
  });
  return output;
}

// The moments of all images (N, kMoments).
template <class T>
std::vector<double> all_moments(const Problem<T>& p, Layout layout) {
  const auto& k = kernels<T>();
  const Frame& f = p.frame;
  const int64_t row = f.out_width * p.channels;
  const bool packed = packs(p, layout);
  const Parts parts(f.out_height, row);
  const int64_t per_image = packed ? ceil_div(p.channels, k.group) : parts.per_image;
  std::vector<double> sums(static_cast<size_t>(p.batches * per_image * kMoments));
  const auto at = [&](int64_t n, int64_t part) { return sums.data() + (n * per_image + part) * kMoments; };
  if (packed) {
    for_groups(p, f.out_height * f.out_width, p.stored_height * p.stored_width * k.group,
               [&](int64_t n, int64_t c, int64_t channels, T* scratch) {
                 k.moments_group(p, n, c, channels, scratch, at(n, c / k.group));
               });
  } else {
    const std::vector<T> zeros(static_cast<size_t>(layout == Layout::channels_last ? p.channels : 0));
    for_parts(p.batches, per_image, parts.rows * row, [&](int64_t n, int64_t part) {
      const int64_t begin = part * parts.rows, end = std::min(begin + parts.rows, f.out_height);
      if (layout == Layout::planes) {
        k.moments(p, n, begin, end, at(n, part));
      } else {
        k.moments_channels_last(p, n, begin, end, zeros.data(), at(n, part));
      }
    });
  }
  std::vector<double> totals(static_cast<size_t>(p.batches * kMoments));
  for (int64_t n = 0; n < p.batches; ++n) {
    double* total = totals.data() + n * kMoments;
    for (int64_t part = 0; part < per_image; ++part) {
      for (int m = 0; m < kMoments; ++m) total[m] += at(n, part)[m];
    }
  }
  return totals;
}

at::Tensor moments(const at::Tensor& grad, const at::Tensor& input, const at::Tensor& theta,
                   c10::string_view padding_mode, bool align_corners) {
  const Padding padding = parse_padding("affine_sample_moments", {padding_mode.data(), padding_mode.size()});
  check_moments(grad, input, theta);
  check_pixels(input.sizes().slice(2));
  const Layout layout = layout_of(input);
  const at::Tensor images = readable(input, layout), t = float_or_double(theta);
  const at::Tensor g = grad.contiguous(format_of(layout));
  const at::Tensor grad_theta =
      at::empty(theta.sizes(), t.options().memory_format(at::MemoryFormat::Contiguous));
  if (input.numel() == 0) return grad_theta.zero_().to(theta.scalar_type());
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), "affine_sample_moments", [&] {
    auto p = make_problem<scalar_t>(input, input.sizes().slice(2), grad.sizes().slice(2), align_corners,
                                    padding, t);
    p.input = images_in<scalar_t>(images);
    p.grad = images_in<scalar_t>(g);
    const std::vector<double> sums = all_moments(p, layout);
    AT_DISPATCH_FLOATING_TYPES(t.scalar_type(), "affine_sample_moments", [&] {
      auto* out = grad_theta.mutable_data_ptr<scalar_t>();
      for (size_t k = 0; k < sums.size(); ++k) {
        out[k] = static_cast<scalar_t>(theta_gradient(sums[k], static_cast<int>(k % kMoments), p.frame));
      }
    });
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

// grad_input, tile by tile; each is written once.
template <class T>
void adjoint_tiles(const Problem<T>& p) {
  const auto& k = kernels<T>();
  const Tiling down(p.frame.height), across(p.frame.width);
  const bool packed = p.channels >= k.group;
  const int64_t group = packed ? k.group : kQuadChannels,
                scratch_values = packed ? kTileCells * group : kQuadScratch;
  const int64_t tiles = down.count * across.count, groups = ceil_div(p.channels, group);
  const int64_t pixels = std::max(p.frame.height * p.frame.width, p.frame.out_height * p.frame.out_width);
  const int64_t values = ceil_div(pixels * std::min(p.channels, group), tiles);
  at::parallel_for(0, p.batches * groups * tiles, std::max<int64_t>(1, kGrain / values),
                   [&](int64_t begin, int64_t end) {
                     const std::unique_ptr<T[]> scratch(new T[static_cast<size_t>(scratch_values)]);
                     for (int64_t u = begin; u < end; ++u) {
                       const int64_t n = u / tiles / groups, c = u / tiles % groups * group;
                       const int64_t y = u % tiles / across.count, x = u % across.count;
                       const Tile tile{down.begin(y), across.begin(x), down.extent(y), across.extent(x)};
                       (packed ? k.adjoint_group : k.adjoint)(p, n, c, std::min(group, p.channels - c), tile,
                                                              scratch.get());
                     }
                   });
}

at::Tensor adjoint(const at::Tensor& grad, const at::Tensor& theta, at::IntArrayRef size,
                   c10::string_view padding_mode, bool align_corners) {
  const Padding padding = parse_padding("affine_sample_adjoint", {padding_mode.data(), padding_mode.size()});
  check_adjoint(grad, theta, size);
  check_pixels(size);
  const Layout layout = layout_of(grad);
  const at::Tensor grad_input = at::empty({grad.size(0), grad.size(1), size[0], size[1]},
                                          grad.options().memory_format(grad.suggest_memory_format()));
  if (grad_input.numel() == 0) return grad_input;
  const at::Tensor t = float_or_double(theta), g = grad.contiguous(format_of(layout));
  AT_DISPATCH_FLOATING_TYPES(grad.scalar_type(), "affine_sample_adjoint", [&] {
    auto p = make_problem<scalar_t>(grad, size, grad.sizes().slice(2), align_corners, padding, t);
    p.grad = images_in<scalar_t>(g);
    p.grad_input = images_out<scalar_t>(grad_input);
    adjoint_tiles(p);
  });
  return grad_input;
}

}  // namespace

TORCH_LIBRARY_IMPL(stn_ext, CPU, m) {
  m.impl("affine_sample", &sample);
  m.impl("affine_sample_moments", &moments);
  m.impl("affine_sample_adjoint", &adjoint);
}

}  // namespace stn::cpu
