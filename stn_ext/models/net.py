"""What a network is made of, and how its sizes follow from the images' shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..nn import ParallelTransformers, SpatialTransformer

__all__ = ["ImageClassifier", "Net", "Shape", "build", "num_features", "num_parameters"]

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
        return self.look(x)[2]

    def look(self, x: Tensor) -> tuple[Tensor, list[Tensor], Any]:
        """(what the classifier sees, the theta of each transformer, the classifier's logits)"""
        warped, thetas = self.transformed(x)
        return warped, thetas, self.classifier(warped)

    def warp(self, x: Tensor) -> Tensor:
        """What the classifier sees: x warped, or x itself where there is no transformer."""
        return self.transformed(x)[0]

    def transformed(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(x warped, or x itself where there is no transformer; the theta of each transformer)"""
        if self.transformer is None:
            return x, []
        warped, theta = self.transformer(x, return_theta=True)
        return warped, theta if isinstance(theta, list) else [theta]


@dataclass(frozen=True)
class Net:
    """The two halves of a network."""

    classifier: Callable[[Shape, int, int], nn.Module]  # of the images' shape, a number of classes, a width
    localization: Callable[[Shape, int], nn.Sequential]  # of the images' shape and a number of parameters
    width: Callable[[Shape], int]  # the classifier's usual one: its first layer's channels or units


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def build(make: Callable[[], M], net: str, shape: Shape) -> M:
    """What make returns, or a ValueError where the images are too small for the layers."""
    try:
        with torch.device("meta"):  # first without memory: nothing but a shape can be the matter
            make()
    except RuntimeError as error:
        raise ValueError(f"images of {shape[1]} x {shape[2]} are too small for the net {net!r}") from error
    return make()


@torch.no_grad()
def num_features(features: nn.Module, shape: Shape) -> int:
    """How many features come out for one image; dropout draws no random number meanwhile."""
    features.eval()
    count = features(torch.zeros(1, *shape)).shape[1]
    features.train()
    return count
