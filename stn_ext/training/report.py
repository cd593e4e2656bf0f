"""What a test or a prediction leaves behind: each image before and after, figures, a page to browse them."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .data import pictures
from .errors import UserError
from .files import make_directory, replace_directory, write_atomically

_TEMPLATES = Path(__file__).parent / "templates"
_PART = re.compile(r"images/\d{5,}-(input|output)\.png|metrics\.json|predictions\.(csv|json)|index\.html")


@dataclass(frozen=True)
class Outcome:
    """Results of N uint8 images, of which labels (N,) are known, or none are.

    The outputs (N, K * C, h, w) may differ in size from the inputs (N, C, H, W), with K times their channels.
    """

    inputs: Tensor
    outputs: Tensor
    labels: Tensor | None
    predictions: Tensor
    confidences: Tensor  # the probability of the predicted class
    classes: tuple[str, ...]
    files: tuple[str, ...] | None = None  # the images' own
    seconds: Tensor | None = None  # the class that is next to the predicted one
    thetas: tuple[Tensor, ...] = ()  # of each transformer
    warps: tuple[str, ...] | None = None  # what the transformers did, in words
    outlines: tuple[Any, ...] | None = None  # and what they show: movement.outlines, of each transformer

    def __len__(self) -> int:
        return len(self.predictions)

    def confusion(self) -> Tensor:
        """How often a label (row) was predicted as a class (column)."""
        assert self.labels is not None
        count = len(self.classes)
        return torch.bincount(self.labels * count + self.predictions, minlength=count**2).view(count, count)


def write(
    directory: Path, outcome: Outcome, metrics: dict, num_workers: int, limit: int | None = None
) -> None:
    """Writes images/, metrics.json, predictions.csv and index.html, in place of those of an earlier test.

    They are written beside the directory and change places with it, so that it never holds parts of two
    reports. ``metrics`` holds what is known of the run beside the outcome; it must be plain JSON. The images
    and the page are of the first ``limit``; the figures of all. Without labels there are predictions.json
    and no metrics.json.
    """
    labelled = outcome.labels is not None
    metrics = {**metrics, "classes": list(outcome.classes)}
    if labelled:
        confusion = outcome.confusion()
        metrics |= {"confusion": confusion.tolist(), "per_class": per_class(outcome.classes, confusion)}
    shown = min(len(outcome), limit or len(outcome))

    def fill(new: Path) -> None:
        _write_images(make_directory(new / "images"), outcome, shown, num_workers)
        name, content = ("metrics.json", metrics) if labelled else ("predictions.json", _json(outcome))
        write_atomically(new / name, json.dumps(content, indent=2, allow_nan=False) + "\n")
        write_atomically(new / "predictions.csv", _csv(outcome))
        write_atomically(new / "index.html", _page(outcome, shown, metrics))

    replace_directory(make_directory(directory), fill, is_part)


def per_class(classes: tuple[str, ...], confusion: Tensor) -> list[dict[str, Any]]:
    """Of each class: its images, the share that was right, and between which shares that is (interval)."""
    counts, right = confusion.sum(1).tolist(), confusion.diagonal().tolist()
    return [
        {"class": name, "images": count, "accuracy": good / count, "interval": interval(good, count)}
        if count
        else {"class": name, "images": 0, "accuracy": None, "interval": None}
        for name, count, good in zip(classes, counts, right, strict=True)
    ]


def interval(right: int, count: int) -> list[float]:
    """The shares that would give so many right with some likelihood: Wilson's interval of 95 %."""
    z = 1.959964
    middle = (right + z * z / 2) / (count + z * z)
    half = z / (count + z * z) * math.sqrt(right * (count - right) / count + z * z / 4)
    return [max(0.0, middle - half), min(1.0, middle + half)]


def is_part(path: Path) -> bool:
    """Whether a path below a report's directory is of the report; anything else there is the user's."""
    return _PART.fullmatch(path.as_posix()) is not None


def image_name(index: int, kind: str) -> str:
    """kind: "input" or "output"."""
    return f"{index:05d}-{kind}.png"


