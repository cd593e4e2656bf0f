// The general kernels on CUDA. Still to come: until then their work is refused.
#include "backend.h"

namespace stn::cuda {
namespace {

[[noreturn]] void refuse(const Map& map) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      false, map.name,
      ": CUDA has bilinear sampling through (N, 2, 3) affine maps and its first derivatives; not yet "
      "projective maps, splines, volumes, nearest, derivatives along a tangent, nor the gradient of shared "
      "images; use the CPU for these");
}

}  // namespace

void warp_sample(const at::Tensor&, const Map& map, const at::Tensor&) { refuse(map); }
at::Tensor warp_moments(const at::Tensor&, const at::Tensor&, const Map& map) { refuse(map); }
void warp_adjoint(const at::Tensor&, const Map& map, const at::Tensor&) { refuse(map); }

}  // namespace stn::cuda
