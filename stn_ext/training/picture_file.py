"""Decoded pictures in one file, of which a few at a time are in memory.

A page says what the file holds; then come the pictures, uint8 (C, H, W) each, and then a CRC-32 of each. It
is mapped into memory, and what has been read is let go of again, so that a process never holds much of it:
the system keeps of it what there is room for.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import mmap
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .errors import UserError
from .files import open_regular, replacing

MAGIC = b"stn_ext pictures 1\n"
PAGE = 4096  # bytes before the first picture

RESIDENT = 16 << 20  # bytes that may be mapped before they are let go of
_AROUND = 64 << 10  # bytes that the system maps around one that is read


class Damaged(Exception):
    """The file is one of this kind, but not as it was written; the text follows "is damaged:"."""


@dataclass(frozen=True)
class Contents:
    """What the first page says."""

    count: int
    shape: tuple[int, int, int]  # (C, H, W)
    source: str  # what the pictures were decoded from, as a checksum
    grey: bool  # whether all of them were grey before
    changes: dict[str, int]  # how many pictures were changed, by how
    checksums: str  # SHA-256 of the CRCs

    def size(self) -> int:
        """Of the file, in bytes."""
        return file_size(self.count, self.shape)


def file_size(count: int, shape: tuple[int, int, int]) -> int:
    return PAGE + count * (math.prod(shape) + 4)


class PictureFile:
    """Such a file, open for reading.

    A picture's checksum is compared when it is first read.
    """

    def __init__(self, path: Path) -> None:
        """Raises:
        UserError: there is no such file, or it is of another kind.
        Damaged: the first page or the checksums are not as they were written, or the file's end is missing.
        """
        self.path = path
        with open_regular(path) as file:
            self._file = os.fdopen(os.dup(file.fileno()), "rb")
            self.contents = contents = _first_page(path, file.read(PAGE))
            found = os.fstat(self._file.fileno()).st_size
            if found != contents.size():
                raise Damaged(f"expected {contents.size()} bytes, but it has {found}")
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        end = PAGE + contents.count * math.prod(contents.shape)
        table = self._map[end:]
        if hashlib.sha256(table).hexdigest() != contents.checksums:
            raise Damaged("its checksums are others")
        self.checksums = np.frombuffer(table, "<u4")
        pixels = np.frombuffer(self._map, np.uint8, end - PAGE, PAGE)
        self._pictures = pixels.reshape(contents.count, -1)
        self._compared = np.zeros(contents.count, bool)
        self._mapped = 0

    def __len__(self) -> int:
        return self.contents.count

    def read(self, index: Tensor) -> Tensor:
        """uint8 (n, C, H, W) of the pictures of that index (n,), on the CPU.

        Raises:
            UserError: the file was damaged, and is now removed, so that the next start decodes anew.
        """
        places = index.numpy()
        if os.fstat(self._file.fileno()).st_size < self.contents.size():  # a map of nothing ends the process
            raise self._removed("it was cut short")
        taken = self._pictures[places]
        for picture, place in zip(taken, places.tolist(), strict=True):
            if not self._compared[place]:
                if zlib.crc32(picture) != self.checksums[place]:
                    raise self._removed(f"the checksum of picture {place} is another")
                self._compared[place] = True
        self._mapped += len(places) * (taken[:1].nbytes + _AROUND)
        if self._mapped > RESIDENT:
            self._map.madvise(mmap.MADV_DONTNEED)
            self._mapped = 0
        return torch.from_numpy(taken.reshape(-1, *self.contents.shape))

    def _removed(self, reason: str) -> UserError:
        with suppress(OSError):
            if os.path.samestat(os.stat(self.path), os.fstat(self._file.fileno())):
                self.path.unlink()
        return UserError(
            f"{self.path} is damaged ({reason}) and has been removed: start again, with --train_continue on "
            "where an epoch was finished"
        )


class Writer:
    """Takes the pictures of a file that is being made, from several threads and in any order."""

    def __init__(self, descriptor: int, count: int, shape: tuple[int, int, int]) -> None:
        """The disk's room is taken at once, where the file system can."""
        self._descriptor, self._size = descriptor, file_size(count, shape)
        self._checksums = np.zeros(count, "<u4")
        try:
            os.posix_fallocate(descriptor, 0, self._size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise

    def keep(self, index: int, pixels: np.ndarray) -> None:
        """pixels: uint8 (C, H, W)"""
        content = memoryview(pixels.tobytes())
        self._checksums[index] = zlib.crc32(content)
        self._write(content, PAGE + index * len(content))

    def finish(self, contents: Contents) -> None:
        """Writes what says what the file holds; the contents' checksums are filled in."""
        table = self._checksums.tobytes()
        self._write(memoryview(table), self._size - len(table))
        told = {**asdict(contents), "checksums": hashlib.sha256(table).hexdigest()}
        text = json.dumps(told).encode()
        page = MAGIC + hashlib.sha256(text).hexdigest().encode() + b"\n" + text + b"\n"
        self._write(memoryview(page.ljust(PAGE, b"\0")), 0)

    def _write(self, content: memoryview, place: int) -> None:
        while content:
            written = os.pwrite(self._descriptor, content, place)
            content, place = content[written:], place + written


@contextmanager
def making(path: Path, count: int, shape: tuple[int, int, int]) -> Iterator[Writer]:
    """Makes such a file, which takes its place in one step when all is written.

    Raises:
        UserError: the file cannot be written, for instance as the disk is full.
    """
    with replacing(path) as file:
        yield Writer(file.fileno(), count, shape)


def _first_page(path: Path, page: bytes) -> Contents:
    """Raises UserError where the file is of another kind, Damaged where the page is not as it was written."""
    if not page.startswith(MAGIC):
        raise UserError(f"{path} holds no decoded pictures: move it away, or choose another --cache_dir")
    parts = page[len(MAGIC) :].split(b"\n")
    if len(parts) < 3 or parts[0] != hashlib.sha256(parts[1]).hexdigest().encode():
        raise Damaged("its first page is another")
    told = json.loads(parts[1])
    return Contents(**{**told, "shape": tuple(told["shape"])})
