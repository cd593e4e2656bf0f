"""The network as torch.compile makes it, for training; its mistakes are the machine's, and take one line."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import nn

from .errors import UserError


def compiled(model: nn.Module) -> nn.Module:
    """The model, whose weights it shares, compiled when it is first called, once for each size of a batch.

    With sizes left open, which of two programs a batch gets would depend on those before it, and so would the
    bits of a training that goes on from a checkpoint.
    """
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns where there is no GPU
    return cast(nn.Module, torch.compile(model, dynamic=False))


@contextmanager
def compiling(on: bool) -> Iterator[None]:
    """Makes what PyTorch's compilers raise a UserError, such as of a C++ compiler that is not there."""
    if not on:
        yield
        return
    from torch._dynamo.exc import TorchDynamoException  # here, as it takes seconds

    try:
        yield
    except TorchDynamoException as error:
        reason = next(iter(str(error).splitlines()), "")
        raise UserError(
            f"--compile: PyTorch cannot compile the network here ({reason}): leave it out"
        ) from error
