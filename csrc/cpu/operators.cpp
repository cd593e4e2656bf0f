// The operators on the CPU.
#include "operators.h"

#include <ATen/EmptyTensor.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/gt.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/logical_and.h>
#include <ATen/ops/logical_not.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>

#include "parallel.h"

namespace stn::cpu {
namespace {

at::Tensor images_of(const at::Tensor& like, int64_t count, at::IntArrayRef size) {
  // Not through the dispatcher, which costs as much as a small image.
  return at::detail::empty_cpu(images_shape(like, count, size), like.scalar_type(), /*pin_memory=*/false,
                               like.suggest_memory_format());
}

at::Tensor theta_from(const std::vector<double>& gradients, const Map& map) {
  const at::ScalarType type = map.theta.scalar_type();
  const bool is_float = type == at::kFloat;
  const at::Tensor grad_theta = at::detail::empty_cpu(map.theta.sizes(), is_float ? at::kFloat : at::kDouble);
  if (is_float) {
    std::transform(gradients.begin(), gradients.end(), grad_theta.mutable_data_ptr<float>(),
                   [](double g) { return static_cast<float>(g); });
    return grad_theta;
  }
  std::copy(gradients.begin(), gradients.end(), grad_theta.mutable_data_ptr<double>());
  return grad_theta.to(type);
}

at::Tensor no_gradient(const Map& map) { return at::zeros(map.theta.sizes(), map.theta.options()); }

// What an index holds is checked where it is used.
const Map& indexed(const Map& map, int64_t) { return map; }

at::Tensor sample(const at::Tensor& input, const Map& map, at::IntArrayRef size);

// What is not finite in the fill stands alone wherever something outside takes part.
void put_infinite(const Problem& p, const Map& map, at::IntArrayRef in_size, at::Tensor output) {
  const at::ScalarType type = p.storage == Storage::f64 ? at::kDouble : at::kFloat;
  std::vector<int64_t> shape{1, 1};  // of one image, which all maps read
  shape.insert(shape.end(), in_size.begin(), in_size.end());
  Map part = map;
  part.index = {};
  part.fill = at::ones({1}, type);
  const at::Tensor outside = sample(at::zeros(shape, type), part, output.sizes().slice(2)).gt(0);
  shape.assign(shape.size() - 1, 1);
  shape[0] = -1;  // the channels
  const at::Tensor infinite = map.fill->to(type).isfinite().logical_not().view(shape);
  const int64_t step = int64_t{sizeof(*p.fill_bits)} / p.element;  // an element is the first of its bits
  const at::Tensor values =
      at::from_blob(const_cast<int64_t*>(p.fill_bits), {p.channels}, {step}, output.options()).view(shape);
  at::where_out(output, outside.logical_and(infinite), values, output);
}

at::Tensor sample(const at::Tensor& input, const Map& map, at::IntArrayRef size) {
  const at::Tensor output = images_of(input, map.count(), size);
  Call call(map, input, input.size(0), input.sizes().slice(2), size);
  if (map.nearest && map.tangent) return output.zero_();
  if (output.numel() == 0) return output;
  call.read(input);
  call.write(output);
  run_sample(call.problem());
  if (call.fill_is_infinite() && !map.nearest && !map.tangent) {
    put_infinite(call.problem(), map, input.sizes().slice(2), output);
  }
  return output;
}

at::Tensor moments(const at::Tensor& grad, const at::Tensor& input, const Map& map) {
  if (grad.numel() == 0 || map.nearest) return no_gradient(map);
  Call call(map, input, input.size(0), input.sizes().slice(2), grad.sizes().slice(2));
  call.read(input);
  call.read_grad(grad, input);
  return theta_from(run_grad_theta(call.problem()), map);
}

at::Tensor adjoint(const at::Tensor& grad, const Map& map, int64_t images, at::IntArrayRef size) {
  const at::Tensor grad_input = images_of(grad, images, size);
  if (grad_input.numel() == 0 || grad.numel() == 0) return grad_input.zero_();
  Call call(map, grad, images, size, grad.sizes().slice(2));
  call.read_grad(grad, grad);
  call.write_grad_input(grad_input);
  run_backward(call.problem(), call.readers(), false);
  return grad_input;
}

std::tuple<at::Tensor, at::Tensor> backward(const at::Tensor& grad, const at::Tensor& input, const Map& map) {
  if (grad.numel() == 0 || map.nearest) {
    return {adjoint(grad, map, input.size(0), input.sizes().slice(2)), moments(grad, input, map)};
  }
  const at::IntArrayRef size = input.sizes().slice(2);
  const at::Tensor grad_input = images_of(input, input.size(0), size);
  Call call(map, input, input.size(0), size, grad.sizes().slice(2));
  call.read(input);
  call.read_grad(grad, input);
  call.write_grad_input(grad_input);
  const std::vector<double> gradients = run_backward(call.problem(), call.readers(), true);
  return {grad_input, theta_from(gradients, map)};
}

}  // namespace

STN_REGISTER_OPERATORS(CPU, stn::cpu)

}  // namespace stn::cpu
