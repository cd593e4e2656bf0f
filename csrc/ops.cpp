// Operator schemas, and the module _C that loads them and says how they were built.
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/library.h>

#include "build_facts.h"  // written by setup.py
#include "cpu/level.h"

// stn_ext/_extension.py reads this text from the file before it loads it.
[[gnu::used]] static const char kBuiltAgainst[] = "stn_ext built against PyTorch " STN_EXT_TORCH_VERSION;

namespace {

// The operators have no derivatives of their own: stn_ext.autograd differentiates them, and calls them where
// gradients are off. Called otherwise, they would silently cut the graph.
void refuse_gradients(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
  for (const c10::IValue& argument : torch::jit::last(*stack, op.schema().arguments().size())) {
    if (!argument.isTensor()) continue;
    const at::Tensor& tensor = argument.toTensor();
    const bool reverse = c10::GradMode::is_enabled() && tensor.requires_grad();
    TORCH_CHECK(!reverse && !tensor._fw_grad(/*level=*/0).defined(), op.schema().name(),
                " has no derivative of its own: call stn_ext.affine_sample, or detach its arguments");
  }
  op.redispatchBoxed(keys & c10::after_autograd_keyset, stack);
}

#ifndef STN_EXT_WITH_CUDA
void refuse_cuda(const c10::OperatorHandle& op, torch::jit::Stack*) {
  TORCH_CHECK(false, op.schema().name(),
              ": got CUDA tensors, but this stn_ext was built without CUDA kernels; rebuild "
              "it with STN_EXT_CUDA=1 pip install --force-reinstall --no-deps -e .");
}
#endif

constexpr const char* kOperators[] = {"sample", "moments", "adjoint", "backward"};

}  // namespace

// theta says where each output pixel falls: (N, 2, 3) affine maps; (N, 3, 3) projective ones; (N, 3, 4)
// affine maps of volumes; with `points` (K, 2), (N, 2, K + 3) thin plate splines. index: the image of each
// theta; a single image is every theta's. tangent: the derivative along this change of theta, instead of the
// value.
TORCH_LIBRARY(stn_ext, m) {
  // The output: the images read at theta's coordinates.
  m.def(
      "sample(Tensor input, Tensor theta, Tensor? points, Tensor? tangent, Tensor? index, SymInt[] size, "
      "str mode, str padding_mode, bool align_corners) -> Tensor");
  // Its transpose: the gradient of the input, so many images of that size.
  m.def(
      "adjoint(Tensor grad, Tensor theta, Tensor? points, Tensor? tangent, Tensor? index, SymInt images, "
      "SymInt[] size, str mode, str padding_mode, bool align_corners) -> Tensor");
  // The gradient of theta.
  m.def(
      "moments(Tensor grad, Tensor input, Tensor theta, Tensor? points, Tensor? tangent, Tensor? index, "
      "str mode, str padding_mode, bool align_corners) -> Tensor");
  // Both gradients, of the input and of theta, with the bits that adjoint and moments give.
  m.def(
      "backward(Tensor grad, Tensor input, Tensor theta, Tensor? points, Tensor? index, str mode, "
      "str padding_mode, bool align_corners) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(stn_ext, Autograd, m) {
  for (const char* name : kOperators)
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&refuse_gradients>());
}

#ifndef STN_EXT_WITH_CUDA
TORCH_LIBRARY_IMPL(stn_ext, CUDA, m) {
  for (const char* name : kOperators) m.impl(name, torch::CppFunction::makeFromBoxedFunction<&refuse_cuda>());
}
#endif

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.attr("__version__") = STN_EXT_VERSION;
  m.def("build_info", [] {
    pybind11::dict info;
    info["version"] = STN_EXT_VERSION;
    info["torch"] = STN_EXT_TORCH_VERSION;
    info["cuda"] = STN_EXT_CUDA_VERSION;                      // "" in a build without CUDA
    info["cuda_architectures"] = STN_EXT_CUDA_ARCHITECTURES;  // as TORCH_CUDA_ARCH_LIST spells them
    info["simd"] = stn::cpu::level().name;
    return info;
  });
}
