"""Export to ONNX: the operators become the standard AffineGrid and GridSample, or compositions of them.

Needs onnx and onnxscript; ``import stn_ext`` loads this module when it is first asked for.

Example:
    >>> import torch
    >>> import stn_ext
    >>> localization = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 6))
    >>> network = stn_ext.nn.SpatialTransformer(localization).eval()
    >>> batch = torch.export.Dim("batch")
    >>> images = torch.rand(3, 1, 8, 8)
    >>> program = stn_ext.onnx.export(network, (images,), dynamic_shapes=({0: batch},), verbose=False)
    >>> program.save("network.onnx")
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

import torch
from onnxscript import opset20 as op

__all__ = ["OLDEST_OPSET", "TRANSLATIONS", "export"]

OLDEST_OPSET = 20  # which introduced AffineGrid


def export(
    model: torch.nn.Module,
    args: tuple[Any, ...],
    f: str | PathLike[str] | None = None,
    *,
    opset_version: int = OLDEST_OPSET,
    **options: Any,
) -> torch.onnx.ONNXProgram:
    """``torch.onnx.export(..., dynamo=True)`` of a network that calls this package's operators.

    Affine maps, of images and of volumes, become AffineGrid and GridSample; the grids of projective maps and
    splines, which ONNX has no operator for, are composed of its arithmetic, as is a fill. Coordinates are
    float32, or float64 for float64 images; half images, uint8, int16 and uint16 are computed with in float32;
    other integers and truth values, which mode "nearest" copies, pass through float64, which is exact up to
    2^53.

    The same can be had of ``torch.onnx.export`` itself by ``custom_translation_table=TRANSLATIONS``, at
    opset 20 or newer and under ``torch.no_grad()``: its passes run the operators, which have no derivatives
    of their own.

    Args:
        model: the network, in the mode (train or eval) in which it is to be exported.
        args: example inputs.
        f: the file to write, if any.
        opset_version: 20 or newer.
        options: further arguments of ``torch.onnx.export``; a ``custom_translation_table`` adds to ours.

    Returns:
        The ``torch.onnx.ONNXProgram``.

    Raises:
        ValueError: an older opset.
        torch.onnx.OnnxExporterError: ONNX cannot say what the network does.
    """
    if opset_version < OLDEST_OPSET:
        raise ValueError(
            f"stn_ext.onnx.export: expected opset_version of at least {OLDEST_OPSET}, which has AffineGrid, "
            f"but got {opset_version}"
        )
    table = TRANSLATIONS | options.pop("custom_translation_table", {})
    with torch.no_grad():
        program = torch.onnx.export(
            model,
            args,
            f,
            opset_version=opset_version,
            dynamo=True,
            custom_translation_table=table,
            **options,
        )
    assert program is not None  # as it is for dynamo=True
    return program


# What follows is traced: each call of an operator adds a node to the graph.

# Of onnx.TensorProto.
FLOAT, DOUBLE = 1, 11
FLOATING = ("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16")
# Dtypes that are rounded to, brought into their range.
RANGES = {"UINT8": (0.0, 255.0), "INT16": (-32768.0, 32767.0), "UINT16": (0.0, 65535.0)}


def _sample(
    input: Any,
    theta: Any,
    points: Any,
    tangent: Any,
    index: Any,
    fill: Any,
    size: Sequence[Any],
    mode: str,
    padding_mode: str,
    align_corners: bool,
) -> Any:
    if tangent is not None:
        raise NotImplementedError("stn_ext.onnx: derivatives along a tangent are not exported")
    dtype = input.dtype
    images = _shared(input, theta, index)
    double = dtype.name == "DOUBLE" or dtype.name not in (*FLOATING, *RANGES)
    if dtype.name not in ("FLOAT", "DOUBLE"):
        images = op.Cast(images, to=DOUBLE if double else FLOAT)
    maps = op.CastLike(theta, images)
    corners = int(align_corners)
    affine_grid = _double_affine_grid if double else _affine_grid
    if points is not None:
        grid = _spline_grid(maps, op.CastLike(points, images), size, corners)
    elif theta.shape[1] == theta.shape[2]:
        grid = _projective_grid(affine_grid, maps, size, padding_mode, corners)
    else:
        grid = affine_grid(maps, size, corners)

    def read(images: Any) -> Any:
        how = {"bilinear": "linear", "nearest": "nearest"}[mode]
        return op.GridSample(images, grid, mode=how, padding_mode=padding_mode, align_corners=corners)

    output = read(images)
    if fill is not None:
        shape = op.Concat(_count(theta), _integers(1), op.Shape(images, start=2), axis=0)
        output = _filled(output, read(op.Expand(_like(images, 1.0), shape)), fill, len(size))
    return output if dtype.name in ("FLOAT", "DOUBLE") else _narrowed(output, dtype)


def _shared(input: Any, theta: Any, index: Any) -> Any:
    """An image for each map."""
    if index is not None:
        return op.Gather(input, index, axis=0)
    if input.shape[0] == 1 and theta.shape[0] != 1:
        rest = _integers(*[1] * (len(input.shape) - 1))
        return op.Expand(input, op.Concat(_count(theta), rest, axis=0))
    return input


def _affine_grid(theta: Any, size: Sequence[Any], corners: int) -> Any:
    """(N, *size, dimensions), of theta in float32."""
    lengths = [_vector(length) for length in size]
    one = _integers(1)  # the channels, of which the grid knows nothing
    return op.AffineGrid(theta, op.Concat(_count(theta), one, *lengths, axis=0), align_corners=corners)


def _double_affine_grid(theta: Any, size: Sequence[Any], corners: int) -> Any:
    """(N, *size, dimensions), of theta in float64.

    By arithmetic, as onnx's reference of AffineGrid, by which constants are folded, gives float32 always.
    """
    places = _places(theta, size, corners)
    basis = op.Concat(places, _ones_beside(places), axis=1)
    return _as_grid(op.MatMul(basis, op.Transpose(theta, perm=[0, 2, 1])), size)


def _places(like: Any, size: Sequence[Any], corners: int) -> Any:
    """(P, dimensions): x, y (and z) of P pixels, normalized."""
    shape = op.Concat(*[_vector(length) for length in size], axis=0)
    axes = []
    for axis, length in enumerate(size):
        count = op.Squeeze(_vector(length))
        most = op.Sub(count, _integer(1))
        steps = op.Sub(op.Mul(op.Range(_integer(0), count, _integer(1)), _integer(2)), most)
        at = op.Div(
            op.CastLike(steps, like), op.CastLike(op.Max(most if corners else count, _integer(1)), like)
        )
        along = _integers(*[-1 if other == axis else 1 for other in range(len(size))])
        axes.append(op.Reshape(op.Expand(op.Reshape(at, along), shape), _integers(-1, 1)))
    return op.Concat(*reversed(axes), axis=1)


def _ones_beside(places: Any) -> Any:
    """(P, 1)"""
    return op.Add(op.Mul(_part(places, 0, 1), _like(places, 0.0)), _like(places, 1.0))


def _as_grid(places: Any, size: Sequence[Any]) -> Any:
    """(N, P, dimensions) as (N, *size, dimensions)"""
    lengths = [_vector(length) for length in size]
    return op.Reshape(places, op.Concat(_count(places), *lengths, _integers(len(size)), axis=0))


def _projective_grid(
    affine_grid: Callable[..., Any], theta: Any, size: Sequence[Any], padding_mode: str, corners: int
) -> Any:
    places = affine_grid(_part(theta, 0, 2), size, corners)
    third = _part(theta, 2, 3)
    depths = affine_grid(op.Concat(third, third, axis=1), size, corners)  # of x and of y: the same
    # Infinity has no place in a grid. Far outside means zeros; and the coordinate 1 is the last pixel, where
    # the other paddings take infinity to.
    infinity = 1e6 if padding_mode == "zeros" else 1.0
    in_front = op.Greater(depths, _like(depths, 0.0))
    return op.Where(in_front, op.Div(places, depths), _like(depths, infinity))


def _spline_grid(theta: Any, points: Any, size: Sequence[Any], corners: int) -> Any:
    places = _places(theta, size, corners)
    at = op.Unsqueeze(places, _integers(1))  # (P, 1, 2)
    apart = op.Sub(at, points)
    squares = op.ReduceSum(op.Mul(apart, apart), _integers(2), keepdims=0)  # (P, K)
    zero, one = _like(squares, 0.0), _like(squares, 1.0)
    radial = op.Mul(squares, op.Log(op.Where(op.Greater(squares, zero), squares, one)))
    basis = op.Concat(radial, places, _ones_beside(places), axis=1)  # (P, K + 3)
    return _as_grid(op.MatMul(basis, op.Transpose(theta, perm=[0, 2, 1])), size)


def _filled(output: Any, ones: Any, fill: Any, dims: int) -> Any:
    """The output with a fill in the part of each pixel that an image of ones does not give."""
    zero = _like(output, 0.0)
    value = op.Reshape(op.CastLike(fill, output), _integers(-1, *[1] * dims))
    outside = op.Sub(_like(output, 1.0), ones)
    # A part is a sum of rounded products, of coordinates in float32: up to this it is none.
    some = op.Greater(outside, _like(output, 2.0**-20))
    infinite = op.Or(op.IsInf(value), op.IsNaN(value))
    part = op.Mul(op.Where(some, outside, zero), op.Where(infinite, zero, value))
    return op.Where(op.And(some, infinite), value, op.Add(output, part))


def _narrowed(output: Any, dtype: Any) -> Any:
    """From float32 or float64: rounded, and for integers brought into their range."""
    if dtype.name not in FLOATING:
        output = op.Where(op.IsNaN(output), _like(output, 0.0), output)
    if dtype.name in RANGES:
        least, most = RANGES[dtype.name]
        output = op.Clip(op.Round(output), _like(output, least), _like(output, most))
    return op.Cast(output, to=int(dtype))


def _count(theta: Any) -> Any:
    """The number of maps, as a vector of one."""
    return op.Shape(theta, start=0, end=1)


def _part(tensor: Any, first: int, end: int) -> Any:
    """Of the second axis."""
    axis = 1
    return op.Slice(tensor, *(_integers(n) for n in (first, end, axis)))


def _like(other: Any, value: float) -> Any:
    constant: Any = op.Constant(value_float=value)
    return op.CastLike(constant, other)


def _integers(*numbers: int) -> Any:
    return op.Constant(value_ints=list(numbers))


def _integer(number: int) -> Any:
    return op.Constant(value_int=number)


def _vector(length: Any) -> Any:
    """A number, known or to be known when the network runs, as a vector of one."""
    return _integers(length) if isinstance(length, int) else op.Unsqueeze(length, _integers(0))


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {torch.ops.stn_ext.sample.default: _sample}
"""What ``torch.onnx.export`` takes as ``custom_translation_table``."""
