"""Theta in pixels and in normalised coordinates: the same map in other units.

In pixel units a map takes the output's pixel (j, i) to the place (x, y) in the input, both counted from the
centre of the first pixel: the matrices of OpenCV's ``warpAffine`` with ``WARP_INVERSE_MAP``. In normalised
units both images run from -1 to 1, as for ``torch.nn.functional.affine_grid``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["normalised_to_pixels", "pixels_to_normalised"]


def pixels_to_normalised(
    theta: Tensor, in_size: Sequence[int], out_size: Sequence[int], *, align_corners: bool = False
) -> Tensor:
    """The map in normalised units whose pixel units are given.

    With p = a n + b, an axis of L pixels having a = L / 2, or (L - 1) / 2 where corners are aligned, and
    b = (L - 1) / 2, the map p = M p_out + t is n = a_in^-1 (M a_out) n_out + a_in^-1 (M b_out + t - b_in).
    Either ``align_corners`` describes the same pixels, if the sampler is given the same.

    Args:
        theta: maps in pixel units, (N, 2, 3), or (N, 3, 4) for volumes, whose rows are x, y(, z).
        in_size: the input's (H, W), or (D, H, W).
        out_size: the output's (H_out, W_out), or (D_out, H_out, W_out).
        align_corners: whether -1 and 1 are the centres of the outer pixels (True) or their outer edges
            (False). An axis of one pixel has no extent between aligned corners: every normalised coordinate
            is that pixel there, and the map's row is zero.

    Returns:
        Maps in normalised units, of theta's shape, in at least float32; differentiable.

    Raises:
        ValueError: theta or a size of the wrong shape.
        TypeError: theta of an integer dtype.

    Example:
        A shift by one pixel to the right, on an image four pixels wide:

        >>> shift = torch.tensor([[[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]])
        >>> pixels_to_normalised(shift, (3, 4), (3, 4))
        tensor([[[1.0000, 0.0000, 0.5000],
                 [0.0000, 1.0000, 0.0000]]])
    """
    rows = _rows("pixels_to_normalised", theta, in_size, out_size)
    outer = [_axis(length, align_corners) for length in reversed(out_size)]
    result = []
    for (*linear, shift), length in zip(rows, reversed(in_size), strict=True):
        scale, centre = _axis(length, align_corners)
        inverse = 1 / scale if scale else 0.0
        for slope, (_, b) in zip(linear, outer, strict=True):
            shift = shift + slope * b
        columns = [slope * (a * inverse) for slope, (a, _) in zip(linear, outer, strict=True)]
        result.append(torch.stack([*columns, (shift - centre) * inverse], -1))
    return torch.stack(result, -2)


def normalised_to_pixels(
    theta: Tensor, in_size: Sequence[int], out_size: Sequence[int], *, align_corners: bool = False
) -> Tensor:
    """The map in pixel units whose normalised units are given: the inverse of :func:`pixels_to_normalised`.

    Args:
        theta: maps in normalised units, (N, 2, 3), or (N, 3, 4) for volumes.
        in_size, out_size, align_corners: as for :func:`pixels_to_normalised`. Between aligned corners, an
            output axis of one pixel has the coordinate 0 alone: the map's column for it is zero.

    Returns:
        Maps in pixel units, of theta's shape, in at least float32; differentiable.

    Raises:
        ValueError: theta or a size of the wrong shape.
        TypeError: theta of an integer dtype.

    Example:
        >>> half = torch.tensor([[[0.5, 0.0, 0.0], [0.0, 0.5, 0.0]]])  # the middle half of the image
        >>> normalised_to_pixels(half, (8, 8), (4, 4))
        tensor([[[1., 0., 2.],
                 [0., 1., 2.]]])
    """
    rows = _rows("normalised_to_pixels", theta, in_size, out_size)
    outer = [_axis(length, align_corners) for length in reversed(out_size)]
    result = []
    for (*linear, shift), length in zip(rows, reversed(in_size), strict=True):
        scale, centre = _axis(length, align_corners)
        columns = [slope * (scale / a if a else 0.0) for slope, (a, _) in zip(linear, outer, strict=True)]
        shift = shift * scale + centre
        for column, (_, b) in zip(columns, outer, strict=True):
            shift = shift - column * b
        result.append(torch.stack([*columns, shift], -1))
    return torch.stack(result, -2)


def _rows(
    op: str, theta: Tensor, in_size: Sequence[int], out_size: Sequence[int]
) -> list[tuple[Tensor, ...]]:
    """Theta's entries row by row, after the checks of all arguments."""
    if not isinstance(theta, Tensor):
        raise TypeError(f"{op}: expected a tensor theta, but got {type(theta).__name__}")
    if theta.dim() != 3 or tuple(theta.shape[1:]) not in ((2, 3), (3, 4)):
        raise ValueError(
            f"{op}: expected theta of shape (N, 2, 3) or (N, 3, 4), but got {tuple(theta.shape)}"
        )
    if not theta.is_floating_point():
        raise TypeError(f"{op}: expected theta of a floating-point dtype, but got {theta.dtype}")
    for name, size in (("in_size", in_size), ("out_size", out_size)):
        if len(size) != theta.shape[1] or min(size) < 1:
            raise ValueError(
                f"{op}: expected {name} of {theta.shape[1]} positive integers, but got {tuple(size)}"
            )
    # Numbers, not tensors, scale the entries: nothing is copied to a GPU, and compilers see sizes that vary.
    theta = theta.to(torch.promote_types(theta.dtype, torch.float32))
    return [row.unbind(-1) for row in theta.unbind(-2)]


def _axis(length: int, align_corners: bool) -> tuple[float, float]:
    """(a, b) of p = a n + b."""
    return (length - 1 if align_corners else length) / 2, (length - 1) / 2
