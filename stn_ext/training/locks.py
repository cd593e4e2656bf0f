"""A run has its directories alone: locks that the kernel releases, and that say who holds them."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO

from .errors import UserError


@contextmanager
def locked(directory: Path, what: str, wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Holds the directory for ``what``, such as "training", alone; the kernel lets go of it with the process.

    The lock is a file beside the directory, or the file, which may itself be replaced; it names the process
    that holds it. Where another does, ``wait`` is told so once, and its end is waited for.

    Raises:
        UserError: another process holds it, and ``wait`` is None.
    """
    directory = directory.resolve()
    path = directory.with_name(f".{directory.name}.lock")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise UserError(f"cannot write the lock {path}: {error.strerror}") from error
    with open(descriptor, "r+", errors="replace") as file:
        try:
            if not _taken(file):
                holder = f"{directory} is in use by {' '.join(file.read(500).split()) or 'another process'}"
                if wait is None:
                    raise UserError(f"{holder}: wait for its end, or choose another --scope")
                wait(f"{holder}: waiting for its end")
                while not _taken(file):  # not in the kernel: Ctrl-C is to end it
                    time.sleep(0.1)
        except OSError as error:  # some network file systems have no locks
            print(
                f"{directory} cannot be locked ({error.strerror}): start no other run there",
                file=sys.stderr,
                flush=True,
            )
        since = datetime.now().astimezone().isoformat(" ", "seconds")
        holder = f"{what}, process {os.getpid()} on {socket.gethostname()}, since {since}\n"
        try:
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, holder.encode())  # past the buffer, which would fail again when closed
        except OSError as error:
            raise UserError(f"cannot write the lock {path}: {error.strerror}") from error
        yield


def _taken(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
