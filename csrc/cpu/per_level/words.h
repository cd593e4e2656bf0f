// Pictures of bytes: a pixel's channels, up to four, are the bytes of a word, in windows and in registers, so
// that a tap is one load for all of them. Included by level sources only; see problem.h.
#pragma once

#include "sample.h"

namespace stn::cpu {
namespace STN_LEVEL {

typedef Vec<int32_t> Words;  // channel c of a pixel in bits 8 c to 8 c + 7

constexpr int kPixelLanes = Simd<int32_t>::lanes;

// ---- between memory and words ----

// A vector of pixels of three bytes.
STN_INLINE Words load_triples(const uint8_t* from) {
#if defined(STN_LEVEL_AVX512)
  const __m512i quarters = _mm512_setr_epi32(0, 1, 2, 2, 3, 4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 11);
  const __m512i bytes =
      _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1));
  const __m512i packed = _mm512_maskz_loadu_epi32(0x0FFF, from);
  return (Words)_mm512_shuffle_epi8(_mm512_permutexvar_epi32(quarters, packed), bytes);
#elif defined(STN_LEVEL_AVX2)
  const __m256i bytes = _mm256_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1,  //
                                         4, 5, 6, -1, 7, 8, 9, -1, 10, 11, 12, -1, 13, 14, 15, -1);
  const auto half = [&](int at)
                        STN_LAMBDA { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + at)); };
  return (Words)_mm256_shuffle_epi8(_mm256_set_m128i(half(8), half(0)), bytes);
#else
  Words v;
  for (int k = 0; k < kPixelLanes; ++k) {
    v[k] = from[3 * k] | from[3 * k + 1] << 8 | from[3 * k + 2] << 16;
  }
  return v;
#endif
}

STN_INLINE void store_triples(uint8_t* to, Words v) {
#if defined(STN_LEVEL_AVX512)
  const __m512i bytes =
      _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1));
  const __m512i quarters = _mm512_setr_epi32(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 3, 7, 11, 15);
  const __m512i packed = _mm512_permutexvar_epi32(quarters, _mm512_shuffle_epi8((__m512i)v, bytes));
  store(to, _mm512_castsi512_si256(packed));
  store(to + 32, _mm512_extracti32x4_epi32(packed, 2));
#elif defined(STN_LEVEL_AVX2)
  const __m256i bytes = _mm256_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1,  //
                                         0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
  const __m256i packed = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8((__m256i)v, bytes),
                                                     _mm256_setr_epi32(0, 1, 2, 4, 5, 6, 3, 7));
  store(to, _mm256_castsi256_si128(packed));
  store(to + 16, _mm256_extract_epi64(packed, 2));
#else
  for (int k = 0; k < kPixelLanes; ++k) {
    for (int c = 0; c < 3; ++c) to[3 * k + c] = static_cast<uint8_t>(v[k] >> 8 * c);
  }
#endif
}

// Pixels of bytes: channel c of pixel k lies at k * pixel + c * channel.
struct Bytes {
  int64_t channels, channel, pixel;

  // Whether a pixel's channels, and the pixels, lie side by side.
  STN_INLINE bool packed(int count) const { return channels == count && pixel == count && channel == 1; }

  STN_INLINE void load_row(const uint8_t* from, int64_t count, int32_t* to) const {
    if (packed(3)) {
      for_vectors<int32_t>(count, [&](int64_t k, int64_t n) STN_LAMBDA {
        alignas(64) uint8_t part[3 * kPixelLanes] = {};
        if (n < kPixelLanes) __builtin_memcpy(part, from + 3 * k, static_cast<size_t>(3 * n));
        store_some(to + k, load_triples(n < kPixelLanes ? part : from + 3 * k), n);
      });
    } else if (packed(4)) {
      __builtin_memcpy(to, from, static_cast<size_t>(4 * count));
    } else if (pixel == 1) {
      for_vectors<int32_t>(count, [&](int64_t k, int64_t n) STN_LAMBDA {
        Words v{};
        for (int64_t c = 0; c < channels; ++c) {
          const auto bytes = load_some<typename Raw<float, uint8_t>::V>(from + c * channel + k, n);
          v |= spread_bits<uint8_t>(bytes) << static_cast<int>(8 * c);
        }
        store_some(to + k, v, n);
      });
    } else {
      for (int64_t k = 0; k < count; ++k) {
        to[k] = 0;
        for (int64_t c = 0; c < channels; ++c) to[k] |= from[k * pixel + c * channel] << (8 * c);
      }
    }
  }

