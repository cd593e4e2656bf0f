"""A modern network: five normalised convolutions."""

from __future__ import annotations

from torch import nn

from .net import Net, Shape

__all__ = ["CNN", "convolution"]


def cnn_classifier(shape: Shape, num_classes: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        *convolution(shape[0], width, pool=True),
        *convolution(width, 2 * width),
        *convolution(2 * width, 2 * width, pool=True),
        *convolution(2 * width, 4 * width),
        *convolution(4 * width, 4 * width),
        nn.AdaptiveAvgPool2d(3),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(4 * width * 3 * 3, num_classes),
    )


def cnn_localization(shape: Shape, num_parameters: int) -> nn.Sequential:
    # Where the digit lies can be read from half the resolution, at a fraction of the cost. The few hidden
    # units are normalised: otherwise all of them may die, and the transformer stands still from then on.
    return nn.Sequential(
        nn.AvgPool2d(2, ceil_mode=True),
        *convolution(shape[0], 16, pool=True),
        *convolution(16, 32),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 32),
        nn.LayerNorm(32),
        nn.ReLU(),
        nn.Linear(32, num_parameters),
    )


def convolution(in_channels: int, out_channels: int, *, pool: bool = False) -> list[nn.Module]:
    """Convolution, normalisation and ReLU; pooling comes early, where it saves work for the other two."""
    convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    pooling = [nn.MaxPool2d(2, ceil_mode=True)] if pool else []
    # Quick running statistics: a short training has few steps, and they must not lag behind the weights.
    return [convolution, *pooling, nn.BatchNorm2d(out_channels, momentum=0.3), nn.ReLU(inplace=True)]


CNN = Net(cnn_classifier, cnn_localization, lambda shape: 16)
