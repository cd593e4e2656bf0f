"""Image classifiers, each with a spatial transformer in front or without it.

The classifier is the same network both ways, with the same initial weights for the same seed, so that the
one without is the control of the one with. Sizes come from the images' shape: nothing here is fixed to
28 x 28 pixels, one channel or ten classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .nn import SpatialTransformer
from .transforms import TRANSFORMS

__all__ = ["NETS", "ImageClassifier", "create_model"]

Shape = tuple[int, int, int]


class ImageClassifier(nn.Module):
    """A classifier of what the transformer, where there is one, makes of the image."""

    def __init__(self, classifier: nn.Module, transformer: SpatialTransformer | None = None) -> None:
        super().__init__()
        self.classifier = classifier
        self.transformer = transformer

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of images x (N, C, H, W)."""
        return self.classifier(self.warp(x))

    def warp(self, x: Tensor) -> Tensor:
        """What the classifier sees: x warped, or x itself where there is no transformer."""
        return x if self.transformer is None else self.transformer(x)


def create_model(
    net: str, shape: Shape, num_classes: int, *, transformer: bool, transform: str = "affine"
) -> ImageClassifier:
    """A new network for images of shape (C, H, W).

    Args:
        net: a name in :data:`NETS`.
        transformer: whether a spatial transformer stands in front of the classifier.
        transform: its kind, a name in :data:`stn_ext.transforms.TRANSFORMS`.

    Raises:
        ValueError: an unknown net, or images too small for it.
    """
    if net not in NETS:
        raise ValueError(f"unknown net {net!r}: expected one of {', '.join(NETS)}")
    make_classifier, make_localization = NETS[net]
    try:
        # The classifier comes first: it draws the same initial weights with a transformer and without.
        classifier = make_classifier(shape, num_classes)
        if not transformer:
            return ImageClassifier(classifier)
        localization = make_localization(shape, TRANSFORMS[transform]().num_parameters)
    except RuntimeError as error:
        _, height, width = shape
        raise ValueError(f"images of {height} x {width} are too small for the net {net!r}") from error
    return ImageClassifier(classifier, SpatialTransformer(localization, transform))


def small_classifier(shape: Shape, num_classes: int) -> nn.Sequential:
    features = nn.Sequential(
        nn.Conv2d(shape[0], 10, 5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(10, 20, 5),
        nn.Dropout2d(),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
    )
    return nn.Sequential(
        features,
        nn.Linear(_num_features(features, shape), 50),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(50, num_classes),
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
        nn.Linear(_num_features(features, shape), 32),
        nn.ReLU(),
        nn.Linear(32, num_parameters),
    )


def cnn_classifier(shape: Shape, num_classes: int) -> nn.Sequential:
    return nn.Sequential(
        *_convolution(shape[0], 16, pool=True),
        *_convolution(16, 32),
        *_convolution(32, 32, pool=True),
        *_convolution(32, 64),
        *_convolution(64, 64),
        nn.AdaptiveAvgPool2d(3),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(64 * 3 * 3, num_classes),
    )


def cnn_localization(shape: Shape, num_parameters: int) -> nn.Sequential:
    # Where the digit lies can be read from half the resolution, at a fraction of the cost.
    return nn.Sequential(
        nn.AvgPool2d(2, ceil_mode=True),
        *_convolution(shape[0], 16, pool=True),
        *_convolution(16, 32),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 32),
        nn.ReLU(),
        nn.Linear(32, num_parameters),
    )


def _convolution(in_channels: int, out_channels: int, *, pool: bool = False) -> list[nn.Module]:
    """Convolution, normalisation and ReLU; pooling comes early, where it saves work for the other two."""
    convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    pooling = [nn.MaxPool2d(2, ceil_mode=True)] if pool else []
    # Quick running statistics: a short training has few steps, and they must not lag behind the weights.
    return [convolution, *pooling, nn.BatchNorm2d(out_channels, momentum=0.3), nn.ReLU(inplace=True)]


@torch.no_grad()
def _num_features(features: nn.Module, shape: Shape) -> int:
    """How many features come out for one image; dropout draws no random number meanwhile."""
    features.eval()
    count = features(torch.zeros(1, *shape)).shape[1]
    features.train()
    return count


# Each name's classifier, of a shape and a number of classes, and its localisation network, of a shape and a
# number of parameters.
NETS: dict[str, tuple[Callable[[Shape, int], nn.Module], Callable[[Shape, int], nn.Module]]] = {
    "small": (small_classifier, small_localization),
    "cnn": (cnn_classifier, cnn_localization),
}
