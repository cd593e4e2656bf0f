"""What lies outside an image instead of zeros."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import autograd
from .arguments import short

__all__ = ["Fill", "sample"]

Fill = float | Sequence[float] | Tensor

# Images that are computed with in float32.
INTEGERS = (torch.uint8, torch.int16, torch.uint16)
BITS = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
NARROW = (torch.float16, torch.bfloat16, *INTEGERS)


def sample(
    op: str,
    input: Tensor,
    theta: Tensor,
    points: Tensor | None,
    index: Tensor | None,
    options: tuple[Any, ...],
    fill: object,
) -> Tensor:
    """The operator with a fill, which takes values for all pixels itself; others are put in afterwards."""
    value = _tensor(op, fill, input.device)
    # Labels, whose values are not brought into range. Of uint8, which may be pictures, they are.
    exact = options[1] == "nearest" and not input.is_floating_point() and input.dtype != torch.uint8
    if exact:
        value = _held(op, value, input.dtype)
    is_constant = value.shape in ((), (1,), (input.shape[1],)) and not _is_differentiated(value)
    if is_constant:
        return autograd.sample(input, theta, points, None, index, value, *options)
    return _composed(op, input, theta, points, index, options, value, exact)


def _composed(
    op: str,
    input: Tensor,
    theta: Tensor,
    points: Tensor | None,
    index: Tensor | None,
    options: tuple[Any, ...],
    value: Tensor,
    exact: bool,
) -> Tensor:
    """The part of each pixel that lies outside the image, which an image of ones tells, is filled."""
    images = input.float() if input.dtype in NARROW and not exact else input
    output = autograd.sample(images, theta, points, None, index, None, *options)
    value = _of_pixels(op, value, output)
    # One image that every map reads.
    ones = images.new_ones((1, 1, *images.shape[2:]), dtype=torch.float64 if exact else images.dtype)
    inside = autograd.sample(ones, theta, points, None, None, None, *options)
    if exact:
        # Of unsigned integers PyTorch cannot choose everywhere, of their bits it can.
        bits = BITS.get(output.dtype, output.dtype)
        return torch.where(inside == 0, value.view(bits), output.view(bits)).view(output.dtype)
    output = _blend(output, inside, value.to(images.dtype))
    if input.dtype in INTEGERS:
        limits = torch.iinfo(input.dtype)
        output = output.nan_to_num(0).round().clamp(limits.min, limits.max)
    return output.to(input.dtype)


def _blend(output: Tensor, inside: Tensor, fill: Tensor) -> Tensor:
    """The output, sampled with zeros outside, of pixels of which `inside` is the part within the image.

    A pixel that nothing outside takes part in is left as it is, to the bit; where something does, what is not
    finite in the fill stands alone.
    """
    outside = 1 - inside
    # A part is a sum of rounded products: up to this it is none. Its derivative stays, which is not 0 at the
    # image's edge.
    rounding = 8 * torch.finfo(outside.dtype).eps
    outside = torch.where(outside.abs() > rounding, outside, outside - outside.detach())
    finite = fill.isfinite()
    output = output + outside * torch.where(finite, fill, 0)
    return output + torch.where((outside > 0) & ~finite, fill, 0)


def _tensor(op: str, fill: object, device: torch.device) -> Tensor:
    if type(fill) is float or (type(fill) is int and abs(fill) <= 2**53):  # at half the time
        return torch.scalar_tensor(fill, dtype=torch.float64, device=device)
    try:
        value = fill if isinstance(fill, Tensor) else torch.as_tensor(fill, device=device)
        if value is not fill and value.is_floating_point():  # of more digits than PyTorch's default dtype has
            value = torch.as_tensor(fill, dtype=torch.float64, device=device)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"{op}: expected fill of a number, of one for each channel, or a tensor, but got {short(fill)}"
        ) from None
    if value.is_complex():
        raise TypeError(f"{op}: expected fill of real numbers, but got {value.dtype}")
    # As PyTorch's own operators, which take numbers from the CPU everywhere.
    is_number = value.ndim == 0 and value.device.type == "cpu"
    return value.to(device) if is_number and value.device != device else value


def _held(op: str, fill: Tensor, dtype: torch.dtype) -> Tensor:
    """The same numbers in a dtype of integers or truth values."""
    converted = fill.to(dtype)
    if converted is not fill and not torch.compiler.is_compiling() and fill.device.type != "meta":
        wrapped = fill.dtype.is_signed and not dtype.is_signed and bool((fill < 0).any())
        if wrapped or not torch.equal(converted.to(fill.dtype), fill):
            raise ValueError(f"{op}: expected fill that {dtype} holds, but got {short(fill.tolist())}")
    return converted


def _is_differentiated(fill: Tensor) -> bool:
    """Or may be: transforms do not say."""
    return (fill.requires_grad and torch.is_grad_enabled()) or (
        not torch.compiler.is_compiling() and autograd.is_transformed()
    )


def _of_pixels(op: str, fill: Tensor, output: Tensor) -> Tensor:
    """As it broadcasts to the output."""
    shape = output.shape
    if fill.device != output.device:
        raise ValueError(f"{op}: expected fill on {output.device}, as the images, but got {fill.device}")
    if fill.shape in ((), (1,), (shape[1],)):
        return fill.reshape(-1, *[1] * (len(shape) - 2))
    if fill.ndim == len(shape) and all(n in (1, m) for n, m in zip(fill.shape, shape, strict=True)):
        return fill
    raise ValueError(
        f"{op}: expected fill of one number, of {shape[1]}, one for each channel, or a tensor that "
        f"broadcasts to the output, but got {tuple(fill.shape)}"
    )
