"""The operators' derivatives: torch.autograd.Function classes over them, and their fake kernels.

There are three operators. Each takes a map (theta, and points for splines) and, optionally, a tangent:

- sample(x, theta): reads the images at theta's coordinates, a sum of taps with weights that depend on theta;
- adjoint(g, theta): its transpose in x, <g, sample(x, theta)> = <adjoint(g, theta), x>;
- moments(g, x, theta): the gradient of <g, sample(x, theta)> by theta.

Sample and moments take a fill too, which stands outside of x: a constant, of which the adjoint knows nothing.
What is linear in x is so without it.

With a tangent, of theta's shape, the weights' derivatives along it take the weights' place. All first and
second derivatives of these are these again, which is what the formulas below say; the third are refused.

A fourth, backward(g, x, theta), is adjoint and moments in one, where neither is to be differentiated.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from . import _extension  # noqa: F401  loads the operators

ops = torch.ops.stn_ext

# What follows an operator's images: theta, points, tangent, index, fill. What follows those: sizes, and mode,
# padding_mode, align_corners. Up to PyTorch 2.13 compilers miscount a forward that takes these three as one.


class Sample(Function):
    """sample, differentiable by input, theta and tangent; only what is asked for is computed."""

    @staticmethod
    def forward(input, theta, points, tangent, index, fill, size, mode, padding_mode, align_corners):
        return ops.sample(input, theta, points, tangent, index, fill, size, mode, padding_mode, align_corners)

    @staticmethod
    def setup_context(ctx, inputs, output):
        input, theta, points, tangent, index, fill, ctx.out_size, *ctx.options = inputs
        ctx.set_materialize_grads(False)
        ctx.images, ctx.in_size = input.shape[0], input.shape[2:]
        # The input's gradient does not need the input, which may be large.
        by_theta = ctx.needs_input_grad[1] or ctx.needs_input_grad[3]
        ctx.save_for_backward(input if by_theta else None, theta, points, tangent, index, fill)
        ctx.save_for_forward(input, theta, points, tangent, index, fill)

    @staticmethod
    def backward(ctx, grad):
        input, theta, points, tangent, index, fill = ctx.saved_tensors
        grad_input = grad_theta = grad_tangent = None
        both = grad is not None and tangent is None and all(ctx.needs_input_grad[:2])
        if both and not (torch.is_grad_enabled() or torch.compiler.is_compiling() or is_transformed()):
            gradients = ops.backward(grad, input, theta, points, index, fill, *ctx.options)
            return *gradients, None, None, None, None, None, None, None, None
        if grad is not None and ctx.needs_input_grad[0]:
            sizes = ctx.images, ctx.in_size
            grad_input = adjoint(grad, theta, points, tangent, index, *sizes, *ctx.options)
        if grad is not None and ctx.needs_input_grad[1]:
            grad_theta = moments(grad, input, theta, points, tangent, index, fill, *ctx.options)
        if grad is not None and ctx.needs_input_grad[3]:
            grad_tangent = moments(grad, input, theta, points, None, index, fill, *ctx.options)
        return grad_input, grad_theta, None, grad_tangent, None, None, None, None, None, None

    @staticmethod
    def jvp(ctx, d_input, d_theta, _points, d_tangent, *_):
        input, theta, points, tangent, index, fill = ctx.saved_tensors
        rest = ctx.out_size, *ctx.options
        if d_theta is not None and tangent is not None:
            raise _third_derivative()
        return _sum(
            d_input is not None and sample(d_input, theta, points, tangent, index, None, *rest),
            d_theta is not None and sample(input, theta, points, d_theta, index, fill, *rest),
            d_tangent is not None and sample(input, theta, points, d_tangent, index, fill, *rest),
        )

    @staticmethod
    def vmap(info, in_dims, input, theta, points, tangent, index, fill, size, *options):
        batch = Batch(info.batch_size, in_dims[1:6], theta, points, tangent, index)
        flat, images, shared = batch.flat_images(input, in_dims[0])
        output = sample(flat, *batch.maps(images, shared), fill, size, *options)
        return batch.unflatten(output), 0


class Adjoint(Function):
    """adjoint, differentiable by grad, theta and tangent."""

    @staticmethod
    def forward(grad, theta, points, tangent, index, images, size, mode, padding_mode, align_corners):
        return ops.adjoint(
            grad, theta, points, tangent, index, images, size, mode, padding_mode, align_corners
        )

    @staticmethod
    def setup_context(ctx, inputs, output):
        grad, theta, points, tangent, index, ctx.images, ctx.in_size, *ctx.options = inputs
        ctx.set_materialize_grads(False)
        ctx.out_size = grad.shape[2:]
        ctx.save_for_backward(grad, theta, points, tangent, index)
        ctx.save_for_forward(grad, theta, points, tangent, index)

    @staticmethod
    def backward(ctx, cotangent):
        # <cotangent, adjoint(grad)> = <sample(cotangent), grad>
        grad, theta, points, tangent, index = ctx.saved_tensors
        grad_grad = grad_theta = grad_tangent = None
        if cotangent is not None and ctx.needs_input_grad[0]:
            grad_grad = sample(cotangent, theta, points, tangent, index, None, ctx.out_size, *ctx.options)
        if cotangent is not None and ctx.needs_input_grad[1]:
            grad_theta = moments(grad, cotangent, theta, points, tangent, index, None, *ctx.options)
        if cotangent is not None and ctx.needs_input_grad[3]:
            grad_tangent = moments(grad, cotangent, theta, points, None, index, None, *ctx.options)
        return grad_grad, grad_theta, None, grad_tangent, None, None, None, None, None, None

    @staticmethod
    def jvp(ctx, d_grad, d_theta, _points, d_tangent, *_):
        grad, theta, points, tangent, index = ctx.saved_tensors
        rest = index, ctx.images, ctx.in_size, *ctx.options
        if d_theta is not None and tangent is not None:
            raise _third_derivative()
        return _sum(
            d_grad is not None and adjoint(d_grad, theta, points, tangent, *rest),
            d_theta is not None and adjoint(grad, theta, points, d_theta, *rest),
            d_tangent is not None and adjoint(grad, theta, points, d_tangent, *rest),
        )

    @staticmethod
    def vmap(info, in_dims, grad, theta, points, tangent, index, images, size, *options):
        batch = Batch(info.batch_size, (*in_dims[1:5], None), theta, points, tangent, index)
        maps = batch.maps(images, shared=False)
        output = adjoint(batch.flat(grad, in_dims[0]), *maps, batch.size * images, size, *options)
        return batch.unflatten(output), 0


class Moments(Function):
    """moments, differentiable, without a tangent, by grad, input and theta."""

    @staticmethod
    def forward(grad, input, theta, points, tangent, index, fill, mode, padding_mode, align_corners):
        return ops.moments(
            grad, input, theta, points, tangent, index, fill, mode, padding_mode, align_corners
        )

    @staticmethod
    def setup_context(ctx, inputs, output):
        grad, input, theta, points, tangent, index, fill, *ctx.options = inputs
        ctx.set_materialize_grads(False)
        ctx.images, ctx.in_size, ctx.out_size = input.shape[0], input.shape[2:], grad.shape[2:]
        ctx.save_for_backward(grad, input, theta, points, tangent, index, fill)
        ctx.save_for_forward(grad, input, theta, points, tangent, index, fill)

    @staticmethod
    def backward(ctx, cotangent):
        # <cotangent, moments(grad, input)> = <grad, sample(input) with the cotangent as its tangent>
        grad, input, theta, points, tangent, index, fill = ctx.saved_tensors
        grad_grad = grad_input = grad_theta = None
        if tangent is not None:
            raise _third_derivative()
        if cotangent is not None and ctx.needs_input_grad[0]:
            grad_grad = sample(input, theta, points, cotangent, index, fill, ctx.out_size, *ctx.options)
        if cotangent is not None and ctx.needs_input_grad[1]:
            sizes = ctx.images, ctx.in_size
            grad_input = adjoint(grad, theta, points, cotangent, index, *sizes, *ctx.options)
        if cotangent is not None and ctx.needs_input_grad[2]:
            grad_theta = moments(grad, input, theta, points, cotangent, index, fill, *ctx.options)
        return grad_grad, grad_input, grad_theta, None, None, None, None, None, None, None

    @staticmethod
    def jvp(ctx, d_grad, d_input, d_theta, _points, d_tangent, *_):
        grad, input, theta, points, tangent, index, fill = ctx.saved_tensors
        if tangent is not None and (d_theta is not None or d_tangent is not None):
            raise _third_derivative()
        return _sum(
            d_grad is not None and moments(d_grad, input, theta, points, tangent, index, fill, *ctx.options),
            d_input is not None and moments(grad, d_input, theta, points, tangent, index, None, *ctx.options),
            d_theta is not None and moments(grad, input, theta, points, d_theta, index, fill, *ctx.options),
        )

    @staticmethod
    def vmap(info, in_dims, grad, input, theta, points, tangent, index, fill, *options):
        batch = Batch(info.batch_size, in_dims[2:7], theta, points, tangent, index)
        flat, images, shared = batch.flat_images(input, in_dims[1])
        output = moments(batch.flat(grad, in_dims[0]), flat, *batch.maps(images, shared), fill, *options)
        return batch.unflatten(output), 0


class Batch:
    """The maps of a vmap as one longer list of maps, without a copy of images that all of them read."""

    def __init__(self, size, in_dims, theta, points, tangent, index):
        self.size, self.points = size, points
        theta_dim, points_dim, tangent_dim, index_dim, fill_dim = in_dims
        if points_dim is not None:
            raise NotImplementedError("thin_plate_spline_sample: vmap takes one set of points, not a batch")
        if fill_dim is not None:
            raise NotImplementedError("affine_sample: this vmap takes one fill, not a batch")
        self.theta = self.flat(theta, theta_dim)
        self.tangent = None if tangent is None else self.flat(tangent, tangent_dim)
        self.count = self.theta.shape[0] // size
        self.index = None if index is None else self.flat(index, index_dim)

    def flat(self, tensor: Tensor, dim: int | None) -> Tensor:
        batched = tensor.expand(self.size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        return batched.flatten(0, 1)

    def flat_images(self, input: Tensor, dim: int | None) -> tuple[Tensor, int, bool]:
        """Images, how many an element of the batch has, and whether all elements share them."""
        if dim is None:
            return input, input.shape[0], True
        flat = self.flat(input, dim)
        return flat, flat.shape[0] // self.size, False

    def maps(self, images: int, shared: bool) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """theta, points, tangent and index of all maps, which read `images` images, or as many each."""
        index = self.index
        if index is None and (shared or images != self.count):
            own = torch.arange(self.count, device=self.theta.device) if images == self.count else 0
            index = self.theta.new_zeros(self.size, self.count, dtype=torch.int64) + own
            index = index.flatten()
        if index is not None and not shared:
            first = torch.arange(self.size, device=index.device) * images
            index = index + first.repeat_interleave(self.count)
        return self.theta, self.points, self.tangent, index

    def unflatten(self, output: Tensor) -> Tensor:
        return output.unflatten(0, (self.size, output.shape[0] // self.size))


def _sum(*terms: Tensor | bool) -> Tensor | None:
    total = None
    for term in terms:
        if isinstance(term, Tensor):
            total = term if total is None else total + term
    return total


def _third_derivative() -> NotImplementedError:
    return NotImplementedError("affine_sample: derivatives of third order by theta are not implemented")


# Without setup_context, which costs some 40 microseconds a call.


class EagerSample(Function):
    @staticmethod
    def forward(ctx, *inputs):
        Sample.setup_context(ctx, inputs, None)
        return Sample.forward(*inputs)

    backward = staticmethod(Sample.backward)


# Without jvp, which compilers do not take.


class CompiledSample(Function):
    forward = staticmethod(Sample.forward)
    setup_context = staticmethod(Sample.setup_context)
    backward = staticmethod(Sample.backward)
    vmap = staticmethod(Sample.vmap)


class CompiledAdjoint(Function):
    forward = staticmethod(Adjoint.forward)
    setup_context = staticmethod(Adjoint.setup_context)
    backward = staticmethod(Adjoint.backward)
    vmap = staticmethod(Adjoint.vmap)


class CompiledMoments(Function):
    forward = staticmethod(Moments.forward)
    setup_context = staticmethod(Moments.setup_context)
    backward = staticmethod(Moments.backward)
    vmap = staticmethod(Moments.vmap)


def sample(
    input: Tensor,
    theta: Tensor,
    points: Tensor | None,
    tangent: Tensor | None,
    index: Tensor | None,
    fill: Tensor | None,
    size: Any,
    *options: Any,
) -> Tensor:
    """The operator, through a Function where a derivative is needed; so are adjoint and moments."""
    arguments = input, theta, points, tangent, index, fill, size, *options
    if torch.compiler.is_compiling():
        return CompiledSample.apply(*arguments)
    if torch.jit.is_tracing():
        # TorchScript can hold the operator, but no sizes of it that vary, of which PyTorch warns here.
        size = [int(length) for length in size]
        return ops.sample(input, theta, points, tangent, index, fill, size, *options)
    if is_transformed():
        return Sample.apply(*arguments)
    if torch.is_grad_enabled() and (
        input.requires_grad or theta.requires_grad or (tangent is not None and tangent.requires_grad)
    ):
        return EagerSample.apply(*arguments)
    return ops.sample(*arguments)


def adjoint(grad, *arguments):
    return _dispatch(CompiledAdjoint, Adjoint, ops.adjoint, grad, *arguments)


def moments(grad, input, *arguments):
    return _dispatch(CompiledMoments, Moments, ops.moments, grad, input, *arguments)


def _dispatch(compiled, function, operator, *arguments):
    if torch.compiler.is_compiling():
        return compiled.apply(*arguments)
    if is_transformed() or (
        torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in arguments)
    ):
        return function.apply(*arguments)
    return operator(*arguments)


def is_transformed() -> bool:
    """Whether torch.func or forward mode is looking on."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _like(images: Tensor, count: int, size: Any) -> Tensor:
    """`count` empty images in the memory format of others."""
    empty = images.new_empty((count, images.shape[1], *size))
    return empty.to(memory_format=torch._prims_common.suggest_memory_format(images))


