"""Checkpoints: a file an epoch, from which a run goes on and a network is rebuilt."""

from __future__ import annotations

import io
import os
import re
import warnings
import zipfile
from pathlib import Path
from typing import BinaryIO

import torch

from . import schema
from .errors import UserError
from .files import open_regular

FORMAT = "stn_ext checkpoint 1"
BEST = "best"  # in the place of an epoch's number, that of the best validation accuracy
_NAME = re.compile(r"model_epoch(\d{4,})\.pth")


def path_of(directory: Path, epoch: int | str) -> Path:
    return directory / ("model_best.pth" if epoch == BEST else f"model_epoch{epoch:05d}.pth")


def find(directory: Path, epoch: int | str | None = None) -> Path | None:
    """The checkpoint of an epoch, the best of all or, when None, the latest; None where there is none.

    The number in the name may have four digits.
    """
    if epoch == BEST:
        best = path_of(directory, BEST)
        return best if best.exists() else None
    found = _epochs(directory)
    return found.get(max(found, default=-1) if epoch is None else int(epoch))


def after(directory: Path, epoch: int) -> list[Path]:
    """The checkpoints of the epochs after that one."""
    return [path for number, path in _epochs(directory).items() if number > epoch]


def _epochs(directory: Path) -> dict[int, Path]:
    paths = sorted(directory.glob("model_epoch*.pth"))
    return {int(match[1]): path for path in paths if (match := _NAME.fullmatch(path.name))}


def to_bytes(state: dict) -> bytes:
    """The content of a checkpoint's file."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    return buffer.getvalue()


def load(path: Path) -> dict:
    """Reads a checkpoint onto the CPU, and finds each of its fields right.

    Raises:
        UserError: a file that is damaged or of another program, or what :func:`schema.check` refuses.
    """
    with open_regular(path) as file:
        return read(file, path)


def read(file: BinaryIO, path: Path) -> dict:
    """The same of an open file; the path is for messages."""
    state = _content(file, path)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path} is not a checkpoint of this program")
    try:
        return schema.check(state)
    except UserError as error:
        raise UserError(f"{path} is no checkpoint that this program wrote: {error}") from error


def _content(file: BinaryIO, path: Path) -> object:
    """What is in the file, all of whose content has the checksums that it was written with."""
    try:
        with zipfile.ZipFile(file) as archive:
            # As PyTorch writes it, nothing is compressed, and nothing there twice: it takes no more memory
            # than the file.
            entries, size = archive.infolist(), file.seek(0, os.SEEK_END)
            if {entry.compress_type for entry in entries} - {zipfile.ZIP_STORED}:
                raise ValueError("compressed entries")
            if sum(entry.file_size for entry in entries) > size:
                raise ValueError("entries larger than the file")
            damaged = archive.testzip()
        if damaged is not None:
            raise UserError(
                f"{path} is damaged, as the checksum of {damaged!r} in it tells: "
                "move it away to use an earlier one"
            )
        file.seek(0)
        with warnings.catch_warnings():  # of kinds of tensors that the schema refuses
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # zipfile and torch.load raise whatever they meet: the file is at fault
        raise UserError(
            f"{path} is no readable checkpoint (damaged, truncated, or another program's): "
            "move it away to use an earlier one"
        ) from error
