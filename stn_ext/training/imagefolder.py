"""Pictures of one's own: a folder for each class, with pictures in it and in the folders below."""

from __future__ import annotations

import math
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from . import decoding, memory
from .errors import UserError

S = TypeVar("S")
T = TypeVar("T")
Say = Callable[[str], None]

# Pixels of the first picture, whose size is by default that of all. Beyond the first number training is slow,
# which is said; beyond the second no usual batch fits into memory.
_LARGE, _TOO_LARGE = 128 * 128, 1024 * 1024

_SHOWN_CLASSES, _SHOWN_NAMES = 20, 5  # the rest of which is counted


@dataclass(frozen=True)
class Listing:
    """What lies in a folder of classes: the pictures of each, and by the reason what is left out."""

    folder: Path
    classes: dict[str, list[Path]] = field(default_factory=dict)
    left_out: dict[str, list[Path]] = field(default_factory=dict)

    def leave_out(self, path: Path, reason: str) -> None:
        self.left_out.setdefault(reason, []).append(path)


@dataclass(frozen=True)
class Files:
    """The pictures in the order in which they are used, and the class of each."""

    paths: list[Path]
    labels: list[int]
    names: tuple[str, ...]


def load(
    folder: Path,
    *,
    size: Sequence[int] | None = None,
    channels: int | None = None,
    classes: Sequence[str] | None = None,
    limit: int | None = None,
    num_workers: int = 0,
    background: str = "white",
    say: Say | None = None,
) -> tuple[Tensor, Tensor, tuple[str, ...], tuple[str, ...]]:
    """(uint8 images (N, C, H, W), int64 labels (N,), the classes' names, the files' names below the folder)

    The arguments are those of :func:`stn_ext.training.data.load`.

    Raises:
        UserError: no pictures, damaged ones, or more than fit into memory.
    """
    files = find(folder, classes, limit, say)
    decoder = Decoder(files.paths, background, num_workers, say)
    shape = decoder.shape(size, channels)
    _check_memory(len(files.paths), shape, decoder.memory(), decoder.tell)
    images = torch.empty(len(files.paths), *shape, dtype=torch.uint8)

    def keep(index: int, pixels: np.ndarray) -> None:
        images[index] = torch.from_numpy(pixels)

    decoder.tell_changes(decoder.decode(shape, keep))
    below = tuple(str(path.relative_to(folder)) for path in files.paths)
    return images, torch.tensor(files.labels), files.names, below


def find(folder: Path, classes: Sequence[str] | None, limit: int | None, say: Say | None) -> Files:
    """Looks for the pictures, and says what there is; the arguments are those of :func:`load`."""
    listing = list_classes(folder)
    names = tuple(classes or sorted(listing.classes))
    _check_classes(listing, names)
    if say:
        say(table(listing, names))
    labels, paths = _interleave([listing.classes.get(name, []) for name in names], limit)
    return Files(paths, labels, names)


class Decoder:
    """Decodes files, several at a time, and says what it does."""

    def __init__(self, paths: list[Path], background: str, num_workers: int, say: Say | None) -> None:
        self.paths, self.background, self._say = paths, background, say
        self.workers = max(1, min(num_workers, len(paths)))
        self.tell: Say = say or (lambda text: None)
        self._largest: list[int] = []

    def size(self, size: Sequence[int] | None) -> tuple[int, int]:
        """(height, width): those asked for, or the first picture's."""
        if size:
            return size[0], size[1]
        with decoding.quietly():
            return _default_size(self.paths[0], decoding.read_header(self.paths[0]).pixels, self.tell)

    def shape(self, size: Sequence[int] | None, channels: int | None) -> tuple[int, int, int]:
        """(C, H, W) of each decoded picture; looks at all files."""
        with decoding.quietly():
            looking = "looking at the pictures"
            headers = list(each(decoding.read_header, self.paths, self.workers, looking, self._say))
        self._largest = sorted(header.pixels for header in headers)[-self.workers :]
        self.grey = all(header.grey for header in headers)
        return channels or (1 if self.grey else 3), *self.size(size)

    def memory(self) -> int:
        """The bytes that it takes to decode the largest of the pictures that :meth:`shape` has seen."""
        return sum(self._largest) * decoding.BYTES_PER_PIXEL

    def decode(
        self, shape: tuple[int, int, int], keep: Callable[[int, np.ndarray], None], every: int = 1
    ) -> Counter[str]:
        """Gives each picture to ``keep``, uint8 (C, H, W), in any order; returns how often what was changed.

        ``every``: how many files there are for each that is decoded.
        """
        channels, height, width = shape

        def read(index: int) -> tuple[str, ...]:
            picture = decoding.decode(self.paths[index], channels, (height, width), self.background)
            keep(index, picture.pixels.transpose(2, 0, 1))
            return picture.changes

        reading = "reading the pictures"
        with decoding.quietly():
            some = range(0, len(self.paths), every)
            changes = each(read, some, self.workers, reading, self._say)
            return Counter(change for picture in changes for change in picture)

    def tell_changes(self, changes: Counter[str]) -> None:
        for change, count in sorted(changes.items()):
            self.tell(f"{count} of {len(self.paths)} pictures were {change}")


