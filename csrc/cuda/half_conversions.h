// float16 to and from float, by the GPU's own instructions. Not CUDA's cuda_fp16.h, whose own includes a
// compiler from pip comes without.
#pragma once

#include <cstring>

#include "cuda/half.h"

namespace stn::cuda {

__device__ inline float half_to_float(Half x) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(x.bits));
  return value;
}

__device__ inline Half float_to_half(float x) {
  Half value;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(value.bits) : "f"(x));
  return value;
}

}  // namespace stn::cuda
