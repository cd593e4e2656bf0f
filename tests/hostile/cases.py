"""Cases of hostile data, each a function that builds it below a folder, and what main.py is to make of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command_line import directories
from tests.hostile.isolation import assert_refused, run_isolated

OPTIONS = ["--net", "small", "--num_epoch", "1", "--batch_size", "16", "--scope", "cls", "--gpu_ids", "-1"]

Case = Callable[[Path], None]  # gets the folder in which "datasets" is --dir_data


class Cases(list):
    """Parameters of a test that calls :func:`check`; each method is a decorator that adds a case."""

    def refused(self, message: str, *options: str) -> Callable[[Case], None]:
        """It ends in one line with the message."""
        return lambda build: self.append(pytest.param(build, message, None, options, id=build.__name__))

    def taken(self, said: str, *options: str) -> Callable[[Case], None]:
        """It trains, and says that before."""
        return lambda build: self.append(pytest.param(build, None, said, options, id=build.__name__))


def check(root: Path, build: Case, message: str | None, said: str | None, options: tuple[str, ...]) -> None:
    build(root)
    done = run_isolated("main.py", *OPTIONS, *options, *directories(root))
    if message is not None:
        assert_refused(done, message)
    else:
        assert done.returncode == 0 and done.stderr == "", done
        assert said in done.stdout and "epoch 1/1" in done.stdout, done.stdout
