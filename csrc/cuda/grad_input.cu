// The gradient of the input: what surrounds the scatter, and the launches.
#include "dispatch.h"
#include "grad_input.h"
#include "scatter.cuh"

namespace stn::cuda {
namespace {

// Clears a block's share of the words that the first chunk of images needs.
__device__ inline void clear_words(const Problem& p, const Words& words) {
  const int64_t count = words.images_here(p) * words.batch, step = int64_t{1} * gridDim.x * blockDim.x;
#pragma unroll 4
  for (int64_t k = int64_t{1} * blockIdx.x * blockDim.x + thread_number(); k < count; k += step) {
    words.data[k] = 0;
    if (words.second) words.data[words.second + k] = 0;
  }
}

// The largest magnitude, among those that are finite, of what each image's sums are of.
template <class S, MapKind kind, bool tangent>
__device__ void largest_part(const Problem& p, const Tiles& tiles, const Words& words, uint32_t block) {
  using T = Computed<S>;
  __shared__ T mosts[kMostWarps];
  Part part;
  int64_t image, place;
  find_part(p, tiles, words, block, &part, &image, &place);
  __syncthreads();  // what is shared is that of the part before until here
  T weight[kTogether];
  if constexpr (tangent) {
    __shared__ Plan<kind, T> plan;
    Taps<dims_of(kind), tangent, T> taps[kTogether];
    locate<tangent>(p, part, tiles, &plan, taps);
    for (int k = 0; k < kTogether; ++k) weight[k] = taps[k].code ? taps[k].largest_weight() : T(0);
  } else {
    const Pixels pixels(tiles);
    for (int k = 0; k < kTogether; ++k) {
      const bool exists = part.column + pixels.column < p.axis[0].out &&
                          part.row + pixels.row + k * kWarpRows < p.axis[1].out;
      weight[k] = exists ? T(1) : T(0);
    }
  }
  const S* grad = gradients<S>(p, part, tiles);
  T most = 0;
  for (int c = 0; c < part.channels; ++c, grad = ahead(grad, p.grad.channel)) {
    for (int k = 0; k < kTogether; ++k) {
      const T term =
          weight[k] != 0 ? fabs(load(ahead(grad, k * kWarpRows * p.grad.axis[1])) * weight[k]) : T(0);
      if (is_finite(term) && term > most) most = term;
    }
  }
  for (int step = kWarp / 2; step > 0; step /= 2) most = fmax(most, __shfl_xor_sync(kWholeWarp, most, step));
  if (lane_number() == 0) mosts[warp_number()] = most;
  __syncthreads();
  if (thread_number() != 0) return;
  for (int w = 1; w < static_cast<int>(blockDim.x) / kWarp; ++w) most = fmax(most, mosts[w]);
  atomicMax(words.largest + image, static_cast<Word>(magnitude_bits(most)));
}

template <class S, MapKind kind, bool tangent>
__global__ void __launch_bounds__(kMostThreads, sizeof(S) == 8 || tangent ? 2 : 3)
    largest(const __grid_constant__ Problem p, const __grid_constant__ Tiles tiles,
            const __grid_constant__ Words words) {
  clear_words(p, words);
  Words all = words;
  all.images = p.images;
  const int64_t parts = (words.one_to_one ? all.images_here(p) : p.maps) * tiles.per_map;
#pragma unroll 1
  for (int64_t b = blockIdx.x; b < parts; b += gridDim.x)
    largest_part<S, kind, tangent>(p, tiles, all, static_cast<uint32_t>(b));
}

// Bytes of grad_input before an image's value number k, in the words' order.
__device__ inline int64_t offset_of(const Problem& p, const Words& words, int64_t size, int64_t k) {
  if (words.dense) return k * size;
  STN_RARE();
  const int64_t x = k % p.axis[0].in, row = k / p.axis[0].in, y = row % p.axis[1].in,
                slice = row / p.axis[1].in;
  const int64_t z = slice % p.axis[2].in, c = slice / p.axis[2].in;
  return x * p.grad_input.axis[0] + y * p.grad_input.axis[1] + z * p.grad_input.axis[2] +
         c * p.grad_input.channel;
}

constexpr int kConverted = 8;  // values of a thread

// Words to values; more: whether the words are to be 0 for images that follow.
template <class S>
__device__ void convert_part(const Problem& p, const Words& words, const Divisor& parts, bool more,
                             uint32_t block) {
  using T = Computed<S>;
  const uint32_t place = parts.quotient(block), part = block - place * parts.by;
  const int64_t image = words.image_at(place);
  const int e = exponent_of(static_cast<MagnitudeBits<T>>(words.largest[image]));
  Word* from = words.data + place * words.batch;
  char* to = p.grad_input.data + image * p.grad_input.batch;
#pragma unroll 1
  for (int n = 0; n < kConverted; ++n) {
    const int64_t k = (static_cast<int64_t>(part) * kConverted + n) * kMostThreads + thread_number();
    if (k >= words.batch) return;
    T sum;
    read_sum(from + k, words.second, words.digits, e, &sum);
    store(sum, reinterpret_cast<S*>(to + offset_of(p, words, sizeof(S), k)));
    if (!more) continue;
    from[k] = 0;
    if (words.second) from[k + words.second] = 0;
  }
}

template <class S>
__global__ void __launch_bounds__(kMostThreads, 4)
    convert(const __grid_constant__ Problem p, const __grid_constant__ Words words,
            const __grid_constant__ Divisor parts, bool more) {
  const int64_t all = words.images_here(p) * parts.by;
#pragma unroll 1
  for (int64_t b = blockIdx.x; b < all; b += gridDim.x)
    convert_part<S>(p, words, parts, more, static_cast<uint32_t>(b));
}

// ---- launches ----

// Bytes of words at a time. Where maps are expected to be gathered they are not even touched, and launches
// for more than one chunk cost more than memory does.
constexpr int64_t kScratch = int64_t{64} << 20, kUnlikelyScratch = int64_t{256} << 20;

int64_t values_of_an_image(const Problem& p) {
  return p.channels * static_cast<int64_t>(p.axis[0].in) * p.axis[1].in * p.axis[2].in;
}

int64_t words_of_a_sum(const Problem& p) {
  return p.storage == Storage::f64 ? kWords<double> : kWords<float>;
}

bool one_to_one(const Problem& p) { return !p.index && p.images == p.maps; }

// Images that are worked on at a time.
int64_t images_together(const Problem& p) {
  const int64_t bytes = values_of_an_image(p) * words_of_a_sum(p) * static_cast<int64_t>(sizeof(Word));
  const int64_t room = may_gather(p) ? kUnlikelyScratch : kScratch, count = bytes < room ? room / bytes : 1;
  return count < p.images ? count : p.images;
}

// Before the sums: how many maps are left to scatter, images' largest magnitudes; which maps, all maps'
// inverses.
int64_t cleared_words(const Problem& p) { return 1 + p.images; }
int64_t header_words(const Problem& p) {
  const int64_t words = cleared_words(p);
  return may_gather(p) ? words + (p.maps + 1) / 2 + p.maps * inverse_bytes(p.kind) / 8 : words;
}

// In the order of grad_input's elements, or else in planes.
void lay_out(const Problem& p, int64_t size, Words* w) {
  const int64_t pixels = w->batch / p.channels;
  for (const bool interleaved : {true, false}) {
    int64_t stride = interleaved ? p.channels : 1;
    w->channel = interleaved ? 1 : pixels;
    w->dense = p.grad_input.channel == w->channel * size || p.channels == 1;
    for (int d = 0; d < kMaxAxes; ++d) {
      w->axis[d] = stride;
      w->dense &= p.grad_input.axis[d] == stride * size || p.axis[d].in == 1;
      stride *= p.axis[d].in;
    }
    if (w->dense) return;
  }
}

Words words_of(const Problem& p, void* scratch) {
  Words w{};
  w.images = images_together(p);
  w.largest = static_cast<Word*>(scratch) + 1;
  w.data = static_cast<Word*>(scratch) + header_words(p);
  w.batch = values_of_an_image(p);
  w.second = words_of_a_sum(p) > 1 ? w.images * w.batch : 0;
  w.one_to_one = one_to_one(p);
  if (may_gather(p)) w.leftover = {static_cast<Word*>(scratch), reinterpret_cast<int*>(w.largest + p.images)};
  with_storage(p.storage, [&](auto element) {
    using S = decltype(element);
    lay_out(p, sizeof(S), &w);
    double terms = w.one_to_one ? 1 : static_cast<double>(p.maps);
    for (int d = 0; d < kMaxAxes; ++d) terms *= p.axis[d].out;
    w.digits = digits_of<Computed<S>>(terms);
    return cudaSuccess;
  });
  return w;
}

cudaError_t launch_largest(const Problem& p, const Words& words, cudaStream_t stream) {
  const Tiles tiles = one_band(p.axis[1].out, output_tiles(p));
  return with_all(p, [&](auto element, auto kind, auto tangent) {
    using S = decltype(element);
    // Without a tangent, the map does not matter.
    constexpr MapKind known = tangent.value ? kind.value : MapKind::affine;
    return launch_loop(largest<S, known, tangent.value>, tiles.blocks(p.maps), tiles.threads, stream, p,
                       tiles, words);
  });
}

cudaError_t launch_convert(const Problem& p, const Words& words, bool more, cudaStream_t stream) {
  const Divisor parts = divisor(ceil_div(words.batch, kConverted * kMostThreads));
  return with_storage(p.storage, [&](auto element) {
    return launch_loop(convert<decltype(element)>, parts.by * words.images, kMostThreads, stream, p, words,
                       parts, more);
  });
}

}  // namespace

int64_t grad_input_scratch(const Problem& p) {
  const int64_t words = images_together(p) * values_of_an_image(p) * words_of_a_sum(p) + header_words(p);
  return words * static_cast<int64_t>(sizeof(Word));
}

cudaError_t launch_grad_input(const Problem& call, void* scratch, cudaStream_t stream) {
  Problem p = call;
  p.input = p.grad_input;  // which plans point into
  Words words = words_of(p, scratch);
  if (output_tiles(p).blocks(p.maps) > kMostBlocks) return cudaErrorInvalidConfiguration;
  const auto bytes = static_cast<size_t>(cleared_words(p)) * sizeof(Word);
  cudaError_t error = cudaMemsetAsync(scratch, 0, bytes, stream);
  if (error == cudaSuccess && may_gather(p)) {
    Word* const inverses = words.largest + p.images + (p.maps + 1) / 2;
    error = launch_gather(p, inverses, words.leftover, stream);
  }
  if (error == cudaSuccess) error = launch_largest(p, words, stream);
  for (; error == cudaSuccess && words.first < p.images; words.first += words.images) {
    const bool more = words.first + words.images < p.images;
    if (!more) words.images = p.images - words.first;
    error = launch_scatter(p, words, stream);
    if (error == cudaSuccess) error = launch_convert(p, words, more, stream);
  }
  return error;
}

}  // namespace stn::cuda
