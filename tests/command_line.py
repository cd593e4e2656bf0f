"""Runs main.py and display_result.py as a user does."""

from __future__ import annotations

import contextlib
import io
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


def run_here(*arguments: object) -> subprocess.CompletedProcess:
    """main.py with these options, on the CPU, in this process: without the seconds that a new one takes."""
    from stn_ext.training import config, program
    from stn_ext.training.distributed import launch
    from stn_ext.training.errors import guarded

    def main() -> None:
        args = config.parse([*map(str, arguments), "--gpu_ids=-1"])
        launch(program.MODES[args.mode], args)

    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        code = guarded(main)
    return subprocess.CompletedProcess(arguments, code, output.getvalue(), errors.getvalue())


def succeed_here(*arguments: object) -> str:
    """The same, which must succeed; returns what it printed."""
    done = run_here(*arguments)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return done.stdout
