"""Maps put together and turned back."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..overrides import overridable
from .checks import MAPS, check, result_dtype

__all__ = ["compose", "invert"]


@overridable
def compose(first: Tensor, then: Tensor) -> Tensor:
    """The one map that warps as two do, one after the other.

    ``affine_sample(image, compose(first, then))`` shows what ``affine_sample(affine_sample(image, first),
    then)`` does, but samples the image once. A place is therefore taken through ``then`` before ``first``: as
    matrices the result is ``first @ then``. Normalised coordinates need no sizes. In pixels, those of what
    lies between the two are the pixels of an image that is never made.

    Args:
        first, then: maps of one unit, (N, 2, 3), (N, 3, 3) or, both, (N, 3, 4), of any floating-point dtypes.
            One map is composed with each of N others.

    Returns:
        (N, 2, 3) of two affine maps, (N, 3, 3) where either is projective, or (N, 3, 4) of volumes; of the
        wider of both dtypes, in at least float32. The products are taken in float64. Differentiable.

    Raises:
        ValueError: a shape of another kind, or two numbers of maps.
        TypeError: what is no tensor, or of an integer dtype.

    Example:
        Half the size, and then a shift by one of the new pixels, which is two of the old:

        >>> import torch
        >>> from stn_ext.geometry import compose
        >>> half = torch.tensor([[[2.0, 0.0, 0.5], [0.0, 2.0, 0.5]]])  # in pixels
        >>> shift = torch.tensor([[[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]])
        >>> compose(half, shift)
        tensor([[[2.0000, 0.0000, 2.5000],
                 [0.0000, 2.0000, 0.5000]]])
    """
    check("compose", "first", first, *MAPS)
    check("compose", "then", then, *MAPS)
    (rows, columns), others = first.shape[1:], then.shape[1:]
    if columns != others[1]:
        raise ValueError(
            "compose: expected first and then both of images or both of volumes, but got "
            f"{tuple(first.shape)} and {tuple(then.shape)}"
        )
    if len(first) != len(then) and 1 not in (len(first), len(then)):
        raise ValueError(
            f"compose: expected as many maps first as then, but got {len(first)} and {len(then)}"
        )
    dtype = result_dtype(first, then)
    first, then = first.double(), then.double()
    if rows == columns or others[0] == columns:
        return (_square(first) @ _square(then)).to(dtype)
    return (first[..., :-1] @ then + F.pad(first[..., -1:], (columns - 1, 0))).to(dtype)


@overridable
def invert(theta: Tensor) -> Tensor:
    """The maps that lead back: composed with theta, in either order, they are the identity.

    ``affine_sample(affine_sample(image, theta), invert(theta), image.shape[2:])`` shows the image again, as
    far as the first of the two kept it.

    Args:
        theta: maps in either unit, (N, 2, 3), (N, 3, 3) or (N, 3, 4), of any floating-point dtype.

    Returns:
        Maps from input to output, of theta's shape, in at least float32, computed in float64; differentiable.
        A map without an inverse gives infinities or NaN, which samplers show as outside of the image or as
        NaN: to raise instead would have to wait for a GPU.

    Raises:
        ValueError: a theta of another shape.
        TypeError: what is no tensor, or of an integer dtype.

    Example:
        >>> import torch
        >>> from stn_ext.geometry import invert
        >>> invert(torch.tensor([[[2.0, 0.0, 1.0], [0.0, 4.0, 1.0]]]))
        tensor([[[ 0.5000, -0.0000, -0.5000],
                 [-0.0000,  0.2500, -0.2500]]])
    """
    check("invert", "theta", theta, *MAPS)
    dtype, (rows, columns) = result_dtype(theta), theta.shape[1:]
    theta = theta.double()
    if rows == columns:
        return _inverse(theta).to(dtype)
    linear = _inverse(theta[..., :-1])
    return torch.cat((linear, -linear @ theta[..., -1:]), -1).to(dtype)


def _inverse(matrix: Tensor) -> Tensor:
    """Of (N, 2, 2) or (N, 3, 3), by Cramer's rule: no matrix raises, and every compiler knows it."""
    if matrix.shape[-1] == 2:
        (a, b), (c, d) = (row.unbind(-1) for row in matrix.unbind(-2))
        determinant = a * d - b * c
        rows = torch.stack((d, -b), -1), torch.stack((-c, a), -1)
        return torch.stack(rows, -2) / determinant[:, None, None]
    x, y, z = matrix.unbind(-2)
    columns = torch.linalg.cross(y, z), torch.linalg.cross(z, x), torch.linalg.cross(x, y)
    determinant = (x * columns[0]).sum(-1)
    return torch.stack(columns, -1) / determinant[:, None, None]


def _square(theta: Tensor) -> Tensor:
    """(N, 3, 3), the last row of an affine map being (0, 0, 1)."""
    if theta.shape[1] == theta.shape[2]:
        return theta
    last = theta.new_tensor([0.0, 0.0, 1.0]).expand(len(theta), 1, 3)
    return torch.cat((theta, last), 1)
