"""Affine maps and images that several test files draw on."""

import math

import torch

PADDINGS = ("zeros", "border", "reflection")


def rotation(degrees, scale=1.0, shift=(0.0, 0.0)):
    """One theta, (1, 2, 3), float64."""
    c, s = math.cos(math.radians(degrees)) * scale, math.sin(math.radians(degrees)) * scale
    return torch.tensor([[[c, -s, shift[0]], [s, c, shift[1]]]], dtype=torch.float64)


# Digits enough that no coordinate lies on a pixel's border, where the derivative jumps.
# Together they turn, shrink, enlarge, mirror, shear, flatten to a line and to a point, and leave the image.
MAPS = {
    "small turn": rotation(7.3, 0.97, (0.013, -0.021)),
    "turn by 130": rotation(130.7, 1.13, (0.11, 0.07)),
    "zoom in": rotation(3.1, 0.24, (0.31, -0.23)),
    "zoom out": rotation(-11.3, 4.1, (0.07, 0.05)),
    "mirror": torch.tensor([[[-0.9317, 0.1129, 0.01733], [0.0719, 1.0313, 0.02939]]], dtype=torch.float64),
    "shear": torch.tensor([[[1.0133, 0.8317, 0.01327], [0.0223, 0.7109, 0.03137]]], dtype=torch.float64),
    "to a line": torch.tensor([[[0.8311, 0.3137, 0.01747], [0.0, 0.0, 0.01373]]], dtype=torch.float64),
    "singular": torch.tensor([[[0.9, 0.45, 0.01319], [0.6, 0.3, 0.01373]]], dtype=torch.float64),
    "to a point": torch.tensor([[[0.0, 0.0, 0.137], [0.0, 0.0, -0.211]]], dtype=torch.float64),
    "half outside": rotation(21.7, 1.0, (1.13, -0.87)),
    "all outside": rotation(10.3, 0.51, (7.0137, 0.3119)),
    "far outside": rotation(10.3, 0.51, (1e9, 0.3119)),
}

# (images' shape, output's size)
SHAPES = {
    "digits": ((3, 1, 28, 28), None),
    "colour to wider": ((2, 3, 17, 23), (9, 130)),
    "five channels to smaller": ((2, 5, 40, 31), (7, 6)),
    "many channels": ((2, 37, 20, 23), (18, 21)),
    "several tiles": ((1, 2, 130, 150), (100, 140)),
    "one pixel in": ((2, 2, 1, 1), (5, 4)),
    "one row in": ((1, 2, 1, 9), (5, 11)),
    "one column in": ((1, 2, 9, 1), (5, 11)),
    "one pixel out": ((2, 3, 12, 10), (1, 1)),
}
