"""Which epochs are written, which was the best, and what is told of them when a run ends early."""

from __future__ import annotations

import math
import shlex
from argparse import Namespace
from pathlib import Path
from typing import Any

from . import checkpoints, config
from .distributed import Process
from .errors import UserError
from .files import set_aside, write_atomically
from .options import program

History = list[dict[str, Any]]


def accuracies(history: History) -> list[float]:
    """Of the validation images, epoch by epoch."""
    return [entry["validation"]["accuracy"] for entry in history]


def epochs_since_best(history: History) -> int:
    """How many epochs the validation accuracy has not risen beyond its best."""
    found = accuracies(history)
    return len(found) - 1 - found.index(max(found)) if found else 0


class Saver:
    """Writes checkpoints, and keeps the last epoch's at hand for an interruption."""

    def __init__(self, args: Namespace, epoch: int, history: History) -> None:
        self.args, self.epoch_on_disk = args, epoch
        self.last = (epoch, b"")  # the last whole epoch, and its checkpoint's content
        self.directory = config.directory(args, "checkpoint")
        kept = args.save_best == "on" and checkpoints.find(self.directory, checkpoints.BEST)
        self.best = max(accuracies(history), default=-math.inf) if kept else -math.inf

    def epoch_done(self, state: dict, *, final: bool) -> None:
        """Takes in an epoch, and writes it where it is due; the final one always is."""
        self.last = epoch, content = state["epoch"], checkpoints.to_bytes(state)
        if epoch % self.args.num_freq_save == 0 or final:
            self.write()
        accuracy = accuracies(state["history"])[-1]
        if self.args.save_best == "on" and accuracy > self.best:
            self.best = accuracy
            write_atomically(checkpoints.path_of(self.directory, checkpoints.BEST), content)

    def write(self) -> None:
        epoch, content = self.last
        write_atomically(checkpoints.path_of(self.directory, epoch), content)
        self.epoch_on_disk = epoch

    def keep(self) -> str:
        """Saves the last good epoch after a failure; returns what to tell the user."""
        epoch, _ = self.last
        if epoch == 0:
            return "no epoch before it was finished"
        if self.epoch_on_disk < epoch:
            self.write()
        path = checkpoints.find(self.directory, epoch) or self.args.resume_from
        return f"the last good checkpoint is {path}"

    def finish(self) -> str:
        """Saves the last whole epoch of a run that ends early; returns what to tell the user."""
        epoch, _ = self.last
        if epoch == 0:
            return "no epoch was finished, and nothing is saved"
        if self.epoch_on_disk < epoch:
            self.write()
        go_on = ["--train_continue", "on"]
        if checkpoints.find(self.directory) is None:  # nothing since the checkpoint that it began from
            go_on = ["--resume_from", self.args.resume_from]
        where = [name for name in vars(self.args) if name in self.args.given and name in config.PLACES]
        words = [word for name in where for word in (f"--{name}", getattr(self.args, name))]
        name = program().replace("main.py", "python main.py")
        command = f"{name} {shlex.join(['--mode', 'train', *words, *go_on])}"
        return f"epoch {epoch} is saved; go on with: {command}"


def settle_best(directory: Path, path: Path, state: dict, process: Process) -> None:
    """Sees to it that model_best.pth is of the best epoch of a run that goes on, or is not there.

    It may be of an epoch that was lost with a killed run, or have been asked for only now. ``path`` is the
    checkpoint from which the run goes on, ``state`` what is in it.
    """
    first = state["epoch"] - len(state["history"]) + 1  # old checkpoints lack the epochs before
    epoch = state["epoch"] - epochs_since_best(state["history"])
    history = state["history"][: epoch - first + 1]
    kept = checkpoints.find(directory, checkpoints.BEST)
    for folder in dict.fromkeys((directory, path.parent)):
        for name in (checkpoints.BEST, epoch):
            candidate = checkpoints.find(folder, name)
            if candidate is None or not _is_of(candidate, epoch, history):
                continue
            if candidate != kept:
                write_atomically(
                    checkpoints.path_of(directory, checkpoints.BEST),
                    checkpoints.to_bytes(checkpoints.load(candidate)),
                )
            return
    if kept:
        set_aside([(directory, kept.name)])
    process.say(
        f"the checkpoint of epoch {epoch}, the best so far, is gone: the best of those to come is kept"
    )


def _is_of(path: Path, epoch: int, history: History) -> bool:
    try:
        state = checkpoints.load(path)
    except UserError:
        return False
    return bool(state["epoch"] == epoch and state["history"] == history)
