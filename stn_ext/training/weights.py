"""The weights that come with the package, and any other checkpoint that is named instead of them."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import UserError

FOLDER = Path(__file__).parent / "weights"


def names() -> list[str]:
    """Of those that come with the package; each has a file of facts beside it, NAME.json."""
    return sorted(path.stem for path in FOLDER.glob("*.pth"))


def find(name: str | os.PathLike[str]) -> Path:
    """The checkpoint of that name, or at that path.

    Raises:
        UserError: there is neither.
    """
    if isinstance(name, str) and name in names():
        return FOLDER / f"{name}.pth"
    path = Path(name)
    if not os.path.lexists(path):
        raise UserError(f"{path}: expected a checkpoint's file, or one of {', '.join(names())}")
    return path
