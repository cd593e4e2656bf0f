// The launches, for images stored in S: Half, BFloat16, float or double. Sources that include this see
// CUDA's headers alone, or PyTorch's; never need both.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "problem.h"

namespace stn::cuda {

struct Half {
  uint16_t bits;
};

struct BFloat16 {
  uint16_t bits;
};

// One launch.
template <class S>
cudaError_t launch_sample(const Problem<S>& p, cudaStream_t stream);

// Blocks whose sums the first launch of moments leaves to the second, for each image.
template <class S>
int64_t moment_blocks(const Problem<S>& p);

// Two launches. partial: room for batches x moment_blocks x kMoments values. grad_theta: (N, 2, 3), of
// theta's dtype.
template <class S>
cudaError_t launch_moments(const Problem<S>& p, double* partial, void* grad_theta, cudaStream_t stream);

// One launch.
template <class S>
cudaError_t launch_adjoint(const Problem<S>& p, cudaStream_t stream);

// Moments and adjoint in two launches, with the same bits.
template <class S>
cudaError_t launch_backward(const Problem<S>& p, double* partial, void* grad_theta, cudaStream_t stream);

}  // namespace stn::cuda
