"""Runs main.py and display_result.py as a user does."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent


def environment() -> dict[str, str]:
    # One thread: the bits depend on their number, and the tests' small batches gain nothing by more.
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def run(script: str, *arguments: object, prefix: list[str] | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        (prefix or [sys.executable]) + [script, *map(str, arguments)],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def succeed(script: str, *arguments: object, prefix: list[str] | None = None) -> str:
    """Runs the script, which must succeed, and returns what it printed."""
    done = run(script, *arguments, prefix=prefix)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextlib.contextmanager
def started(*words: object, ignored: Sequence[int] = (), **options) -> Iterator[subprocess.Popen]:
    """A process that a test may interrupt, and that does not outlive the test; it ignores those signals."""

    def signals() -> None:
        # A shell's background jobs ignore Ctrl-C, and hand that down.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)

    process = subprocess.Popen(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=signals,
        **{"env": {**environment(), "PYTHONPATH": str(ROOT)}, **options},
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def directories(root: Path) -> list[str]:
    """The options that put everything a run writes under root."""
    return [
        "--dir_data", str(root / "datasets"), "--dir_log", str(root / "log"),
        "--dir_checkpoint", str(root / "checkpoints"), "--dir_result", str(root / "results"),
    ]  # fmt: skip
