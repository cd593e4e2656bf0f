"""The program, by whichever name it was started: main.py of a checkout, stn-ext, python -m stn_ext."""

from __future__ import annotations

import os

from . import config
from .distributed import launch
from .errors import guarded
from .export import export
from .predict import predict
from .test import test
from .train import train

MODES = {"train": train, "test": test, "predict": predict, "export": export}


def main() -> None:
    args = config.parse()
    launch(MODES[args.mode], args)


def run() -> int:
    """The same; returns the exit code, and says in one line what is the matter."""
    return guarded(main, quiet=os.environ.get("RANK", "0") != "0")
