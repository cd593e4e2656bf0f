// The launches of each primitive. Sources that include this see CUDA's headers alone, or PyTorch's; never
// need both.
#pragma once

#include <cuda_runtime_api.h>

#include "problem.h"

namespace stn::cuda {

// One launch.
cudaError_t launch_sample(const Problem& p, cudaStream_t stream);
cudaError_t launch_nearest(const Problem& p, cudaStream_t stream);

// What the blocks of a first launch leave of theta's gradient for another to add up.
struct Partial {
  double* sums;  // (maps, entries, blocks)
  int64_t maps, blocks;
  int entries;      // of a map's theta
  void* gradient;   // (maps, entries), in theta's dtype
  Storage storage;  // theta's
};

// Of each map: by the image's size alone.
int64_t partial_blocks(const Problem& p);

// Two launches.
cudaError_t launch_grad_theta(const Problem& p, const Partial& partial, cudaStream_t stream);

}  // namespace stn::cuda
