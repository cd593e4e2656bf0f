"""An imagefolder's pictures decoded once, into a file of a folder that several runs may share.

The file's name says what it was made from, and in which size; its first page holds a checksum of the names
of the pictures, their lengths and times of change. Where these are others now, or Pillow is, or the file is
damaged, it is made anew. Of runs that want the same file at the same time one makes it, and the others wait.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from . import memory
from .errors import UserError
from .files import clear_temporaries_of, make_directory
from .imagefolder import Decoder, Files, described, find
from .locks import locked
from .picture_file import Contents, Damaged, PictureFile, file_size, making

_SAMPLE = 16  # pictures that are decoded beforehand, to tell how long all will take

Shape = tuple[int, int, int]


def load(
    folder: Path,
    directory: Path,
    *,
    size: Sequence[int] | None = None,
    channels: int | None = None,
    classes: Sequence[str] | None = None,
    limit: int | None = None,
    num_workers: int = 0,
    background: str = "white",
    say: Callable[[str], None] | None = None,
) -> tuple[PictureFile, Tensor, Tensor, tuple[str, ...]]:
    """(the file, int64 (N,) which of its pictures these are, their labels (N,), the classes' names)

    The arguments are those of :func:`stn_ext.training.imagefolder.load`; the file lies in ``directory``.

    Raises:
        UserError: as there, or the file cannot be written, or its place is taken by another kind of file.
    """
    files = find(folder, classes, limit, say)
    decoder = Decoder(files.paths, background, num_workers, say)
    source = fingerprint(folder, files)
    height, width = decoder.size(size)
    key = f"{folder.resolve()}\0{background}\0{limit}"
    name = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:16]

    def path_of(channels: int) -> Path:
        return directory / f"{name}-{channels}x{height}x{width}.pictures"

    for wanted in (channels,) if channels else (3, 1):
        found = _opened(path_of(wanted), source, decoder.tell)
        if found and (channels or found.contents.grey == (wanted == 1)):
            decoder.tell(f"{found.path} holds them decoded")
            break
    else:
        shape = decoder.shape((height, width), channels)
        found = _made(path_of(shape[0]), shape, source, decoder)
    decoder.tell_changes(Counter(found.contents.changes))
    return found, torch.arange(len(found)), torch.tensor(files.labels), files.names


def fingerprint(folder: Path, files: Files) -> str:
    """A checksum of what tells whether a picture is still the one that was decoded, and by what it was."""
    import PIL

    digest = hashlib.sha256(f"Pillow {PIL.__version__}\n".encode())
    for path in files.paths:
        try:
            status = os.stat(path)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        digest.update(os.fsencode(path.relative_to(folder)))
        digest.update(f"\0{status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _opened(path: Path, source: str, tell: Callable[[str], None]) -> PictureFile | None:
    """The file, where it is there, whole, and of these pictures."""
    if not os.path.lexists(path):
        return None
    try:
        found = PictureFile(path)
    except Damaged as error:
        tell(f"{path} is damaged: {error}; the pictures are decoded anew")
        return None
    if found.contents.source != source:
        tell(f"{path} is of pictures that have changed, or of another Pillow: they are decoded anew")
        return None
    return found


def _made(path: Path, shape: Shape, source: str, decoder: Decoder) -> PictureFile:
    """The file, from another run that has just made it, or made here."""
    make_directory(path.parent)
    with locked(path, "a run that decodes pictures", decoder.tell):
        found = _opened(path, source, lambda text: None)
        if found is None:
            clear_temporaries_of(path)
            _make(path, shape, source, decoder)
            found = PictureFile(path)
    return found


def _make(path: Path, shape: Shape, source: str, decoder: Decoder) -> None:
    """Says what it will take, and decodes all pictures into a new file."""
    count, need = len(decoder.paths), file_size(len(decoder.paths), shape)
    free = shutil.disk_usage(path.parent).free
    what = f"{described(count, shape)} in {path}"
    if need > free:
        raise UserError(
            f"{what} need {memory.size(need)} of disk, but only {memory.size(free)} are free: make them "
            "smaller with --image_size, or fewer with --limit, or name another --cache_dir"
        )
    memory.check(decoder.memory(), "decoding the largest pictures", "lower --num_workers")
    every = max(1, count // _SAMPLE)
    began = time.monotonic()
    decoder.decode(shape, lambda index, pixels: None, every)
    seconds = (time.monotonic() - began) * every
    decoder.tell(
        f"decoding {what}: {memory.size(need)} of disk, of {memory.size(free)} that are free, "
        f"and about {_duration(seconds)}"
    )
    with making(path, count, shape) as writer:
        changes = decoder.decode(shape, writer.keep)
        writer.finish(Contents(count, shape, source, decoder.grey, dict(changes), ""))


def _duration(seconds: float) -> str:
    return f"{math.ceil(seconds)} s" if seconds < 100 else f"{seconds / 60:.0f} min"
