// The table of one level's kernels. Included by level sources only; see problem.h.
#pragma once

#include "stripes.h"

namespace stn::cpu {
namespace STN_LEVEL {

template <class T>
constexpr Kernels<T> kernels() {
  return {Simd<T>::lanes, sizeof(Workspace<T>), sample<T>, grad_theta<T>, backward<T>, ranges<T>};
}

inline Level level(const char* name) { return {name, kernels<float>(), kernels<double>()}; }

}  // namespace STN_LEVEL
}  // namespace stn::cpu
