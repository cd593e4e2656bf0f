"""The localisation network that finds a place by a heatmap, in front of any classifier."""

from __future__ import annotations

from torch import nn

from ..nn import HeatmapLocalization
from .cnn import convolution
from .net import Shape

__all__ = ["heatmap_localization"]


def heatmap_localization(shape: Shape, transform: str, scale: float) -> HeatmapLocalization:
    """At a quarter of the resolution; what each place sees is 28 pixels wide, a digit with its margin.

    With 24 hidden units it has about as many weights as the regression of the net "cnn".
    """
    features = nn.Sequential(
        nn.AvgPool2d(2, ceil_mode=True),
        *convolution(shape[0], 16, pool=True),
        *convolution(16, 32),
        *convolution(32, 32),
    )
    return HeatmapLocalization(features, 32, transform, scale=scale, hidden=24)
