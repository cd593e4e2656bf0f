"""Images of integers or truth values, label maps for instance, sampled without a loss: nearest pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import autograd, fill

__all__ = ["DTYPES", "sample"]

# PyTorch computes with few of these itself; what is copied are bits.
UNSIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
# uint8 is the operators' own.
DTYPES = (torch.bool, torch.int8, torch.int16, torch.int32, torch.int64, *UNSIGNED)


def sample(
    op: str,
    input: Tensor,
    theta: Tensor,
    points: Tensor | None,
    index: Tensor | None,
    size: Sequence[int],
    padding_mode: str,
    align_corners: bool,
    outside: Any = None,
) -> Tensor:
    """The operators' result in mode "nearest", of integers or truth values.

    They sample an image of its own pixels' numbers, from 1 on, and the pixels of these numbers are gathered:
    0 is outside. Numbers are exact in float64, and so is what is gathered, whatever its dtype. A coordinate
    that is not a number gives 0.
    """
    batch, in_size, device = input.shape[0], input.shape[2:], input.device
    count = 1
    for length in in_size:
        count = count * length
    pixels = torch.arange(1, count + 1, dtype=torch.float64, device=device).view(1, 1, *in_size)
    at = autograd.sample(
        pixels.expand(batch, 1, *in_size),
        theta,
        points,
        None,
        index,
        size,
        "nearest",
        padding_mode,
        align_corners,
    )
    maps = theta.shape[0]
    if index is not None:
        images = index
    elif batch == 1:
        images = torch.zeros(maps, dtype=torch.int64, device=device)
    else:
        images = torch.arange(maps, device=device)
    channels = torch.arange(input.shape[1], device=device)
    places = (at.nan_to_num(0).long() - 1).clamp_min(0).flatten(2)
    bits = UNSIGNED.get(input.dtype, input.dtype)
    output = input.view(bits).flatten(2)[images[:, None, None], channels[:, None], places]
    output = output.unflatten(2, at.shape[2:])
    value = zero = torch.zeros((), dtype=bits, device=device)
    if outside is not None:
        value = fill.values(op, outside, input, output.shape, input.dtype).view(bits)
    output = torch.where(at > 0, output, torch.where(at.isnan(), zero, value)).view(input.dtype)
    return output.contiguous(memory_format=torch._prims_common.suggest_memory_format(input))