  // The first n of a vector.
  STN_INLINE void store(Words v, int64_t n, uint8_t* to) const {
    if (packed(3) && n == kPixelLanes) {
      store_triples(to, v);
    } else if (packed(4)) {
      store_some(reinterpret_cast<int32_t*>(to), v, n);
    } else if (pixel == 1) {
      for (int64_t c = 0; c < channels; ++c) {
        store_some(to + c * channel, gather_bits<uint8_t>(v >> static_cast<int>(8 * c) & 255), n);
      }
    } else {
      for (int64_t k = 0; k < n; ++k) {
        for (int64_t c = 0; c < channels; ++c)
          to[k * pixel + c * channel] = static_cast<uint8_t>(v[k] >> 8 * c);
      }
    }
  }
};

// Whether a pixel's channels can be worked on as words: what lies outside too.
STN_INLINE bool are_bytes(const Problem& p) {
  bool whole = p.channels > 1 && (p.nearest ? p.element == 1 : p.storage == Storage::u8);
  for (int64_t c = 0; whole && c < p.channels && !p.nearest; ++c) {
    const double fill = p.fill_of(c);
    whole = fill >= 0 && fill <= 255 && fill == __builtin_floor(fill);
  }
  return whole;
}

// Some channels of an image, as words.
struct WordSource : Source<float> {
  Bytes bytes;
  int32_t fill = 0;

  STN_INLINE WordSource(const Source<float>& source, int64_t channels)
      : Source<float>(source), bytes{channels, source.stride, source.pixel} {
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t bits = p.nearest && p.fill_bits ? p.fill_bits[channel + c] : 0;
      fill |= (p.nearest ? bits & 255 : static_cast<int64_t>(p.fill_of(channel + c))) << (8 * c);
    }
  }

  STN_INLINE int32_t outside(int64_t) const { return fill; }
  STN_INLINE void expect(int64_t y, int64_t x, int64_t count) const {
    for (int64_t c = 0; c < (pixel == 1 ? bytes.channels : 1); ++c) from(c).expect(y, x, count);
  }
  STN_INLINE void load(int64_t, int64_t, int64_t y, int64_t x, int64_t count, int32_t* to, int64_t) const {
    bytes.load_row(reinterpret_cast<const uint8_t*>(at(0, y, x)), count, to);
  }
};

// ---- sample ----

// Channel c times 256^c, but for the last one, which would reach the sign: a float holds it exactly.
STN_INLINE Vec<float> channel_of(Words v, int c) {
  return __builtin_convertvector(c == 3 ? v >> 24 & 255 : v & 255 << 8 * c, Vec<float>);
}

// Rounded to the nearest, ties to even, each channel: results lie within bytes' range as the taps do.
template <int channels>
STN_INLINE Words blend_words(const Taps<int32_t>& t, Vec<float> x1, Vec<float> y1) {
  const Vec<float> x0 = 1 - x1, y0 = 1 - y1, w00 = y0 * x0, w01 = y0 * x1, w10 = y1 * x0, w11 = y1 * x1;
  Words result{};
#pragma GCC unroll 4
  for (int c = 0; c < channels; ++c) {
    const float round = 0x1.8p23f * static_cast<float>(c == 3 ? 1 : 1 << 8 * c);  // whose last digit is 1
    const Vec<float> sum = w00 * channel_of(t.v00, c) + w01 * channel_of(t.v01, c) +
                           w10 * channel_of(t.v10, c) + w11 * channel_of(t.v11, c);
    result |= (same_bits<Words>(sum + round) & 255) << 8 * c;
  }
  return result;
}

