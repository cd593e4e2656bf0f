"""What the programs do before their imports, which take seconds; by itself, as stn_ext imports PyTorch.

Standard streams that are closed or full, a signal, a package that is missing: none ends in a traceback.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

_PROGRAMS = ("__main__", "__mp_main__")  # the second is a program's name in the processes that it starts


@contextlib.contextmanager
def importing(name: str) -> Iterator[None]:
    """Around a program's imports; name is its ``__name__``: nothing happens where a test imports it.

    The handlers of signals stay until :func:`stn_ext.training.errors.guarded` sets its own.
    """
    if name not in _PROGRAMS:
        yield
        return
    _prepare_streams()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup, and a shell's background jobs
            # Not an exception, which packages catch while they are imported. Nothing has been done yet.
            signal.signal(number, lambda number, frame: _end("interrupted", 130))
    try:
        yield
    except ImportError as error:
        _end(f"error: {error}", 2)


def command() -> int:
    """The installed program, ``stn-ext``: that of main.py; returns its exit code."""
    with importing("__main__"):
        from stn_ext.training.program import run
    return run()


def _end(text: str, code: int) -> NoReturn:
    if os.environ.get("RANK", "0") == "0":
        with contextlib.suppress(OSError):
            os.write(2, (" ".join(text.split()) + "\n").encode(errors="backslashreplace"))
    os._exit(code)


def _prepare_streams() -> None:
    """Opens those that a shell's ``>&-`` closed, or the next file that is opened would take their place."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the least descriptor that is free: this one
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be text
    sys.stdout = _Output(sys.stdout)


class _Output:
    """Standard output that, once it cannot be written any more, says so and is silent from then on.

    Training is worth more than its log: it goes on when the disk that takes it is full, or the terminal
    or the reader of a pipe has gone.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._silenced():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._silenced():
            self._stream.flush()

    @contextlib.contextmanager
    def _silenced(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())  # what is still in the buffer goes there too
            os.close(nowhere)
            with contextlib.suppress(OSError):
                text = f"standard output cannot be written ({error.strerror}): going on without it"
                print(text, file=sys.stderr, flush=True)
