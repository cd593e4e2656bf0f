"""What the functions of geometry check of their arguments, in the name of the one that was called."""

from __future__ import annotations

import torch
from torch import Tensor

from ..arguments import Size, check_options, lengths

__all__ = ["AFFINE", "MAPS", "check", "check_numbers", "result_dtype", "sizes"]

Shape = tuple[str | int, ...]  # a letter stands for any number

AFFINE: Shape = ("N", 2, 3)
MAPS: tuple[Shape, ...] = AFFINE, ("N", 3, 3), ("N", 3, 4)  # and projective ones, and those of volumes


def check(op: str, name: str, value: object, *shapes: Shape) -> None:
    """A floating-point tensor of one of these shapes."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: expected a tensor {name}, but got {type(value).__name__}")
    if not any(_fits(value.shape, shape) for shape in shapes):
        *others, last = ("({}{})".format(", ".join(map(str, s)), "," * (len(s) == 1)) for s in shapes)
        expected = f"{', '.join(others)} or {last}" if others else last
        raise ValueError(f"{op}: expected {name} of shape {expected}, but got {tuple(value.shape)}")
    if not value.is_floating_point():
        raise TypeError(f"{op}: expected {name} of a floating-point dtype, but got {value.dtype}")


def check_numbers(op: str, **tensors: Tensor) -> None:
    """As many of each, or one."""
    many = None
    for name, tensor in tensors.items():
        if len(tensor) == 1:
            continue
        if many is None:
            many = name
        elif len(tensor) != len(tensors[many]):
            raise ValueError(
                f"{op}: expected as many {name} as {many}, or one, but got {len(tensor)} and "
                f"{len(tensors[many])}"
            )


def sizes(
    op: str, in_size: Size | None, out_size: Size | None, dims: int, align_corners: bool
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Both, where they are given; the output's is the input's where it is not."""
    check_options(op, align_corners)
    if in_size is None:
        if out_size is not None:
            raise ValueError(f"{op}: expected in_size together with out_size, but got None")
        return None
    given = lengths(op, "in_size", in_size, dims)
    return given, given if out_size is None else lengths(op, "out_size", out_size, dims)


def result_dtype(*tensors: Tensor) -> torch.dtype:
    """The widest of theirs, in at least float32."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def _fits(given: torch.Size, shape: Shape) -> bool:
    if len(given) != len(shape):
        return False
    return all(isinstance(n, str) or length == n for length, n in zip(given, shape, strict=True))
