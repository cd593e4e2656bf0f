// From what a call says at run time to what kernels are compiled for. Included by kernels alone.
#pragma once

#include <cuda_runtime_api.h>

#include <type_traits>

#include "half.h"
#include "problem.h"

namespace stn::cuda {

// f(an element of the images' storage, of which only the type matters)
template <class F>
auto with_storage(Storage storage, const F& f) {
  switch (storage) {
    case Storage::f64:
      return f(double());
    case Storage::f16:
      return f(Half());
    case Storage::bf16:
      return f(BFloat16());
    default:
      return f(float());
  }
}

template <MapKind kind>
struct KindIs {
  static constexpr MapKind value = kind;
};

template <class F>
cudaError_t with_kind(MapKind kind, const F& f) {
  switch (kind) {
    case MapKind::affine:
      return f(KindIs<MapKind::affine>());
    case MapKind::projective:
      return f(KindIs<MapKind::projective>());
    case MapKind::spline:
      return f(KindIs<MapKind::spline>());
    default:
      return f(KindIs<MapKind::volume>());
  }
}

// f(an element, the map's kind, whether there is a tangent), as types.
template <class F>
cudaError_t with_all(const Problem& p, const F& f) {
  return with_storage(p.storage, [&](auto element) {
    return with_kind(p.kind, [&](auto kind) {
      return p.tangent.data ? f(element, kind, std::true_type()) : f(element, kind, std::false_type());
    });
  });
}

}  // namespace stn::cuda
