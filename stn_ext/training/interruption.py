"""Ctrl-C between two training steps, not in the middle of something."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any


class Interruption:
    """While entered, what would raise KeyboardInterrupt at once does so in :meth:`check`.

    Raised anywhere, it could leave a lock of TensorBoard's or of the process group taken for ever.
    """

    def __init__(self) -> None:
        self._requested = False
        self._before: dict[int, Callable[[int, FrameType | None], Any]] = {}

    def __enter__(self) -> Interruption:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is signal.default_int_handler:
                self._before[number] = signal.default_int_handler
                signal.signal(number, self._request)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: object) -> None:
        self._requested = True

    def check(self) -> None:
        if self._requested:
            raise KeyboardInterrupt
