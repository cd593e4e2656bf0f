// The half types, as bits.
#pragma once

#include <cstdint>

namespace stn::cuda {

struct Half {
  uint16_t bits;
};

struct BFloat16 {
  uint16_t bits;
};

}  // namespace stn::cuda
