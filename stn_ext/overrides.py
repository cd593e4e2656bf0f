"""PyTorch's protocol for what stands for a tensor: proxies of torch.fx, subclasses of Tensor."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from torch.overrides import handle_torch_function, has_torch_function

__all__ = ["overridable"]

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def overridable(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Leaves a call to what stands for a tensor in it, as PyTorch's own functions do."""

    @functools.wraps(function)
    def call(*args: Parameters.args, **options: Parameters.kwargs) -> Result:
        given = (*args, *options.values()) if options else args
        if has_torch_function(given):
            return handle_torch_function(call, given, *args, **options)
        return function(*args, **options)

    return call
