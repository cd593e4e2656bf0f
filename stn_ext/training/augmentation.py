"""Training images warped at random, each by a map of its own in each epoch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .distortions import generator_of

# How far each goes at strength 1.
ANGLE = 15 * math.pi / 180
SCALE = 1.1  # up to so many times larger or smaller
SHEAR = 0.1
SHIFT = 0.1  # of the image's sides


def random_maps(strength: float, seed: int, epoch: int, count: int, size: tuple[int, int]) -> Tensor:
    """Theta (count, 2, 3) in float32, on the CPU: normalised, from a warped image's coordinates to its own.

    The maps are functions of the seed and the epoch alone, whatever device they are used on and however many
    processes share the images. ``size`` is the images' (height, width): a picture that is turned is turned in
    pixels, whatever its shape.
    """
    generator = generator_of(f"augmentation, seed {seed}, epoch {epoch}")
    draws = strength * (2 * torch.rand(5, count, generator=generator, dtype=torch.float64) - 1)
    angle, scale, shear = ANGLE * draws[0], SCALE ** draws[1], SHEAR * draws[2]
    turn = torch.stack((angle.cos(), -angle.sin(), angle.sin(), angle.cos()), 1).view(-1, 2, 2)
    skew = torch.eye(2, dtype=torch.float64).repeat(count, 1, 1)
    skew[:, 0, 1] = shear
    sides = torch.tensor(size[::-1], dtype=torch.float64)  # (x, y)
    linear = turn @ skew / scale[:, None, None] * sides / sides[:, None]
    shift = 2 * SHIFT * draws[3:5].T  # an image is 2 wide and high
    return torch.cat((linear, shift[:, :, None]), 2).float()
