// The general kernels' work over the threads: any map, images or volumes, any weights. Divided by shape
// alone, as in affine.cpp.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/constant_pad_nd.h>

#include <algorithm>
#include <vector>

#include "backend.h"
#include "level.h"
#include "threads.h"

namespace stn::cpu {
namespace {

// Maps, and images that adjoint makes, that share what radial functions cost, at most.
constexpr int64_t kSharedMaps = 32, kSharedImages = 16;

// A pixel that stands alone along an axis gets a zero beside it.
at::Tensor paired(const at::Tensor& images) {
  std::vector<int64_t> padding;
  bool alone = false;
  for (int64_t axis = images.dim() - 1; axis >= 2; --axis) {
    padding.push_back(0);
    padding.push_back(images.size(axis) == 1);
    alone |= images.size(axis) == 1;
  }
  return alone ? at::constant_pad_nd(images, padding) : images;
}

// The division of the maps and of the output's rows.
struct WarpParts {
  int64_t maps, rows, across, down;  // of a part; and how many there are

  // unit: of rows that are not to be divided
  template <class T>
  WarpParts(const Warp<T>& w, int64_t unit) {
    // All maps share what radial functions cost.
    maps = w.points ? std::min(w.maps, kSharedMaps) : 1;
    const int64_t row = maps * w.out[0] * w.channels, tile = tile_rows(w.out[0], tile_pixels(w));
    // Whole tiles of the output, as equal as they can be.
    const int64_t wanted = std::max(ceil_div(kUnit, row), w.dims == 2 ? tile : 1);
    rows = ceil_div(ceil_div(w.rows(), ceil_div(w.rows(), wanted)), unit) * unit;
    across = ceil_div(w.maps, maps);
    down = ceil_div(w.rows(), rows);
  }

  template <class T>
  WarpPart part(const Warp<T>& w, int64_t k) const {
    const int64_t map = k / down * maps, row = k % down * rows;
    return {map, std::min(map + maps, w.maps), 0, w.channels, row, std::min(row + rows, w.rows())};
  }
};

// f(part, its number, its scratch), over all threads.
template <class T, class F>
void for_parts(const Warp<T>& w, const WarpParts& parts, const F& f) {
  const int64_t values = parts.maps * parts.rows * w.out[0] * w.channels;
  const int64_t grain = std::max<int64_t>(1, kGrain / 4 / values);
  at::parallel_for(0, parts.across * parts.down, grain, [&](int64_t begin, int64_t end) {
    const Scratch<T> radial(radial_values(w));
    for (int64_t k = begin; k < end; ++k) f(parts.part(w, k), k, radial.get());
  });
}

template <class T>
std::vector<WarpBox> boxes_of(const Warp<T>& w) {
  std::vector<WarpBox> boxes(static_cast<size_t>(w.maps * Bundles(w).count));
  for_parts(w, WarpParts(w, kBundleRows), [&](const WarpPart& part, int64_t, T* radial) {
    kernels<T>().warp_boxes(w, part, radial, boxes.data());
  });
  return boxes;
}

// The division of the input into tiles.
struct Tilings {
  Tiling x, y, z;

  template <class T>
  explicit Tilings(const Warp<T>& w)
      : x(w.in[0], is_planar(w) ? kTile : w.in[0], tiling_unit<T>(w.past_caches)),
        y(w.in[1], is_planar(w) ? kTile : (w.dims == 2 ? kSlabRows : w.in[1]), 1),
        z(w.in[2], kSlabSlices, 1) {}

