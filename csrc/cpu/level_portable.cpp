// The kernels for any processor: 16-byte vectors, which x86-64 (SSE2) and arm64 (NEON) always have.
#define STN_LEVEL portable
#define STN_VECTOR_BYTES 16
#include "per_level/table.h"

namespace stn::cpu {
Level portable_level() { return portable::level("portable"); }
}  // namespace stn::cpu
