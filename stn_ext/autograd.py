"""The operators' derivatives: torch.autograd.Function classes over them, and their fake kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _extension  # noqa: F401  loads the operators

ops = torch.ops.stn_ext


class AffineSample(torch.autograd.Function):
    """affine_sample, differentiable by the input and by theta; only the gradients asked for are computed.

    In the form that compilers and torch.func take.
    """

    @staticmethod
    def forward(input, theta, size, padding_mode, align_corners):
        return ops.affine_sample(input, theta, size, padding_mode, align_corners)

    @staticmethod
    def setup_context(ctx, inputs, output):
        input, theta, _, ctx.padding_mode, ctx.align_corners = inputs
        ctx.in_size = input.shape[-2:]
        # The input's gradient does not need the input, which may be large.
        ctx.save_for_backward(input if ctx.needs_input_grad[1] else None, theta)

    @staticmethod
    def backward(ctx, grad):
        input, theta = ctx.saved_tensors
        options = ctx.padding_mode, ctx.align_corners
        grad_input = grad_theta = None
        if ctx.needs_input_grad[0]:
            grad_input = adjoint(grad, theta, ctx.in_size, *options)
        if ctx.needs_input_grad[1]:
            grad_theta = moments(grad, input, theta, *options)
        return grad_input, grad_theta, None, None, None


class Adjoint(torch.autograd.Function):
    """The input's gradient: linear in the output's, as the transpose of affine_sample."""

    @staticmethod
    def forward(grad, theta, in_size, padding_mode, align_corners):
        return ops.affine_sample_adjoint(grad, theta, in_size, padding_mode, align_corners)

    @staticmethod
    def setup_context(ctx, inputs, output):
        grad, theta, _, *ctx.options = inputs
        ctx.out_size = grad.shape[-2:]
        ctx.save_for_backward(grad, theta)

    @staticmethod
    def backward(ctx, tangent):
        # <tangent, adjoint(grad)> = <sample(tangent), grad>
        grad, theta = ctx.saved_tensors
        grad_grad = grad_theta = None
        if ctx.needs_input_grad[0]:
            grad_grad = affine_sample(tangent, theta, ctx.out_size, *ctx.options)
        if ctx.needs_input_grad[1]:
            grad_theta = moments(grad, tangent, theta, *ctx.options)
        return grad_grad, grad_theta, None, None, None


class Moments(torch.autograd.Function):
    """Theta's gradient, which ends here."""

    @staticmethod
    def forward(grad, input, theta, padding_mode, align_corners):
        return ops.affine_sample_moments(grad, input, theta, padding_mode, align_corners)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, tangent):
        raise NotImplementedError("affine_sample: the gradient of theta has no derivative")


def adjoint(grad, theta, in_size, padding_mode, align_corners):
    function = Adjoint.apply if _is_traced(grad, theta) else ops.affine_sample_adjoint
    return function(grad, theta, in_size, padding_mode, align_corners)


def moments(grad, input, theta, padding_mode, align_corners):
    function = Moments.apply if _is_traced(grad, input, theta) else ops.affine_sample_moments
    return function(grad, input, theta, padding_mode, align_corners)


def _is_traced(*tensors: Tensor) -> bool:
    return _is_transformed() or (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))


def _is_transformed() -> bool:
    """Whether a compiler or torch.func is looking on."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


class EagerAffineSample(torch.autograd.Function):
    """The same without setup_context, which costs some 40 microseconds a call."""

    @staticmethod
    def forward(ctx, *inputs):
        AffineSample.setup_context(ctx, inputs, None)
        return AffineSample.forward(*inputs)

    backward = AffineSample.backward


def affine_sample(
    input: Tensor, theta: Tensor, size: tuple[int, int], padding_mode: str, align_corners: bool
) -> Tensor:
    """The operator, through an autograd.Function where a gradient is needed."""
    if _is_transformed():
        return AffineSample.apply(input, theta, size, padding_mode, align_corners)
    if torch.is_grad_enabled() and (input.requires_grad or theta.requires_grad):
        return EagerAffineSample.apply(input, theta, size, padding_mode, align_corners)
    return ops.affine_sample(input, theta, size, padding_mode, align_corners)


def _like(tensor: Tensor, *size: int) -> Tensor:
    """An empty (N, C, *size) tensor in the memory format of the images."""
    empty = tensor.new_empty((*tensor.shape[:2], *size))
    return empty.to(memory_format=torch._prims_common.suggest_memory_format(tensor))


@torch.library.register_fake("stn_ext::affine_sample")
def _(input, theta, size, padding_mode, align_corners):
    return _like(input, *size)


@torch.library.register_fake("stn_ext::affine_sample_moments")
def _(grad, input, theta, padding_mode, align_corners):
    return theta.new_empty(theta.shape)


@torch.library.register_fake("stn_ext::affine_sample_adjoint")
def _(grad, theta, size, padding_mode, align_corners):
    return _like(grad, *size)