def list_classes(folder: Path) -> Listing:
    """Looks through the folder; class names are those of the folders in it, and nothing else.

    Raises:
        UserError: there is no such folder, or one in it cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"expected pictures in {folder}/CLASS, but there is no folder {folder}")
    listing = Listing(folder)
    above = {_identity(path) for path in (folder, *folder.resolve().parents)}
    for entry in _entries(folder):
        path = folder / entry.name
        if _is_hidden(entry.name):
            listing.leave_out(path, "hidden")
        elif not _is_folder(entry):
            listing.leave_out(path, "in no class's folder")
        elif _identity(path) in above:
            listing.leave_out(path, "a link to a folder around it")
        else:
            try:
                entry.name.encode()
            except UnicodeEncodeError:
                raise UserError(
                    f"{folder}: expected the class {entry.name!r} to have a name in UTF-8"
                ) from None
            listing.classes[entry.name] = pictures_below(path, above, listing)
    if not listing.classes:
        raise UserError(f"expected pictures in {folder}/CLASS, but {folder} holds no such folder")
    return listing


def pictures_below(top: Path, above: set[tuple[int, int]], listing: Listing) -> list[Path]:
    """The pictures in the folder and those below, each of which is entered once however links lead to it."""
    pictures, entered, waiting = [], {*above, _identity(top)}, [top]
    while waiting:
        folder = waiting.pop()
        for entry in _entries(folder):
            path = folder / entry.name
            if _is_hidden(entry.name):
                listing.leave_out(path, "hidden")
            elif _is_folder(entry):
                if _identity(path) in entered:
                    listing.leave_out(path, "a link to a folder around it, or seen already")
                else:
                    entered.add(_identity(path))
                    waiting.append(path)
            elif path.suffix.lower() in decoding.formats():
                pictures.append(path)
            else:
                listing.leave_out(path, "of no format that Pillow reads")
    return sorted(pictures)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror}") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _identity(folder: Path) -> tuple[int, int]:
    try:
        status = os.stat(folder)
    except OSError as error:  # a path that is too long for the system
        raise UserError(f"cannot read the folder {folder}: {error.strerror}") from error
    return status.st_dev, status.st_ino


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _check_classes(listing: Listing, names: Sequence[str]) -> None:
    unknown = [name for name in listing.classes if name not in set(names)]
    if unknown:
        raise UserError(
            f"{listing.folder / unknown[0]}: the network knows no class {unknown[0]!r}, "
            f"only {_some(map(shown, names), len(names))}"
        )
    empty = [name for name, pictures in listing.classes.items() if not pictures]
    if empty:
        raise UserError(
            f"{listing.folder}: expected a picture in each class's folder that Pillow can read, "
            f"but there is none in {_some(map(shown, empty), len(empty))}"
        )


def _interleave(classes: list[list[Path]], limit: int | None) -> tuple[list[int], list[Path]]:
    """(labels, files): one of each class, then a second one of each: the first N are a fair sample."""
    order = sorted(
        (position, label) for label, pictures in enumerate(classes) for position in range(len(pictures))
    )[:limit]
    return [label for _, label in order], [classes[label][position] for position, label in order]


def _default_size(path: Path, pixels: int, tell: Say) -> tuple[int, int]:
    """(height, width) of that picture, unless it is too large to be everybody's."""
    if pixels > _TOO_LARGE:
        raise UserError(
            f"{path} has {pixels} pixels, too many to be everybody's size: say --image_size HEIGHT WIDTH"
        )
    height, width = decoding.decode(path, 1).pixels.shape[:2]
    if pixels > _LARGE:
        scale = 64 / max(height, width)
        smaller = " ".join(str(max(1, round(length * scale))) for length in (height, width))
        tell(
            f"all pictures get the first one's size, {height} {width} (HEIGHT WIDTH), slow to train on: "
            f"--image_size {smaller} makes them smaller"
        )
    return height, width