def _write_images(directory: Path, outcome: Outcome, shown: int, num_workers: int) -> None:
    from PIL import Image

    def write_one(job: tuple[Path, Tensor]) -> None:
        path, image = job
        array = image.permute(1, 2, 0).contiguous().numpy()
        Image.fromarray(array.squeeze(2) if array.shape[2] == 1 else array).save(path)

    def jobs() -> Iterator[tuple[Path, Tensor]]:
        channels = outcome.inputs.shape[1]
        for kind, images in (("input", outcome.inputs), ("output", outcome.outputs)):
            for index, image in enumerate(pictures(images[:shown], channels)):
                yield directory / image_name(index, kind), image

    try:
        with ThreadPoolExecutor(max(1, num_workers)) as pool:
            for _ in pool.map(write_one, jobs()):
                pass
    except OSError as error:
        raise UserError(f"cannot write images to {directory}: {error.strerror}") from error


def _csv(outcome: Outcome) -> str:
    """A row an image: of a test with its label, of a prediction with the second class."""
    names = [csv_cell(name) for name in outcome.classes]
    columns: dict[str, Iterable[object]] = {"index": range(len(outcome))}
    if outcome.files is not None:
        columns["file"] = [csv_cell(text_of(name)) for name in outcome.files]
    if outcome.labels is not None:
        columns["label"] = [names[label] for label in outcome.labels.tolist()]
    columns["prediction"] = [names[which] for which in outcome.predictions.tolist()]
    columns["confidence"] = [f"{confidence:.6f}" for confidence in outcome.confidences.tolist()]
    if outcome.seconds is not None:
        columns["second"] = [names[which] for which in outcome.seconds.tolist()]
    if outcome.warps is not None:
        columns["warp"] = outcome.warps
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(columns)
    rows.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()


def _json(outcome: Outcome) -> list[dict[str, Any]]:
    """An object for each picture of a prediction."""
    assert outcome.files is not None and outcome.seconds is not None
    warps = outcome.warps or [None] * len(outcome)
    thetas = list(zip(*(theta.tolist() for theta in outcome.thetas), strict=True)) or [()] * len(outcome)
    rows = zip(outcome.files, _rows(outcome), outcome.seconds.tolist(), thetas, warps, strict=True)
    return [
        {
            "file": file,
            "class": outcome.classes[which],
            "confidence": round(confidence, 6),
            "second": outcome.classes[second],
            "theta": (theta[0] if len(theta) == 1 else list(theta)) if theta else None,
            "warp": warp,
        }
        for file, (_, which, confidence), second, theta, warp in rows
    ]


def text_of(name: str) -> str:
    """A file's name as text, which it need not be."""
    return name.encode(errors="backslashreplace").decode()


def csv_cell(name: str) -> str:
    """A class's name as predictions.csv has it: quoted where a spreadsheet would see a formula."""
    return f"'{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r", "'")) else name


def _page(outcome: Outcome, shown: int, metrics: dict) -> str:
    import jinja2

    loader = jinja2.FileSystemLoader(_TEMPLATES)
    template = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True
    ).get_template("index.html")
    rows = list(_rows(outcome))[:shown]
    data = {
        "classes": list(outcome.classes),
        "confusion": metrics.get("confusion"),
        "per_class": metrics.get("per_class"),
        "history": metrics["history"],
        "sizes": {
            kind: list(pictures(images[:1], outcome.inputs.shape[1]).shape[2:])
            for kind, images in (("input", outcome.inputs), ("output", outcome.outputs))
        },
        "rows": [[label, prediction, round(confidence, 4)] for label, prediction, confidence in rows],
        "files": outcome.files and [text_of(name) for name in outcome.files[:shown]],
        "seconds": outcome.seconds if outcome.seconds is None else outcome.seconds[:shown].tolist(),
        "warps": outcome.warps and outcome.warps[:shown],
        "outlines": outcome.outlines and outcome.outlines[:shown],
    }
    return template.render(metrics=metrics, data=data, shown=shown, total=len(outcome))


def _rows(outcome: Outcome) -> Iterator[tuple[int | None, int, float]]:
    """(label, prediction, confidence) of each image."""
    labels = [None] * len(outcome) if outcome.labels is None else outcome.labels.tolist()
    return zip(labels, outcome.predictions.tolist(), outcome.confidences.tolist(), strict=True)
