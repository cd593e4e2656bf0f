// Blocks of which the first alone writes shared memory, and all read it: what the others find is not its.
#include <cuda_runtime.h>

#include "buffers.h"

namespace {

constexpr unsigned kBlocks = 3, kThreads = 32;

template <class T>
__global__ void leave(T* values) {
  __shared__ T shared[kThreads];
  if (blockIdx.x == 0) shared[threadIdx.x] = T(7);
  __syncthreads();
  values[blockIdx.x * kThreads + threadIdx.x] = shared[threadIdx.x];
}

template <class T>
void run() {
  T values[kBlocks * kThreads] = {};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(kBlocks);
  config.blockDim = dim3(kThreads);
  done(cudaLaunchKernelEx(&config, leave<T>, &values[0]), "leave");
  for (unsigned k = 0; k < kBlocks * kThreads; ++k) {
    check(k < kThreads ? values[k] == T(7) : !(values[k] >= T(0)), "poisoning");  // -1, or not a number
  }
}

}  // namespace

int main() {
  run<float>();
  run<double>();
  run<int>();
}