def _check_memory(count: int, shape: tuple[int, int, int], decoding: int, tell: Say) -> None:
    """Says what is needed for so many images of that shape, and refuses what does not fit."""
    # Twice: training copies what it holds out for validation and the rest, a test keeps what it warped.
    need = 2 * count * math.prod(shape) + decoding
    what = described(count, shape)
    advice = "make them smaller with --image_size, or fewer with --limit, or train with a --cache_dir"
    memory.check(need, what, advice)
    tell(f"reading {what}: {memory.size(need)} of memory")


def described(count: int, shape: tuple[int, int, int]) -> str:
    channels, height, width = shape
    kind = "grey" if channels == 1 else "colour"
    return f"{count} pictures as {height} {width} (HEIGHT WIDTH) in {kind}"


def each(
    work: Callable[[S], T], tasks: Sequence[S], workers: int, title: str, say: Say | None
) -> Iterator[T]:
    """What work makes of each task, in their order, by that many threads; a bar shows how far it is.

    Few tasks at a time wait for a thread, so that many take no memory, and an error is met soon.
    """
    from tqdm import tqdm  # here, as nothing else of this file needs it

    hidden = say is None or not sys.stdout.isatty()
    waiting: deque[Future[T]] = deque()
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(
            total=len(tasks), desc=title, unit=" pictures", leave=False, file=sys.stdout, disable=hidden
        ) as bar,
    ):
        for task in tasks:
            waiting.append(pool.submit(work, task))
            if len(waiting) > 8 * workers:
                yield waiting.popleft().result()
                bar.update()
        while waiting:
            yield waiting.popleft().result()
            bar.update()


def table(listing: Listing, names: Sequence[str]) -> str:
    """How many pictures each class has, a line each, and what was left out."""
    counts = [len(listing.classes.get(name, [])) for name in names]
    lines = [f"{listing.folder}: {sum(counts)} pictures in {len(names)} classes"]
    rows = [(shown(name), count) for name, count in zip(names, counts, strict=True)][:_SHOWN_CLASSES]
    width = max(len(name) for name, _ in rows)
    lines += [f"  {name:{width}}  {count}" for name, count in rows]
    if len(names) > len(rows):
        lines.append(f"  and {len(names) - len(rows)} more classes with {sum(counts[len(rows) :])} pictures")
    absent = [name for name in names if name not in listing.classes]
    if absent:
        lines.append(f"no folder, hence no pictures of {_some(map(shown, absent), len(absent))}")
    return "\n".join(lines + left_out(listing))


def left_out(listing: Listing) -> list[str]:
    """A line for each reason for which something was left out."""
    lines = []
    for reason, paths in sorted(listing.left_out.items()):
        within = (shown(str(path.relative_to(listing.folder))) for path in paths)
        lines.append(f"left out, {reason} ({len(paths)}): {_some(within, len(paths))}")
    return lines


def shown(name: str) -> str:
    """The name as it can be printed, whatever it holds."""
    return name if name.isprintable() else ascii(name)


def _some(names: Iterable[str], count: int) -> str:
    """The first names, and how many more there are."""
    first = [name for name, _ in zip(names, range(_SHOWN_NAMES), strict=False)]
    return ", ".join(first) + (f" and {count - len(first)} more" if count > len(first) else "")
