// Operator schemas, their autograd, and the module _C that loads them and says how they were built.
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/library.h>

#include "build_facts.h"  // written by setup.py
#include "cpu/level.h"
#include "operators.h"

// stn_ext/_extension.py reads this text from the file before it loads it.
[[gnu::used]] static const char kBuiltAgainst[] = "stn_ext built against PyTorch " STN_EXT_TORCH_VERSION;

namespace {

using at::Tensor;
using stn::OptionalTensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Text = c10::string_view;

template <class Signature>
c10::TypedOperatorHandle<Signature> operator_of(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

const auto& sample_operator() {
  static const auto op = operator_of<Tensor(
      const Tensor&, const Tensor&, const OptionalTensor&, const OptionalTensor&, const OptionalTensor&,
      const OptionalTensor&, c10::SymIntArrayRef, Text, Text, bool)>("stn_ext::sample");
  return op;
}

const auto& adjoint_operator() {
  static const auto op =
      operator_of<Tensor(const Tensor&, const Tensor&, const OptionalTensor&, const OptionalTensor&,
                         const OptionalTensor&, c10::SymInt, c10::SymIntArrayRef, Text, Text, bool)>(
          "stn_ext::adjoint");
  return op;
}

const auto& moments_operator() {
  static const auto op = operator_of<Tensor(
      const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&, const OptionalTensor&,
      const OptionalTensor&, const OptionalTensor&, Text, Text, bool)>("stn_ext::moments");
  return op;
}

bool is_differentiated(const Tensor& tensor) {
  return tensor._fw_grad(/*level=*/0).defined() || (c10::GradMode::is_enabled() && tensor.requires_grad());
}

// Else the derivative would be lost without a word.
[[noreturn]] void refuse_derivative(const std::string& name) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      false, name,
      " has no derivative here: an operator that is called by itself, as exported programs do, has "
      "first derivatives in reverse mode alone; those of stn_ext.affine_sample are complete");
}

void refuse_derivatives(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
  for (const c10::IValue& argument : torch::jit::last(*stack, op.schema().arguments().size())) {
    if (argument.isTensor() && is_differentiated(argument.toTensor())) refuse_derivative(op.schema().name());
  }
  op.redispatchBoxed(keys & c10::after_autograd_keyset, stack);
}

// What of sample's arguments is no tensor.
struct Reading {
  c10::SymIntArrayRef size;
  Text mode, padding_mode;
  bool align_corners;
};

// The first derivatives of sample, by input, theta and tangent. It is for those who meet the operator itself,
// in an exported program or a scripted module: stn_ext.autograd differentiates it in every way, and calls it
// where gradients are off. Its own derivative is refused by the operators that backward calls.
struct SampleGradient : torch::autograd::Function<SampleGradient> {
  static Tensor forward(AutogradContext* ctx, const Tensor& input, const Tensor& theta,
                        const OptionalTensor& points, const OptionalTensor& tangent,
                        const OptionalTensor& index, const OptionalTensor& fill, const Reading& reading) {
    const bool by_theta = theta.requires_grad() || (tangent && tangent->requires_grad());
    // The input's gradient does not need the input, which may be large.
    ctx->save_for_backward({by_theta ? input : Tensor(), theta, points.value_or(Tensor()),
                            tangent.value_or(Tensor()), index.value_or(Tensor()), fill.value_or(Tensor())});
    ctx->set_materialize_grads(false);
    ctx->saved_data["images"] = input.sym_size(0);
    ctx->saved_data["size"] = input.sym_sizes().slice(2).vec();
    ctx->saved_data["mode"] = std::string(reading.mode);
    ctx->saved_data["padding_mode"] = std::string(reading.padding_mode);
    ctx->saved_data["align_corners"] = reading.align_corners;
    const at::AutoDispatchBelowADInplaceOrView guard;
    return sample_operator().call(input, theta, points, tangent, index, fill, reading.size, reading.mode,
                                  reading.padding_mode, reading.align_corners);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const Tensor& grad = grads[0];
    variable_list gradients(7);  // of as many arguments
    if (!grad.defined()) return gradients;
    const variable_list saved = ctx->get_saved_variables();
    const auto optional = [&](size_t n) {
      return saved[n].defined() ? OptionalTensor(saved[n]) : OptionalTensor();
    };
    const Tensor &input = saved[0], &theta = saved[1];
    const OptionalTensor points = optional(2), tangent = optional(3), index = optional(4), fill = optional(5);
    const std::string mode = ctx->saved_data["mode"].toStringRef(),
                      padding_mode = ctx->saved_data["padding_mode"].toStringRef();
    const bool align_corners = ctx->saved_data["align_corners"].toBool();
    const auto by_theta = [&](const OptionalTensor& along) {
      return moments_operator().call(grad, input, theta, points, along, index, fill, mode, padding_mode,
                                     align_corners);
    };
    if (ctx->needs_input_grad(0)) {
      gradients[0] = adjoint_operator().call(
          grad, theta, points, tangent, index, ctx->saved_data["images"].toSymInt(),
          ctx->saved_data["size"].toSymIntVector(), mode, padding_mode, align_corners);
    }
    if (ctx->needs_input_grad(1)) gradients[1] = by_theta(tangent);
    // Tensors that are not there are not counted.
    if (tangent && ctx->needs_input_grad(points ? 3 : 2)) gradients[3] = by_theta({});
    return gradients;
  }
};

