// The launches. Sources that include this see CUDA's headers alone, or PyTorch's; never need both.
#pragma once

#include <cuda_runtime_api.h>

#include "problem.h"

namespace stn::cuda {

template <class T>
cudaError_t launch_sample(const Problem<T>& p, cudaStream_t stream);

// Blocks whose sums the first of the two launches of moments leaves, for each image.
template <class T>
int64_t moment_blocks(const Problem<T>& p);

// partial: batches x moment_blocks x kMoments values. grad_theta: (N, 2, 3), of theta's dtype.
template <class T>
cudaError_t launch_moments(const Problem<T>& p, double* partial, void* grad_theta, cudaStream_t stream);

template <class T>
cudaError_t launch_adjoint(const Problem<T>& p, cudaStream_t stream);

}  // namespace stn::cuda
