"""Affine maps of images taken apart, and put together from what people say: angles, scales, boxes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..arguments import Size, check_options, lengths
from ..overrides import overridable
from ..units import axis, normalised_to_pixels, to_normalised
from .checks import AFFINE, check, check_numbers, result_dtype, sizes

__all__ = ["AffineParameters", "from_box", "from_parameters", "parameters"]


class AffineParameters(NamedTuple):
    """What :func:`parameters` finds in maps, and :func:`from_parameters` composes maps of."""

    angle: Tensor
    """(N,), radians from the x axis towards the y axis."""

    scale: Tensor
    """(N, 2), along x and y; above 1 more of the input is shown, smaller."""

    shear: Tensor
    """(N,), how far x moves for a step in y; the tangent of the angle of shear."""

    translation: Tensor
    """(N, 2), x and y."""


@overridable
def parameters(
    theta: Tensor,
    in_size: Size | None = None,
    out_size: Size | None = None,
    *,
    align_corners: bool = False,
) -> AffineParameters:
    """The angle, scales, shear and translation of affine maps of images.

    A map is taken apart as ``p_in = R(angle) diag(scale_x, scale_y) [[1, shear], [0, 1]] p_out +
    translation``, with ``R(angle) = [[cos, -sin], [sin, cos]]``: the QR decomposition of its linear part
    (Golub and Van Loan, Matrix Computations, section 5.2), with a positive scale along x. A map that mirrors
    has a negative scale along y.

    Args:
        theta: (N, 2, 3).
        in_size, out_size, align_corners: with in_size, of a normalised theta the parameters in pixels: angles
            and scales as one measures them in pictures, which the normalised square shows pressed unless they
            are square. The translation then leads from the input's centre to where the output's centre is
            read, in the input's pixels. Without in_size, the parameters are in theta's own unit, and the
            translation is its last column.

    Returns:
        :class:`AffineParameters`, from which :func:`from_parameters` makes theta again. The angle is between
        -pi and pi. A map without extent along x has no shear and no scale along y: they are NaN.

    Raises:
        ValueError: theta or a size of the wrong shape.
        TypeError: what is no tensor, theta of an integer dtype, or align_corners of another type.

    Example:
        A quarter of a turn, of a picture twice as wide as high:

        >>> import torch
        >>> from stn_ext.geometry import parameters
        >>> turn = torch.tensor([[[0.0, -0.5, 0.0], [2.0, 0.0, 0.0]]])
        >>> parameters(turn).scale
        tensor([[2.0000, 0.5000]])
        >>> parameters(turn, (50, 100)).scale
        tensor([[1., 1.]])
        >>> parameters(turn, (50, 100)).angle
        tensor([1.5708])
    """
    check("parameters", "theta", theta, AFFINE)
    both = sizes("parameters", in_size, out_size, 2, align_corners)
    dtype, theta = result_dtype(theta), theta.double()
    if both is not None:
        theta = normalised_to_pixels(theta, *both, align_corners=align_corners)
        theta = _moved(theta, *both, sign=1)
    (a, b, x), (c, d, y) = (row.unbind(1) for row in theta.unbind(1))
    length = torch.hypot(a, c)
    scale = torch.stack((length, (a * d - b * c) / length), 1)
    shear = (a * b + c * d) / length.square()
    translation = torch.stack((x, y), 1)
    return AffineParameters(*(part.to(dtype) for part in (torch.atan2(c, a), scale, shear, translation)))


@overridable
def from_parameters(
    angle: Tensor,
    scale: Tensor,
    shear: Tensor,
    translation: Tensor,
    in_size: Size | None = None,
    out_size: Size | None = None,
    *,
    align_corners: bool = False,
) -> Tensor:
    """The affine maps of an angle, scales, shear and translation: the inverse of :func:`parameters`.

    Args:
        angle: (N,), radians.
        scale: (N, 2), along x and y.
        shear: (N,).
        translation: (N, 2), x and y.
        in_size, out_size, align_corners: with in_size the parameters are in pixels, as :func:`parameters`
            finds them with the same sizes, and theta is normalised.

    Returns:
        (N, 2, 3), of the widest dtype of the four.

    Raises:
        ValueError: an argument of the wrong shape, or numbers N that differ.
        TypeError: what is no tensor, or of an integer dtype.

    Example:
        Turned by a right angle about the centre of a picture that is not square:

        >>> import torch
        >>> from stn_ext.geometry import from_parameters
        >>> angle, scale, none = torch.tensor([torch.pi / 2]), torch.ones(1, 2), torch.zeros(1, 2)
        >>> theta = from_parameters(angle, scale, none[:, 0], none, (50, 100))
        >>> theta.abs().round(decimals=4)  # -0.5 in the first row
        tensor([[[0.0000, 0.5000, 0.0000],
                 [2.0000, 0.0000, 0.0000]]])
    """
    given = {"angle": angle, "scale": scale, "shear": shear, "translation": translation}
    for name, value in given.items():
        check("from_parameters", name, value, ("N",) if name in ("angle", "shear") else ("N", 2))
    check_numbers("from_parameters", **given)
    both = sizes("from_parameters", in_size, out_size, 2, align_corners)
    angle, shear = angle.double(), shear.double()
    (scale_x, scale_y), (x, y) = scale.double().unbind(1), translation.double().unbind(1)
    cos, sin = angle.cos(), angle.sin()
    row_x = scale_x * cos, scale_x * cos * shear - scale_y * sin, x
    row_y = scale_x * sin, scale_x * sin * shear + scale_y * cos, y
    theta = _theta(*row_x, *row_y)
    if both is not None:
        theta = _moved(theta, *both, sign=-1)
        theta = to_normalised("from_parameters", theta, *both, align_corners)
    return theta.to(result_dtype(*given.values()))


@overridable
def from_box(
    center: Tensor, size: Tensor, angle: Tensor, in_size: Size, *, align_corners: bool = False
) -> Tensor:
    """The affine maps that read turned boxes out of an image, to outputs of any size.

    The output's normalised coordinates run from -1 to 1 over the box, so that its place in the input is
    ``center + R(angle) (width x / 2, height y / 2)``. The box lies as OpenCV's ``RotatedRect`` of that
    angle, in degrees, does: what is shown is the image turned by ``cv2.getRotationMatrix2D(center,
    degrees(angle), 1)`` and cropped around the centre.

    Args:
        center: (N, 2), x and y in pixels, counted from the centre of the first pixel; half a pixel less than
            counted from the image's corner.
        size: (N, 2), the box's width and height in pixels, along its own axes, which may be turned.
        angle: (N,), radians, from the image's x axis towards its y axis: the side of the width points along
            (cos, sin), and a box of a positive angle is turned clockwise, as one sees it.
        in_size: the image's (H, W).
        align_corners: as the sampler's. With False the box's edges are the edges of the output's outer
            pixels; with True they are these pixels' centres.

    Returns:
        (N, 2, 3), normalised, of the widest dtype of the three.

    Raises:
        ValueError: an argument of the wrong shape, or numbers N that differ.
        TypeError: what is no tensor, or of an integer dtype, or align_corners of another type.

    Example:
        The second column of a picture of 2 x 4 pixels, lying on its side:

        >>> import torch
        >>> from stn_ext import affine_sample
        >>> from stn_ext.geometry import from_box
        >>> image = torch.tensor([[[[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]]])
        >>> center, size = torch.tensor([[1.0, 0.5]]), torch.tensor([[2.0, 1.0]])
        >>> theta = from_box(center, size, torch.tensor([torch.pi / 2]), in_size=(2, 4))
        >>> affine_sample(image, theta, size=(1, 2)).round(decimals=4)
        tensor([[[[2., 6.]]]])
    """
    for name, value in (("center", center), ("size", size)):
        check("from_box", name, value, ("N", 2))
    check("from_box", "angle", angle, ("N",))
    check_numbers("from_box", center=center, size=size, angle=angle)
    check_options("from_box", align_corners)
    in_size = lengths("from_box", "in_size", in_size, 2)
    (x, y), (half_width, half_height) = center.double().unbind(1), (size.double() / 2).unbind(1)
    cos, sin = angle.double().cos(), angle.double().sin()
    (a_y, b_y), (a_x, b_x) = (axis(length, align_corners) for length in in_size)
    # Between aligned corners an axis of one pixel has no extent: every coordinate is that pixel.
    of_x, of_y = (1 / a if a else 0.0 for a in (a_x, a_y))
    row_x = half_width * cos * of_x, -half_height * sin * of_x, (x - b_x) * of_x
    row_y = half_width * sin * of_y, half_height * cos * of_y, (y - b_y) * of_y
    return _theta(*row_x, *row_y).to(result_dtype(center, size, angle))


def _theta(*entries: Tensor) -> Tensor:
    """(N, 2, 3) of six numbers each, row by row; one stands for all."""
    return torch.stack(torch.broadcast_tensors(*entries), 1).unflatten(1, (2, 3))


def _moved(theta: Tensor, in_size: tuple[int, ...], out_size: tuple[int, ...], sign: int) -> Tensor:
    """Theta in pixels, from those of the first pixels to those of the images' centres, or back (-1)."""
    linear, shift = theta.tensor_split((2,), 2)
    middle_in, middle_out = ([(length - 1) / 2 for length in reversed(size)] for size in (in_size, out_size))
    # Numbers, not tensors: nothing is copied to a GPU.
    moved = sum(column * b for column, b in zip(linear.unbind(2), middle_out, strict=True))
    x, y = (shift[..., 0] + sign * moved).unbind(1)
    shift = torch.stack((x - sign * middle_in[0], y - sign * middle_in[1]), 1)
    return torch.cat((linear, shift[..., None]), 2)
