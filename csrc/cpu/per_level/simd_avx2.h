// The vectors' operations that AVX2 has instructions for. Included by simd.h only.
#pragma once

namespace stn::cpu {
namespace STN_LEVEL {

alignas(64) constexpr int32_t kTailMask[16] = {-1, -1, -1, -1, -1, -1, -1, -1};

// The first `count` lanes, of eight.
STN_INLINE __m256i tail_mask(int64_t count) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kTailMask + (count < 8 ? 8 - count : 0)));
}

template <>
STN_INLINE Vec<float> load_some<Vec<float>, float>(const float* p, int64_t count) {
  return _mm256_maskload_ps(p, tail_mask(count));
}

template <>
STN_INLINE void store_some<Vec<float>, float>(float* p, Vec<float> v, int64_t count) {
  _mm256_maskstore_ps(p, tail_mask(count), v);
}

template <>
STN_INLINE void stream<Vec<float>, float>(float* p, Vec<float> v) {
  _mm256_stream_ps(p, v);
}

template <>
STN_INLINE void stream<Vec<double>, double>(double* p, Vec<double> v) {
  _mm256_stream_pd(p, v);
}

template <>
STN_INLINE Vec<float> floor_of<float>(Vec<float> x) {
  return _mm256_floor_ps(x);
}

template <>
STN_INLINE Vec<double> floor_of<double>(Vec<double> x) {
  return _mm256_floor_pd(x);
}

template <>
STN_INLINE Vec<float> lesser(Vec<float> a, Vec<float> b) {
  return _mm256_min_ps(a, b);
}

template <>
STN_INLINE Vec<float> greater(Vec<float> a, Vec<float> b) {
  return _mm256_max_ps(a, b);
}

// In each half: a[0], b[0], c[0], d[0]; a[1], ...
STN_INLINE void transpose_quads(__m256* v) {
  const __m256 ab_low = _mm256_unpacklo_ps(v[0], v[1]), ab_high = _mm256_unpackhi_ps(v[0], v[1]);
  const __m256 cd_low = _mm256_unpacklo_ps(v[2], v[3]), cd_high = _mm256_unpackhi_ps(v[2], v[3]);
  v[0] = _mm256_shuffle_ps(ab_low, cd_low, 0x44);
  v[1] = _mm256_shuffle_ps(ab_low, cd_low, 0xEE);
  v[2] = _mm256_shuffle_ps(ab_high, cd_high, 0x44);
  v[3] = _mm256_shuffle_ps(ab_high, cd_high, 0xEE);
}

template <>
STN_INLINE Taps<float> load_quads<float>(const float* pairs, const int32_t* tap) {
  __m256 v[4];
  for (int k = 0; k < 4; ++k) {
    v[k] = _mm256_castps128_ps256(_mm_loadu_ps(pairs + 2 * static_cast<int64_t>(tap[k])));
    v[k] = _mm256_insertf128_ps(v[k], _mm_loadu_ps(pairs + 2 * static_cast<int64_t>(tap[k + 4])), 1);
  }
  transpose_quads(v);
  return {v[0], v[2], v[1], v[3]};
}

template <>
STN_INLINE void load_pairs<float>(const float* from, const int64_t* offset, Vec<float>* first,
                                  Vec<float>* second) {
  // In the order in which halves are shuffled: pixels 0, 1, 4, 5 and 2, 3, 6, 7.
  const auto pair = [&](int k) STN_LAMBDA { return load<int64_t>(from + offset[k]); };
  const __m256 low = _mm256_castsi256_ps(_mm256_setr_epi64x(pair(0), pair(1), pair(4), pair(5))),
               high = _mm256_castsi256_ps(_mm256_setr_epi64x(pair(2), pair(3), pair(6), pair(7)));
  *first = _mm256_shuffle_ps(low, high, 0x88);
  *second = _mm256_shuffle_ps(low, high, 0xDD);
}

template <>
STN_INLINE Taps<double> load_quads<double>(const double* pairs, const int32_t* tap) {
  __m256d v[4];
  for (int k = 0; k < 4; ++k) v[k] = _mm256_loadu_pd(pairs + 2 * static_cast<int64_t>(tap[k]));
  const __m256d left01 = _mm256_permute2f128_pd(v[0], v[1], 0x20),
                left23 = _mm256_permute2f128_pd(v[2], v[3], 0x20);
  const __m256d right01 = _mm256_permute2f128_pd(v[0], v[1], 0x31),
                right23 = _mm256_permute2f128_pd(v[2], v[3], 0x31);
  const auto in_order = [](__m256d a, __m256d b, bool high) STN_LAMBDA {
    const __m256d mixed = high ? _mm256_unpackhi_pd(a, b) : _mm256_unpacklo_pd(a, b);
    return _mm256_permute4x64_pd(mixed, 0xD8);
  };
  return {in_order(left01, left23, false), in_order(right01, right23, false), in_order(left01, left23, true),
          in_order(right01, right23, true)};
}

template <>
STN_INLINE void store_quads<float>(float* out, Vec<float> a, Vec<float> b, Vec<float> c, Vec<float> d) {
  __m256 v[4] = {a, b, c, d};
  transpose_quads(v);
  for (int k = 0; k < 4; ++k) store(out + 8 * k, v[k]);
}

template <>
STN_INLINE void store_alternating<float>(float* out, Vec<float> a, Vec<float> b) {
  const __m256 low = _mm256_unpacklo_ps(a, b), high = _mm256_unpackhi_ps(a, b);
  store(out, _mm256_permute2f128_ps(low, high, 0x20));
  store(out + 8, _mm256_permute2f128_ps(low, high, 0x31));
}

template <>
STN_INLINE void sum_lanes_of_four<float>(const Vec<float>* v, float* sums) {
  const __m256 s = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
  _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1)));
}

template <>
STN_INLINE void transpose<float>(Vec<float>* v) {
  __m256 low[4] = {v[0], v[1], v[2], v[3]}, high[4] = {v[4], v[5], v[6], v[7]};
  transpose_quads(low);
  transpose_quads(high);
  for (int k = 0; k < 4; ++k) {
    v[k] = _mm256_permute2f128_ps(low[k], high[k], 0x20);
    v[k + 4] = _mm256_permute2f128_ps(low[k], high[k], 0x31);
  }
}

// Both of a pixel's elements of a row lie at the ends of four that are loaded together; eight pixels at a
// time.
template <class Put>
STN_INLINE void collect_row(const float* here, const float* above, int64_t width, const Put& put) {
  const __m256i in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  for (int64_t x = 0; x < width; x += 8) {
    __m256 pair[4];
    for (int k = 0; k < 4; ++k) {
      // [x - 1].1 ... [x].0 and [x - 1].3 ... [x].2: their first and last elements belong together.
      pair[k] = _mm256_add_ps(_mm256_loadu_ps(here + 4 * x + 8 * k - 3),
                              _mm256_loadu_ps(above + 4 * x + 8 * k - 1));
    }
    const __m256 ends01 = _mm256_shuffle_ps(pair[0], pair[1], 0xCC),
                 ends23 = _mm256_shuffle_ps(pair[2], pair[3], 0xCC);
    const __m256 sums = _mm256_permutevar8x32_ps(_mm256_hadd_ps(ends01, ends23), in_order);
    put(x, Vec<float>(sums));
  }
}

}  // namespace STN_LEVEL
}  // namespace stn::cpu
