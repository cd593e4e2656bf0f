// The launches: of affine maps' kernels for images stored in S, Half, BFloat16, float or double, and of the
// general kernels for images of T, float or double. Sources that include this see
// CUDA's headers alone, or PyTorch's; never need both.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/gather_problem.h"
#include "cuda/half.h"
#include "cuda/warp.h"

namespace stn::cuda {

// Pixels along an axis of the input, at most: what is computed in float holds whole coordinates of up to
// twice as many, a period of reflection, and no more; and pixels are counted in 32 bits.
constexpr int64_t longest_input(bool is_double) { return int64_t{1} << (is_double ? 30 : 23); }

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

// ---- the general kernels (warp.h) ----

// One launch.
template <class T>
cudaError_t launch_warp_sample(const Warp<T>& w, cudaStream_t stream);

// As moment_blocks.
template <class T>
int64_t warp_moment_blocks(const Warp<T>& w);

// Two launches. partial: room for maps x warp_moment_blocks x streams x basis values. gradients: of theta.
template <class T>
cudaError_t launch_warp_moments(const Warp<T>& w, double* partial, double* gradients, cudaStream_t stream);

// Two launches. boxes: room for one of each map's bundles.
template <class T>
cudaError_t launch_warp_adjoint(const Warp<T>& w, WarpBox* boxes, cudaStream_t stream);

}  // namespace stn::cuda