Tensor differentiable_sample(c10::DispatchKeySet keys, const Tensor& input, const Tensor& theta,
                             const OptionalTensor& points, const OptionalTensor& tangent,
                             const OptionalTensor& index, const OptionalTensor& fill,
                             c10::SymIntArrayRef size, Text mode, Text padding_mode, bool align_corners) {
  const auto forward_mode = [](const Tensor& t) { return t._fw_grad(/*level=*/0).defined(); };
  if (forward_mode(input) || forward_mode(theta) || (tangent && forward_mode(*tangent)) ||
      (points && is_differentiated(*points)) || (fill && is_differentiated(*fill))) {
    refuse_derivative(sample_operator().schema().name());
  }
  if (is_differentiated(input) || is_differentiated(theta) || (tangent && is_differentiated(*tangent))) {
    return SampleGradient::apply(input, theta, points, tangent, index, fill,
                                 Reading{size, mode, padding_mode, align_corners});
  }
  return sample_operator().redispatch(keys & c10::after_autograd_keyset, input, theta, points, tangent, index,
                                      fill, size, mode, padding_mode, align_corners);
}

// Tensors of backends that have no kernels here, and of layouts that none has: one line instead of the
// dispatcher's table.
void refuse_backend(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& parameters = op.schema().arguments();
  const auto arguments = torch::jit::last(*stack, parameters.size());
  const auto argument = [&](const char* name) {
    return arguments[static_cast<size_t>(*op.schema().argumentIndexWithName(name))].to<OptionalTensor>();
  };
  const std::string function = stn::function_name(*argument("theta"), argument("points"));
  for (size_t n = 0; n < parameters.size(); ++n) {
    if (!arguments[n].isTensor()) continue;
    const Tensor& tensor = arguments[n].toTensor();
    const std::string& name = parameters[n].name();
    const bool cuda = tensor.is_cuda();
#ifndef STN_EXT_WITH_CUDA
    TORCH_CHECK(!cuda, function,
                ": got CUDA tensors, but this stn_ext was built without CUDA kernels; rebuild "
                "it with STN_EXT_CUDA=1 pip install --force-reinstall --no-deps -e .");
#endif
    TORCH_CHECK_TYPE(tensor.layout() == at::kStrided, function, ": expected a dense ", name,
                     ", but got a tensor that is ", tensor.layout());
    TORCH_CHECK_VALUE(tensor.is_cpu() || cuda, function, ": expected ", name,
                      " on the CPU or on CUDA, but got ", tensor.device());
  }
  TORCH_CHECK(false, function, ": expected plain tensors on the CPU or on CUDA");
}

}  // namespace

// theta says where each output pixel falls: (N, 2, 3) affine maps; (N, 3, 3) projective ones; (N, 3, 4)
// affine maps of volumes; with `points` (K, 2), (N, 2, K + 3) thin plate splines. index: the image of each
// theta; a single image is every theta's. tangent: the derivative along this change of theta, instead of the
// value. fill: one value, or one a channel (C,), that stands outside the image instead of 0, with
// padding_mode "zeros".
TORCH_LIBRARY(stn_ext, m) {
  // The output: the images read at theta's coordinates.
  m.def(
      "sample(Tensor input, Tensor theta, Tensor? points, Tensor? tangent, Tensor? index, Tensor? fill, "
      "SymInt[] size, str mode, str padding_mode, bool align_corners) -> Tensor");
  // Its transpose: the gradient of the input, so many images of that size.
  m.def(
      "adjoint(Tensor grad, Tensor theta, Tensor? points, Tensor? tangent, Tensor? index, SymInt images, "
      "SymInt[] size, str mode, str padding_mode, bool align_corners) -> Tensor");
  // The gradient of theta.
  m.def(
      "moments(Tensor grad, Tensor input, Tensor theta, Tensor? points, Tensor? tangent, Tensor? index, "
      "Tensor? fill, str mode, str padding_mode, bool align_corners) -> Tensor");
  // Both gradients, of the input and of theta, with the bits that adjoint and moments give.
  m.def(
      "backward(Tensor grad, Tensor input, Tensor theta, Tensor? points, Tensor? index, Tensor? fill, "
      "str mode, str padding_mode, bool align_corners) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(stn_ext, Autograd, m) {
  m.impl("sample", differentiable_sample);
  for (const char* name : {"moments", "adjoint", "backward"})
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&refuse_derivatives>());
}

TORCH_LIBRARY_IMPL(stn_ext, CompositeExplicitAutograd, m) {
  for (const char* name : {"sample", "moments", "adjoint", "backward"})
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&refuse_backend>());
}

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
