"""What one watches during training: a progress bar, a line an epoch, TensorBoard."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..models import ImageClassifier
from .data import AnySet, ImageSet, Normalisation, pictures
from .engine import Metrics, predictions

REFRESH = 0.3  # seconds between two looks at the device's sums, each of which waits for the device
SILENCE = 60.0  # seconds without a word where there is no terminal


_BOARDS = itertools.count()  # of this process: each has a file of its own

# What TensorBoard's "custom scalars" draw in one chart.
CHARTS = {
    "training": {
        name: ["Multiline", [f"{name}/train", f"{name}/validation"]] for name in ("loss", "accuracy")
    }
}


class Bar:
    """A progress bar where there is a terminal; elsewhere a line a minute. Call it after every step."""

    def __init__(self, title: str, num_images: int, enabled: bool) -> None:
        from tqdm import tqdm

        self._title, self._total = title, num_images
        self._enabled, self._on_terminal = enabled, sys.stdout.isatty()
        self._bar = tqdm(
            total=num_images,
            desc=title,
            unit=" images",
            disable=not (enabled and self._on_terminal),
            leave=False,
            file=sys.stdout,
        )
        self._done, self._began = 0, time.monotonic()
        self._next = self._began + (0 if self._on_terminal else SILENCE)

    def __call__(self, images: int, totals: Tensor) -> None:
        if not self._enabled:
            return
        self._done += images
        self._bar.update(images)
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + (REFRESH if self._on_terminal else SILENCE)
        metrics = Metrics.of(totals)
        figures = f"loss {metrics.loss:.4f}, accuracy {metrics.accuracy:.2%}"
        if self._on_terminal:
            self._bar.set_postfix_str(figures, refresh=False)
            return
        speed = self._done / (now - self._began)
        left = (self._total - self._done) / speed / 60
        share = f"{self._done} of {self._total} images"
        print(f"  {self._title}: {share}, {figures}; {speed:.3g} images/s, {left:.0f} min left", flush=True)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


class Board:
    """TensorBoard's events of a run.

    They are written in this thread, not by SummaryWriter's, so that an error is met here: training goes on
    without the events where their disk is full, and says so once.
    """

    def __init__(self, directory: Path, first_epoch: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from torch.utils.tensorboard.summary import custom_scalars

        who = f"{socket.gethostname()}.{os.getpid()}.{next(_BOARDS)}"
        self._path = directory / f"events.out.tfevents.{int(time.time()):010d}.{who}"
        self._file: BinaryIO | None = None
        try:
            self._file = open(self._path, "xb")  # noqa: SIM115
        except OSError as error:
            self._give_up(error)
        # What an interrupted run wrote beyond its last checkpoint is hidden.
        start = SessionLog(status=SessionLog.START)
        self._write(
            Event(file_version="brain.Event:2"),
            Event(session_log=start, step=first_epoch),
            Event(summary=custom_scalars(CHARTS)),
        )

    def scalars(self, epoch: int, train: Metrics, validation: Metrics, more: dict[str, float]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from torch.utils.tensorboard.summary import scalar

        values = {"loss/train": train.loss, "loss/validation": validation.loss}
        values |= {"accuracy/train": train.accuracy, "accuracy/validation": validation.accuracy}
        values |= more
        self._write(*(Event(summary=scalar(name, value), step=epoch) for name, value in values.items()))

    def images(self, epoch: int, pairs: Tensor) -> None:
        """pairs: uint8 pictures (N, 1 or 3, H, W), drawn in rows of up to five."""
        from tensorboard.compat.proto.event_pb2 import Event
        from torch.utils.tensorboard.summary import image

        self._write(
            Event(summary=image("input and warped", grid(pairs, columns=5), dataformats="CHW"), step=epoch)
        )

    def options(self, options: dict[str, Any], validation: Metrics) -> None:
        """The run's options beside what came of it, for TensorBoard's table of runs (hparams)."""
        from tensorboard.compat.proto.event_pb2 import Event
        from torch.utils.tensorboard.summary import hparams, scalar

        plain = {name: _plain(value) for name, value in options.items()}
        figures = {"final/loss": validation.loss, "final/accuracy": validation.accuracy}
        summaries = [*hparams(plain, figures), *(scalar(name, value) for name, value in figures.items())]
        self._write(*(Event(summary=summary) for summary in summaries))

    def close(self) -> None:
        if self._file:
            self._file.close()

    def _write(self, *events: Any) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        if self._file is None:
            return
        try:
            for event in events:
                event.wall_time = time.time()
                RecordWriter(self._file).write(event.SerializeToString())
            self._file.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        print(
            f"cannot write {self._path}: {error.strerror}: going on without TensorBoard's events",
            file=sys.stderr,
            flush=True,
        )
        if self._file:
            with contextlib.suppress(OSError):
                self._file.close()
        self._file = None


def _plain(value: Any) -> Any:
    """A number, or text that can be encoded, as a file's name need not be."""
    if type(value) in (int, float):
        return value
    return str(value).encode(errors="backslashreplace").decode()


def grid(images: Tensor, columns: int) -> Tensor:
    """Images (N, C, H, W) in rows, framed in grey: (C, rows * (H + 2) + 2, columns * (W + 2) + 2)."""
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    framed = pad(images, (1, 1, 1, 1), value=128)
    framed = pad(framed, (0, 0, 0, 0, 0, 0, 0, rows * columns - len(images)), value=128)
    _, channels, height, width = framed.shape
    placed = framed.view(rows, columns, channels, height, width).permute(2, 0, 3, 1, 4)
    return pad(placed.reshape(channels, rows * height, columns * width), (1, 1, 1, 1), value=128)


def examples(data: AnySet, per_class: int = 2, at_most: int = 50) -> ImageSet:
    """The first images of each class, or the first where classes are not learned: always the same ones."""
    if data.objective != "classification":
        return data.batch(slice(0, at_most))
    index = [(data.labels == label).nonzero()[:per_class, 0] for label in range(len(data.classes))]
    return data.batch(torch.cat(index)[:at_most])


def side_by_side(model: ImageClassifier, data: ImageSet, normalisation: Normalisation) -> Tensor:
    """Each image beside what the classifier sees of it, as pictures: uint8 (N, 1 or 3, H, W)."""
    channels = data.shape[0]
    return torch.cat(
        [
            beside(pictures(batch.images, channels), pictures(normalisation.invert(warped), channels)).cpu()
            for batch, warped, *_ in predictions(model, data, normalisation)
        ]
    )


def beside(left: Tensor, right: Tensor) -> Tensor:
    """Two batches of pictures side by side; the lower ones are filled up in grey."""
    height = max(left.shape[2], right.shape[2])
    return torch.cat([pad(part, (0, 0, 0, height - part.shape[2]), value=128) for part in (left, right)], 3)


def epoch_line(
    epoch: int,
    num_epoch: int,
    train: Metrics,
    validation: Metrics,
    speed: float,
    outside: float | None = None,
) -> str:
    """outside: the share of the transformers' output that is read outside of the images."""
    return (
        f"epoch {epoch}/{num_epoch}: train loss {train.loss:.4f}, accuracy {train.accuracy:.2%}; "
        f"validation loss {validation.loss:.4f}, accuracy {validation.accuracy:.2%}; "
        + ("" if outside is None else f"{outside:.1%} outside; ")
        + f"{speed:.0f} images/s"
    )
