"""What a network is trained for: the loss of what it puts out, and which of it is right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ..models import Located


class Verdict(NamedTuple):
    """Of each image, (N,): its class, the class it got, and how surely, from 0 to 1."""

    labels: Tensor
    predictions: Tensor
    confidences: Tensor


class Objective(Protocol):
    """Both methods take what a model puts out for images, and those images' labels."""

    loss_name: str

    def loss(self, outputs: Any, labels: Tensor) -> Tensor:
        """The sum over the images of what is to become small."""

    def judge(self, outputs: Any, labels: Tensor) -> Verdict:
        """An image is right where its class is the one it got."""


@dataclass(frozen=True)
class Classification:
    """Cross entropy, in nats, of logits (N, classes) and classes (N,)."""

    label_smoothing: float = 0.0
    loss_name = "cross entropy"

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs, labels, reduction="sum", label_smoothing=self.label_smoothing)

    def judge(self, outputs: Tensor, labels: Tensor) -> Verdict:
        confidences, predictions = outputs.softmax(1).max(1)
        return Verdict(labels, predictions, confidences)


@dataclass(frozen=True)
class Sequences:
    """Cross entropy, in nats, of sequences of symbols: logits (N, LENGTH, SYMBOLS) and labels (N, LENGTH).

    Ten symbols and, last, the end, which all places behind the sequence have. An image's loss is the sum over
    the places, and it is right where all of them are. The classes are 0, misread, and 1, read.
    """

    label_smoothing: float = 0.0
    loss_name = "cross entropy"

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        logits = outputs.flatten(0, 1)
        return F.cross_entropy(
            logits, labels.flatten(), reduction="sum", label_smoothing=self.label_smoothing
        )

    def judge(self, outputs: Tensor, labels: Tensor) -> Verdict:
        confidences, symbols = outputs.softmax(2).max(2)
        right = (symbols == labels).all(1).long()
        return Verdict(torch.ones_like(right), right, confidences.prod(1))


LENGTH, SYMBOLS = 5, 11  # of the sequences of distortions.lined_up, the last symbol being the end


@dataclass(frozen=True)
class Colocalisation:
    """The triplet hinge loss of Jaderberg et al. 2015, appendix A.2, of windows found without labels.

    For each image it is the mean over the others m of max(0, d(T_n, T_m) - d(T_n, R_n) + margin), where d is
    the squared distance of embeddings, T the window found and R a random one. The labels (N, 2), the row and
    the column at which the digit's box begins, only tell whether a window is right: where it and the box
    overlap by more than half of their union. The classes are 0, missed, and 1, located.
    """

    image_size: int = 84  # pixels, of distortions.hidden
    box_size: int = 28
    margin: float = 1.0
    loss_name = "triplet loss"

    def loss(self, outputs: Located, labels: Tensor) -> Tensor:
        window = outputs.embedding
        squares = window.square().sum(1)
        near = squares[:, None] + squares - 2 * window @ window.T
        far = (window - outputs.elsewhere).square().sum(1)
        hinge = (near - far[:, None] + self.margin).clamp(min=0)
        return (hinge.sum() - hinge.diagonal().sum()) / max(1, len(window) - 1)

    def judge(self, outputs: Located, labels: Tensor) -> Verdict:
        overlaps = overlap(boxes_of(outputs.theta), self.boxes(labels))
        return Verdict(torch.ones_like(labels[:, 0]), (overlaps > 0.5).long(), overlaps)

    def boxes(self, corners: Tensor) -> Tensor:
        """The true boxes (N, 4), as :func:`boxes_of` has them, of corners (N, 2)."""
        start = corners.flip(1).float()
        return torch.cat((start, start + self.box_size), 1) * (2 / self.image_size) - 1


def boxes_of(theta: Tensor) -> Tensor:
    """The upright boxes (x0, y0, x1, y1), (N, 4), around windows theta (N, 2, 3), in theta's coordinates."""
    half = theta[:, :, :2].abs().sum(2)
    return torch.cat((theta[:, :, 2] - half, theta[:, :, 2] + half), 1)


def overlap(one: Tensor, other: Tensor) -> Tensor:
    """The intersection over the union (N,) of boxes (N, 4) of an area above 0."""
    sides = torch.minimum(one[:, 2:], other[:, 2:]) - torch.maximum(one[:, :2], other[:, :2])
    common = sides.clamp(min=0).prod(1)
    areas = sum((box[:, 2:] - box[:, :2]).prod(1) for box in (one, other))
    return common / (areas - common)


OBJECTIVES: dict[str, type[Classification] | type[Sequences] | type[Colocalisation]] = {
    "classification": Classification,
    "sequence": Sequences,
    "colocalisation": Colocalisation,
}
