"""A run has its directories alone: locks that the kernel releases, and that say who holds them."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from .errors import UserError


@contextmanager
def locked(directory: Path, what: str) -> Iterator[None]:
    """Holds the directory for ``what``, such as "training", alone; the kernel lets go of it with the process.

    The lock is a file beside the directory, which may itself be replaced; it names the process that holds it.

    Raises:
        UserError: another process holds it.
    """
    directory = directory.resolve()
    path = directory.with_name(f".{directory.name}.lock")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise UserError(f"cannot write the lock {path}: {error.strerror}") from error
    with open(descriptor, "r+", errors="replace") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = " ".join(file.read(500).split()) or "another process"
            raise UserError(
                f"{directory} is in use by {holder}: wait for its end, or choose another --scope"
            ) from None
        except OSError as error:  # some network file systems have no locks
            print(
                f"{directory} cannot be locked ({error.strerror}): start no other run there",
                file=sys.stderr,
                flush=True,
            )
        since = datetime.now().astimezone().isoformat(" ", "seconds")
        file.truncate()
        file.write(f"{what}, process {os.getpid()} on {socket.gethostname()}, since {since}\n")
        file.flush()
        yield
