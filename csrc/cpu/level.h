// The SIMD level in use.
#pragma once

#include "problem.h"

namespace stn::cpu {

// The best level that this processor runs, or the lower one that the environment variable STN_EXT_CPU_LEVEL
// ("portable", "avx2" or "avx512") asks for; chosen once.
const Level& level();

template <class T>
const Kernels<T>& kernels();

}  // namespace stn::cpu
