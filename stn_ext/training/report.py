"""What a test leaves behind: each image before and after, the figures, and a page to browse them."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .data import pictures
from .errors import UserError
from .files import make_directory, replace_directory, write_atomically

_TEMPLATES = Path(__file__).parent / "templates"
_PART = re.compile(r"images/\d{5,}-(input|output)\.png|metrics\.json|predictions\.csv|index\.html")


@dataclass(frozen=True)
class Outcome:
    """A test's results: uint8 images, and for each its label, prediction and confidence (N,).

    The outputs (N, K * C, h, w) may differ in size from the inputs (N, C, H, W), with K times their channels.
    """

    inputs: Tensor
    outputs: Tensor
    labels: Tensor
    predictions: Tensor
    confidences: Tensor  # the probability of the predicted class
    classes: tuple[str, ...]

    def confusion(self) -> Tensor:
        """How often a label (row) was predicted as a class (column)."""
        count = len(self.classes)
        return torch.bincount(self.labels * count + self.predictions, minlength=count**2).view(count, count)


def write(directory: Path, outcome: Outcome, metrics: dict, num_workers: int) -> None:
    """Writes images/, metrics.json, predictions.csv and index.html, in place of those of an earlier test.

    They are written beside the directory and change places with it, so that it never holds parts of two
    reports. ``metrics`` holds what is known of the run beside the outcome; it must be plain JSON.
    """
    metrics = {**metrics, "classes": list(outcome.classes), "confusion": outcome.confusion().tolist()}

    def fill(new: Path) -> None:
        _write_images(make_directory(new / "images"), outcome, num_workers)
        write_atomically(new / "metrics.json", json.dumps(metrics, indent=2, allow_nan=False) + "\n")
        write_atomically(new / "predictions.csv", _csv(outcome))
        write_atomically(new / "index.html", _page(outcome, metrics))

    replace_directory(make_directory(directory), fill, is_part)


def is_part(path: Path) -> bool:
    """Whether a path below a report's directory is of the report; anything else there is the user's."""
    return _PART.fullmatch(path.as_posix()) is not None


def image_name(index: int, kind: str) -> str:
    """kind: "input" or "output"."""
    return f"{index:05d}-{kind}.png"


def _write_images(directory: Path, outcome: Outcome, num_workers: int) -> None:
    from PIL import Image

    def write_one(job: tuple[Path, Tensor]) -> None:
        path, image = job
        array = image.permute(1, 2, 0).contiguous().numpy()
        Image.fromarray(array.squeeze(2) if array.shape[2] == 1 else array).save(path)

    def jobs() -> Iterator[tuple[Path, Tensor]]:
        channels = outcome.inputs.shape[1]
        for kind, images in (("input", outcome.inputs), ("output", outcome.outputs)):
            for index, image in enumerate(pictures(images, channels)):
                yield directory / image_name(index, kind), image

    try:
        with ThreadPoolExecutor(max(1, num_workers)) as pool:
            for _ in pool.map(write_one, jobs()):
                pass
    except OSError as error:
        raise UserError(f"cannot write images to {directory}: {error.strerror}") from error


def _csv(outcome: Outcome) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["index", "label", "prediction", "confidence"])
    for index, (label, prediction, confidence) in enumerate(_rows(outcome)):
        names = (csv_cell(outcome.classes[which]) for which in (label, prediction))
        rows.writerow([index, *names, f"{confidence:.6f}"])
    return text.getvalue()


def csv_cell(name: str) -> str:
    """A class's name as predictions.csv has it: quoted where a spreadsheet would see a formula."""
    return f"'{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r", "'")) else name


def _page(outcome: Outcome, metrics: dict) -> str:
    import jinja2

    loader = jinja2.FileSystemLoader(_TEMPLATES)
    template = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True
    ).get_template("index.html")
    data = {
        "classes": list(outcome.classes),
        "confusion": metrics["confusion"],
        "sizes": {
            kind: list(pictures(images[:1], outcome.inputs.shape[1]).shape[2:])
            for kind, images in (("input", outcome.inputs), ("output", outcome.outputs))
        },
        "rows": [
            [label, prediction, round(confidence, 4)] for label, prediction, confidence in _rows(outcome)
        ],
    }
    return template.render(metrics=metrics, data=data)


def _rows(outcome: Outcome) -> Iterator[tuple[int, int, float]]:
    return zip(
        outcome.labels.tolist(), outcome.predictions.tolist(), outcome.confidences.tolist(), strict=True
    )
