"""What the CUDA kernels cost a pixel and a channel, in instructions on their common way (machine_code.py)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from .cuda_compiler import Function, compile_cuda
from .machine_code import Way, disassemble, hot_way

MARKED = ("-cubin", "-DSTN_MARK_RARE")
FP64 = r"D(ADD|MUL|FMA|SETP|MNMX)|MUFU\.(RCP|RSQ)64H|(F2F|F2I|I2F|FRND)\..*F64"
KINDS = ("affine", "projective", "spline", "volume")  # as csrc/cuda/problem.h counts them
TAPS = {"affine": 4, "projective": 4, "volume": 8}
CANDIDATES = {"affine": 9, "projective": 9, "volume": 27}
PIXELS = 8  # that a thread works on: a block's 256 are for a tile of 32 x 64


class Cost(NamedTuple):
    """Of a kernel of planes of float, without a tangent."""

    kernel: str
    kind: str
    pixel: float  # instructions, what the pixels of a thread share divided among them
    channel: float  # and for each channel of a pixel
    place: float  # of the scatter, besides: for each place of the window, a channel
    registers: int
    frame: int  # bytes of local memory
    fp64: int  # instructions in its loops
    calls: int

    @property
    def name(self) -> str:
        return f"{self.kernel}, {self.kind}"


def costs_of(source: str, folder: Path, architecture: str = "90") -> list[Cost]:
    """Of the kernels of a source of csrc/cuda; splines, whose cost is that of their control points, are left
    out."""
    cubin = folder / f"{source}.cubin"
    functions = compile_cuda(source, architecture, cubin, *MARKED)
    kernels = disassemble(cubin)
    count = {"sample.cu": _tile, "grad_theta.cu": _tile, "grad_input_gather.cu": _gather}.get(
        source, _scatter
    )
    found = []
    for mangled, function in functions.items():
        kind = KINDS[int(number[1])] if (number := re.search(r"MapKindE(\d)", mangled)) else "affine"
        # Of packed gradients; without a tangent, and without vectors of channels.
        is_gather = source == "grad_input_gather.cu"
        is_usual = "LayoutE1" in mangled if is_gather else "ELb1E" not in mangled
        if "<float," in function.name and is_usual and kind in TAPS:
            found.append(count(hot_way(kernels[mangled]), kind, function))
    return sorted(found, key=lambda cost: KINDS.index(cost.kind))


def _cost(kernel: str, kind: str, way: Way, function: Function, *each: float) -> Cost:
    loops = way.all_loops()
    fp64, calls = (sum(loop.count(pattern) for loop in loops) for pattern in (FP64, "CALL"))
    return Cost(kernel, kind, *each, function.registers or 0, function.frame, fp64, calls)


def _tile(way: Way, kind: str, function: Function) -> Cost:
    """A loop over pixels, some at a time, and in it one over channels."""
    kernel = function.name.partition("<")[0]
    pixels = next(loop for loop in way.loops if loop.loops)
    (channels,) = pixels.loops
    together = channels.count("LDG") / (TAPS[kind] + (kernel == "grad_theta"))
    each = way.count() / PIXELS + pixels.count() / together, channels.count() / together, 0.0
    return _cost(kernel, kind, way, function, *each)


def _gather(way: Way, kind: str, function: Function) -> Cost:
    """The common way has three candidates along an axis; it may take channels by two, and the last alone."""
    (pixels,) = way.loops
    (channels,) = pixels.loops
    together = channels.count("LDG") // CANDIDATES[kind]
    channel = channels.count() / together
    each = way.count() / PIXELS + pixels.count() - (together > 1) * channel, channel, 0.0
    return _cost("gather", kind, way, function, *each)


def _scatter(way: Way, kind: str, function: Function) -> Cost:
    """A loop over parts, in which a thread's pixels are located at once; in it one over channels, and in
    that one over a window's places."""
    (parts,) = way.loops
    channels = next(loop for loop in parts.loops if loop.loops)
    together = channels.count("LDG")
    each = parts.count() / together, channels.count() / together, channels.loops[0].count()
    return _cost("scatter", kind, way, function, *each)
