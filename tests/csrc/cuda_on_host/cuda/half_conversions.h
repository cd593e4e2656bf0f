// float16 to and from float on the host, by the compiler's own type.
#pragma once

#include <cstring>

#include "cuda/half.h"

namespace stn::cuda {

inline float half_to_float(Half x) {
  _Float16 value;
  std::memcpy(&value, &x.bits, sizeof(value));
  return value;
}

inline Half float_to_half(float x) {
  const auto value = static_cast<_Float16>(x);
  Half half;
  std::memcpy(&half.bits, &value, sizeof(value));
  return half;
}

}  // namespace stn::cuda
