"""Trained networks, loaded in one line; what they need is not loaded before."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .training.network import Network

__all__ = ["FileError", "load"]


class FileError(OSError, ValueError):
    """A file that is missing, cannot be read, or holds something else than it should; its text is one line.

    It is an OSError and a ValueError, as a program may expect either.
    """


def load(
    path: str | os.PathLike[str],
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Network:
    """A trained network from a checkpoint, ready for use: see :class:`stn_ext.training.network.Network`.

    Args:
        path: a checkpoint that ``main.py --mode train`` or ``--mode export --format weights`` wrote; or the
            name of one that comes with the package: mnist, mnist_cls (without a transformer) or mnist_rts
            (turned, scaled and moved digits).
        device: where to; the CPU when None.
        dtype: of the weights and of the computation: float32 (when None), float64, float16 or bfloat16.

    No code that a file may hold is run, so that a stranger's checkpoint may be loaded.

    Raises:
        FileError: there is no such file, or it is damaged or of another program.
        TypeError: what is no path, or another dtype.

    Example:
        >>> import torch
        >>> import stn_ext
        >>> network = stn_ext.load("mnist")
        >>> network.classes
        ('0', '1', '2', '3', '4', '5', '6', '7', '8', '9')
        >>> one = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
        >>> one[:, :, 4:24, 13:16] = 255  # a vertical stroke
        >>> network.predict(one)[0].label
        '1'
        >>> network.theta(one).shape, network.warp(one).shape
        (torch.Size([1, 2, 3]), torch.Size([1, 1, 28, 28]))

        So are pictures: ``network.predict(["photograph.jpg"])``.
    """
    from .training.network import load as load_network

    return load_network(path, device=device, dtype=dtype)
