// A kernel that reverses a block's values through shared memory; it races unless SYNCHRONISED.
#include <cuda_runtime.h>

namespace {

constexpr unsigned kThreads = 64;

__global__ void reverse(int* values) {
  __shared__ int shared[kThreads];
  shared[threadIdx.x] = values[threadIdx.x];
  if (SYNCHRONISED) __syncthreads();
  values[threadIdx.x] = shared[kThreads - 1 - threadIdx.x];
}

}  // namespace

int main() {
  int values[kThreads] = {};
  cudaLaunchConfig_t config{};
  config.blockDim = dim3(kThreads);
  return cudaLaunchKernelEx(&config, reverse, &values[0]);
}
