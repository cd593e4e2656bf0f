"""Image classifiers, each with a spatial transformer in front or without it, as its control.

Without one the classifier is the same network, with the same initial weights for the same seed; or, so that
its parameters cannot be what makes the difference, a wider one with as many as both have together. Sizes come
from the images' shape: nothing here is fixed to 28 x 28 pixels, one channel or ten classes.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from . import functional, transforms
from .nn import ParallelTransformers, SpatialTransformer

__all__ = [
    "NETS",
    "ImageClassifier",
    "Localiser",
    "Located",
    "Net",
    "create_localiser",
    "create_model",
    "num_parameters",
]

Shape = tuple[int, int, int]
M = TypeVar("M")


class ImageClassifier(nn.Module):
    """A classifier of what the transformer, where there is one, makes of the image."""

    def __init__(
        self, classifier: nn.Module, transformer: SpatialTransformer | ParallelTransformers | None = None
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.transformer = transformer

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of images x (N, C, H, W)."""
        return self.look(x)[1]

    def look(self, x: Tensor) -> tuple[Tensor, Any]:
        """(what the classifier sees, its logits)"""
        warped = self.warp(x)
        return warped, self.classifier(warped)

    def warp(self, x: Tensor) -> Tensor:
        """What the classifier sees: x warped, or x itself where there is no transformer."""
        return x if self.transformer is None else self.transformer(x)


class Located(NamedTuple):
    """What a :class:`Localiser` puts out for N images."""

    theta: Tensor  # (N, 2, 3), the windows found
    embedding: Tensor  # (N, E), of what they show
    elsewhere: Tensor  # (N, E), of windows at random places


class Localiser(ImageClassifier):
    """Finds a window in each image; in the classifier's place stands an encoder that does not learn.

    The random windows have the output's size, pixel for pixel, and lie inside the image; in evaluation they
    are the same in every call.
    """

    def __init__(self, encoder: nn.Module, transformer: SpatialTransformer) -> None:
        super().__init__(encoder.requires_grad_(False), transformer)
        assert transformer.size is not None
        self.size: tuple[int, int] = transformer.size

    def look(self, x: Tensor) -> tuple[Tensor, Located]:
        """(what the windows show, what is known of them)"""
        assert isinstance(self.transformer, SpatialTransformer)
        shown, theta = self.transformer(x, return_theta=True)
        with torch.no_grad():
            elsewhere = self.classifier(functional.affine_sample(x, self.anywhere(x), self.size))
        return shown, Located(theta, self.classifier(shown), elsewhere)

    def anywhere(self, x: Tensor) -> Tensor:
        """Theta (N, 2, 3) of a window at a random place in each image."""
        generator = None if self.training else torch.Generator().manual_seed(0)
        scale = x.new_tensor([self.size[1] / x.shape[3], self.size[0] / x.shape[2]])
        places = 2 * torch.rand(len(x), 2, generator=generator).to(x) - 1
        return torch.cat((scale.diag().expand(len(x), 2, 2), ((1 - scale) * places)[:, :, None]), 2)


class Inside(nn.Module):
    """Parameters (N, 3) of any size to (scale, tx, ty) of a window that lies wholly inside the image.

    Windows of background are as like as can be, and so are all of a whole image: without bounds the triplet
    loss drives them beyond the border, or makes them ever larger. The scale is within a factor of 2^(1/4) of
    that given.
    """

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, parameters: Tensor) -> Tensor:
        scale = self.scale * 2 ** (parameters[:, :1].tanh() / 4)
        return torch.cat((scale, parameters[:, 1:].tanh() * (1 - scale)), 1)


@dataclass(frozen=True)
class Net:
    """The two halves of a network."""

    classifier: Callable[[Shape, int, int], nn.Module]  # of the images' shape, a number of classes, a width
    localization: Callable[[Shape, int], nn.Sequential]  # of the images' shape and a number of parameters
    width: Callable[[Shape], int]  # the classifier's usual one: its first layer's channels or units


def create_model(
    net: str,
    shape: Shape,
    num_classes: int,
    *,
    transformer: bool,
    transform: str = "affine",
    num_transformers: int = 1,
    warp_size: tuple[int, int] | None = None,
    antialias: bool = False,
    width: int | None = None,
    widened: bool = False,
) -> ImageClassifier:
    """A new network for images of shape (C, H, W).

    Args:
        net: a name in :data:`NETS`.
        transformer: whether a spatial transformer stands in front of the classifier.
        transform: its kind, a name in :data:`stn_ext.transforms.TRANSFORMS`.
        num_transformers: as many in parallel; the classifier sees their outputs as so many more channels.
        warp_size: (height, width) of what a transformer puts out; the images' own when None.
        antialias: as for :class:`stn_ext.nn.SpatialTransformer`.
        width: of the classifier; the net's usual one when None.
        widened: a classifier without a transformer is made so much wider that it has at least as many
            parameters as with the transformer that the other arguments describe. Nothing else uses those.

    Raises:
        ValueError: an unknown net or transform, or images too small for it.
    """
    if net not in NETS:
        raise ValueError(f"unknown net {net!r}: expected one of {', '.join(NETS)}")
    parts = NETS[net]

    def with_transformer() -> ImageClassifier:
        seen = (num_transformers * shape[0], *(warp_size or shape[1:]))
        # The classifier comes first: it draws the same initial weights with a transformer and without.
        classifier = parts.classifier(seen, num_classes, width or parts.width(seen))
        transformers = [
            SpatialTransformer(
                parts.localization(shape, transforms.create(transform).num_parameters),
                transform,
                warp_size,
                antialias=antialias,
            )
            for _ in range(num_transformers)
        ]
        front = transformers[0] if num_transformers == 1 else ParallelTransformers(transformers)
        return ImageClassifier(classifier, front)

    def without() -> ImageClassifier:
        chosen = width or parts.width(shape)
        if widened:
            with torch.device("meta"):
                parameters = num_parameters(with_transformer())
                chosen = _width_for(parameters, parts, shape, num_classes)
        return ImageClassifier(parts.classifier(shape, num_classes, chosen))

    return _build(with_transformer if transformer else without, net, shape)


