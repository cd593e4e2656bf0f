// As much of CUDA as the kernels use, on the host: their own source compiles as C++ against this header and
// runs without a GPU, where sanitizers can watch it. A launch runs its blocks one after another, and each
// block's threads as real threads. For tests alone.
#pragma once

#include <math.h>
#include <pthread.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __grid_constant__
#define __noinline__ __attribute__((noinline))
#define __shared__ static  // of the block: there is one at a time

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
  unsigned count() const { return x * y * z; }
};

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };
using cudaStream_t = struct CUstream_st*;

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  void* attrs;
  unsigned numAttrs;
};

namespace cuda_on_host {

class Barrier {
 public:
  explicit Barrier(unsigned threads) { pthread_barrier_init(&barrier_, nullptr, threads); }
  ~Barrier() { pthread_barrier_destroy(&barrier_); }
  Barrier(const Barrier&) = delete;
  void wait() { pthread_barrier_wait(&barrier_); }

 private:
  pthread_barrier_t barrier_;
};

constexpr unsigned kWarp = 32;

struct Warp {
  Barrier barrier{kWarp};
  uint64_t values[2][kWarp];  // of a shuffle and the one after it, so that one barrier parts them
};

struct Block {
  Barrier sync, end;  // apart: a thread that leaves early is missed by __syncthreads, and the test hangs
  std::vector<Warp> warps;

  explicit Block(unsigned threads) : sync(threads), end(threads), warps(threads / kWarp) {}
};

struct Thread {
  Block* block;
  unsigned number, shuffles;
};

inline thread_local Thread self;

template <class V>
V shuffle(V value, unsigned from) {
  static_assert(sizeof(V) <= sizeof(uint64_t));
  Warp& warp = self.block->warps[self.number / kWarp];
  uint64_t* values = warp.values[self.shuffles++ % 2];
  std::memcpy(&values[self.number % kWarp], &value, sizeof(V));
  warp.barrier.wait();
  if (from < kWarp) std::memcpy(&value, &values[from], sizeof(V));
  return value;
}

}  // namespace cuda_on_host

inline thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

inline void __syncthreads() { cuda_on_host::self.block->sync.wait(); }

// Of a whole warp alone, as the mask of every call says.
template <class V>
V __shfl_xor_sync(unsigned, V value, int mask) {
  return cuda_on_host::shuffle(value,
                               cuda_on_host::self.number % cuda_on_host::kWarp ^ static_cast<unsigned>(mask));
}

template <class V>
V __shfl_down_sync(unsigned, V value, unsigned delta) {
  return cuda_on_host::shuffle(value, cuda_on_host::self.number % cuda_on_host::kWarp + delta);
}

inline unsigned __ballot_sync(unsigned, bool chosen) {
  unsigned mask = 0;
  for (unsigned lane = 0; lane < cuda_on_host::kWarp; ++lane) {
    mask |= static_cast<unsigned>(cuda_on_host::shuffle(chosen, lane)) << lane;
  }
  return mask;
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  const dim3 grid = config->gridDim, size = config->blockDim;
  const unsigned threads = size.count();
  if (grid.count() == 0 || threads == 0 || threads > 1024 || grid.y != 1 || grid.z != 1) {
    return cudaErrorInvalidConfiguration;
  }
  cuda_on_host::Block block(threads);
  const auto run = [&](unsigned number) {
    cuda_on_host::self = {&block, number, 0};
    threadIdx = dim3(number % size.x, number / size.x % size.y, number / (size.x * size.y));
    blockDim = size;
    gridDim = grid;
    for (unsigned b = 0; b < grid.x; ++b) {
      blockIdx = dim3(b, 0, 0);
      kernel(arguments...);
      block.end.wait();
    }
  };
  std::vector<std::thread> pool;
  for (unsigned number = 0; number < threads; ++number) pool.emplace_back(run, number);
  for (std::thread& thread : pool) thread.join();
  return cudaSuccess;
}
