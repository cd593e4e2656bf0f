// The gradient of the input in two ways: a gather for affine maps that have a usable inverse, a scatter for
// all others. Which it is, each map says on the device: the gather lists those that it leaves.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "problem.h"

namespace stn::cuda {

// Bytes that launch_grad_input works in.
int64_t grad_input_scratch(const Problem& p);

// p: with grad, and grad_input, whose every element is written. At most six launches, of which those that
// find nothing to do take little; two more for each chunk of the images beyond the first.
cudaError_t launch_grad_input(const Problem& p, void* scratch, cudaStream_t stream);

struct Words;  // scatter.cuh

// Maps that were not gathered, in no order; no list: all are left.
struct Leftover {
  unsigned long long* count;
  int* list;
};

// Its parts. Whether maps may have a usable inverse (inverse.cuh). The weights of a volume's candidates in
// double do not fit registers.
inline bool may_gather(const Problem& p) {
  const bool fits = p.kind != MapKind::volume || p.storage != Storage::f64;
  return fits && p.kind != MapKind::spline && !p.nearest && !p.tangent.data && !p.index && p.images == p.maps;
}
int64_t inverse_bytes(MapKind kind);  // of a map
// Two launches. inverses: room for as many as there are maps.
cudaError_t launch_gather(const Problem& p, void* inverses, const Leftover& leftover, cudaStream_t stream);
cudaError_t launch_scatter(const Problem& p, const Words& words, cudaStream_t stream);

}  // namespace stn::cuda
