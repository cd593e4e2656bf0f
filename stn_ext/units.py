"""Theta in pixels and in normalised coordinates: the same map in other units.

In pixel units a map takes the output's pixel (j, i) to the place (x, y) in the input, both counted from the
centre of the first pixel: the matrices of OpenCV's ``warpAffine`` and ``warpPerspective`` with
``WARP_INVERSE_MAP``. In normalised units both images run from -1 to 1, as for
``torch.nn.functional.affine_grid``. The operators take either (``theta_units``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .arguments import Size, check_options, lengths
from .overrides import overridable

__all__ = ["axis", "normalised_to_pixels", "pixels_to_normalised", "to_normalised"]


@overridable
def pixels_to_normalised(
    theta: Tensor, in_size: Size, out_size: Size, *, align_corners: bool = False
) -> Tensor:
    """The map in normalised units whose pixel units are given.

    With p = a n + b, an axis of L pixels having a = L / 2, or (L - 1) / 2 where corners are aligned, and
    b = (L - 1) / 2, the map p = M p_out + t is n = a_in^-1 (M a_out) n_out + a_in^-1 (M b_out + t - b_in).
    Either ``align_corners`` describes the same pixels, if the sampler is given the same.

    Args:
        theta: maps in pixel units, (N, 2, 3), (N, 3, 3) if projective, or (N, 3, 4) for volumes, whose rows
            are x, y(, z).
        in_size: the input's (H, W), or (D, H, W); integers of any kind, one being as much along each axis.
        out_size: the output's (H_out, W_out), or (D_out, H_out, W_out).
        align_corners: whether -1 and 1 are the centres of the outer pixels (True) or their outer edges
            (False). An axis of one pixel has no extent between aligned corners: every normalised coordinate
            is that pixel there, and the map's row is zero.

    Returns:
        Maps in normalised units, of theta's shape, in at least float32; differentiable.

    Raises:
        ValueError: theta or a size of the wrong shape.
        TypeError: theta of an integer dtype, or an argument of the wrong type.

    Example:
        A shift by one pixel to the right, on an image four pixels wide:

        >>> import torch
        >>> from stn_ext import pixels_to_normalised
        >>> shift = torch.tensor([[[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]])
        >>> pixels_to_normalised(shift, (3, 4), (3, 4))
        tensor([[[1.0000, 0.0000, 0.5000],
                 [0.0000, 1.0000, 0.0000]]])
    """
    return to_normalised("pixels_to_normalised", theta, in_size, out_size, align_corners)


def to_normalised(op: str, theta: Tensor, in_size: Size, out_size: Size, align_corners: bool) -> Tensor:
    """pixels_to_normalised, for the operator of this name."""
    rows, in_size, out_size = _checked(op, theta, in_size, out_size, align_corners)
    axes = [axis(length, align_corners) for length in reversed(out_size)]
    for row in rows:  # M a_out and M b_out + t
        row[-1] = sum((slope * b for slope, (_, b) in zip(row[:-1], axes, strict=True)), row[-1])
        row[:-1] = [slope * a for slope, (a, _) in zip(row[:-1], axes, strict=True)]
    depths = _depths(rows)
    for row, length in zip(rows[: len(in_size)], reversed(in_size), strict=True):
        a, b = axis(length, align_corners)
        row[:] = [
            (entry - depth * b) * (1 / a if a else 0.0) for entry, depth in zip(row, depths, strict=True)
        ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


@overridable
def normalised_to_pixels(
    theta: Tensor, in_size: Size, out_size: Size, *, align_corners: bool = False
) -> Tensor:
    """The map in pixel units whose normalised units are given: the inverse of :func:`pixels_to_normalised`.

    Args:
        theta: maps in normalised units, (N, 2, 3), (N, 3, 3) or (N, 3, 4).
        in_size, out_size, align_corners: as for :func:`pixels_to_normalised`. Between aligned corners, an
            output axis of one pixel has the coordinate 0 alone: the map's column for it is zero.

    Returns:
        Maps in pixel units, of theta's shape, in at least float32; differentiable.

    Raises:
        ValueError: theta or a size of the wrong shape.
        TypeError: theta of an integer dtype, or an argument of the wrong type.

    Example:
        >>> import torch
        >>> from stn_ext import normalised_to_pixels
        >>> half = torch.tensor([[[0.5, 0.0, 0.0], [0.0, 0.5, 0.0]]])  # the middle half of the image
        >>> normalised_to_pixels(half, (8, 8), (4, 4))
        tensor([[[1., 0., 2.],
                 [0., 1., 2.]]])
    """
    rows, in_size, out_size = _checked("normalised_to_pixels", theta, in_size, out_size, align_corners)
    depths = _depths(rows)
    for row, length in zip(rows[: len(in_size)], reversed(in_size), strict=True):
        a, b = axis(length, align_corners)
        row[:] = [entry * a + depth * b for entry, depth in zip(row, depths, strict=True)]
    axes = [axis(length, align_corners) for length in reversed(out_size)]
    for row in rows:
        row[:-1] = [slope * (1 / a if a else 0.0) for slope, (a, _) in zip(row[:-1], axes, strict=True)]
        row[-1] = sum((-b * slope for slope, (_, b) in zip(row[:-1], axes, strict=True)), row[-1])
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def _checked(
    op: str, theta: Tensor, in_size: Size, out_size: Size, align_corners: bool
) -> tuple[list[list[Tensor]], tuple[int, ...], tuple[int, ...]]:
    """Theta's entries row by row and both sizes, after the checks of all arguments."""
    if not isinstance(theta, Tensor):
        raise TypeError(f"{op}: expected a tensor theta, but got {type(theta).__name__}")
    if theta.dim() != 3 or tuple(theta.shape[1:]) not in ((2, 3), (3, 3), (3, 4)):
        raise ValueError(
            f"{op}: expected theta of shape (N, 2, 3), (N, 3, 3) or (N, 3, 4), but got {tuple(theta.shape)}"
        )
    if not theta.is_floating_point():
        raise TypeError(f"{op}: expected theta of a floating-point dtype, but got {theta.dtype}")
    check_options(op, align_corners)
    dimensions = theta.shape[2] - 1
    sizes = lengths(op, "in_size", in_size, dimensions), lengths(op, "out_size", out_size, dimensions)
    # Numbers, not tensors, scale the entries: nothing is copied to a GPU, and compilers see sizes that vary.
    theta = theta.to(torch.promote_types(theta.dtype, torch.float32))
    return [list(row.unbind(-1)) for row in theta.unbind(-2)], *sizes


def _depths(rows: list[list[Tensor]]) -> list[Any]:
    """The last row of a projective map; of an affine one it is (0, ..., 0, 1) and not written."""
    columns = len(rows[0])
    return list(rows[-1]) if len(rows) == columns else [0.0] * (columns - 1) + [1.0]


def axis(length: int, align_corners: bool) -> tuple[float, float]:
    """(a, b) of p = a n + b."""
    return (length - 1 if align_corners else length) / 2, (length - 1) / 2
