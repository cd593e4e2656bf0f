"""The operators' derivatives: torch.autograd.Function classes over them, and their fake kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _extension  # noqa: F401  loads the operators

ops = torch.ops.stn_ext


class AffineSample(torch.autograd.Function):
    """affine_sample, differentiable by the input and by theta; only the gradients asked for are computed."""

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
            grad_input = ops.affine_sample_adjoint(grad, theta, ctx.in_size, *options)
        if ctx.needs_input_grad[1]:
            grad_theta = ops.affine_sample_moments(grad, input, theta, *options)
        return grad_input, grad_theta, None, None, None


def affine_sample(
    input: Tensor, theta: Tensor, size: tuple[int, int], padding_mode: str, align_corners: bool
) -> Tensor:
    """The operator, through :class:`AffineSample` where a gradient is needed."""
    if torch.is_grad_enabled() and (input.requires_grad or theta.requires_grad):
        return AffineSample.apply(input, theta, size, padding_mode, align_corners)
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
