"""Mistakes of the user, as distinct from faults of the program, and what the command line makes of them."""

from __future__ import annotations

import sys
from collections.abc import Callable


class UserError(Exception):
    """Something the user can put right; its text is shown as one line, with no traceback."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with a text that says what was saved."""


def guarded(work: Callable[[], None], *, quiet: bool = False) -> int:
    """Runs the work; returns the exit code: 0, 2 for a user's mistake, 130 for an interruption.

    The one line about it goes to stderr, unless quiet.
    """
    try:
        work()
        return 0
    except (UserError, OSError) as error:  # OSError: a disc that is full, a file that may not be read
        text, code = f"error: {error}", 2
    except KeyboardInterrupt as interruption:
        text, code = str(interruption) or "interrupted", 130
    if not quiet:
        print(" ".join(text.split()), file=sys.stderr, flush=True)
    return code
