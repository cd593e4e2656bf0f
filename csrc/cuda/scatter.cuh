// Where scattered gradients go: a pixel's taps, and the words or the window of them that they are added to.
#pragma once

#include "block.cuh"
#include "grad_input.h"
#include "sums.cuh"
#include "taps.cuh"

namespace stn::cuda {

constexpr int kPixels = kTogether;              // of a thread
constexpr int kCells = 4096, kMostCopies = 32;  // of a window

// ---- where a pixel's gradient goes ----

// all[k], of what is held in registers.
template <class V, int count>
__device__ V chosen(const V (&all)[count], int k) {
  V one = all[0];
#pragma unroll
  for (int other = 1; other < count; ++other) {
    if (k == other) one = all[other];
  }
  return one;
}

// A pixel's taps. Bits of `code` say of each axis which taps exist and how far the second lies from the
// first, folded by the padding: -1, 0 or 1.
template <int dims, bool tangent, class T>
struct Taps {
  int first[dims];  // where the first lies, or would
  unsigned code;
  T frac[dims], along[tangent ? dims : 1];

  static constexpr unsigned kFirst = 1, kSecond = 2;
  static constexpr int kDelta = 2, kBits = 4;
  // All taps exist and the second lies behind the first.
  static constexpr unsigned kInside = (kFirst | kSecond | 2 << kDelta) * (dims == 2 ? 0x11 : 0x111);

  __device__ void set(const Problem& p, const Spot<dims, T>& spot) {
    bool none = false;
    code = 0;
    for (int d = 0; d < dims; ++d) {
      Split<T> s = spot.at[d];
      if constexpr (tangent) {
        const bool flat = p.nearest || axis_weights(s, p.axis[d], p.padding).d1 == 0;
        along[d] = flat ? T(0) : spot.along[d];
      }
      none |= s.frac != s.frac;
      if (p.nearest) s = {rounded(s), T(0)};
      const int a = source_of(s.whole, p.axis[d], p.padding);
      const int b = p.nearest ? -1 : source_of(s.whole + 1, p.axis[d], p.padding);
      none |= a < 0 && b < 0;
      first[d] = a >= 0 ? a : b - 1;
      frac[d] = s.frac;
      const unsigned delta = static_cast<unsigned>(b >= 0 ? b - first[d] + 1 : 1);
      code |= ((a >= 0 ? kFirst : 0) | (b >= 0 ? kSecond : 0) | delta << kDelta) << (kBits * d);
    }
    if (none) code = 0;
  }

  __device__ int delta(int d) const { return static_cast<int>(code >> (kBits * d + kDelta) & 3) - 1; }

  // No tap's weight is larger.
  __device__ T largest_weight() const {
    T sum = tangent ? 0 : 1;
    for (int d = 0; tangent && d < dims; ++d) sum += 2 * fabs(along[d]);
    return sum;
  }

  // f(offset, weight) of each tap that exists; base: the first one's offset. inside: whether `code` is
  // kInside.
  template <bool inside, class Offset, class F>
  __device__ void each(Offset base, const Offset (&strides)[dims], const F& f) const {
    AxisWeights<T> a[dims];
    for (int d = 0; d < dims; ++d) a[d] = {1 - frac[d], frac[d], -1, 1};
#pragma unroll
    for (int t = 0; t < 1 << dims; ++t) {
      unsigned wanted = 0;
      Offset at = base;
      for (int d = 0; d < dims; ++d) {
        wanted |= (t >> d & 1 ? kSecond : kFirst) << (kBits * d);
        at += t >> d & 1 ? (inside ? strides[d] : delta(d) * strides[d]) : 0;
      }
      if (inside || (code & wanted) == wanted) f(at, value_weight<dims, tangent>(a, along, t));
    }
  }
};

// The next pixels of a thread in a tame tile: where they fall, in 2^-32 pixels. Whether all taps lie inside.
template <MapKind kind, int dims>
__device__ bool places_inside(const Problem& p, const Plan<kind, float>& plan, int j, int i,
                              const Bend<float> (&bend)[kTogether], int64_t (&at)[kTogether][dims]) {
  bool inside = true;
  walk<kTogether>(plan, j, i, at);
#pragma unroll
  for (int k = 0; k < kTogether; ++k) {
#pragma unroll
    for (int d = 0; d < dims; ++d) {
      if constexpr (kind == MapKind::spline) {
        const bool bounded = fabsf(bend[k].by[d]) < kMostBend;
        inside &= bounded;
        at[k][d] += static_cast<int64_t>(bounded ? bend[k].by[d] * 0x1p32f : 0);
      }
      inside &= static_cast<unsigned>(at[k][d] >> 32) < static_cast<unsigned>(p.axis[d].in - 1);
    }
  }
  return inside;
}

// ---- what holds the sums ----

// The words of some images, in the order of grad_input's elements where these lie densely. Strides count
// words.
struct Words {
  Word* data;
  int64_t batch, channel, axis[kMaxAxes];
  int64_t first, images;  // the first one's number, and how many
  int64_t second;         // from a sum's first word to its second; 0: there is none
  Digits digits;
  Word* largest;    // magnitude of each image's terms, as bits
  bool one_to_one;  // whether map n reads image n
  Leftover leftover;
  bool dense;

