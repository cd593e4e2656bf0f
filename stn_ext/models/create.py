"""Classifiers by the names of their networks, each with a spatial transformer in front or without."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

import torch
from torch import nn

from .. import transforms
from ..nn import ParallelTransformers, SpatialTransformer
from .cnn import CNN
from .heatmap import heatmap_localization
from .net import ImageClassifier, Net, Shape, build, num_parameters
from .paper import PAPER_CNN, PAPER_FCN
from .small import SMALL

__all__ = ["LOCALIZATIONS", "NETS", "create_model"]

LOCALIZATIONS = ("regression", "heatmap")
NETS = {"small": SMALL, "cnn": CNN, "paper_fcn": PAPER_FCN, "paper_cnn": PAPER_CNN}


def create_model(
    net: str,
    shape: Shape,
    num_classes: int,
    *,
    transformer: bool,
    transform: str = "affine",
    localization: str = "regression",
    start_scale: float = 1.0,
    iterations: int = 1,
    jitter: float = 0.0,
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
        localization: "regression", the net's own network, or "heatmap", which finds the place as the middle
            of a heatmap (:class:`stn_ext.nn.HeatmapLocalization`), for attention, translation and similarity.
        start_scale: at which a heatmap's transformer starts, by which it zooms in.
        iterations, jitter: as for :class:`stn_ext.nn.SpatialTransformer`.
        num_transformers: as many in parallel; the classifier sees their outputs as so many more channels.
        warp_size: (height, width) of what a transformer puts out; the images' own when None.
        antialias: as for :class:`stn_ext.nn.SpatialTransformer`.
        width: of the classifier; the net's usual one when None.
        widened: a classifier without a transformer is made so much wider that it has at least as many
            parameters as with the transformer that the other arguments describe. Nothing else uses those.

    Raises:
        ValueError: an unknown net, transform or localization, images too small for it, or options that do not
            go together.
    """
    if net not in NETS:
        raise ValueError(f"unknown net {net!r}: expected one of {', '.join(NETS)}")
    if localization not in LOCALIZATIONS:
        raise ValueError(f"unknown localization {localization!r}: expected one of {', '.join(LOCALIZATIONS)}")
    if localization == "regression" and start_scale != 1:
        raise ValueError("a start_scale is for the localization 'heatmap' only")
    parts = NETS[net]
    # As the paper has it, and as checkpoints were trained: angles are of the normalised square.
    square: dict[str, Any] = {"aspect": False} if transform in ("rotation", "similarity") else {}

    def localizer() -> nn.Module:
        if localization == "heatmap":
            return heatmap_localization(shape, transform, start_scale)
        return parts.localization(shape, transforms.create(transform).num_parameters)

    def with_transformer() -> ImageClassifier:
        seen = (num_transformers * shape[0], *(warp_size or shape[1:]))
        # The classifier comes first: it draws the same initial weights with a transformer and without.
        classifier = parts.classifier(seen, num_classes, width or parts.width(seen))
        transformers = [
            SpatialTransformer(
                localizer(),
                transform,
                warp_size,
                antialias=antialias,
                iterations=iterations,
                jitter=jitter,
                **square,
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

    return build(with_transformer if transformer else without, net, shape)


def _width_for(parameters: int, parts: Net, shape: Shape, num_classes: int) -> int:
    """The least width at which the classifier has so many parameters."""
    widths = range(1, 2**20)
    found = bisect_left(
        widths, parameters, key=lambda width: num_parameters(parts.classifier(shape, num_classes, width))
    )
    return widths[found]
