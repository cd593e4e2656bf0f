"""Writing files so that nobody ever reads half of one, and reading none but regular ones."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .errors import UserError


def make_directory(path: str | Path) -> Path:
    """Creates the directory where it is missing, and makes sure that files can be written there."""
    path = Path(path)
    probe = path / f".write-test-{os.getpid()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"cannot write to the directory {path}: {error.strerror}") from error
    return path


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replaces the file in one step: after a crash the old content is there, or the new, never a part."""
    if isinstance(content, str):
        content = content.encode()
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def set_aside(directory: Path, pattern: str) -> int:
    """Moves matching files to ``directory/previous``, in place of what was there; returns how many."""
    files = sorted(directory.glob(pattern))
    if files:
        previous = directory / "previous"
        previous.mkdir(exist_ok=True)
        for old in previous.glob(pattern):
            old.unlink()
        for file in files:
            os.replace(file, previous / file.name)
    return len(files)


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Opens a regular file for reading; never waits, as to open a named pipe or to read a device may.

    Raises:
        UserError: there is none, it is something else, or it may not be read.
    """
    try:
        _check_regular(path, os.stat(path).st_mode)  # before it is opened, which makes some devices move
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    with os.fdopen(descriptor, "rb") as file:
        _check_regular(path, os.fstat(descriptor).st_mode)
        yield file


def _check_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kinds = {
            stat.S_IFDIR: "a folder",
            stat.S_IFIFO: "a named pipe",
            stat.S_IFSOCK: "a socket",
            stat.S_IFCHR: "a device",
            stat.S_IFBLK: "a device",
        }
        raise UserError(f"{path}: expected a regular file, but it is {kinds.get(stat.S_IFMT(mode), 'none')}")
