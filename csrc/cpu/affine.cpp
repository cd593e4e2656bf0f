// Bilinear sampling through affine maps on the CPU: tensors to kernels, and the work over the threads.
//
// Work is divided by shape alone, never by the number of threads, so that sums have one order and results the
// same bits whatever the threads.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/constant_pad_nd.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "level.h"
#include "operators.h"
#include "threads.h"

namespace stn::cpu {
namespace {

constexpr int64_t kMaxUnits = 64;  // parts of one image, channels last

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

// The division of each image's output into parts: of rows, and of channels.
struct Parts {
  int64_t height, all_channels, rows, channels, down, per_image;

  template <class T>
  Parts(const Problem<T>& p, Layout layout) : height(p.frame.out_height), all_channels(p.channels) {
    const int64_t width = p.frame.out_width, row = width * all_channels;
    if (layout == Layout::planes) {
      // A tile is located once for all channels of a part: whole groups of them.
      const int64_t group = kernels<T>().group;
      rows = ceil_div(height, ceil_div(height, tile_rows(width, kTilePixels)));
      channels = std::min(all_channels, ceil_div(ceil_div(kUnit, rows * width), group) * group);
    } else {
      rows = std::max(ceil_div(kUnit, row), ceil_div(height, kMaxUnits));
      channels = all_channels;
    }
    down = ceil_div(height, rows);
    per_image = down * ceil_div(all_channels, channels);
  }

  int64_t values(int64_t width) const { return rows * width * channels; }
};

struct Part {
  int64_t c, channels, begin, end;

  Part(const Parts& parts, int64_t k)
      : c(k / parts.down * parts.channels),
        channels(std::min(parts.channels, parts.all_channels - c)),
        begin(k % parts.down * parts.rows),
        end(std::min(begin + parts.rows, parts.height)) {}
};

// f(image, number of its part, part), over all threads.
template <class T, class F>
void for_parts(const Problem<T>& p, const Parts& parts, const F& f) {
  const int64_t grain = std::max<int64_t>(1, kGrain / parts.values(p.frame.out_width));
  at::parallel_for(0, p.batches * parts.per_image, grain, [&](int64_t begin, int64_t end) {
    for (int64_t u = begin; u < end; ++u)
      f(u / parts.per_image, u % parts.per_image, Part(parts, u % parts.per_image));
  });
}

// What channels-last kernels read in place of pixels that do not exist.
template <class T>
std::vector<T> zeros(const Problem<T>& p, Layout layout) {
  return std::vector<T>(static_cast<size_t>(layout == Layout::channels_last ? p.channels : 0));
}

template <class T>
void all_samples(const Problem<T>& p, Layout layout) {
  const auto& k = kernels<T>();
  const std::vector<T> none = zeros(p, layout);
  for_parts(p, Parts(p, layout), [&](int64_t n, int64_t, const Part& part) {
    if (layout == Layout::planes) {
      k.sample(p, n, part.c, part.channels, part.begin, part.end);
    } else {
      k.sample_channels_last(p, n, part.begin, part.end, none.data());
    }
  });
}

}  // namespace

void affine_sample(const at::Tensor& input, const Map& map, const at::Tensor& output) {
  const at::IntArrayRef in_size = input.sizes().slice(2);
  const Layout layout = layout_of(input);
  const at::Tensor images = readable(input, layout), theta = float_or_double(map.theta),
                   index = shared_index(map, input.size(0));
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), "affine_sample", [&] {
    auto p = make_problem<scalar_t>(map, theta, index, input.size(1), in_size, output.sizes().slice(2));
    p.input = images_in<scalar_t>(images);
    p.output = images_out<scalar_t>(output);
    p.streams = streams(output, p.output);
    all_samples(p, layout);
  });
}

