"""Predicting the classes of one's own pictures, from their names to a table and a report."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import torch

from ..models import ImageClassifier
from . import chosen, config, decoding, imagefolder, memory, movement, report
from .data import ImageSet, Normalisation
from .distributed import Process
from .engine import predictions, transformers_of
from .errors import UserError, memory_for
from .files import clear_temporaries, make_directory
from .imagefolder import Listing, shown
from .locks import locked
from .photographs import FRAMED, Reader
from .run import about_of, rebuild

LONGEST_LIST = 64 << 20  # bytes of names on standard input: more than of a million pictures
TABLE = 100  # rows that are printed; the files have all


@memory_for("the prediction", "the number of pictures")
def predict(args: Namespace, process: Process) -> None:
    """Predicts the classes of the pictures, prints them, and reports in [dir_result]/.../predict.

    Raises:
        UserError: a mistake in the options, the checkpoint or the pictures.
    """
    if process.world > 1:
        raise UserError("--mode predict runs in one process: start it without torchrun")
    path, state = chosen.checkpoint(args)
    about, model = about_of(state), rebuild(state).to(process.device)
    if about.objective != "classification":
        raise UserError(f"{path} is a network for {about.objective}: it knows no classes to predict")
    files = listed(args.pictures, process)[: args.limit]
    reader = Reader(
        about.shape,
        about.background,
        framed=FRAMED.get(state["args"]["name_data"]),
        paper=args.paper == "auto",
        behind=args.image_background or state["args"]["image_background"] or "white",
    )
    # Before the long part, which would be in vain where nothing can be written.
    directory = make_directory(config.directory(args, "result"))
    with locked(directory, "a prediction"):
        own = make_directory(directory / "predict")
        clear_temporaries(own, report.is_part)
        images = read(files, reader, args.num_workers, process)
        outcome = outcome_of(model, images, about.classes, Normalisation(about.background, process.device))
        print(table(outcome), flush=True)
        facts = {"num_images": len(files), **chosen.facts(args, path, state, model)}
        report.write(own, outcome, facts, args.num_workers, args.report_limit)
        print(f"see {own / 'index.html'}")


def listed(names: Sequence[str], process: Process) -> list[Path]:
    """The pictures that the names mean: files, those below folders, and those of a list on standard input.

    Raises:
        UserError: there are none, or a folder cannot be read.
    """
    files: list[Path] = []
    for name in names:
        if name == "-":
            files += [Path(line) for line in lines_of(sys.stdin.buffer)]
        elif not name:  # which a path takes for this folder
            raise UserError("expected a name of a picture or a folder, but got an empty one")
        elif Path(name).is_dir():
            listing = Listing(Path(name))
            files += imagefolder.pictures_below(Path(name), set(), listing)
            process.say("\n".join(imagefolder.left_out(listing))) if listing.left_out else None
        else:
            files.append(Path(name))
    if not files:
        raise UserError(f"no pictures in {', '.join(map(shown, names))}")
    return files


def lines_of(stream: BinaryIO) -> list[str]:
    """The names in a list, one a line; they need not be text."""
    content = stream.read(LONGEST_LIST + 1)
    if len(content) > LONGEST_LIST:
        raise UserError(f"the list of pictures is longer than {memory.size(LONGEST_LIST)}")
    lines = content.decode(errors="surrogateescape").split("\n")
    return [line for line in (line.rstrip("\r") for line in lines) if line]


def read(files: Sequence[Path], reader: Reader, num_workers: int, process: Process) -> ImageSet:
    """The pictures as the network needs them; says which of them were taken for photographs of paper."""
    channels, height, width = reader.shape
    workers = max(1, min(num_workers, len(files)))
    with decoding.quietly():
        say = process.say
        headers = imagefolder.each(decoding.read_header, files, workers, "looking at the pictures", say)
        decoded = sum(sorted(header.pixels for header in headers)[-workers:])
        # Read, and what the network makes of them.
        need = 3 * len(files) * channels * height * width + decoded * decoding.BYTES_PER_PIXEL
        memory.check(need, f"{len(files)} pictures", "predict fewer at once")
        pictures = list(imagefolder.each(reader.read, files, workers, "reading the pictures", say))
    photographs = sum(is_photograph for _, is_photograph in pictures)
    if photographs:
        say(f"{photographs} of {len(files)} taken for photographs of ink on paper (see --paper)")
    images = torch.stack([image for image, _ in pictures])
    return ImageSet(images, torch.zeros(len(files), dtype=torch.int64), (), files=tuple(map(str, files)))


def outcome_of(
    model: ImageClassifier, images: ImageSet, classes: tuple[str, ...], normalisation: Normalisation
) -> report.Outcome:
    """What the network makes of each picture."""
    seen, thetas, logits = [], [], []
    for _, warped, theta, output in predictions(
        model, images.to(normalisation.background.device), normalisation
    ):
        seen.append(normalisation.invert(warped).cpu())
        thetas.append([part.cpu() for part in theta])
        logits.append(output.cpu())
    sure, which = torch.cat(logits).softmax(1).topk(min(2, len(classes)), 1)
    merged = tuple(torch.cat(parts) for parts in zip(*thetas, strict=True))
    warps, outlines = movement.of_images(transformers_of(model), merged, images.shape[1:])
    return report.Outcome(
        inputs=images.images,
        outputs=torch.cat(seen),
        labels=None,
        predictions=which[:, 0],
        confidences=sure[:, 0],
        classes=classes,
        files=images.files,
        seconds=which[:, -1],
        thetas=merged,
        warps=tuple(warps) or None,
        outlines=tuple(outlines) or None,
    )


def table(outcome: report.Outcome) -> str:
    """A line a picture: file, class, confidence, second class."""
    assert outcome.files is not None and outcome.seconds is not None
    rows = [("file", "class", "confidence", "second")]
    for file, which, sure, second in zip(
        outcome.files[:TABLE],
        outcome.predictions.tolist(),
        outcome.confidences.tolist(),
        outcome.seconds.tolist(),
        strict=False,
    ):
        classes = (shown(outcome.classes[index]) for index in (which, second))
        label, runner_up = classes
        rows.append((shown(file), label, f"{sure:.2%}", runner_up))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"{file:{widths[0]}}  {label:{widths[1]}}  {sure:>{widths[2]}}  {second}"
        for file, label, sure, second in rows
    ]
    if len(outcome) > TABLE:
        lines.append(f"and {len(outcome) - TABLE} more, in predictions.csv")
    return "\n".join(lines)