def _check_devices(images: Tensor, theta: Tensor, points: Tensor | None, **others: Tensor | None) -> None:
    """As csrc/checks.h; tensors without memory, on the meta device, make an operator one of these fakes."""
    for name, tensor in {"theta": theta, "points": points, **others}.items():
        if tensor is not None and tensor.device != images.device:
            square = theta.ndim == 3 and theta.shape[1] == theta.shape[2]
            kind = "thin_plate_spline" if points is not None else "projective" if square else "affine"
            raise ValueError(
                f"{kind}_sample: expected {name} on {images.device}, as the images, but got {tensor.device}"
            )


@torch.library.register_fake("stn_ext::sample")
def _(input, theta, points, tangent, index, fill, size, mode, padding_mode, align_corners):
    _check_devices(input, theta, points, tangent=tangent, index=index, fill=fill)
    return _like(input, theta.shape[0], size)


@torch.library.register_fake("stn_ext::moments")
def _(grad, input, theta, points, tangent, index, fill, mode, padding_mode, align_corners):
    _check_devices(input, theta, points, grad=grad, tangent=tangent, index=index, fill=fill)
    return theta.new_empty(theta.shape)


@torch.library.register_fake("stn_ext::adjoint")
def _(grad, theta, points, tangent, index, images, size, mode, padding_mode, align_corners):
    _check_devices(grad, theta, points, tangent=tangent, index=index)
    return _like(grad, images, size)


@torch.library.register_fake("stn_ext::backward")
def _(grad, input, theta, points, index, fill, mode, padding_mode, align_corners):
    _check_devices(input, theta, points, grad=grad, index=index, fill=fill)
    return _like(grad, input.shape[0], input.shape[2:]), theta.new_empty(theta.shape)
