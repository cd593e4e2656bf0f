"""What the CUDA kernels cost, read from their machine code: no GPU is needed, nothing is timed.

A kernel's common way is the longest one through its control flow graph that enters no block marked by
STN_RARE (csrc/cuda/rare.h), with its loops counted apart, once through each (machine_code.py). So a bound on
it is a bound on every way that is not marked.
"""

from pathlib import Path

import pytest

from .cuda_compiler import compile_cuda
from .kernel_costs import FP64, MARKED, costs_of
from .machine_code import disassemble, hot_way

# Instructions a pixel and a channel, registers: what is reached, with some room for another compiler. What
# the kernels were meant to cost is in benchmarks/gpu_bounds.py, beside what they do.
LIMITS = {
    "sample, affine": (61, 26, 64),
    "sample, projective": (120, 26, 64),
    "sample, volume": (103, 43, 64),
    "grad_theta, affine": (136, 27, 64),
    "grad_theta, projective": (252, 27, 64),
    "grad_theta, volume": (264, 47, 80),
    "gather, affine": (170, 38, 64),
    "gather, projective": (345, 38, 80),
    "gather, volume": (385, 100, 128),
    "scatter, affine": (145, 72, 128),
    "scatter, projective": (205, 72, 128),
    "scatter, volume": (180, 126, 128),
}
SOURCES = ("sample.cu", "grad_theta.cu", "grad_input_gather.cu", "grad_input_scatter.cu")
# Reached, not meant.
WITH_FP64 = {"grad_theta, projective": 2}


def test_what_is_marked_is_left_out(tmp_path):
    """The counter itself: of a kernel whose loops, loads and stores are known."""
    cubin = tmp_path / "marked.cubin"
    source = Path(__file__).parent / "marked_kernel.cu"
    (name,) = compile_cuda(source, "90", cubin, *MARKED)
    way = hot_way(disassemble(cubin)[name])
    (rows,) = way.loops
    (columns,) = rows.loops
    assert (way.count("LDG"), way.count("STG")) == (0, 0)
    assert (rows.count("LDG"), rows.count("STG")) == (0, 1)
    assert (columns.count("LDG"), columns.count("STG"), columns.count("FADD")) == (1, 0, 1)
    assert sum(loop.count(FP64) for loop in way.all_loops()) == 0
    # Unmarked, the other way is the longer one.
    (name,) = compile_cuda(source, "90", cubin, "-cubin")
    assert sum(loop.count(FP64) for loop in hot_way(disassemble(cubin)[name]).all_loops()) > 0


@pytest.mark.parametrize("source", SOURCES)
def test_kernels_of_planes_of_float(tmp_path, source):
    """At most so many instructions a pixel and a channel, in loops none of FP64 and no call, which a division
    of 64 bits would be. Local memory is test_cuda_compile.py's, for the marks may need some."""
    costs = costs_of(source, tmp_path)
    assert costs
    for cost in costs:
        print(cost)
        pixel, channel, registers = LIMITS[cost.name]
        assert cost.pixel <= pixel and cost.channel <= channel and cost.registers <= registers, cost
        assert cost.calls == 0 and cost.fp64 <= WITH_FP64.get(cost.name, 0), cost
