"""What the CUDA kernels cost, read from their machine code: no GPU is needed, nothing is timed.

A kernel's common way is the longest one through its control flow graph that enters no block marked by
STN_RARE (csrc/cuda/rare.h), with its loops counted apart, once through each (machine_code.py). So a bound on
it is a bound on every way that is not marked.
"""

from pathlib import Path

from .cuda_compiler import compile_cuda
from .machine_code import disassemble, hot_way

MARKED = ("-cubin", "-DSTN_MARK_RARE")
FP64 = r"D(ADD|MUL|FMA|SETP|MNMX)|MUFU\.(RCP|RSQ)64H|(F2F|F2I|I2F|FRND)\..*F64"


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
