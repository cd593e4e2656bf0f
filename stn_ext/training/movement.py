"""What a transformer did to a picture: in words, and as the outline of what it shows.

Theta leads from the output to the input; the words tell the way of the picture, which is the other one: a
window of half the size is "scaled 2". Lengths are pixels, so that neither the images' shape nor another
size of the output changes an angle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .. import reference
from ..nn import SpatialTransformer
from ..transforms import ThinPlateSpline

SIDE = 9  # points along each side of the output, of those in which a map is looked at
BENT_SIDE = 8  # steps along each side of the outline of what a spline shows

Size = tuple[int, int]  # (height, width)


class Affine(NamedTuple):
    """The way of a picture's pixels (x, y): first mirrored in x if at all, then stretched, turned, moved."""

    mirrored: bool
    degrees: float  # clockwise
    scale: float  # the root of what areas are multiplied by
    stretch: float  # how many times more one direction is enlarged than the one across it
    right: float  # pixels of the output that the input's centre is moved, from the output's centre
    down: float
    bend: float  # pixels of the input that the map is away from this, at most


def words(transformer: SpatialTransformer, thetas: Tensor, in_size: Size) -> list[str]:
    """For each theta (N, ...) of images of that size, such as "turned by 12 degrees, scaled 0.9"."""
    rest = "bent" if isinstance(transformer.transform, ThinPlateSpline) else "in perspective"
    found = affine_parts(transformer, thetas, in_size)
    return ["beyond its horizon" if part is None else _say(part, rest) for part in found]


def affine_parts(transformer: SpatialTransformer, thetas: Tensor, in_size: Size) -> list[Affine | None]:
    """The affine map nearest to each theta's; None where part of the output lies behind its horizon."""
    out_size = transformer.size or in_size
    row = torch.linspace(-1, 1, SIDE, dtype=torch.float64)
    points = torch.cartesian_prod(row, row)
    places = _in_pixels(source_places(transformer, thetas, points), in_size)
    basis = torch.cat((_in_pixels(points, out_size), torch.ones(len(points), 1, dtype=torch.float64)), 1)
    fits = torch.linalg.pinv(basis) @ places  # (N, 3, 2), by least squares
    bends = (basis @ fits - places).norm(dim=2).amax(1).tolist()
    finite = places.isfinite().flatten(1).all(1).tolist()
    return [
        _decompose(fit.T, bend) if whole else None
        for fit, bend, whole in zip(fits, bends, finite, strict=True)
    ]


def outlines(transformer: SpatialTransformer, thetas: Tensor, in_size: Size) -> list[list[list[float]]]:
    """The corners (x, y) of what each theta shows, or more points where its sides are bent.

    They are in pixels of the input from its upper left corner, in a row; none where part of it lies behind a
    horizon.
    """
    steps = BENT_SIDE if isinstance(transformer.transform, ThinPlateSpline) else 1
    side = torch.arange(steps, dtype=torch.float64) * 2 / steps - 1
    end = torch.ones_like(side)
    sides = [(side, -end), (end, side), (-side, end), (-end, -side)]
    points = torch.cat([torch.stack(pair, 1) for pair in sides])
    places = (source_places(transformer, thetas, points) + 1) / 2 * _lengths(in_size)
    finite = places.isfinite().flatten(1).all(1).tolist()
    rounded = (10 * places).round().div(10).tolist()
    return [outline if whole else [] for outline, whole in zip(rounded, finite, strict=True)]


def source_places(transformer: SpatialTransformer, thetas: Tensor, points: Tensor) -> Tensor:
    """Where each theta reads for points (P, 2) of the output, all normalised: (N, P, 2), in float64."""
    thetas, (x, y) = thetas.detach().cpu().double(), points.T[:, None]
    transform = transformer.transform
    if isinstance(transform, ThinPlateSpline):
        places = reference.thin_plate_spline_map(thetas, transform.points.cpu(), x, y)
    elif thetas.shape[1] == 3:
        places = reference.projective_map(thetas, x, y)
    else:
        places = reference.affine_map(thetas, x, y)
    return torch.stack([place[:, 0] for place in places], 2)


def _in_pixels(points: Tensor, size: Size) -> Tensor:
    return points * (_lengths(size) / 2)  # counted from the image's centre


def _lengths(size: Size) -> Tensor:
    return torch.tensor([size[1], size[0]], dtype=torch.float64)


def _decompose(theta: Tensor, bend: float) -> Affine:
    """Of theta (2, 3) in pixels from the images' centres."""
    matrix, shift = theta[:, :2], theta[:, 2]
    extent = torch.linalg.svdvals(matrix)
    if extent[1] < 1e-3 * min(1.0, extent[0]):
        # A line, or a single point: the picture's way back has no numbers.
        return Affine(False, 0.0, 0.0, math.inf, 0.0, 0.0, bend)
    way = torch.linalg.inv(matrix)
    right, down = (-way @ shift).tolist()
    mirrored = bool(torch.linalg.det(way) < 0)
    if mirrored:
        way = way * torch.tensor([-1.0, 1.0], dtype=way.dtype)
    degrees = math.degrees(math.atan2(way[1, 0] - way[0, 1], way[0, 0] + way[1, 1]))
    most, least = torch.linalg.svdvals(way).tolist()
    return Affine(mirrored, degrees, math.sqrt(most * least), most / least, right, down, bend)


def _say(part: Affine, rest: str) -> str:
    if math.isinf(part.stretch):
        return "all of one line"
    said = ["mirrored"] if part.mirrored else []
    if abs(part.degrees) >= 0.5:
        way = "" if part.degrees > 0 else "counter"
        said.append(f"turned by {abs(part.degrees):.0f} degrees {way}clockwise")
    if abs(part.scale - 1) >= 0.005:
        said.append(f"scaled {part.scale:.2f}")
    if part.stretch >= 1.05:
        said.append(f"stretched {part.stretch:.2f}")
    moved = [
        (f"{abs(length):.1f}", positive if length > 0 else negative)
        for length, positive, negative in ((part.right, "right", "left"), (part.down, "down", "up"))
        if abs(length) >= 0.05
    ]
    if moved:
        # As in "moved 3.0 pixels right and 1.5 up".
        said.append("moved " + " and ".join(map(" ".join, moved)).replace(" ", " pixels ", 1))
    if part.bend >= 0.05:
        said.append(f"{rest} by up to {part.bend:.1f} pixels")
    return ", ".join(said) or "as it was"


def of_images(
    transformers: Sequence[SpatialTransformer], thetas: Sequence[Tensor], in_size: Size
) -> tuple[list[str], list[list[list[list[float]]]]]:
    """(words, outlines) of each image, by all the transformers side by side; empty where there is none."""
    pairs = list(zip(transformers, thetas, strict=True))
    said = [words(transformer, theta, in_size) for transformer, theta in pairs]
    drawn = [outlines(transformer, theta, in_size) for transformer, theta in pairs]
    return ["; ".join(each) for each in zip(*said, strict=True)], [
        list(each) for each in zip(*drawn, strict=True)
    ]