namespace {

// The moments of all images (N, kMoments).
template <class T>
std::vector<double> all_moments(const Problem<T>& p, Layout layout) {
  const auto& k = kernels<T>();
  const Parts parts(p, layout);
  const std::vector<T> none = zeros(p, layout);
  std::vector<double> sums(static_cast<size_t>(p.batches * parts.per_image * kMoments));
  for_parts(p, parts, [&](int64_t n, int64_t number, const Part& part) {
    double* to = sums.data() + (n * parts.per_image + number) * kMoments;
    if (layout == Layout::planes) {
      k.moments(p, n, part.c, part.channels, part.begin, part.end, to);
    } else {
      k.moments_channels_last(p, n, part.begin, part.end, none.data(), to);
    }
  });
  std::vector<double> totals(static_cast<size_t>(p.batches * kMoments));
  for (size_t at = 0; at < sums.size(); ++at) {
    totals[at / static_cast<size_t>(parts.per_image * kMoments) * kMoments + at % kMoments] += sums[at];
  }
  return totals;
}

}  // namespace

at::Tensor affine_moments(const at::Tensor& grad, const at::Tensor& input, const Map& map) {
  const at::IntArrayRef in_size = input.sizes().slice(2);
  const Layout layout = layout_of(input);
  const at::Tensor images = readable(input, layout), theta = float_or_double(map.theta),
                   index = shared_index(map, input.size(0)), g = grad.contiguous(format_of(layout));
  const at::Tensor grad_theta =
      at::empty(theta.sizes(), theta.options().memory_format(at::MemoryFormat::Contiguous));
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), "affine_sample", [&] {
    auto p = make_problem<scalar_t>(map, theta, index, input.size(1), in_size, grad.sizes().slice(2));
    p.input = images_in<scalar_t>(images);
    p.grad = images_in<scalar_t>(g);
    const std::vector<double> sums = all_moments(p, layout);
    AT_DISPATCH_FLOATING_TYPES(theta.scalar_type(), "affine_sample", [&] {
      auto* out = grad_theta.mutable_data_ptr<scalar_t>();
      for (size_t k = 0; k < sums.size(); ++k) {
        out[k] = static_cast<scalar_t>(theta_gradient(sums[k], static_cast<int>(k % kMoments), p.frame));
      }
    });
  });
  return grad_theta;
}

namespace {

// grad_input, tile by tile; each is written once.
template <class T>
void adjoint_tiles(const Problem<T>& p, const Sharing& sharing) {
  const auto& k = kernels<T>();
  const Tiling down(p.frame.height, kTile, 1), across(p.frame.width, kTile, tiling_unit<T>(p.streams));
  const ChannelGroups groups(p.channels, k.group, is_sparse(p.frame));
  const int64_t tiles = down.count * across.count;
  const int64_t pixels = std::max(p.frame.height * p.frame.width, p.frame.out_height * p.frame.out_width);
  const int64_t values = ceil_div(pixels * groups.size, tiles);
  const int64_t grain = std::max<int64_t>(1, kGrain / values);
  at::parallel_for(0, sharing.images() * groups.count * tiles, grain, [&](int64_t begin, int64_t end) {
    const Scratch<T> scratch = zero_scratch<T>(groups.scratch);
    for (int64_t u = begin; u < end; ++u) {
      const int64_t n = u / tiles / groups.count, c = u / tiles % groups.count * groups.size;
      const int64_t y = u % tiles / across.count, x = u % across.count;
      const Tile tile{down.begin(y), across.begin(x), down.extent(y), across.extent(x)};
      const auto kernel = groups.vectors ? k.adjoint_group : k.adjoint;
      kernel(p, n, sharing.readers(n), c, std::min(groups.size, p.channels - c), tile, scratch.get());
    }
  });
}

}  // namespace

void affine_adjoint(const at::Tensor& grad, const Map& map, const at::Tensor& grad_input) {
  const at::IntArrayRef in_size = grad_input.sizes().slice(2);
  const at::Tensor theta = float_or_double(map.theta), g = grad.contiguous(format_of(layout_of(grad)));
  const Sharing sharing(map, grad_input.size(0));
  AT_DISPATCH_FLOATING_TYPES(grad.scalar_type(), "affine_sample", [&] {
    auto p = make_problem<scalar_t>(map, theta, {}, grad.size(1), in_size, grad.sizes().slice(2));
    p.grad = images_in<scalar_t>(g);
    p.grad_input = images_out<scalar_t>(grad_input);
    p.streams = streams(grad_input, p.grad_input);
    adjoint_tiles(p, sharing);
  });
}

}  // namespace stn::cpu
