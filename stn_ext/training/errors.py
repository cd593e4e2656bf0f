"""Errors that are the user's or the machine's, not faults of the program, and what becomes of them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

import torch

from . import interruption

# What PyTorch says where the CPU's memory ends: it has no class of its own for that.
_EXHAUSTED = ("can't allocate memory", "not enough memory", "cannot allocate memory", "out of memory")


class UserError(Exception):
    """Something the user can put right; its text is shown as one line, with no traceback."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with a text that says what was saved."""


@contextlib.contextmanager
def memory_for(what: str, options: str) -> Iterator[None]:
    """Makes a want of memory a UserError, which says what it was wanted for and which options to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise UserError(f"there is not enough memory for {what}: lower {options}") from error


def out_of_memory(error: BaseException) -> bool:
    """Whether that is what the error is about, on the CPU or a GPU."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _EXHAUSTED)


def guarded(work: Callable[[], None], *, quiet: bool = False) -> int:
    """Runs the work; returns the exit code: 0, 2 for a user's mistake, 130 for an interruption.

    The one line about it goes to stderr, unless quiet. Signals to end raise KeyboardInterrupt meanwhile.
    """
    try:
        interruption.raise_when_signalled()
        with memory_for("this", "the sizes and numbers on the command line"):
            work()
        return 0
    except (UserError, OSError) as error:  # OSError: a disc that is full, a file that may not be read
        text, code = f"error: {error}", 2
    except KeyboardInterrupt as stop:
        interruption.ignore_signals()  # torchrun passes on what the terminal has sent already
        text, code = str(stop) or "interrupted", 130
    if not quiet:
        with contextlib.suppress(OSError):  # stderr may be full, or its terminal gone
            print(as_line(text), file=sys.stderr, flush=True)
    return code


def as_line(text: str) -> str:
    """One line, which moves no cursor and clears no screen whatever names are in it."""
    return "".join(
        letter if letter.isprintable() else ascii(letter)[1:-1] for letter in " ".join(text.split())
    )
