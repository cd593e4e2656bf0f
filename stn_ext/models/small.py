"""The classic network: two convolutions and two fully connected layers."""

from __future__ import annotations

from torch import nn

from .net import Net, Shape, num_features

__all__ = ["SMALL"]


def small_classifier(shape: Shape, num_classes: int, width: int) -> nn.Sequential:
    features = nn.Sequential(
        nn.Conv2d(shape[0], width, 5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 5),
        nn.Dropout2d(),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
    )
    return nn.Sequential(
        features,
        nn.Linear(num_features(features, shape), 5 * width),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(5 * width, num_classes),
    )


def small_localization(shape: Shape, num_parameters: int) -> nn.Sequential:
    features = nn.Sequential(
        nn.Conv2d(shape[0], 8, 7),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(8, 10, 5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
    )
    return nn.Sequential(
        features,
        nn.Linear(num_features(features, shape), 32),
        nn.ReLU(),
        nn.Linear(32, num_parameters),
    )


SMALL = Net(small_classifier, small_localization, lambda shape: 10)
