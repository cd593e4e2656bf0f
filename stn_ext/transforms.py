"""The families of maps: from a localisation network's parameters to theta, and by theta to the warped image.

Coordinates are the normalised ones of Jaderberg et al. 2015: both axes run from -1 to 1 over the image,
so on an image that is not square an angle is one of the normalised square, not of the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from . import functional

__all__ = ["TRANSFORMS", "ThinPlateSpline", "Transform", "create"]


class Transform(nn.Module):
    """A named family of maps.

    Called with parameters (N, P) of a floating dtype, it returns theta, of the same dtype and device;
    ``identity`` holds the P parameters at which theta is the identity, and ``sample(input, theta, size,
    **options)`` warps by theta, with the options of :func:`stn_ext.affine_sample`.
    """

    def __init__(
        self,
        name: str,
        identity: tuple[float, ...],
        theta: Callable[[Tensor], Tensor],
        sample: Callable[..., Tensor] = functional.affine_sample,
    ) -> None:
        super().__init__()
        self.name, self.identity, self.theta, self.sample = name, identity, theta, sample

    @property
    def num_parameters(self) -> int:
        return len(self.identity)

    def forward(self, parameters: Tensor) -> Tensor:
        return self.theta(parameters)


def affine(parameters: Tensor) -> Tensor:
    """Theta's six numbers themselves, row by row."""
    return parameters.reshape(-1, 2, 3)


def attention(parameters: Tensor) -> Tensor:
    """(scale, tx, ty): an upright window of one scale; scale < 1 zooms in."""
    scale, tx, ty = parameters.unbind(1)
    zero = torch.zeros_like(scale)
    return _theta(scale, zero, tx, zero, scale, ty)


def translation(parameters: Tensor) -> Tensor:
    """(tx, ty)"""
    tx, ty = parameters.unbind(1)
    zero, one = torch.zeros_like(tx), torch.ones_like(tx)
    return _theta(one, zero, tx, zero, one, ty)


def rotation(parameters: Tensor) -> Tensor:
    """(angle,) in radians."""
    (angle,) = parameters.unbind(1)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return _theta(cos, -sin, zero, sin, cos, zero)


def similarity(parameters: Tensor) -> Tensor:
    """(scale, angle, tx, ty), the angle in radians."""
    scale, angle, tx, ty = parameters.unbind(1)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    return _theta(cos, -sin, tx, sin, cos, ty)


def projective(parameters: Tensor) -> Tensor:
    """Theta (N, 3, 3) less the identity, row by row, all but its last number, which is 1."""
    theta = torch.cat((parameters, torch.zeros_like(parameters[:, :1])), 1).reshape(-1, 3, 3)
    return theta + torch.eye(3, dtype=theta.dtype, device=theta.device)


def _theta(*entries: Tensor) -> Tensor:
    return torch.stack(entries, 1).reshape(-1, 2, 3)


class ThinPlateSpline(Transform):
    """The smoothest map that takes the control points to the points that the parameters name.

    The control points stand on a regular grid over the output, from border to border, row by row; the
    parameters are their places (x, y) in the input, in that order. Theta (N, 2, K + 3) is linear in them: the
    system of Bookstein 1989 is solved here once, for all images.

    Args:
        grid: (rows, columns) of control points, K in all, at least 2 x 2; the paper's are 4 x 4.
    """

    points: Tensor
    solution: Tensor

    def __init__(self, grid: tuple[int, int] = (4, 4)) -> None:
        if min(grid) < 2:
            raise ValueError(f"ThinPlateSpline: expected a grid of at least 2 x 2 points, but got {grid}")
        y, x = (torch.linspace(-1, 1, length, dtype=torch.float64) for length in grid)
        points = torch.cartesian_prod(y, x).flip(1)
        super().__init__(
            "thin_plate_spline", tuple(points.flatten().tolist()), self.coefficients, self.sample_at_points
        )
        # Known from the grid, and therefore no part of a state.
        self.register_buffer("points", points, persistent=False)
        self.register_buffer("solution", _spline_solution(points), persistent=False)

    def coefficients(self, parameters: Tensor) -> Tensor:
        """Theta (N, 2, K + 3) of the places (N, 2 K)."""
        places = parameters.reshape(len(parameters), -1, 2)
        return places.transpose(1, 2) @ self.solution.to(parameters.dtype).T

    def sample_at_points(
        self, input: Tensor, theta: Tensor, size: Sequence[int] | None = None, **options: Any
    ) -> Tensor:
        return functional.thin_plate_spline_sample(input, theta, self.points, size, **options)


def _spline_solution(points: Tensor) -> Tensor:
    """The matrix (K + 3, K) from the values at the points (K, 2) to the spline's coefficients.

    The spline takes those values, and its weights are orthogonal to all affine maps (its bending energy is
    finite): Bookstein 1989, section II-E.
    """
    count = len(points)
    squared = (points[:, None] - points).square().sum(2)
    affine_part = torch.cat((points, torch.ones_like(points[:, :1])), 1)
    system = points.new_zeros(count + 3, count + 3)
    system[:count, :count] = torch.xlogy(squared, squared)
    system[:count, count:] = affine_part
    system[count:, :count] = affine_part.T
    values = torch.eye(count + 3, count, dtype=points.dtype)
    return torch.linalg.solve(system, values)


TRANSFORMS: dict[str, Callable[..., Transform]] = {
    "affine": partial(Transform, "affine", (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), affine),
    "attention": partial(Transform, "attention", (1.0, 0.0, 0.0), attention),
    "translation": partial(Transform, "translation", (0.0, 0.0), translation),
    "rotation": partial(Transform, "rotation", (0.0,), rotation),
    "similarity": partial(Transform, "similarity", (1.0, 0.0, 0.0, 0.0), similarity),
    "projective": partial(Transform, "projective", (0.0,) * 8, projective, functional.projective_sample),
    "thin_plate_spline": ThinPlateSpline,
}
"""Each name's transform, made by a call with its own options, of which only thin_plate_spline has any."""


def create(name: str, **options: Any) -> Transform:
    """A new transform by name.

    Raises:
        ValueError: an unknown name, or options that are not this transform's.
    """
    if name not in TRANSFORMS:
        raise ValueError(f"expected a transform of {', '.join(TRANSFORMS)}, but got {name!r}")
    try:
        return TRANSFORMS[name](**options)
    except TypeError as error:
        raise ValueError(f"transform {name!r} takes no such options: {', '.join(options)}") from error
