"""Ctrl-C, the wish to terminate and a lost connection: all end a run alike."""

from __future__ import annotations

import signal
from types import TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def raise_when_signalled() -> None:
    """From here on each signal raises KeyboardInterrupt; but for those that are ignored, as under nohup."""
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


def ignore_signals() -> None:
    """For a process that is ending already."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class Interruption:
    """While entered, what would raise KeyboardInterrupt at once does so in :meth:`check`.

    Raised anywhere, it could leave a lock of TensorBoard's or of the process group taken for ever.
    """

    def __init__(self) -> None:
        self.requested = False
        self._handled = [n for n in SIGNALS if signal.getsignal(n) is signal.default_int_handler]

    def __enter__(self) -> Interruption:
        for number in self._handled:
            signal.signal(number, self._request)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in self._handled:
            signal.signal(number, signal.SIG_IGN if self.requested else signal.default_int_handler)

    def _request(self, number: int, frame: object) -> None:
        self.requested = True

    def check(self) -> None:
        """Raises KeyboardInterrupt where a signal has come."""
        if self.requested:
            raise KeyboardInterrupt
