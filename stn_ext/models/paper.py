"""The networks of Jaderberg et al. 2015 for distorted digits.

The number of weights in a fully connected layer depends on the digits' size: these are as wide as keeps a
network at about the paper's 400 thousand.
"""

from __future__ import annotations

from torch import nn

from .net import Net, Shape, num_features

__all__ = ["PAPER_CNN", "PAPER_FCN"]


def paper_fcn_classifier(shape: Shape, num_classes: int, width: int) -> nn.Sequential:
    channels, height, width_ = shape
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(channels * height * width_, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, num_classes),
    )


def paper_fcn_width(shape: Shape) -> int:
    """At most 256 units, and 275 thousand weights in the first layer, besides the localisation network's."""
    channels, height, width = shape
    return max(1, min(256, 275_000 // (channels * height * width)))


def paper_fcn_localization(shape: Shape, num_parameters: int) -> nn.Sequential:
    channels, height, width = shape
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs in (channels * height * width, 32, 32):
        layers += [nn.Linear(inputs, 32), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(32, num_parameters))


def paper_cnn_classifier(shape: Shape, num_classes: int, width: int) -> nn.Sequential:
    features = nn.Sequential(
        nn.Conv2d(shape[0], width, 9),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(width, width, 7),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
    )
    return nn.Sequential(features, nn.Linear(num_features(features, shape), num_classes))


def paper_cnn_localization(shape: Shape, num_parameters: int) -> nn.Sequential:
    features = nn.Sequential(
        nn.AvgPool2d(2),
        nn.Conv2d(shape[0], 20, 5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(20, 20, 5),
        nn.ReLU(),
        nn.Flatten(),
    )
    return nn.Sequential(
        features,
        nn.Linear(num_features(features, shape), 20),
        nn.ReLU(),
        nn.Linear(20, num_parameters),
    )


PAPER_FCN = Net(paper_fcn_classifier, paper_fcn_localization, paper_fcn_width)
PAPER_CNN = Net(paper_cnn_classifier, paper_cnn_localization, lambda shape: 64)
