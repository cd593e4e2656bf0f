// As much of CUDA as the kernels use, on the host: their own source compiles as C++ against this header and
// runs without a GPU, where sanitizers can watch it. A launch runs its blocks one after another, and each
// block's threads as real threads. No block finds in shared memory what one before it left there. Compiled
// with -fsanitize-coverage=trace-pc, launches count the steps that they take. For tests alone.
#pragma once

#include <math.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
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
#define __forceinline__ inline
// Of the block: there is one at a time. The build puts all such variables into one section, whose ends the
// linker knows (host_kernels.py).
#define __shared__ static
extern "C" unsigned char __start_cuda_shared[], __stop_cuda_shared[];

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

// The basic blocks that this thread has entered.
inline __thread uint64_t entered;

}  // namespace cuda_on_host

// What the compiler calls at the start of each basic block, where it is told to.
extern "C" __attribute__((no_sanitize_coverage, used)) inline void __sanitizer_cov_trace_pc() {
  ++cuda_on_host::entered;
}

namespace cuda_on_host {

// The steps of all launches so far: of each block, the basic blocks that its busiest thread entered.
inline uint64_t steps;

// Makes floating-point numbers of it that are not numbers, and integers that are no index. Redzones of the
// address sanitizer lie between the variables, which nothing but this may write.
__attribute__((no_sanitize("address", "thread"))) inline void poison_shared_memory() {
  for (volatile unsigned char* byte = __start_cuda_shared; byte != __stop_cuda_shared; ++byte) *byte = 0xff;
}

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
  // Apart: a thread that leaves early is missed by __syncthreads, and the test hangs; and to the thread
  // sanitizer one that is late at its barrier would have seen what others did before they came there again.
  Barrier begin, sync, end;
  std::vector<Warp> warps;
  std::atomic<uint64_t> busiest{0};

  explicit Block(unsigned threads) : begin(threads), sync(threads), end(threads), warps(threads / kWarp) {}

  // Of a thread that has done its part.
  void note(uint64_t count) {
    uint64_t most = busiest;
    while (count > most && !busiest.compare_exchange_weak(most, count)) {
    }
  }
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

inline bool __all_sync(unsigned mask, bool value) { return __ballot_sync(mask, value) == mask; }

// Of a whole warp. The thread sanitizer sees a barrier's order.
inline void __syncwarp() { cuda_on_host::shuffle(0, 0); }

inline float __fdividef(float a, float b) { return a / b; }

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
      if (number == 0) cuda_on_host::poison_shared_memory();
      block.begin.wait();
      blockIdx = dim3(b, 0, 0);
      cuda_on_host::entered = 0;
      kernel(arguments...);
      block.note(cuda_on_host::entered);
      block.end.wait();
      if (number == 0) cuda_on_host::steps += block.busiest.exchange(0);
    }
  };
  std::vector<std::thread> pool;
  for (unsigned number = 0; number < threads; ++number) pool.emplace_back(run, number);
  for (std::thread& thread : pool) thread.join();
  return cudaSuccess;
}

// ---- atomics, and instructions that C++ has no name for ----

template <class V>
V atomicAdd(V* to, V value) {
  return __atomic_fetch_add(to, value, __ATOMIC_RELAXED);
}
template <class V>
V atomicOr(V* to, V value) {
  return __atomic_fetch_or(to, value, __ATOMIC_RELAXED);
}
template <class V>
V atomicMax(V* to, V value) {
  V before = __atomic_load_n(to, __ATOMIC_RELAXED);
  while (before < value &&
         !__atomic_compare_exchange_n(to, &before, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return before;
}

namespace cuda_on_host {

template <class To, class From>
To bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

}  // namespace cuda_on_host

inline unsigned __float_as_uint(float x) { return cuda_on_host::bits<unsigned>(x); }
inline int __float_as_int(float x) { return cuda_on_host::bits<int>(x); }
inline float __uint_as_float(unsigned x) { return cuda_on_host::bits<float>(x); }
inline long long __double_as_longlong(double x) { return cuda_on_host::bits<long long>(x); }
inline double __longlong_as_double(long long x) { return cuda_on_host::bits<double>(x); }
inline long long __double2ll_rn(double x) { return static_cast<long long>(rint(x)); }
inline float __ll2float_rn(long long x) { return static_cast<float>(x); }
inline float __saturatef(float x) { return x > 0 ? x < 1 ? x : 1 : 0; }

inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}

using std::max;
using std::min;
