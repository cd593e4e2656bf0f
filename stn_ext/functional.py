"""The operators that users call."""

from __future__ import annotations

import torch
from torch import Tensor

from . import autograd

__all__ = ["affine_sample"]


def affine_sample(
    input: Tensor,
    theta: Tensor,
    size: tuple[int, int] | None = None,
    *,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
) -> Tensor:
    """Warps images by affine maps: affine_grid and grid_sample in one step that writes no grid.

    For each output pixel with normalised coordinates (x_t, y_t), the input is read at
    (x_s, y_s) = theta (x_t, y_t, 1): Jaderberg et al. 2015, equations 1 and 5. The result equals
    ``F.grid_sample(input, F.affine_grid(theta, (N, C, *size), align_corners), mode, padding_mode,
    align_corners)`` in exact arithmetic, and is closer to it than that pair's own. Gradients flow to the
    input and to theta. The same arguments give the same bits, for any number of threads.

    Args:
        input: images, (N, C, H, W), float32 or float64, in any memory layout.
        theta: maps from output to input coordinates, (N, 2, 3), of any floating-point dtype. Coordinates
            run from -1 to 1 over the image, x rightwards and y downwards.
        size: (H_out, W_out) of the output in pixels. Default: the input's.
        mode: "bilinear".
        padding_mode: what lies outside the image: "zeros", "border" (the nearest pixel) or "reflection" (the
            image mirrored at its edges).
        align_corners: whether -1 and 1 are the centres of the outer pixels (True) or their outer edges
            (False).

    Returns:
        (N, C, H_out, W_out), of the input's dtype, device and memory format. NaN where a coordinate is NaN;
        an infinite coordinate lies outside the image.

    Raises:
        ValueError: an argument of the wrong shape, device, or value.
        TypeError: an argument of the wrong type or dtype.
    """
    if not isinstance(input, Tensor) or not isinstance(theta, Tensor):
        raise TypeError(
            f"affine_sample: expected tensors input and theta, but got {type(input).__name__} "
            f"and {type(theta).__name__}"
        )
    if mode != "bilinear":
        raise ValueError(f"affine_sample: expected mode 'bilinear', but got {mode!r}")
    if size is None:
        size = input.shape[-2:]
    elif not _is_size(size):
        raise ValueError(
            f"affine_sample: expected size of two positive integers (height, width), but got {size!r}"
        )
    return autograd.affine_sample(input, theta, size, padding_mode, align_corners)


def _is_size(size: object) -> bool:
    # torch.SymInt: the sizes of tensors that a compiler traces.
    return (
        isinstance(size, (tuple, list))
        and len(size) == 2
        and all(isinstance(length, (int, torch.SymInt)) and length > 0 for length in size)
    )
