// The kernels of one level. Included by level sources only; see kernels.h.
#pragma once

#include "warp_adjoint.h"

namespace stn::cpu {
namespace STN_LEVEL {

template <class T>
constexpr Kernels<T> kernels() {
  return {
      Simd<T>::lanes,           sample<T>,        moments<T>,     adjoint<T>,      sample_channels_last<T>,
      moments_channels_last<T>, adjoint_group<T>, warp_sample<T>, warp_moments<T>, warp_boxes<T>,
      warp_adjoint<T>};
}

inline Level level(const char* name) { return {name, kernels<float>(), kernels<double>()}; }

}  // namespace STN_LEVEL
}  // namespace stn::cpu
