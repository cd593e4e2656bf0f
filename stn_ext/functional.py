"""The operators that users call."""

from __future__ import annotations

import torch
from torch import Tensor

from . import arguments, autograd
from . import fill as fills
from .arguments import Index, Size
from .fill import Fill
from .overrides import overridable
from .units import to_normalised as units_to_normalised

__all__ = ["affine_sample", "projective_sample", "thin_plate_spline_sample"]


@overridable
def affine_sample(
    input: Tensor,
    theta: Tensor,
    size: Size | None = None,
    *,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    fill: Fill | None = None,
    index: Index | None = None,
    theta_units: str = "normalised",
) -> Tensor:
    """Warps images by affine maps: affine_grid and grid_sample in one step that writes no grid.

    For each output pixel with normalised coordinates (x_t, y_t), the input is read at
    (x_s, y_s) = theta (x_t, y_t, 1): Jaderberg et al. 2015, equations 1 and 5. The result equals
    ``F.grid_sample(input, F.affine_grid(theta, (N, C, *size), align_corners), mode, padding_mode,
    align_corners)`` in exact arithmetic, and is closer to it than that pair's own. The input, theta and fill
    have first and second derivatives, in reverse and forward mode. The same arguments give the same bits, for
    any number of threads.

    Args:
        input: images, (N, C, H, W), or volumes, (N, C, D, H, W), in any memory layout; float32, float64,
            float16, bfloat16, or uint8, int16 or uint16, which have no gradient and whose result is rounded,
            to even from between two, and brought into their range. Coordinates and sums are computed in
            float32, or float64 for float64 images. With mode "nearest" also bool and all other integers,
            label maps for instance, which are copied as they are.
        theta: maps from output to input coordinates, (N, 2, 3), or for volumes (N, 3, 4), of any
            floating-point dtype. Coordinates run from -1 to 1 over the image, x rightwards, y downwards, z
            from slice to slice. A batch of one image is warped by all N maps, without a copy.
        size: (H_out, W_out), or (D_out, H_out, W_out), of the output in pixels, integers of any kind; one is
            as much along each axis. Default: the input's.
        mode: "bilinear" (trilinear, in volumes) or "nearest", which has no gradient by theta.
        padding_mode: what lies outside the image: "zeros", "border" (the nearest pixel) or "reflection" (the
            image mirrored at its edges).
        align_corners: whether -1 and 1 are the centres of the outer pixels (True) or their outer edges
            (False).
        fill: with padding_mode "zeros", what lies outside instead of 0: a number, or a tensor or list of one
            for all, of one for each channel, (C,), or of as many axes as the output, which it broadcasts to.
            It may be infinite or NaN: pixels that lie inside do not know of it. Label maps take what their
            dtype holds. The first three cost nothing, unless they need a gradient or the images are on CUDA.
        index: (N,), an int64 tensor or a list: the number of the image that each map of theta reads, of a
            batch of any size. Default: each its own.
        theta_units: "normalised", or "pixel": theta takes the output's pixels to the input's, counted from
            the centre of the first, as OpenCV's matrices with WARP_INVERSE_MAP (see :mod:`stn_ext.units`).
            align_corners then only says where "reflection" mirrors.

    Returns:
        (N, C, H_out, W_out), or (N, C, D_out, H_out, W_out), of the input's dtype, device and memory format.
        NaN where a coordinate is NaN, or 0 of integers; an infinite coordinate lies outside the image.

    Raises:
        ValueError: an argument of the wrong shape, device, or value.
        TypeError: an argument of the wrong type or dtype.
        IndexError: on the CPU, an index of an image that is not there.
    """
    if type(input) is not Tensor or type(theta) is not Tensor:
        _check_tensors("affine_sample", input=input, theta=theta)
    if _is_projective(theta):
        raise ValueError(
            "affine_sample: expected theta of shape (N, 2, 3), but got "
            f"{tuple(theta.shape)}: projective_sample takes (N, 3, 3)"
        )
    rest = mode, padding_mode, align_corners, fill, index
    return _warp("affine_sample", input, theta, None, size, *rest, theta_units)


@overridable
def projective_sample(
    input: Tensor,
    theta: Tensor,
    size: Size | None = None,
    *,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    fill: Fill | None = None,
    index: Index | None = None,
    theta_units: str = "normalised",
) -> Tensor:
    """Warps images by projective maps (homographies).

    For each output pixel with normalised coordinates (x_t, y_t), the input is read at (u / w, v / w), with
    (u, v, w) = theta (x_t, y_t, 1). Points at or behind the horizon, w <= 0, lie outside, infinitely far.

    Args:
        input: images, (N, C, H, W).
        theta: (N, 3, 3).
        size, mode, padding_mode, align_corners, fill, index: as for :func:`affine_sample`.
        theta_units: as for :func:`affine_sample`; "pixel" is what OpenCV's warpPerspective takes.

    Returns:
        (N, C, H_out, W_out), as :func:`affine_sample`.

    Raises:
        ValueError, TypeError, IndexError: as :func:`affine_sample`.
    """
    _check_tensors("projective_sample", input=input, theta=theta)
    if not _is_projective(theta):
        raise ValueError(
            f"projective_sample: expected theta of shape (N, 3, 3), but got {tuple(theta.shape)}"
        )
    rest = mode, padding_mode, align_corners, fill, index
    return _warp("projective_sample", input, theta, None, size, *rest, theta_units)