// at(k): the words of a vector of pixels from the k-th on.
template <class F>
STN_INLINE void store_words(const TileView<float>& to, const OutTile& t, int64_t channels, const F& at) {
  const Bytes bytes{channels, to.channel, to.pixel};
  for_runs(to, t, [&](int64_t first, int64_t count, int64_t r) STN_LAMBDA {
    for (int64_t k = 0; k < count; k += kPixelLanes) {
      const int64_t n = count - k < kPixelLanes ? count - k : kPixelLanes;
      bytes.store(at(first + k), n, reinterpret_cast<uint8_t*>(to.at(0, r, k)));
    }
  });
}

template <int channels>
__attribute__((noinline)) void sample_words(const TileView<float>& to, const OutTile& t,
                                            const int32_t* window, const Located<float>& l) {
  store_words(to, t, channels, [&](int64_t k) STN_LAMBDA {
    return blend_words<channels>(load_quads(window, l.tap + k), load<Vec<float>>(l.fx + k),
                                 load<Vec<float>>(l.fy + k));
  });
}

// `channels` channels, up to four.
STN_INLINE void sample_words(const TileView<float>& to, const OutTile& t, int64_t channels,
                             const int32_t* window, const Located<float>& l) {
  static_assert(kFew == 4, "one case each");
  switch (channels) {
    case 1:
      return sample_words<1>(to, t, window, l);
    case 2:
      return sample_words<2>(to, t, window, l);
    case 3:
      return sample_words<3>(to, t, window, l);
    default:
      return sample_words<4>(to, t, window, l);
  }
}

// ---- nearest ----

// The pixel nearest to each coordinate, to the even one of two, by whole numbers and fractions.
template <class T>
STN_INLINE Vec<T> rounded(Vec<T> whole, Vec<T> frac) {
  typedef typename Simd<T>::Mask Int;
  const Vec<T> zero{}, half = zero + T(0.5), above = half * (1 + (sizeof(T) == 4 ? T(0x1p-23) : T(0x1p-52)));
  const Int odd = (__builtin_convertvector(whole, Int) & 1) != 0;
  return whole + (frac >= (odd ? half : above) ? zero + 1 : zero);
}

// Keeps the places of a window that are nearest.
struct KeepNearestPlaces {
  const Window& w;
  int32_t* tap;

  STN_INLINE void operator()(int64_t at, Vec<float> x, Vec<float> fx, Vec<float> y, Vec<float> fy) const {
    const auto along = [](Vec<float> whole, Vec<float> frac, int64_t first, int64_t count) STN_LAMBDA {
      const Vec<float> zero{}, from = zero + static_cast<float>(first);
      return clamp<float>(rounded<float>(whole + from, frac) - from, zero + static_cast<float>(count - 1));
    };
    const Vec<float> place =
        along(y, fy, w.top, w.rows) * static_cast<float>(w.pitch) + along(x, fx, w.left, w.columns);
    store(tap + at, to_index<float>(place));
  }
};

// A tile of up to four channels at once, of located pixels. window: memory for one.
template <class T>
__attribute__((noinline)) void move_words(const WordSource& source, const TileView<T>& to, const OutTile& t,
                                          const Window& w, const int32_t* tap, int32_t* window) {
  const Columns in(source.p, w);
  for (int64_t y = 0; y < w.rows; ++y) {
    source.expect(w.top + y + kRowsAhead, in.first, in.count);
    complete_row(source, 1, w.top + y, w, window + y * w.pitch, 0);
  }
  // One by one: to put a vector together takes longer.
  alignas(64) int32_t words[kTilePixels + kPixelLanes];
  for (int64_t k = 0; k < t.rows * t.columns; ++k) words[k] = window[tap[k]];
  store_words(to, t, source.bytes.channels, [&](int64_t k) STN_LAMBDA { return load<Words>(words + k); });
}

}  // namespace STN_LEVEL
}  // namespace stn::cpu
