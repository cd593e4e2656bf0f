"""What one watches during training: a progress bar, a line an epoch, TensorBoard."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..models import ImageClassifier
from .data import ImageSet, Normalisation, pictures
from .engine import Metrics, predictions

REFRESH = 0.3  # seconds between two looks at the device's sums, each of which waits for the device


class Bar:
    """A progress bar where there is a terminal; nothing elsewhere. Call it after every step."""

    def __init__(self, title: str, num_images: int, enabled: bool) -> None:
        from tqdm import tqdm

        disable = not (enabled and sys.stdout.isatty())
        self._bar = tqdm(
            total=num_images, desc=title, unit=" images", disable=disable, leave=False, file=sys.stdout
        )
        self._next = 0.0

    def __call__(self, images: int, totals: Tensor) -> None:
        if self._bar.disable:
            return
        self._bar.update(images)
        if time.monotonic() >= self._next:
            metrics = Metrics.of(totals)
            self._bar.set_postfix_str(
                f"loss {metrics.loss:.4f}, accuracy {metrics.accuracy:.2%}", refresh=False
            )
            self._next = time.monotonic() + REFRESH

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


class Board:
    """TensorBoard's events of a run."""

    def __init__(self, directory: Path, first_epoch: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What an interrupted run wrote beyond its last checkpoint is hidden.
        self._writer = SummaryWriter(str(directory), purge_step=first_epoch)

    def scalars(self, epoch: int, train: Metrics, validation: Metrics, more: dict[str, float]) -> None:
        values = {"loss/train": train.loss, "loss/validation": validation.loss}
        values |= {"accuracy/train": train.accuracy, "accuracy/validation": validation.accuracy}
        for name, value in (values | more).items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def images(self, epoch: int, pairs: Tensor) -> None:
        """pairs: uint8 pictures (N, 1 or 3, H, W), drawn in rows of up to five."""
        self._writer.add_image("input and warped", grid(pairs, columns=5), epoch)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def grid(images: Tensor, columns: int) -> Tensor:
    """Images (N, C, H, W) in rows, framed in grey: (C, rows * (H + 2) + 2, columns * (W + 2) + 2)."""
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    framed = pad(images, (1, 1, 1, 1), value=128)
    framed = pad(framed, (0, 0, 0, 0, 0, 0, 0, rows * columns - len(images)), value=128)
    _, channels, height, width = framed.shape
    placed = framed.view(rows, columns, channels, height, width).permute(2, 0, 3, 1, 4)
    return pad(placed.reshape(channels, rows * height, columns * width), (1, 1, 1, 1), value=128)


def examples(data: ImageSet, per_class: int = 2, at_most: int = 50) -> ImageSet:
    """The first images of each class, or the first where classes are not learned: always the same ones."""
    if data.objective != "classification":
        return data[:at_most]
    index = [(data.labels == label).nonzero()[:per_class, 0] for label in range(len(data.classes))]
    return data[torch.cat(index)[:at_most]]


def side_by_side(model: ImageClassifier, data: ImageSet, normalisation: Normalisation) -> Tensor:
    """Each image beside what the classifier sees of it, as pictures: uint8 (N, 1 or 3, H, W)."""
    channels = data.shape[0]
    return torch.cat(
        [
            beside(pictures(batch.images, channels), pictures(normalisation.invert(warped), channels)).cpu()
            for batch, warped, _ in predictions(model, data, normalisation)
        ]
    )


def beside(left: Tensor, right: Tensor) -> Tensor:
    """Two batches of pictures side by side; the lower ones are filled up in grey."""
    height = max(left.shape[2], right.shape[2])
    return torch.cat([pad(part, (0, 0, 0, height - part.shape[2]), value=128) for part in (left, right)], 3)


def epoch_line(epoch: int, num_epoch: int, train: Metrics, validation: Metrics, speed: float) -> str:
    return (
        f"epoch {epoch}/{num_epoch}: train loss {train.loss:.4f}, accuracy {train.accuracy:.2%}; "
        f"validation loss {validation.loss:.4f}, accuracy {validation.accuracy:.2%}; {speed:.0f} images/s"
    )
