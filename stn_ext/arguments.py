"""Arguments as users give them: sizes, numbers of images, and options."""

from __future__ import annotations

import operator
import reprlib
from collections.abc import Sequence
from typing import Any, SupportsIndex

import torch
from torch import Tensor

__all__ = ["Index", "Size", "check_options", "lengths", "numbers_of_images", "positive", "short"]

Size = SupportsIndex | Sequence[SupportsIndex]
Index = Tensor | Sequence[SupportsIndex]

AXES = {2: "two {} integers (height, width)", 3: "three {} integers (depth, height, width)"}
LARGEST = 2**63 - 1  # of the integers that operators take


def lengths(op: str, name: str, size: object, dims: int, least: int = 1) -> tuple[int, ...]:
    """The lengths of `dims` axes, of at least so many pixels each; one number is that of all of them."""
    if type(size) is tuple and len(size) == dims:  # what it mostly is, and is checked in no time
        usual = [length for length in size if type(length) is int and least <= length <= LARGEST]
        if len(usual) == dims:
            return size
    one = _integer(size)
    given = [one] * dims if one is not None else _elements(size) or ()
    integers = tuple(length for length in map(_integer, given) if length is not None)
    if len(given) != dims or len(integers) != dims or not all(length >= least for length in integers):
        expected = AXES[dims].format("positive" if least else "non-negative")
        raise ValueError(f"{op}: expected {name} of {expected}, but got {short(size)}")
    if not torch.compiler.is_compiling() and max(integers) > LARGEST:
        raise ValueError(f"{op}: expected {name} of integers below 2^63, but got {short(size)}")
    return integers


def positive(op: str, name: str, value: object) -> int:
    """A whole number above 0, of any integer type."""
    number = _integer(value)
    if number is None or number < 1:
        raise ValueError(f"{op}: expected {name} of a positive integer, but got {short(value)}")
    return number


def numbers_of_images(op: str, index: object, device: torch.device) -> Tensor:
    """An index as a tensor; what is one already, the operators check."""
    if isinstance(index, Tensor):
        return index
    given = _elements(index)
    numbers = [number for number in map(_integer, given or ()) if number is not None]
    if given is None or len(numbers) != len(given):
        raise TypeError(f"{op}: expected index of integers, a tensor or a list, but got {short(index)}")
    for number in numbers:
        if abs(number) > LARGEST:
            raise IndexError(f"{op}: expected index of images that there are, but got {number}")
    return torch.tensor(numbers, dtype=torch.int64, device=device)


def check_options(op: str, align_corners: object, **names: object) -> None:
    """Their types; which names there are, the operators know."""
    for option, name in names.items():
        if not isinstance(name, str):
            raise TypeError(f"{op}: expected {option} of type str, but got {short(name)}")
    # NumPy's truth values are others than Python's.
    if not isinstance(align_corners, bool) and getattr(align_corners, "dtype", None) != "bool":
        raise TypeError(f"{op}: expected align_corners of type bool, but got {short(align_corners)}")


def short(value: object) -> str:
    """For messages, of one line."""
    return " ".join(reprlib.repr(value).split())


def _elements(values: Any) -> Sequence[Any] | None:
    """What a sequence or an array of one axis holds; None of what is neither."""
    if isinstance(values, Sequence):
        return values
    return list(values) if hasattr(values, "__array__") and getattr(values, "ndim", 0) == 1 else None


def _integer(value: Any) -> int | None:
    """Whatever has __index__, but truth values; None of the rest. What a compiler traces stays a symbol."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, torch.SymInt)):
        return value  # type: ignore[return-value]
    try:
        return operator.index(value)
    except TypeError:
        return None
