"""Export to ONNX: affine_sample becomes the standard operators AffineGrid and GridSample.

Needs onnx and onnxscript; ``import stn_ext`` does not load this module.

Example:
    ::

        import stn_ext.onnx

        batch = torch.export.Dim("batch")
        program = stn_ext.onnx.export(network.eval(), (images,), dynamic_shapes=({0: batch},))
        program.save("network.onnx")
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
    """``torch.onnx.export(..., dynamo=True)`` of a network that calls affine_sample.

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


def _affine_sample(
    input: Any, theta: Any, size: Sequence[Any], padding_mode: str, align_corners: bool
) -> Any:
    """GridSample of AffineGrid; the two have one precision, the images'."""
    if theta.dtype != input.dtype:
        theta = op.CastLike(theta, input)
    lengths = [_vector(length) for length in size]
    shape = op.Concat(op.Shape(input, start=0, end=2), *lengths, axis=0)
    grid = op.AffineGrid(theta, shape, align_corners=int(align_corners))
    return op.GridSample(
        input, grid, mode="linear", padding_mode=padding_mode, align_corners=int(align_corners)
    )


def _vector(length: Any) -> Any:
    """A number, known or to be known when the network runs, as a vector of one."""
    if isinstance(length, int):
        return op.Constant(value_ints=[length])
    first: Any = op.Constant(value_ints=[0])
    return op.Unsqueeze(length, first)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.stn_ext.affine_sample.default: _affine_sample
}
"""What ``torch.onnx.export`` takes as ``custom_translation_table``."""
