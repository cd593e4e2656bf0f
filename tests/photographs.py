"""Drawn "photographs" of handwriting: no photographs, but strokes on coloured paper with what a camera adds.

Each has a pen's strokes, uneven light, noise, a lens that is not quite sharp, and JPEG's losses.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

# Strokes through points (x, y) of a unit square, y down.
STROKES = {
    "3": [
        [(0.28, 0.18), (0.45, 0.1), (0.66, 0.15), (0.7, 0.3), (0.58, 0.44), (0.44, 0.48), (0.62, 0.52),
         (0.74, 0.66), (0.68, 0.84), (0.48, 0.92), (0.26, 0.84)],
    ],
    "5": [
        [(0.72, 0.12), (0.5, 0.13), (0.34, 0.14), (0.31, 0.44), (0.5, 0.4), (0.7, 0.52), (0.7, 0.74),
         (0.52, 0.9), (0.26, 0.84)],
    ],
    "7": [[(0.22, 0.16), (0.5, 0.14), (0.78, 0.13), (0.62, 0.42), (0.48, 0.68), (0.4, 0.92)]],
}  # fmt: skip

# The digit; the photograph's size, its paper and ink, the light's fall from one side to the other, the pen's
# width and the share of the side that the digit has.
PHOTOGRAPHS = {
    "blue pen on cream paper.jpg": ("3", (480, 640), (236, 224, 196), (38, 52, 120), 0.35, 0.035, 0.5),
    "marker on a yellow note.jpg": ("5", (600, 600), (242, 214, 92), (30, 26, 24), 0.45, 0.07, 0.62),
    "chalk on a green board.jpg": ("7", (700, 520), (42, 74, 58), (214, 222, 214), 0.3, 0.05, 0.55),
}


def photograph(name: str) -> tuple[Image.Image, str]:
    """(the picture, the digit on it)"""
    digit, size, paper, ink, fall, width, share = PHOTOGRAPHS[name]
    height, width_, scale = size[1], size[0], share * min(size)
    generator = np.random.default_rng(sum(name.encode()))
    picture = Image.new("RGB", size, paper)
    pen = ImageDraw.Draw(picture)
    left, top = (width_ - scale) / 2 + 0.06 * scale, (height - scale) / 2 - 0.05 * scale
    for stroke in STROKES[digit]:
        points = [(left + scale * x, top + scale * y) for x, y in smooth(stroke)]
        for x, y in points:  # a pen's tip, whose pressure varies
            radius = scale * width * (0.9 + 0.2 * generator.random())
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)
    pixels = np.asarray(picture.filter(ImageFilter.GaussianBlur(1.5)), dtype=np.float64)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width_ * 1j]
    light = 1 - fall * (0.6 * x + 0.4 * y) - 0.15 * fall * (x - 0.5) ** 2
    pixels = pixels * light[..., None] + generator.normal(0, 6, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), digit


def smooth(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """A dense curve through the points: Catmull and Rom's."""
    p = np.array([points[0], *points, points[-1]])
    t = np.linspace(0, 1, 60, endpoint=False)[:, None]
    parts = [
        0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
        for a, b, c, d in zip(p, p[1:], p[2:], p[3:], strict=False)
    ]
    return [(float(x), float(y)) for x, y in np.concatenate(parts)]


def save_all(folder: Path) -> dict[Path, str]:
    """Each photograph's file, and the digit on it."""
    saved = {}
    for name in PHOTOGRAPHS:
        picture, digit = photograph(name)
        buffer = io.BytesIO()
        picture.save(buffer, format="JPEG", quality=80)
        (folder / name).write_bytes(buffer.getvalue())
        saved[folder / name] = digit
    return saved
