"""Pictures for a network that learned from clean ones: a photograph of ink on paper becomes such a picture.

A picture whose edge has the tone of the training's background is taken as it is. Any other is taken for a
photograph of ink on paper, or of chalk on a board, by networks of grey images on black or on white: a smooth
surface, fitted to the paper, takes the light away, and what stands out of it gets the training's polarity.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from . import decoding
from .data import find_background

NEAR = 16  # levels of 255: an edge no farther away has the training's background
EXTREME = 64  # levels of 255: a background no farther from black or white has an opposite end
LARGEST = 384  # pixels of the longer side in which a photograph is looked at

# The share of an image's side that the longer side of the ink has, of those sets whose images are framed by
# it and centred by their mass.
FRAMED = {"mnist": 20 / 28}


@dataclass(frozen=True)
class Reader:
    """Reads pictures as a network needs them.

    ``background`` is the training's, a uint8 value for each channel; ``framed`` the share of the image that
    the ink's box is to have, if any; ``paper`` whether photographs are recognised; ``behind`` the colour
    behind transparent pictures.
    """

    shape: tuple[int, int, int]
    background: tuple[int, ...]
    framed: float | None = None
    paper: bool = True
    behind: str = "white"

    def read(self, path: Path) -> tuple[Tensor, bool]:
        """(uint8 (C, H, W), whether it was taken for a photograph)

        Raises:
            UserError: a file that is no picture, is damaged, or is too large.
        """
        channels, height, width = self.shape
        if not self._knows_paper():
            return self._resized(decoding.decode(path, channels, (height, width), self.behind).pixels), False
        pixels = decoding.decode(path, channels, None, self.behind).pixels
        (tone,) = find_background(torch.from_numpy(pixels).permute(2, 0, 1)[None])
        if abs(tone - self.background[0]) <= NEAR:
            return self._resized(pixels), False
        ink = ink_of(reduced(pixels[:, :, 0]))
        image = framed(ink, (height, width), self.framed) if self.framed else _resize(ink, (height, width))
        ends = (self.background[0], 0 if self.background[0] >= 128 else 255)
        values = ends[0] + (ends[1] - ends[0]) * _stretched(image)
        return values.round().to(torch.uint8)[None], True

    def _knows_paper(self) -> bool:
        return self.paper and len(self.background) == 1 and not EXTREME < self.background[0] < 255 - EXTREME

    def _resized(self, pixels: np.ndarray) -> Tensor:
        """As the training's pictures were: by Pillow, to the network's size."""
        channels, height, width = self.shape
        if pixels.shape[:2] != (height, width):
            from PIL import Image

            picture = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
            pixels = np.array(picture.resize((width, height))).reshape(height, width, channels)
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def reduced(pixels: np.ndarray) -> Tensor:
    """A grey photograph (H, W) in a size that is looked at quickly, as float32."""
    from PIL import Image

    picture = Image.fromarray(pixels)
    picture.thumbnail((LARGEST, LARGEST))  # keeps its proportions, and a smaller one as it is
    return torch.from_numpy(np.array(picture)).float()


def ink_of(photograph: Tensor) -> Tensor:
    """What stands out of the paper, from 0 to 1: (H, W), of (H, W)."""
    difference = F.avg_pool2d(
        (photograph - paper_of(photograph))[None], 3, stride=1, padding=1, count_include_pad=False
    )[0]
    dark, light = ((sign * difference).clamp(min=0) for sign in (-1, 1))
    # Of ink there is less than of paper, but it is farther away.
    ink = dark if dark.square().sum() > light.square().sum() else light
    noise = 1.4826 * difference.abs().median()  # the deviation of paper, if most of it is
    most = ink.flatten().topk(max(1, ink.numel() // 200)).values.mean()
    floor = torch.maximum(3 * noise, 0.2 * most)
    return ((ink - floor) / (most - floor).clamp(min=1)).clamp(0, 1)


def paper_of(photograph: Tensor) -> Tensor:
    """A surface of second degree through what most of the photograph is: (H, W), of (H, W)."""
    y, x = (torch.linspace(-1, 1, length, dtype=torch.float64) for length in photograph.shape)
    y, x = torch.meshgrid(y, x, indexing="ij")
    basis = torch.stack((torch.ones_like(x), x, y, x * x, x * y, y * y), -1).reshape(-1, 6)
    values = photograph.reshape(-1).double()
    # First a plane through the edges, where the paper is to be seen; then what lies near the last surface.
    is_paper, terms = torch.maximum(x.abs(), y.abs()).reshape(-1) > 0.8, 3
    surface = values
    for _ in range(8):
        some = basis[is_paper, :terms]
        normal = some.T @ some + 1e-6 * torch.eye(terms, dtype=torch.float64)
        surface = basis[:, :terms] @ torch.linalg.solve(normal, some.T @ values[is_paper])
        distance = (values - surface).abs()
        is_paper, terms = distance <= 2.5 * distance.median().clamp(min=1), 6
    return surface.float().view_as(photograph)


def framed(ink: Tensor, size: tuple[int, int], share: float) -> Tensor:
    """The ink (H, W), its box as large as that share of the size, its mass in the middle."""
    top, bottom = _extent(ink.sum(1))
    left, right = _extent(ink.sum(0))
    box = ink[top:bottom, left:right]
    scale = share * min(size) / max(box.shape)
    height, width = (max(1, round(scale * length)) for length in box.shape)
    small = _resize(box, (height, width))
    mass = small.sum().clamp(min=1e-6)
    image = torch.zeros(size)
    places = []
    for axis, (length, all_of_it) in enumerate(zip(small.shape, size, strict=True)):
        centre = float((small.sum(1 - axis) * (torch.arange(length) + 0.5)).sum() / mass)
        places.append(min(max(0, round(all_of_it / 2 - centre)), all_of_it - length))
    image[places[0] : places[0] + height, places[1] : places[1] + width] = small
    return image


def _extent(profile: Tensor) -> tuple[int, int]:
    """(first, end) of all but the outermost thousandths of what there is."""
    total = profile.sum()
    if total <= 0:
        return 0, len(profile)
    share = profile.double().cumsum(0) / total
    first = int((share > 0.002).int().argmax())
    return first, int((share >= 0.998).int().argmax()) + 1


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(image[None, None], size, mode="bilinear", antialias=True)[0, 0]


def _stretched(image: Tensor) -> Tensor:
    """So that the strongest of it is 1: thin strokes are faint once a picture is small."""
    return (image / image.max().clamp(min=1e-6)).clamp(0, 1)
