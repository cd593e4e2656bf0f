// The kernels for x86-64 processors with AVX-512 (F, BW, DQ, VL).
#if defined(__x86_64__)
#include <immintrin.h>

#include <cstdint>
#include <cstring>

// GCC 12's own header reads what it calls undefined (its bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")

#define STN_LEVEL avx512
#define STN_LEVEL_AVX512
#define STN_VECTOR_BYTES 64
#include "per_level/table.h"

namespace stn::cpu {
Level avx512_level() { return avx512::level("avx512"); }
}  // namespace stn::cpu

#pragma GCC pop_options
#endif