  // Maps of one_to_one, of which there may be fewer than the host knows of, are counted as they are listed.
  __device__ int64_t images_here(const Problem& p) const {
    if (!one_to_one) return images;
    const int64_t all = leftover.list ? static_cast<int64_t>(*leftover.count) : p.maps;
    return all - first < images ? all - first : images;  // may be below 0
  }
  __device__ int64_t image_at(int64_t place) const {
    return one_to_one && leftover.list ? leftover.list[first + place] : first + place;
  }
};

// A block's part of the output, of the work's part number `block`: its map's image, and the image's place
// among the words. False where the words are not for that image.
__device__ inline bool find_part(const Problem& p, const Tiles& tiles, const Words& words, uint32_t block,
                                 Part* part, int64_t* image, int64_t* place) {
  *part = Part(p, tiles, block);
  if (words.one_to_one) {
    *place = part->map;
    *image = words.image_at(*place);
    part->map = static_cast<int>(*image);
    return true;
  }
  *image = p.index ? p.index[part->map] : 0;
  if (*image < 0 || *image >= p.images) {
    STN_RARE();
    assert(false);  // an index of an image beyond the input's batch
  }
  *place = *image - words.first;
  return *place >= 0 && *place < words.images;
}

template <int dims>
struct Direct {
  Word* to;
  int64_t strides[dims], second;
  Digits digits;

  __device__ int64_t offset(const int (&place)[dims]) const {
    int64_t at = 0;
    for (int d = 0; d < dims; ++d) at += place[d] * strides[d];
    return at;
  }
  template <class T>
  __device__ void add(int64_t at, T v) const {
    stn::cuda::add(v, digits, to + at, second);
  }
  __device__ Word* word(int64_t at) const { return to + at; }
};

// A place in a box, and so many cells further on.
template <int dims>
struct Cell {
  int at[dims];

  __device__ Cell(int number, const int (&length)[dims]) {
    for (int d = 0; d < dims - 1; ++d) {
      at[d] = number % length[d];
      number /= length[d];
    }
    at[dims - 1] = number;
  }
  __device__ void advance(const Cell& by, const int (&length)[dims]) {
    int carry = 0;
    for (int d = 0; d < dims; ++d) {
      at[d] += by.at[d] + carry;
      carry = d < dims - 1 && at[d] >= length[d];
      if (carry) at[d] -= length[d];
    }
  }
};

// A box of the input in shared memory, with copies of each cell side by side, where lanes that add to the
// same cell do not wait for each other.
template <int dims>
struct Window {
  int high[kCells], low[kCells];  // digits
  int first[dims], length[dims], strides[dims], copies, cells;
  int64_t axis[dims];  // words

  // For the box from `from` to `until`; without cells where there would be too many. By one thread.
  __device__ void fit(const int (&from)[dims], const int (&until)[dims], const Words& words) {
    int64_t count = 1;
    for (int d = 0; d < dims; ++d) {
      first[d] = from[d];
      length[d] = until[d] - from[d] + 1;
      count *= length[d];
      axis[d] = words.axis[d];
    }
    cells = count <= kCells ? static_cast<int>(count) : 0;
    copies = kMostCopies;
    while (copies > 1 && copies * cells > kCells / 2) copies /= 2;
    int stride = copies;
    for (int d = 0; d < dims; ++d) {
      strides[d] = stride;
      stride *= length[d];
    }
  }

  // By all threads, as what follows.
  __device__ void clear() {
    for (int at = thread_number(); at < cells * copies; at += static_cast<int>(blockDim.x))
      high[at] = low[at] = 0;
    __syncthreads();
  }

  // The offset of a place, in this thread's copy.
  __device__ int offset(const int (&place)[dims]) const {
    int at = thread_number() & (copies - 1);
    for (int d = 0; d < dims; ++d) at += (place[d] - first[d]) * strides[d];
    return at;
  }

  // Adds the cells to an image's words in one channel, and clears them.
  __device__ void empty(Word* to) {
    Cell<dims> cell(thread_number(), length);
    const Cell<dims> step(static_cast<int>(blockDim.x), length);
#pragma unroll 1
    for (int k = thread_number(); k < cells; k += static_cast<int>(blockDim.x)) {
      int sum_high = 0, sum_low = 0;
#pragma unroll 1
      for (int copy = 0; copy < copies; ++copy) {
        const int at = k * copies + ((copy + thread_number()) & (copies - 1));  // each lane in its own bank
        sum_high += high[at];
        sum_low += low[at];
        high[at] = low[at] = 0;
      }
      if (sum_high | sum_low) {
        Word* word = to;
        for (int d = 0; d < dims; ++d) word += (first[d] + cell.at[d]) * axis[d];
        atomicAdd(word, word_of(sum_high, sum_low));
      }
      cell.advance(step, length);
    }
  }
};

// Adds to a window, to which an image's words in one channel belong.
template <int dims>
struct ToWindow {
  Window<dims>& window;
  Word* to;
  int strides[dims];