def create_localiser(net: str, shape: Shape, *, size: tuple[int, int], width: int | None = None) -> Localiser:
    """A new network that finds a window, by attention, in images of shape (C, H, W).

    Args:
        net: the localisation network's, a name in :data:`NETS`.
        size: (height, width) of what is shown of a window.
        width: channels of the encoder's first layer; 16 when None.

    Raises:
        ValueError: an unknown net, or images too small for it.
    """
    if net not in NETS:
        raise ValueError(f"unknown net {net!r}: expected one of {', '.join(NETS)}")
    if 2**0.25 * size[0] > shape[1] or size[0] * shape[2] != size[1] * shape[1]:
        raise ValueError(
            f"windows of {size[0]} x {size[1]} pixels: expected the shape of the images, {shape[1]} x "
            f"{shape[2]}, and at most 0.84 of their size"
        )

    def build() -> Localiser:
        network = NETS[net].localization(shape, 3)
        # All windows start in the middle of the image, of the same size; Inside bounds both from there.
        head = network[-1]
        assert isinstance(head, nn.Linear)
        nn.init.zeros_(head.weight)
        head.bias = nn.Parameter(torch.tensor([1.0, 0.0, 0.0]))
        localization = nn.Sequential(network, Inside(size[0] / shape[1]))
        encoder = RandomEncoder(shape[0], width or 16)
        encoder(torch.zeros(1, shape[0], *size))  # raises where the windows are too small
        return Localiser(encoder, SpatialTransformer(localization, "attention", size, identity=False))

    return _build(build, net, shape)


class RandomEncoder(nn.Module):
    """Two convolutions with random weights: their average over all places and, for less, each place's own.

    Averages make a digit look alike wherever it stands in a window, so that windows that hold but a part
    of it are drawn to it. By averages alone, windows beside the digits end up as good as those on them: they
    differ from a random window that holds the digit too only by cutting it. The places tell those two apart;
    more of them, and windows of background are as like as can be. Both have a common length, which makes a
    thin digit count as much as a thick one, and is long enough beside a margin of 1. Background is 0.
    """

    LENGTH, PLACES = 3.0, 0.2  # of an embedding, and the places' share of its square

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((channels, width), (width, 2 * width)):
            convolution = nn.Conv2d(inputs, outputs, 5, bias=False)
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            layers += [convolution, nn.ReLU(), nn.MaxPool2d(2)]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """Embeddings (N, E) of windows x (N, C, H, W)."""
        features = self.layers(x)
        parts = []
        for values, share in (
            (features.mean((2, 3)), 1 - self.PLACES),
            (features.flatten(1) / math.prod(features.shape[2:]) ** 0.5, self.PLACES),
        ):
            length = values.norm(dim=1, keepdim=True) + 0.01
            parts.append(self.LENGTH * share**0.5 * values / length)
        return torch.cat(parts, 1)


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _build(make: Callable[[], M], net: str, shape: Shape) -> M:
    """What make returns, or a ValueError where the images are too small for the layers."""
    try:
        with torch.device("meta"):  # first without memory: nothing but a shape can be the matter
            make()
    except RuntimeError as error:
        raise ValueError(f"images of {shape[1]} x {shape[2]} are too small for the net {net!r}") from error
    return make()


def _width_for(parameters: int, parts: Net, shape: Shape, num_classes: int) -> int:
    """The least width at which the classifier has so many parameters."""
    widths = range(1, 2**20)
    found = bisect_left(
        widths, parameters, key=lambda width: num_parameters(parts.classifier(shape, num_classes, width))
    )
    return widths[found]


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
        nn.Linear(_num_features(features, shape), 5 * width),
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
        nn.Linear(_num_features(features, shape), 32),
        nn.ReLU(),
        nn.Linear(32, num_parameters),
    )


def cnn_classifier(shape: Shape, num_classes: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        *_convolution(shape[0], width, pool=True),
        *_convolution(width, 2 * width),
        *_convolution(2 * width, 2 * width, pool=True),
        *_convolution(2 * width, 4 * width),
        *_convolution(4 * width, 4 * width),
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
        *_convolution(shape[0], 16, pool=True),
        *_convolution(16, 32),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 32),
        nn.LayerNorm(32),
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


# The networks of Jaderberg et al. 2015 for distorted digits. The number of weights in a fully connected layer
# depends on the digits' size: these are as wide as keeps a network at about the paper's 400 thousand.


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
    return nn.Sequential(features, nn.Linear(_num_features(features, shape), num_classes))


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
        nn.Linear(_num_features(features, shape), 20),
        nn.ReLU(),
        nn.Linear(20, num_parameters),
    )


@torch.no_grad()
def _num_features(features: nn.Module, shape: Shape) -> int:
    """How many features come out for one image; dropout draws no random number meanwhile."""
    features.eval()
    count = features(torch.zeros(1, *shape)).shape[1]
    features.train()
    return count


NETS = {
    "small": Net(small_classifier, small_localization, lambda shape: 10),
    "cnn": Net(cnn_classifier, cnn_localization, lambda shape: 16),
    "paper_fcn": Net(paper_fcn_classifier, paper_fcn_localization, paper_fcn_width),
    "paper_cnn": Net(paper_cnn_classifier, paper_cnn_localization, lambda shape: 64),
}
