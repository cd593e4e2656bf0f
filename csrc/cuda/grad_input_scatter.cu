// The gradient of the input for any map: each output pixel adds its gradient to the taps that it was read
// from.
//
//  largest ──> scatter ──────────────────────────> convert
//  of an       a block's 32 x 32 output pixels are  words into the
//  image's     added up in a window of the input    images' dtype
//  gradients   in shared memory, the window to
//              words in global memory
//
// All sums are whole numbers (sums.cuh), so their order does not matter: the same call gives the same bits,
// however blocks and atomics come. The work of an output pixel is fixed: it is located once and adds to
// 2^dims taps, whatever theta is, whichever images share an index. Where a tile falls onto few pixels the
// window holds several copies of them, so that lanes do not wait for each other; where it is spread over more
// than a window holds, or in double, its pixels add to the words directly.
//
// Why not windows of the input that gather what falls on them: those need lists of the output pixels for
// each, split where many fall on one, in several launches more; work and memory are then bounded only by
// care. The price of words in global memory is 8 bytes a value, cleared, added to and read: they are worked
// through in chunks (kScratchBytes) that second-level caches hold.
#include <type_traits>

#include "dispatch.h"
#include "grad_input.h"
#include "scatter.cuh"

namespace stn::cuda {
namespace {

// Adds the gradients of a thread's pixels in one channel to the sums; row: bytes to the next one's.
template <class S, class Taps, class Offset, class Sink>
__device__ void add_channel(const S* grad, int64_t row, const Taps (&taps)[kTogether],
                            const Offset (&base)[kTogether], Computed<S> up, const Sink& sink) {
  using T = Computed<S>;
#pragma unroll 1
  for (int k = 0; k < kTogether; ++k, grad = ahead(grad, row)) {
    const Taps own = chosen(taps, k);
    if (!own.code) continue;
    const T value = load(grad), scaled = value * up;
    const bool finite = is_finite(value * own.largest_weight());
    own.template each<false>(chosen(base, k), sink.strides, [&](auto at, T weight) {
      if (finite) {
        sink.add(at, scaled * weight);
      } else if (weight != 0) {
        flag(value * weight, sink.word(at));
      }
    });
  }
}

// The same of pixels that all lie inside, together.
template <class S, class Taps, class Offset, class Sink>
__device__ void add_channel_inside(const S* grad, int64_t row, const Taps (&taps)[kTogether],
                                   const Offset (&base)[kTogether], Computed<S> up, const Sink& sink) {
  using T = Computed<S>;
  T value[kTogether];
  bool all_finite = true;
#pragma unroll
  for (int k = 0; k < kTogether; ++k) {
    value[k] = load(ahead(grad, k * row));
    all_finite &= is_finite(value[k] * taps[k].largest_weight());
  }
  if (!all_finite) {
    STN_RARE();
    return add_channel(grad, row, taps, base, up, sink);
  }
#pragma unroll
  for (int k = 0; k < kTogether; ++k) {
    taps[k].template each<true>(base[k], sink.strides,
                                [&](auto at, T weight) { sink.add(at, value[k] * up * weight); });
  }
}

// By a block.
template <class S, MapKind kind, bool tangent>
__device__ void scatter_part(const Problem& p, const Tiles& tiles, const Words& words, uint32_t block) {
  using T = Computed<S>;
  constexpr int dims = dims_of(kind);
  constexpr bool windows = sizeof(T) == 4;
  __shared__ Plan<kind, T> plan;
  Part part;
  int64_t image, place;
  if (!find_part(p, tiles, words, block, &part, &image, &place)) return;
  __syncthreads();  // what is shared is that of the part before until here
  Taps<dims, tangent, T> taps[kTogether];
  int low[dims], high[dims];
  for (int d = 0; d < dims; ++d) low[d] = kLongest, high[d] = -kLongest;
  const bool inside = locate<tangent>(p, part, tiles, &plan, taps);
#pragma unroll
  for (int k = 0; k < kTogether; ++k) {
#pragma unroll
    for (int d = 0; d < dims; ++d) {
      if (!taps[k].code) continue;
      low[d] = min(low[d], taps[k].first[d] + min(taps[k].delta(d), 0));
      high[d] = max(high[d], taps[k].first[d] + max(taps[k].delta(d), 0));
    }
  }
  const S* grad = gradients<S>(p, part, tiles);
  const int64_t row = kWarpRows * p.grad.axis[1];
  const int e = exponent_of(static_cast<MagnitudeBits<T>>(words.largest[image]));
  const T up = power_of_two(words.digits.high - e, T(0));
  Word* to = words.data + place * words.batch + part.channel * words.channel;
  if constexpr (windows) {
    __shared__ Window<dims> window;
    find_box(low, high);
    if (low[0] > high[0]) return;
    if (thread_number() == 0) {
      STN_RARE();
      window.fit(low, high, words);
    }
    __syncthreads();
    if (window.cells > 0) {
      window.clear();
      int base[kTogether];
      for (int k = 0; k < kTogether; ++k) base[k] = window.offset(taps[k].first);
#pragma unroll 1
      for (int c = 0; c < part.channels; ++c) {
        if (inside) {
          add_channel_inside(grad, row, taps, base, up, ToWindow<dims>{window, to});
        } else {
          STN_RARE();
          add_channel(grad, row, taps, base, up, ToWindow<dims>{window, to});
        }
        __syncthreads();
        window.empty(to);
        __syncthreads();
        grad = ahead(grad, p.grad.channel);
        to += words.channel;
      }
      return;
    }
    STN_RARE();
  }
  Direct<dims> direct;
  direct.to = to;
  for (int d = 0; d < dims; ++d) direct.strides[d] = words.axis[d];
  direct.second = words.second;
  direct.digits = words.digits;
  int64_t base[kTogether];
  for (int k = 0; k < kTogether; ++k) base[k] = direct.offset(taps[k].first);
#pragma unroll 1
  for (int c = 0; c < part.channels; ++c) {
    add_channel(grad, row, taps, base, up, direct);
    grad = ahead(grad, p.grad.channel);
    direct.to += words.channel;
  }
}

template <class S, MapKind kind, bool tangent>
__global__ void __launch_bounds__(kMostThreads,
                                  sizeof(S) == 8 || (tangent && kind == MapKind::volume) ? 1 : 2)
    scatter(const __grid_constant__ Problem p, const __grid_constant__ Tiles tiles,
            const __grid_constant__ Words words) {
  const int64_t parts = (words.one_to_one ? words.images_here(p) : p.maps) * tiles.per_map;
#pragma unroll 1
  for (int64_t b = blockIdx.x; b < parts; b += gridDim.x)
    scatter_part<S, kind, tangent>(p, tiles, words, static_cast<uint32_t>(b));
}

}  // namespace

cudaError_t launch_scatter(const Problem& p, const Words& words, cudaStream_t stream) {
  const Tiles tiles = one_band(p.axis[1].out, output_tiles(p));
  return with_all(p, [&](auto element, auto kind, auto tangent) {
    using S = decltype(element);
    const int64_t parts = (words.one_to_one ? words.images : p.maps) * tiles.per_map;
    return launch_loop(scatter<S, kind.value, tangent.value>, parts, tiles.threads, stream, p, tiles, words);
  });
}

}  // namespace stn::cuda
