// What launches have in common. For kernels' sources alone.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace stn::cuda {

// A block's threads, as kRows warps.
constexpr int kColumns = 32, kRows = 8, kThreads = kColumns * kRows;
constexpr int64_t kBlocksWanted = 2048;  // enough to fill any GPU; more only where the work gives them

constexpr unsigned kWholeWarp = 0xffffffffu;

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), int64_t blocks, cudaStream_t stream,
                   const Arguments&... arguments) {
  constexpr int64_t most = 0x7fffffff;
  if (blocks > most) return cudaErrorInvalidConfiguration;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(kColumns, kRows);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

}  // namespace stn::cuda
