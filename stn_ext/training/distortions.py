"""Distorted digits: Jaderberg et al. 2015, section 4.1 and appendix, for any set of small images.

Each distortion knows of the images alone: ``mnist_rts`` is the distortion ``rts`` of the set ``mnist``. An
epoch's images are made whole at its beginning, on the device, and are a function of the seed and the
epoch's number. Those to validate and to test on are made once, in float64 on the CPU, so that they are the
same everywhere, whatever the kernels round.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .. import functional, transforms
from .data import ImageSet, find_background

END = 10  # the symbol behind a sequence: the sets that are distorted have ten classes
BATCH = 1000  # images made at once; the random numbers depend on it


def generator_of(words: str) -> torch.Generator:
    """Random numbers that depend on the words alone, the same on every device."""
    seed = int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big") >> 1
    return torch.Generator().manual_seed(seed)


class Draw:
    """Random numbers, the same on every device, and other images than those in hand."""

    def __init__(self, pool: ImageSet, words: str, dtype: torch.dtype) -> None:
        """pool: where other images come from; words: what the numbers depend on."""
        self.generator = generator_of(words)
        self.pool, self.dtype, self.device = pool, dtype, pool.images.device
        self.background = torch.tensor(find_background(pool.images), dtype=dtype, device=self.device)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        values = torch.rand(shape, generator=self.generator, dtype=torch.float64)
        return (low + (high - low) * values).to(self.device, self.dtype)

    def normal(self, deviation: float, *shape: int) -> Tensor:
        values = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        return (deviation * values).to(self.device, self.dtype)

    def integers(self, below: int, *shape: int) -> Tensor:
        return torch.randint(below, shape, generator=self.generator).to(self.device)

    def others(self, count: int) -> tuple[Tensor, Tensor]:
        """Images, as :meth:`values` has them, and labels of the pool."""
        index = self.integers(len(self.pool), count)
        return self.values(self.pool.images[index]), self.pool.labels[index]

    def values(self, images: Tensor) -> Tensor:
        """uint8 images with the background at 0: what a sampler fills in around them is background too."""
        return images.to(self.dtype) - self.background.view(-1, 1, 1)

    def pixels(self, values: Tensor) -> Tensor:
        """Back to uint8."""
        background = self.background.repeat(values.shape[1] // len(self.background))
        return (values + background.view(-1, 1, 1)).round().clamp(0, 255).to(torch.uint8)


# A distortion takes values (B, C, H, W) and labels (B,) to others.
Distort = Callable[[Tensor, Tensor, Draw], tuple[Tensor, Tensor]]


def rotated(digits: Tensor, labels: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
    """R: turned by up to 90 degrees either way."""
    angles = draw.uniform(-math.pi / 2, math.pi / 2, len(digits), 1)
    return functional.affine_sample(digits, transforms.rotation(angles)), labels


def placed(size: int, angle: float, scale: tuple[float, float]) -> Distort:
    """Turned by up to an angle either way, scaled, at a random place of size x size pixels."""

    def distort(digits: Tensor, labels: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        count = len(digits)
        turned, scaled = draw.uniform(-angle, angle, count), draw.uniform(*scale, count)
        half = digits.new_tensor(digits.shape[:1:-1]) / 2  # (x, y), pixels
        room = (size / 2 - scaled[:, None] * half).clamp(min=0)
        shift = room * draw.uniform(-1, 1, count, 2)
        return moved(digits, (size, size), turned, scaled, shift), labels

    return distort


def moved(digits: Tensor, size: tuple[int, int], angle: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Canvases of size (height, width) with each digit turned and scaled (B,), and shifted (B, 2) from the
    middle by so many pixels, x and y."""
    half = digits.new_tensor(digits.shape[:1:-1]) / 2
    # From the output's coordinates, in pixels from its centre: back by the shift, the angle and the scale.
    turn = torch.stack((angle.cos(), angle.sin(), -angle.sin(), angle.cos()), 1).view(-1, 2, 2)
    linear = turn / scale[:, None, None]
    middle = digits.new_tensor(size[::-1]) / 2
    theta = torch.cat((linear * middle, -linear @ shift[:, :, None]), 2) / half[:, None]
    return functional.affine_sample(digits, theta, size)


# RTS: turned by up to 45 degrees, scaled by 0.7 to 1.2.
rts = placed(42, math.pi / 4, (0.7, 1.2))