  int64_t count() const { return x.count * y.count * z.count; }
  WarpTile tile(int64_t k) const {
    const int64_t i = k % x.count, j = k / x.count % y.count, l = k / x.count / y.count;
    return {{x.begin(i), y.begin(j), z.begin(l)}, {x.extent(i), y.extent(j), z.extent(l)}};
  }
};

// grad_input, tile by tile; each is written once.
template <class T>
void adjoint_tiles(const Warp<T>& w, const Sharing& sharing) {
  const auto& k = kernels<T>();
  const Tilings tilings(w);
  const int64_t pixels = w.in[0] * w.in[1] * w.in[2], out_pixels = w.out[0] * w.rows(),
                tiles = tilings.count();
  ChannelGroups groups(w.channels, k.group, is_sparse({w.in[1], w.in[0], w.out[1], w.out[0], false}));
  if (!is_planar(w)) groups = ChannelGroups(w.channels, kWarpChannels);
  const int64_t images = w.points ? kSharedImages : 1, parts = ceil_div(w.images, images);
  const std::vector<WarpBox> boxes = tiles > 1 ? boxes_of(w) : std::vector<WarpBox>();
  std::vector<Readers> readers;
  for (int64_t image = 0; image < w.images; ++image) readers.push_back(sharing.readers(image));
  const int64_t values = ceil_div(std::max(pixels, out_pixels) * images * groups.size, tiles);
  const int64_t grain = std::max<int64_t>(1, kGrain / 4 / values);
  at::parallel_for(0, parts * groups.count * tiles, grain, [&](int64_t begin, int64_t end) {
    const Scratch<T> scratch = zero_scratch<T>(groups.scratch);
    const Scratch<T> radial(radial_slots(w) * radial_values(w));
    for (int64_t u = begin; u < end; ++u) {
      const int64_t image = u / tiles / groups.count * images, c = u / tiles % groups.count * groups.size;
      const TilePart part{image,
                          std::min(image + images, w.images),
                          c,
                          std::min(groups.size, w.channels - c),
                          tilings.tile(u % tiles),
                          readers.data(),
                          tiles > 1 ? boxes.data() : nullptr};
      k.warp_adjoint(w, part, radial.get(), scratch.get());
    }
  });
}

// f(problem), with the rows' parts of all its maps computed.
template <class T, class F>
void with_warp(const Map& map, int64_t images, int64_t channels, at::IntArrayRef in_size,
               at::IntArrayRef out_size, const F& f) {
  const WarpTensors tensors(map, images);
  Warp<T> w{make_warp<T>(map, tensors, images, channels, in_size, out_size), nullptr, false};
  std::vector<MapLines> lines;
  for (int64_t n = 0; n < w.maps; ++n) lines.push_back(map_lines(w, n));
  w.lines = lines.data();
  f(w);
}

}  // namespace

void warp_sample(const at::Tensor& input, const Map& map, const at::Tensor& output) {
  const at::Tensor images = paired(input);
  const at::IntArrayRef in_size = input.sizes().slice(2), out_size = output.sizes().slice(2);
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), "warp_sample", [&] {
    with_warp<scalar_t>(map, input.size(0), input.size(1), in_size, out_size, [&](Warp<scalar_t>& w) {
      w.input = volumes(images, images.const_data_ptr<scalar_t>());
      w.output = volumes(output, output.mutable_data_ptr<scalar_t>());
      w.past_caches = is_planar(w) && streams(output, images_out<scalar_t>(output));
      for_parts(w, WarpParts(w, 1), [&](const WarpPart& part, int64_t, scalar_t* radial) {
        kernels<scalar_t>().warp_sample(w, part, radial);
      });
    });
  });
}

namespace {

// gradients: theta's, zeros.
template <class T>
void sum_moments(const Warp<T>& w, double* gradients) {
  const WarpParts parts(w, 1);
  // The rows' parts in order, whatever thread had them.
  const int64_t entries = w.maps * w.streams() * w.basis;
  std::vector<double> sums(static_cast<size_t>(parts.down * entries));
  for_parts(w, parts, [&](const WarpPart& part, int64_t k, T* radial) {
    double* to = sums.data() + k % parts.down * entries + part.map_begin * w.streams() * w.basis;
    kernels<T>().warp_moments(w, part, radial, to);
  });
  for (size_t k = 0; k < sums.size(); ++k) gradients[static_cast<int64_t>(k) % entries] += sums[k];
}

}  // namespace

at::Tensor warp_moments(const at::Tensor& grad, const at::Tensor& input, const Map& map) {
  const at::Tensor images = paired(input);
  const at::IntArrayRef in_size = input.sizes().slice(2), out_size = grad.sizes().slice(2);
  const at::Tensor gradients = at::zeros(map.theta.sizes(), map.theta.options().dtype(at::kDouble));
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), "warp_moments", [&] {
    with_warp<scalar_t>(map, input.size(0), input.size(1), in_size, out_size, [&](Warp<scalar_t>& w) {
      w.input = volumes(images, images.const_data_ptr<scalar_t>());
      w.grad = volumes(grad, grad.const_data_ptr<scalar_t>());
      sum_moments(w, gradients.mutable_data_ptr<double>());
    });
  });
  return gradients;
}

void warp_adjoint(const at::Tensor& grad, const Map& map, const at::Tensor& grad_input) {
  const Sharing sharing(map, grad_input.size(0));
  const at::Tensor g = grad.contiguous(grad.suggest_memory_format());
  const at::IntArrayRef in_size = grad_input.sizes().slice(2), out_size = grad.sizes().slice(2);
  AT_DISPATCH_FLOATING_TYPES(grad.scalar_type(), "warp_adjoint", [&] {
    with_warp<scalar_t>(map, grad_input.size(0), grad.size(1), in_size, out_size, [&](Warp<scalar_t>& w) {
      w.grad = volumes(g, g.const_data_ptr<scalar_t>());
      w.grad_input = volumes(grad_input, grad_input.mutable_data_ptr<scalar_t>());
      w.past_caches = is_planar(w) && streams(grad_input, images_out<scalar_t>(grad_input));
      adjoint_tiles(w, sharing);
    });
  });
}

}  // namespace stn::cpu
