#include "level.h"

#include <ATen/Version.h>
#include <c10/util/Exception.h>

#include <cstdlib>
#include <string>
#include <vector>

namespace stn::cpu {
namespace {

std::vector<Level> available() {
  std::vector<Level> levels{portable_level()};
#if defined(__x86_64__)
  // PyTorch's own finding, which ATEN_CPU_CAPABILITY lowers.
  if (at::get_cpu_capability() != "DEFAULT" && __builtin_cpu_supports("avx2") &&
      __builtin_cpu_supports("fma")) {
    levels.push_back(avx2_level());
  }
  if (at::get_cpu_capability() == "AVX512" && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    levels.push_back(avx512_level());
  }
#endif
  return levels;
}

Level choose() {
  const std::vector<Level> levels = available();
  const char* wanted = std::getenv("STN_EXT_CPU_LEVEL");
  if (wanted == nullptr || *wanted == '\0') return levels.back();
  std::string names;
  for (const Level& level : levels) {
    if (std::string(wanted) == level.name) return level;
    names += (names.empty() ? "" : ", ") + std::string(level.name);
  }
  // Not TORCH_CHECK_VALUE: unoptimised, it looks as if it could return.
  C10_THROW_ERROR(ValueError, c10::str("STN_EXT_CPU_LEVEL: expected one of this processor's levels (", names,
                                       "), but got ", wanted));
}

}  // namespace

const Level& level() {
  static const Level chosen = choose();
  return chosen;
}

template <>
const Kernels<float>& kernels() {
  return level().f32;
}

template <>
const Kernels<double>& kernels() {
  return level().f64;
}

}  // namespace stn::cpu
