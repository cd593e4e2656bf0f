"""Checkpoints: a file an epoch, from which a run goes on and a network is rebuilt."""

from __future__ import annotations

import io
import re
from pathlib import Path

import torch

from .errors import UserError

FORMAT = "stn_ext checkpoint 1"
_NAME = re.compile(r"model_epoch(\d{4,})\.pth")
_KEYS = {"epoch", "model", "optimizer", "scheduler", "random", "args", "data"}


def path_of(directory: Path, epoch: int) -> Path:
    return directory / f"model_epoch{epoch:05d}.pth"


def find(directory: Path, epoch: int | None = None) -> Path | None:
    """The checkpoint of an epoch, or of the latest; None where there is none.

    The number in the name may have four digits.
    """
    paths = sorted(directory.glob("model_epoch*.pth"))
    found = {int(match[1]): path for path in paths if (match := _NAME.fullmatch(path.name))}
    return found.get(max(found, default=-1) if epoch is None else epoch)


def to_bytes(state: dict) -> bytes:
    """The content of a checkpoint's file."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    return buffer.getvalue()


def load(path: Path) -> dict:
    """Reads a checkpoint onto the CPU.

    Raises:
        UserError: a file that is truncated, or of another program.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no error of its own: whatever it meets, the file is at fault
        raise UserError(
            f"{path} is no readable checkpoint (truncated, or another program's): "
            "delete it to use an earlier one"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT or not state.keys() >= _KEYS:
        raise UserError(f"{path} is not a checkpoint of this program")
    return state
