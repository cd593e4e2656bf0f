// The kernels for x86-64 processors with AVX2 and FMA.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")

#define STN_LEVEL avx2
#define STN_LEVEL_AVX2  // not __AVX2__, which the pragma does not define in every compiler
#define STN_VECTOR_BYTES 32
#include "per_level/table.h"

namespace stn::cpu {
Level avx2_level() { return avx2::level("avx2"); }
}  // namespace stn::cpu

#pragma GCC pop_options
#endif
