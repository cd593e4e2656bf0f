"""The families of maps: from a localisation network's parameters to theta, and by theta to the warped image.

Coordinates are the normalised ones of Jaderberg et al. 2015: both axes run from -1 to 1 over the image. What
rotation and similarity turn is the picture, whose pixels keep their distances, where its size is said, as
:class:`stn_ext.nn.SpatialTransformer` does. Without, or with their option ``aspect=False``, it is the
normalised square, which a picture that is not square shows sheared.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import functional
from .arguments import Size, lengths, short
from .overrides import overridable

__all__ = ["TRANSFORMS", "ThinPlateSpline", "Transform", "create"]

GRID = (4, 4)  # of a spline that is given nothing else: this very tuple


class Transform(nn.Module):
    """A named family of maps.

    Called with parameters (N, P) of a floating dtype, it returns theta, on the same device and of the same
    dtype, or float32 where that is narrower: constants are added to the parameters, of which half precision
    would leave little. Given the size (H, W) of the input that theta will read, and the sampler's
    align_corners, a transform with an angle and ``aspect`` turns and scales in the input's pixels; others do
    not ask. Translations are normalised in any case. ``identity`` holds the P parameters at which theta is
    the identity, and ``sample(input, theta, size, **options)`` warps by theta, with the options of
    :func:`stn_ext.affine_sample`. Where it is ``composable``, two thetas are one
    (:func:`stn_ext.geometry.compose`).
    """

    composable = False
    aspect = False

    def __init__(self, name: str, identity: tuple[float, ...]) -> None:
        super().__init__()
        self.name, self.identity = name, identity

    @property
    def num_parameters(self) -> int:
        return len(self.identity)

    def forward(self, parameters: Tensor, in_size: Size | None = None, align_corners: bool = False) -> Tensor:
        theta = self.theta(_widened(parameters, self.name, self.num_parameters))
        if in_size is None or not self.aspect:
            return theta
        return _in_pixels(theta, self.name, in_size, align_corners)

    def theta(self, parameters: Tensor) -> Tensor:
        """Theta of parameters in at least float32."""
        raise NotImplementedError

    def sample(
        self, input: Tensor, theta: Tensor, size: Sequence[int] | None = None, **options: Any
    ) -> Tensor:
        return functional.affine_sample(input, theta, size, **options)

    def extra_repr(self) -> str:
        return self.name


@overridable
def _widened(parameters: Tensor, name: str, count: int) -> Tensor:
    if not isinstance(parameters, Tensor):
        raise TypeError(
            f"transform {name!r}: expected a tensor of parameters, but got {type(parameters).__name__}"
        )
    if parameters.ndim != 2 or parameters.shape[1] != count:
        raise ValueError(
            f"transform {name!r}: expected parameters of shape (N, {count}), but got "
            f"{tuple(parameters.shape)}"
        )
    return parameters.to(torch.promote_types(parameters.dtype, torch.float32))


@overridable
def _in_pixels(theta: Tensor, name: str, in_size: Size, align_corners: bool) -> Tensor:
    """Theta that does to the picture what it did to the normalised square; its translation stays.

    The linear part A becomes D^-1 A D, where D = diag(W / 2, H / 2), or (W - 1) / 2 and (H - 1) / 2 between
    aligned corners, makes pixels of coordinates. Of a square picture no bit changes.
    """
    sizes = lengths(f"transform {name!r}", "in_size", in_size, 2, least=0)
    extents = [length - 1 if align_corners else length for length in sizes]
    # No pixel or one has no direction. Of a program's sizes, which vary, that cannot be asked.
    height, width = (1 if type(length) is int and length < 1 else length for length in extents)
    (a, b, x), (c, d, y) = (row.unbind(1) for row in theta.unbind(1))
    return _theta(a, b * (height / width), x, c * (width / height), d, y)


class Matrix(Transform):
    """Whose theta is a matrix, which a function composes of the parameters alone."""

    composable = True

    # Positional, so that what is said here cannot be said again by an option.
    def __init__(
        self,
        name: str,
        identity: tuple[float, ...],
        compose: Callable[[Tensor], Tensor],
        sample: Callable[..., Tensor] = functional.affine_sample,
        /,
    ) -> None:
        super().__init__(name, identity)
        self.compose, self.sampler = compose, sample

    def theta(self, parameters: Tensor) -> Tensor:
        return self.compose(parameters)

    def sample(
        self, input: Tensor, theta: Tensor, size: Sequence[int] | None = None, **options: Any
    ) -> Tensor:
        return self.sampler(input, theta, size, **options)


class TurningMatrix(Matrix):
    """With an angle: of the picture, where its size is known, or without aspect of the normalised square."""

    def __init__(
        self,
        name: str,
        identity: tuple[float, ...],
        compose: Callable[[Tensor], Tensor],
        /,
        *,
        aspect: bool = True,
    ) -> None:
        super().__init__(name, identity, compose)
        if not isinstance(aspect, bool):
            raise TypeError(f"transform {name!r}: expected aspect of type bool, but got {short(aspect)}")
        self.aspect = aspect

    def extra_repr(self) -> str:
        return self.name if self.aspect else f"{self.name}, aspect=False"


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

    The control points stand on a regular grid over the output, from border to border, row by row, or where
    ``points`` says; the parameters are their places (x, y) in the input, in that order. Theta (N, 2, K + 3)
    is linear in them: the system of Bookstein 1989 is solved here once, for all images.

    Theta is composed in float64, and the constants that it takes stay float64 whatever dtype the module is
    brought to.

    Args:
        grid: (rows, columns) of control points, K in all, at least 2 x 2, or one number for both; the paper's
            are 4 x 4.
        points: any control points instead of a grid, (K, 2), a tensor or what one can be made of: x and y in
            the output's normalised coordinates. At least three, all different and not on one line. They are
            constants: no gradient leads to them, and a state does not hold them. Points close to each other
            compared with the rest make a system that is ill conditioned.

    Raises:
        ValueError: fewer points, a grid or points of another kind, or both.

    Example:
        The corners and the middle, of which the middle is moved to the right:

        >>> import torch
        >>> from stn_ext.transforms import ThinPlateSpline
        >>> spline = ThinPlateSpline(points=[[-1, -1], [1, -1], [-1, 1], [1, 1], [0, 0]])
        >>> places = spline.points.clone()
        >>> places[4, 0] = 0.2
        >>> theta = spline(places.reshape(1, 10))
        >>> spline.sample(torch.rand(1, 1, 8, 8), theta).shape
        torch.Size([1, 1, 8, 8])
    """

    points: Tensor
    solution: Tensor

    def __init__(self, grid: Size = GRID, *, points: object = None) -> None:
        self.grid: tuple[int, ...] | None = None
        if points is None:
            self.grid = rows, columns = lengths("ThinPlateSpline", "grid", grid, 2)
            if rows < 2 or columns < 2:
                raise ValueError(
                    f"ThinPlateSpline: expected a grid of at least 2 x 2 points, but got {grid!r}"
                )
            control_points = _points_of_grid(self.grid)
        elif grid is not GRID:
            raise ValueError(f"ThinPlateSpline: expected either grid or points, but got grid={grid!r} too")
        else:
            control_points = _checked_points(points)
        super().__init__("thin_plate_spline", tuple(control_points.flatten().tolist()))
        self._set_constants(torch.get_default_device())

    def _set_constants(self, device: torch.device) -> None:
        points = torch.tensor(self.identity, dtype=torch.float64, device="cpu").view(-1, 2)
        # Known from the arguments, and therefore no part of a state.
        self.register_buffer("points", points.to(device), persistent=False)
        self.register_buffer("solution", _spline_solution(points).to(device), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ThinPlateSpline:
        # What half(), to(dtype) and to_empty() go through: it takes the constants along to another device,
        # but what else it does to them would stay for good.
        super()._apply(fn, recurse)
        self._set_constants(self.points.device)
        return self

    def theta(self, parameters: Tensor) -> Tensor:
        """Theta (N, 2, K + 3) of the places (N, 2 K)."""
        # len() would fix the batch of an exported program. Autocast leaves float64 alone.
        places = parameters.double().reshape(-1, self.num_parameters // 2, 2)
        return F.linear(places.transpose(1, 2), self.solution).to(parameters.dtype)

    def sample(
        self, input: Tensor, theta: Tensor, size: Sequence[int] | None = None, **options: Any
    ) -> Tensor:
        return functional.thin_plate_spline_sample(input, theta, self.points, size, **options)

    def extra_repr(self) -> str:
        return f"grid={self.grid}" if self.grid else f"points={len(self.points)}"


def _points_of_grid(grid: tuple[int, ...]) -> Tensor:
    """(K, 2), on the CPU, in float64."""
    y, x = (torch.linspace(-1, 1, length, dtype=torch.float64, device="cpu") for length in grid)
    return torch.cartesian_prod(y, x).flip(1)


def _checked_points(given: Any) -> Tensor:
    """(K, 2), on the CPU, in float64: a spline's control points, which determine it."""
    try:
        points = torch.as_tensor(given, dtype=torch.float64, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError):
        points = torch.empty(0)
    if points.ndim != 2 or points.shape[1] != 2:
        kind = f"a shape {tuple(given.shape)}" if isinstance(given, Tensor) else short(given)
        raise ValueError(f"ThinPlateSpline: expected points of shape (K, 2), but got {kind}")
    if not points.isfinite().all():
        raise ValueError("ThinPlateSpline: expected finite points, but got infinite ones or NaN")
    count, distinct = len(points), len(points.unique(dim=0))
    if count != distinct:
        raise ValueError(f"ThinPlateSpline: expected different points, but of {count} got {distinct} places")
    # The affine part is found only of points that span the plane.
    if count < 3 or torch.linalg.matrix_rank(points - points.mean(0)) < 2:
        raise ValueError(
            f"ThinPlateSpline: expected points that are not on one line, at least three, but got {count}"
            f"{' on one line' if count > 2 else ''}"
        )
    return points


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
    values = torch.eye(count + 3, count, dtype=points.dtype, device=points.device)
    return torch.linalg.solve(system, values)


TRANSFORMS: dict[str, Callable[..., Transform]] = {
    "affine": partial(Matrix, "affine", (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), affine),
    "attention": partial(Matrix, "attention", (1.0, 0.0, 0.0), attention),
    "translation": partial(Matrix, "translation", (0.0, 0.0), translation),
    "rotation": partial(TurningMatrix, "rotation", (0.0,), rotation),
    "similarity": partial(TurningMatrix, "similarity", (1.0, 0.0, 0.0, 0.0), similarity),
    "projective": partial(Matrix, "projective", (0.0,) * 8, projective, functional.projective_sample),
    "thin_plate_spline": ThinPlateSpline,
}
"""Each name's transform, made by a call with its own options: aspect of rotation and similarity, grid or
points of thin_plate_spline."""


def create(name: str, **options: Any) -> Transform:
    """A new transform by name.

    Raises:
        ValueError: an unknown name, options that are not this transform's, or values that are not theirs.
    """
    if name not in TRANSFORMS:
        raise ValueError(f"expected a transform of {', '.join(TRANSFORMS)}, but got {name!r}")
    try:
        inspect.signature(TRANSFORMS[name]).bind(**options)
    except TypeError:
        raise ValueError(f"transform {name!r} takes no such options: {', '.join(options)}") from None
    return TRANSFORMS[name](**options)
