"""Writing files so that nobody ever reads half of one and nothing is lost; reading none but regular ones.

What is written first bears a name of its own, ``.NAME.0123456789abcdef.tmp`` beside its place, and takes its
place in one step. What a killed run left under such a name is cleared at the next start.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from .errors import UserError

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")


def make_directory(path: str | Path) -> Path:
    """Creates the directory where it is missing, and makes sure that files can be written there."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        _try(path / "probe")
    except OSError as error:
        raise UserError(f"cannot write to the directory {path}: {error.strerror}") from error
    return path


def check_replaceable(path: Path) -> None:
    """Makes sure, before the work for it, that the file can be written, in place of another or not.

    Raises:
        UserError: it cannot, or something else than a file is there, which would be lost.
    """
    try:
        _try(path)
        if os.path.lexists(path):
            _check_regular(path, os.lstat(path).st_mode)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _try(path: Path) -> None:
    """Makes a file beside the path, as is done to write it, and removes it."""
    probe = temporary_name(path)
    os.close(_create(probe))
    probe.unlink()


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replaces the file in one step: after a crash the old content is there, or the new, never a part."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_together(contents: Mapping[Path, bytes | str]) -> None:
    """Replaces several files, once all of them are on the disk: where one has no room, none is replaced.

    A crash may come when some have their places, but leaves each of them whole, the old one or the new.
    """
    with ExitStack() as places:
        for path, content in contents.items():
            file = places.enter_context(replacing(path))
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file to write and read, which takes the path's place in one step when all is done.

    Raises:
        UserError: it cannot be written, for instance as the disk is full.
    """
    temporary = temporary_name(path)
    try:
        try:
            with open(_create(temporary), "w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _flush_directory(path.parent)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def replace_directory(directory: Path, fill: Callable[[Path], None], is_own: Callable[[Path], bool]) -> None:
    """Replaces the directory by one that ``fill`` writes, in one step where the system can.

    ``fill`` gets an empty directory. ``is_own`` tells, of a path below the old directory, whether it is of
    what is replaced; all else is the user's, and moves into the new directory.
    """
    directory = directory.resolve()  # what is replaced is the directory itself, not a link to it
    new = temporary_name(directory)
    try:
        new.mkdir()
        try:
            shutil.copymode(directory, new)
            fill(new)
            old = _exchange(new, directory)
        except BaseException:
            shutil.rmtree(new)
            raise
        _flush_directory(directory.parent)
        _retire(old, directory, is_own)
    except OSError as error:
        raise UserError(f"cannot replace {directory}: {error.strerror}") from error


def clear_temporaries(directory: Path, is_own: Callable[[Path], bool]) -> None:
    """Removes what a killed run left half written in the directory, or beside it to replace it.

    ``is_own`` is that of :func:`replace_directory`. Call this under the directory's lock only.
    """
    directory = directory.resolve()
    for path in directory.glob(".*.tmp"):
        if _TEMPORARY.fullmatch(path.name) and not path.is_dir():
            path.unlink(missing_ok=True)
    for path in directory.parent.glob(".*.tmp"):
        if _TEMPORARY.fullmatch(path.name) and path.name[1:-21] == directory.name and path.is_dir():
            _retire(path, directory, is_own)


def clear_temporaries_of(path: Path) -> None:
    """Removes what a killed run left of the file, half written. Call this under the file's lock only."""
    for left in path.parent.glob(".*.tmp"):
        if _TEMPORARY.fullmatch(left.name) and left.name[1:-21] == path.name and not left.is_dir():
            left.unlink(missing_ok=True)


def set_aside(patterns: Sequence[tuple[Path, str]]) -> list[Path]:
    """Moves the files of each directory that match a pattern to a new folder of it; returns where they are.

    It is ``previous/1``, then 2, and so on: the same number in all the directories, and new in each.
    """
    folders = [folder for directory, _ in patterns for folder in directory.glob("previous/*")]
    numbers = [int(folder.name) for folder in folders if re.fullmatch(r"[0-9]{1,9}", folder.name)]
    number = str(max(numbers, default=0) + 1)
    moved = []
    for directory, pattern in patterns:
        try:
            for file in sorted(directory.glob(pattern)):
                target = directory / "previous" / number / file.name
                target.parent.mkdir(parents=True, exist_ok=True)
                os.rename(file, target)
                moved.append(target)
        except OSError as error:
            raise UserError(f"cannot set {directory / pattern} aside: {error.strerror}") from error
    return moved


def temporary_name(path: Path) -> Path:
    """A name beside the path that no other process comes upon."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def _create(path: Path) -> int:
    """The descriptor of a new file, which cannot be one that somebody else put there."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)


def _flush_directory(directory: Path) -> None:
    """Makes the names in the directory outlive a loss of power."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that has no such thing
            raise
    finally:
        os.close(descriptor)


def _exchange(new: Path, directory: Path) -> Path:
    """Puts the new directory in the old one's place; returns where the old one is now.

    Linux exchanges the two in one step. Where it cannot, there is for a moment no directory, but never one of
    mixed content.
    """
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    with suppress(AttributeError):  # a C library without the call
        call = ctypes.CDLL(None, use_errno=True).renameat2
        if call(here, os.fsencode(new), here, os.fsencode(directory), exchange) == 0:
            return new
    old = temporary_name(directory)
    os.rename(directory, old)
    try:
        os.rename(new, directory)
    except OSError:
        os.rename(old, directory)
        raise
    return old


def _retire(old: Path, directory: Path, is_own: Callable[[Path], bool]) -> None:
    """Deletes the old directory, after all that is not its own has moved to the same place in the new one."""
    for path in sorted(old.rglob("*")):
        below = path.relative_to(old)
        target = directory / below
        is_directory = path.is_dir() and not path.is_symlink()
        if is_directory or is_own(below) or _TEMPORARY.fullmatch(path.name) or os.path.lexists(target):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(path, target)
    shutil.rmtree(old)


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
            stat.S_IFLNK: "a link",
            stat.S_IFIFO: "a named pipe",
            stat.S_IFSOCK: "a socket",
            stat.S_IFCHR: "a device",
            stat.S_IFBLK: "a device",
        }
        raise UserError(f"{path}: expected a regular file, but it is {kinds.get(stat.S_IFMT(mode), 'none')}")