  __device__ ToWindow(Window<dims>& w, Word* words) : window(w), to(words) {
    for (int d = 0; d < dims; ++d) strides[d] = w.strides[d];
  }
  __device__ void add(int at, float v) const {
    const ShortDigits digits(v);
    atomicAdd(window.high + at, digits.high);
    atomicAdd(window.low + at, digits.low);
  }
  __device__ Word* word(int at) const {
    Word* word = to;
    int rest = at / window.copies;
    for (int d = 0; d < dims; ++d) {
      word += (window.first[d] + (d < dims - 1 ? rest % window.length[d] : rest)) * window.axis[d];
      rest /= window.length[d];
    }
    return word;
  }
};

// The box that a block's pixels touch, from each thread's own: low > high where it touches none. By all
// threads.
template <int dims>
__device__ void find_box(int (&low)[dims], int (&high)[dims]) {
  __shared__ int lows[dims][kMostWarps], highs[dims][kMostWarps];
  for (int d = 0; d < dims; ++d) {
    for (int step = kWarp / 2; step > 0; step /= 2) {
      low[d] = min(low[d], __shfl_xor_sync(kWholeWarp, low[d], step));
      high[d] = max(high[d], __shfl_xor_sync(kWholeWarp, high[d], step));
    }
    if (lane_number() == 0) lows[d][warp_number()] = low[d], highs[d][warp_number()] = high[d];
  }
  __syncthreads();
  for (int d = 0; d < dims; ++d) {
#pragma unroll 1
    for (int w = 0; w < static_cast<int>(blockDim.x) / kWarp; ++w) {
      low[d] = min(low[d], lows[d][w]);
      high[d] = max(high[d], highs[d][w]);
    }
  }
}

// ---- a block's pixels ----

// A thread's pixels' taps; by all threads. Whether all of them exist and lie inside the image.
template <bool tangent, MapKind kind, int dims, class T>
__device__ bool locate(const Problem& p, const Part& part, const Tiles& tiles, Plan<kind, T>* plan,
                       Taps<dims, tangent, T> (&taps)[kTogether]) {
  using Taps = Taps<dims, tangent, T>;
  __shared__ Spot<dims, T> slots[kMostThreads];
  plan_tile(p, [&] { return part; }, tiles, p.grad, plan);
  const Pixels at(tiles);
  Bend<T> bend[kTogether] = {};
  if constexpr (kind == MapKind::spline)
    bend_of(p, part.map, part.column + at.column, part.row + at.row, &plan->staged, bend);
  const bool column = part.column + at.column < p.axis[0].out;
  const auto exists = [&](int k) { return column && part.row + at.row + k * kWarpRows < p.axis[1].out; };
  if constexpr (sizeof(T) == 4 && !tangent) {
    int64_t places[kTogether][dims];
    if (plan->tame() && !p.nearest && exists(kTogether - 1) &&
        places_inside(p, *plan, at.column, at.row, bend, places)) {
#pragma unroll
      for (int k = 0; k < kTogether; ++k) {
        taps[k].code = Taps::kInside;
#pragma unroll
        for (int d = 0; d < dims; ++d) {
          taps[k].first[d] = static_cast<int>(places[k][d] >> 32);
          taps[k].frac[d] = fraction(places[k][d]);
        }
      }
      return true;
    }
  }
  STN_RARE();
#pragma unroll 1
  for (int k = 0; k < kTogether; ++k) {
    Taps found;
    found.set(p,
              spot_of(p, *plan, at.column, at.row + k * kWarpRows, chosen(bend, k), slots + thread_number()));
    if (!exists(k)) found.code = 0;
#pragma unroll
    for (int other = 0; other < kTogether; ++other) {
      if (k == other) taps[other] = found;
    }
  }
  return false;
}

// The first gradient of a thread's pixels, in the part's first channel.
template <class S>
__device__ const S* gradients(const Problem& p, const Part& part, const Tiles& tiles) {
  const Pixels pixels(tiles);
  const int64_t offset = part.map * p.grad.batch + part.channel * p.grad.channel +
                         (part.column + pixels.column) * p.grad.axis[0] +
                         (part.row + pixels.row) * p.grad.axis[1] + part.slice * p.grad.axis[2];
  return reinterpret_cast<const S*>(p.grad.data + offset);
}

}  // namespace stn::cuda
