"""What lies outside an image instead of zeros."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .arguments import short

__all__ = ["Fill", "blend", "values"]

Fill = float | Sequence[float] | Tensor


def values(op: str, fill: object, images: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """What broadcasts to outputs of that shape, on the images' device; of integers, without a loss."""
    given = fill if isinstance(fill, Tensor) else _tensor(op, fill, images.device)
    # As PyTorch's own operators, which take numbers from the CPU everywhere.
    if given.device != images.device and (given.ndim > 0 or given.device.type != "cpu"):
        raise ValueError(f"{op}: expected fill on {images.device}, as the images, but got {given.device}")
    if given.is_complex():
        raise TypeError(f"{op}: expected fill of real numbers, but got {given.dtype}")
    channels, value = shape[1], given
    if given.ndim < 2 and given.shape in ((), (1,), (channels,)):
        value = given.reshape(-1, *[1] * (len(shape) - 2))
    elif not _broadcasts(given, shape):
        raise ValueError(
            f"{op}: expected fill of one number, of {channels}, one for each channel, or a tensor that "
            f"broadcasts to the output, but got {tuple(given.shape)}"
        )
    converted = value.to(images.device, dtype)
    exact = dtype.is_floating_point or torch.compiler.is_compiling() or _are_equal(converted, value)
    if not exact:
        raise ValueError(f"{op}: expected fill that {dtype} holds, but got {short(fill)}")
    return converted


def blend(output: Tensor, inside: Tensor, fill: Tensor) -> Tensor:
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
    try:
        value = torch.as_tensor(fill, device=device)
        if value.is_floating_point():  # of more digits than PyTorch's default dtype has
            value = torch.as_tensor(fill, dtype=torch.float64, device=device)
        return value
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"{op}: expected fill of a number, of one for each channel, or a tensor, but got {short(fill)}"
        ) from None


def _are_equal(converted: Tensor, value: Tensor) -> bool:
    wrapped = not converted.dtype.is_signed and bool((value < 0).any())
    return not wrapped and torch.equal(converted.to(value.device, value.dtype), value)


def _broadcasts(value: Tensor, shape: Sequence[int]) -> bool:
    return value.ndim == len(shape) and all(
        n == 1 or n == wanted for n, wanted in zip(value.shape, shape, strict=True)
    )
