"""The maps from a localisation network's parameters to theta, each with the parameters of its identity.

Coordinates are the normalised ones of Jaderberg et al. 2015: both axes run from -1 to 1 over the image,
so on an image that is not square an angle is one of the normalised square, not of the picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Transform:
    """A named family of maps.

    ``theta`` takes parameters (N, P) of a floating dtype to theta (N, 2, 3) of the same dtype and device;
    ``identity`` holds the P parameters at which theta is the identity.
    """

    name: str
    identity: tuple[float, ...]
    theta: Callable[[Tensor], Tensor]

    @property
    def num_parameters(self) -> int:
        return len(self.identity)


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


def _theta(*entries: Tensor) -> Tensor:
    return torch.stack(entries, 1).reshape(-1, 2, 3)


TRANSFORMS = {
    transform.name: transform
    for transform in (
        Transform("affine", (1, 0, 0, 0, 1, 0), affine),
        Transform("attention", (1, 0, 0), attention),
        Transform("translation", (0, 0), translation),
        Transform("rotation", (0,), rotation),
        Transform("similarity", (1, 0, 0, 0), similarity),
    )
}
