"""Writing files so that nobody ever reads half of one."""

from __future__ import annotations

import os
from pathlib import Path

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
