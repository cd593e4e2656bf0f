// The vectors' operations that AVX-512 has instructions for. Included by simd.h only.
#pragma once

namespace stn::cpu {
namespace STN_LEVEL {

template <>
STN_INLINE Vec<float> load_some<Vec<float>, float>(const float* p, int64_t count) {
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>(count < 16 ? (1 << count) - 1 : -1), p);
}

template <>
STN_INLINE void store_some<Vec<float>, float>(float* p, Vec<float> v, int64_t count) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>(count < 16 ? (1 << count) - 1 : -1), v);
}

template <>
STN_INLINE void stream<Vec<float>, float>(float* p, Vec<float> v) {
  _mm512_stream_ps(p, v);
}

template <>
STN_INLINE void stream<Vec<double>, double>(double* p, Vec<double> v) {
  _mm512_stream_pd(p, v);
}

template <>
STN_INLINE Vec<float> floor_of<float>(Vec<float> x) {
  return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
}

template <>
STN_INLINE Vec<double> floor_of<double>(Vec<double> x) {
  return _mm512_roundscale_pd(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
}

template <>
STN_INLINE Vec<float> lesser(Vec<float> a, Vec<float> b) {
  return _mm512_min_ps(a, b);
}

template <>
STN_INLINE Vec<float> greater(Vec<float> a, Vec<float> b) {
  return _mm512_max_ps(a, b);
}

// In each quarter: a[0], b[0], c[0], d[0]; a[1], ...
STN_INLINE void transpose_quads(__m512* v) {
  const __m512d ab_low = _mm512_castps_pd(_mm512_unpacklo_ps(v[0], v[1]));
  const __m512d ab_high = _mm512_castps_pd(_mm512_unpackhi_ps(v[0], v[1]));
  const __m512d cd_low = _mm512_castps_pd(_mm512_unpacklo_ps(v[2], v[3]));
  const __m512d cd_high = _mm512_castps_pd(_mm512_unpackhi_ps(v[2], v[3]));
  v[0] = _mm512_castpd_ps(_mm512_unpacklo_pd(ab_low, cd_low));
  v[1] = _mm512_castpd_ps(_mm512_unpackhi_pd(ab_low, cd_low));
  v[2] = _mm512_castpd_ps(_mm512_unpacklo_pd(ab_high, cd_high));
  v[3] = _mm512_castpd_ps(_mm512_unpackhi_pd(ab_high, cd_high));
}

template <>
STN_INLINE Taps<float> load_quads<float>(const float* pairs, const int32_t* tap) {
  __m512 v[4];
  const auto quad = [&](int k) STN_LAMBDA { return _mm_loadu_ps(pairs + 2 * static_cast<int64_t>(tap[k])); };
  for (int k = 0; k < 4; ++k) {
    v[k] = _mm512_castps128_ps512(quad(k));
    v[k] = _mm512_mask_broadcast_f32x4(v[k], 0x00F0, quad(k + 4));
    v[k] = _mm512_mask_broadcast_f32x4(v[k], 0x0F00, quad(k + 8));
    v[k] = _mm512_mask_broadcast_f32x4(v[k], 0xF000, quad(k + 12));
  }
  transpose_quads(v);
  return {v[0], v[2], v[1], v[3]};
}

template <>
STN_INLINE void load_pairs<float>(const float* from, const int64_t* offset, Vec<float>* first,
                                  Vec<float>* second) {
  const auto pair = [&](int k) STN_LAMBDA { return load<int64_t>(from + offset[k]); };
  const __m512 low = _mm512_castsi512_ps(
      _mm512_setr_epi64(pair(0), pair(1), pair(2), pair(3), pair(4), pair(5), pair(6), pair(7)));
  const __m512 high = _mm512_castsi512_ps(
      _mm512_setr_epi64(pair(8), pair(9), pair(10), pair(11), pair(12), pair(13), pair(14), pair(15)));
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  *first = _mm512_permutex2var_ps(low, even, high);
  *second = _mm512_permutex2var_ps(low, _mm512_add_epi32(even, _mm512_set1_epi32(1)), high);
}

template <>
STN_INLINE void store_quads<float>(float* out, Vec<float> a, Vec<float> b, Vec<float> c, Vec<float> d) {
  __m512 v[4] = {a, b, c, d};
  transpose_quads(v);
  for (int k = 0; k < 4; ++k) store(out + 16 * k, v[k]);
}

template <>
STN_INLINE void store_alternating<float>(float* out, Vec<float> a, Vec<float> b) {
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  store(out, _mm512_permutex2var_ps(a, low, b));
  store(out + 16, _mm512_permutex2var_ps(a, high, b));
}

template <>
STN_INLINE void transpose<float>(Vec<float>* v) {
  // Within quarters, then the quarters: q[k][r] holds in its quarter l column 4 l + r of rows 4 k ... 4 k
  // + 3.
  __m512 q[4][4];
  for (int k = 0; k < 4; ++k) {
    for (int r = 0; r < 4; ++r) q[k][r] = v[4 * k + r];
    transpose_quads(q[k]);
  }
  for (int r = 0; r < 4; ++r) {
    const __m512 low01 = _mm512_shuffle_f32x4(q[0][r], q[1][r], 0x44),
                 high01 = _mm512_shuffle_f32x4(q[0][r], q[1][r], 0xEE);
    const __m512 low23 = _mm512_shuffle_f32x4(q[2][r], q[3][r], 0x44),
                 high23 = _mm512_shuffle_f32x4(q[2][r], q[3][r], 0xEE);
    v[r] = _mm512_shuffle_f32x4(low01, low23, 0x88);
    v[4 + r] = _mm512_shuffle_f32x4(low01, low23, 0xDD);
    v[8 + r] = _mm512_shuffle_f32x4(high01, high23, 0x88);
    v[12 + r] = _mm512_shuffle_f32x4(high01, high23, 0xDD);
  }
}

// A pixel takes from its own quad and from that before it, in two rows. The rows are added first.
template <class Put>
STN_INLINE void collect_row(const float* here, const float* above, int64_t width, const Put& put) {
  const __m512i first = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 0, 0, 0, 0, 0, 0, 0);
  const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(1));
  __m512i before = _mm512_castps_si512(_mm512_set1_ps(here[-3] + above[-1]));
  for (int64_t x = 0; x < width; x += 16) {
    __m512 v[4];
    for (int k = 0; k < 4; ++k) {
      const __m512 up = _mm512_loadu_ps(above + 4 * x + 16 * k);
      v[k] = _mm512_add_ps(_mm512_loadu_ps(here + 4 * x + 16 * k), _mm512_permute_ps(up, 0x0E));
    }
    const auto in_order = [&](__m512i which) STN_LAMBDA {
      const __m512 low = _mm512_permutex2var_ps(v[0], which, v[1]),
                   high = _mm512_permutex2var_ps(v[2], which, v[3]);
      return _mm512_shuffle_f32x4(low, high, 0x44);
    };
    const __m512i right = _mm512_castps_si512(in_order(second));
    const __m512 left = _mm512_castsi512_ps(_mm512_alignr_epi32(right, before, 15));
    put(x, Vec<float>(_mm512_add_ps(in_order(first), left)));
    before = right;
  }
}

}  // namespace STN_LEVEL
}  // namespace stn::cpu