@overridable
def thin_plate_spline_sample(
    input: Tensor,
    theta: Tensor,
    points: Tensor,
    size: Size | None = None,
    *,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    fill: Fill | None = None,
    index: Index | None = None,
) -> Tensor:
    """Warps images by thin plate splines (Bookstein 1989).

    For each output pixel p = (x_t, y_t), in normalised coordinates, the input is read at
    ``theta (U(|p - points_1|^2), ..., U(|p - points_K|^2), x_t, y_t, 1)``, with ``U(s) = s log s``.
    :class:`stn_ext.transforms.ThinPlateSpline` finds the theta that takes control points to given targets.

    Args:
        input: images, (N, C, H, W).
        theta: coefficients, (N, 2, K + 3).
        points: control points, (K, 2), normalised; they have no gradient.
        size, mode, padding_mode, align_corners, fill, index: as for :func:`affine_sample`.

    Returns:
        (N, C, H_out, W_out), as :func:`affine_sample`.

    Raises:
        ValueError, TypeError, IndexError: as :func:`affine_sample`.
    """
    _check_tensors("thin_plate_spline_sample", input=input, theta=theta, points=points)
    if points.requires_grad:
        raise ValueError(
            "thin_plate_spline_sample: expected points that need no gradient; detach them, or move theta"
        )
    rest = mode, padding_mode, align_corners, fill, index
    return _warp("thin_plate_spline_sample", input, theta, points, size, *rest)


def _warp(
    name: str,
    input: Tensor,
    theta: Tensor,
    points: Tensor | None,
    size: Size | None,
    mode: str,
    padding_mode: str,
    align_corners: bool,
    fill: Fill | None,
    index: Index | None,
    theta_units: str = "normalised",
) -> Tensor:
    """The arguments as the operators take them, which check the rest; and what the operators do not have."""
    # What they mostly are, which is seen in no time.
    if not (type(mode) is type(padding_mode) is type(theta_units) is str and type(align_corners) is bool):
        arguments.check_options(
            name, align_corners, mode=mode, padding_mode=padding_mode, theta_units=theta_units
        )
        align_corners = bool(align_corners)
    if input.ndim != 4 and input.ndim != 5:
        raise ValueError(
            f"{name}: expected input of shape (N, C, H, W) or (N, C, D, H, W), but got {tuple(input.shape)}"
        )
    out_size: tuple[int, ...]
    out_size = input.shape[2:] if size is None else arguments.lengths(name, "size", size, input.ndim - 2)
    if index is not None:
        index = arguments.numbers_of_images(name, index, input.device)
    if fill is not None and padding_mode != "zeros":
        raise ValueError(f"{name}: expected padding_mode 'zeros' with fill, but got {padding_mode!r}")
    if theta_units != "normalised":
        theta, align_corners = _from_pixels(
            name, theta_units, input, theta, out_size, padding_mode, align_corners
        )
    if not input.is_floating_point():
        if mode == "nearest":
            theta = theta.detach()  # which has no gradient
        elif torch.is_grad_enabled() and theta.requires_grad:
            raise TypeError(
                f"{name}: expected images of a floating-point dtype for a gradient, but got {input.dtype}"
            )
    options = out_size, mode, padding_mode, align_corners
    if fill is None:
        return autograd.sample(input, theta, points, None, index, None, *options)
    return fills.sample(name, input, theta, points, index, options, fill)


def _is_projective(theta: Tensor) -> bool:
    shape = theta.shape
    return len(shape) == 3 and shape[1] == 3 and shape[2] == 3


def _from_pixels(
    name: str,
    units: str,
    input: Tensor,
    theta: Tensor,
    size: tuple[int, ...],
    padding_mode: str,
    align_corners: bool,
) -> tuple[Tensor, bool]:
    """theta in normalised units, and the align_corners that it is for."""
    if units != "pixel":
        raise ValueError(f"{name}: expected theta_units 'normalised' or 'pixel', but got {units!r}")
    # Only where it matters: between aligned corners an axis of one pixel would lose its place.
    align_corners = align_corners and padding_mode == "reflection"
    maps = ((2, 3), (3, 3)) if input.ndim == 4 else ((3, 4),)
    if theta.ndim != 3 or tuple(theta.shape[1:]) not in maps or 0 in input.shape[2:]:
        return theta, align_corners  # which the operator refuses
    # In float64, as the operator itself puts theta and the sizes together.
    if theta.is_floating_point():
        theta = theta.double()
    return units_to_normalised(name, theta, input.shape[2:], size, align_corners), align_corners


def _check_tensors(name: str, **tensors: object) -> None:
    for tensor in tensors.values():
        if not isinstance(tensor, Tensor):
            *kinds, last = (type(tensor).__name__ for tensor in tensors.values())
            *names, last_name = tensors
            raise TypeError(
                f"{name}: expected tensors {', '.join(names)} and {last_name}, but got {', '.join(kinds)} "
                f"and {last}"
            )