def projected(digits: Tensor, labels: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
    """P: scaled by 0.75 to 1, then each corner of what is shown moved by a normal of deviation 5 pixels.

    The corners move over the digit, as the points of E do: moving the digit's own would press some digits
    into lines and others out of the picture. Corners that make no convex quadrangle are drawn again: no plane
    looks so in perspective.
    """
    count, attempts = len(digits), 16
    corners = digits.new_tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    half = digits.new_tensor(digits.shape[:1:-1]) / 2
    scale = draw.uniform(0.75, 1, count, 1, 1, 1)
    moved = corners / scale + draw.normal(5, count, attempts, 4, 2) / half
    side = torch.roll(moved, -1, 2) - moved
    after = torch.roll(side, -1, 2)
    convex = (side[..., 0] * after[..., 1] > side[..., 1] * after[..., 0]).all(2)
    moved = moved[torch.arange(count), convex.int().argmax(1)]  # the first that is
    theta = homography(corners.expand_as(moved), moved)
    return functional.projective_sample(digits, theta), labels


def homography(source: Tensor, target: Tensor) -> Tensor:
    """Theta (B, 3, 3) that takes four points to four others, each (B, 4, 2); w > 0 between the points."""
    x, y = source[..., 0], source[..., 1]
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    rows = []
    for axis in range(2):
        t = target[..., axis]
        own = [x, y, one] if axis == 0 else [zero, zero, zero]
        own += [zero, zero, zero] if axis == 0 else [x, y, one]
        rows.append(torch.stack((*own, -t * x, -t * y), 2))
    values = torch.cat((target[..., 0], target[..., 1]), 1)
    solution = torch.linalg.solve(torch.cat(rows, 1).double(), values.double())
    theta = torch.cat((solution, torch.ones_like(solution[:, :1])), 1).view(-1, 3, 3)
    # The sign that makes w positive among the points.
    w = (theta[:, 2, :2] * source.mean(1).double()).sum(1) + theta[:, 2, 2]
    return (theta * w.sign()[:, None, None]).to(source.dtype)


def elastic(digits: Tensor, labels: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
    """E: scaled by 0.75 to 1, then bent: 16 points moved by a normal with a deviation of 1.5 pixels."""
    spline = transforms.ThinPlateSpline((4, 4)).to(digits.device)
    half = digits.new_tensor(digits.shape[:1:-1]) / 2
    scale = draw.uniform(0.75, 1, len(digits), 1, 1)
    places = spline.points.to(digits.dtype) / scale + draw.normal(1.5, len(digits), 16, 2) / half
    return spline.sample(digits, spline(places.flatten(1)), None), labels


def cluttered(size: int, patches: int) -> Distort:
    """TC: upright at a random place of size x size pixels, among patches of 6 x 6 of other images."""

    def distort(digits: Tensor, labels: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        return strewn(digits, draw, size, patches)[0], labels

    return distort


def hidden(patches: int) -> Distort:
    """Co-localisation: as TC on 84 x 84 pixels; the label is the row and the column of the digit's corner."""

    def distort(digits: Tensor, labels: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        return strewn(digits, draw, 84, patches)

    return distort


def strewn(digits: Tensor, draw: Draw, size: int, patches: int) -> tuple[Tensor, Tensor]:
    """(canvases with the digits and the patches, the rows and columns (B, 2) of the digits' corners)"""
    count, channels, height, width = digits.shape
    canvas = digits.new_zeros(count, channels, size, size)
    rows, columns = place(draw, count, size, (height, width))
    paste(canvas, digits, rows, columns)
    strew(canvas, draw, patches)
    return canvas, torch.stack((rows, columns), 1)


def strew(canvas: Tensor, draw: Draw, patches: int) -> None:
    """Puts so many patches of 6 x 6 of other images at random places of each square canvas."""
    count, size = len(canvas), canvas.shape[2]
    for _ in range(patches):
        others, _ = draw.others(count)
        paste(canvas, cut(others, 6, draw), *place(draw, count, size, (6, 6)))


def place(draw: Draw, count: int, size: int, of: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The rows and columns of the upper left corners of things that lie wholly inside the canvas."""
    return draw.integers(size - of[0] + 1, count), draw.integers(size - of[1] + 1, count)


def cut(images: Tensor, size: int, draw: Draw) -> Tensor:
    """A random square out of each image."""
    rows, columns = (draw.integers(length - size + 1, len(images)) for length in images.shape[2:])
    return images[window(len(images), images.shape[1], rows, columns, (size, size))]


def paste(canvas: Tensor, images: Tensor, rows: Tensor, columns: Tensor) -> None:
    """Puts each image onto its canvas; of two values that which is farther from the background stays."""
    count, channels, height, width = images.shape
    where = window(count, channels, rows, columns, (height, width))
    there = canvas[where]
    canvas[where] = torch.where(images.abs() > there.abs(), images, there)


def window(
    count: int, channels: int, rows: Tensor, columns: Tensor, size: tuple[int, int]
) -> tuple[Tensor, ...]:
    """The index of a rectangle in each of several images."""
    device = rows.device
    return (
        torch.arange(count, device=device)[:, None, None, None],
        torch.arange(channels, device=device)[:, None, None],
        (rows[:, None] + torch.arange(size[0], device=device))[:, None, :, None],
        (columns[:, None] + torch.arange(size[1], device=device))[:, None, None, :],
    )


def added(digits: Tensor, labels: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
    """Addition: two digits, each placed as in RTS, in channels of their own; the label is their sum."""
    others, other_labels = draw.others(len(digits))
    first, _ = rts(digits, labels, draw)
    second, _ = rts(others, other_labels, draw)
    return torch.cat((first, second), 1), labels + other_labels


def similar(patches: int) -> Distort:
    """SIM2: turned by any angle, scaled by 1 to 2.4, anywhere in 96 x 96 pixels, among patches as TC's.

    After SIM2MNIST of Esteves et al., Polar Transformer Networks, ICLR 2018. How much clutter theirs has they
    do not say; this has TC's.
    """
    place_one = placed(96, math.pi, (1.0, 2.4))

    def distort(digits: Tensor, labels: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        canvas, _ = place_one(digits, labels, draw)
        strew(canvas, draw, patches)
        return canvas, labels

    return distort


def lined_up(digits: Tensor, labels: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
    """Sequences: one to five digits in a line, each turned by up to 15 degrees, all scaled by 0.6 to 1,
    somewhere in 64 x 128 pixels; the labels (B, 5) are theirs, and the end's behind them.

    A stand-in for the house numbers of SVHN, which are photographs.
    """
    count, most, (height, width) = len(digits), 5, (64, 128)
    lengths, scale = 1 + draw.integers(most, count), draw.uniform(0.6, 1, count)
    angles, jumps = draw.uniform(-math.pi / 12, math.pi / 12, most, count), draw.uniform(-2, 2, most, count)
    step = 22 * scale  # pixels from a digit to the next, of which it covers about 20
    room = torch.stack((width / 2 - (lengths - 1) / 2 * step - 14 * scale, height / 2 - 14 * scale - 2), 1)
    x, y = (room * draw.uniform(-1, 1, count, 2)).unbind(1)
    canvas = digits.new_zeros(count, digits.shape[1], height, width)
    symbols = torch.full((count, most), END, device=labels.device)
    for number in range(most):
        others, other_labels = draw.others(count) if number else (digits, labels)
        shift = torch.stack((x + (number - (lengths - 1) / 2) * step, y + jumps[number]), 1)
        shown = lengths > number
        layer = moved(others, (height, width), angles[number], scale, shift) * shown[:, None, None, None]
        canvas = torch.where(layer.abs() > canvas.abs(), layer, canvas)
        symbols[:, number] = torch.where(shown, other_labels, END)
    return canvas, symbols


def read(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Of sequences: what becomes of one, whatever its digits."""
    return ("misread", "read")


def sums(classes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(str(total) for total in range(2 * len(classes) - 1))


def found(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Of co-localisation: what becomes of a digit, whatever its class."""
    return ("missed", "located")


@dataclass(frozen=True)
class Distortion:
    """A distortion, the names of the classes it makes of a set's own, and what is learned from it."""

    distort: Distort
    classes: Callable[[tuple[str, ...]], tuple[str, ...]] = lambda classes: classes
    objective: str = "classification"
    # Of a set that is made once, and not anew in each epoch: so many images to train, validate and test on.
    sizes: tuple[int, int, int] | None = None

    def apply(
        self,
        images: ImageSet,
        words: str,
        dtype: torch.dtype = torch.float32,
        *,
        pool: ImageSet | None = None,
    ) -> ImageSet:
        """The images distorted, on their device.

        words: what the random numbers depend on; pool: where other images come from, if not from these.
        """
        draw = Draw(pool or images, words, dtype)
        made = []
        for start in range(0, len(images), BATCH):
            batch = images[start : start + BATCH]
            values, labels = self.distort(draw.values(batch.images), batch.labels, draw)
            made.append((draw.pixels(values), labels))
        pixels, labels = (torch.cat(parts) for parts in zip(*made, strict=True))
        classes = self.classes(images.classes)
        return replace(images, images=pixels, labels=labels, classes=classes, objective=self.objective)

    def fixed(self, images: ImageSet, words: str, *, pool: ImageSet | None = None) -> ImageSet:
        """The same everywhere: images to validate or test on."""
        return self.apply(images, words, torch.float64, pool=pool)


DISTORTIONS = {
    "r": Distortion(rotated),
    "rts": Distortion(rts),
    "p": Distortion(projected),
    "e": Distortion(elastic),
    "tc": Distortion(cluttered(60, 6)),
    "add": Distortion(added, sums),
    "sim2": Distortion(similar(6), sizes=(10_000, 5_000, 50_000)),
    "seq": Distortion(lined_up, read, "sequence"),
    "coloc": Distortion(hidden(16), found, "colocalisation"),
    "coloc_t": Distortion(hidden(0), found, "colocalisation"),
}
