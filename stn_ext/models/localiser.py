"""Windows found without labels: the co-localisation of Jaderberg et al. 2015, appendix A.2."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import functional
from ..nn import SpatialTransformer
from .create import NETS
from .net import ImageClassifier, Shape, build

__all__ = ["Localiser", "Located", "RandomEncoder", "create_localiser"]


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

    def look(self, x: Tensor) -> tuple[Tensor, list[Tensor], Located]:
        """(what the windows show, their theta, what is known of them)"""
        shown, (theta,) = self.transformed(x)
        with torch.no_grad():
            elsewhere = self.classifier(functional.affine_sample(x, self.anywhere(x), self.size))
        return shown, [theta], Located(theta, self.classifier(shown), elsewhere)

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

    def make() -> Localiser:
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

    return build(make, net, shape)


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
