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


def test_the_gather_of_the_inputs_gradient(tmp_path):
    """Of planes of float: at most 210 instructions a pixel and 45 for each of its channels, none of them
    FP64, no division of 64 bits, no local memory, 64 registers. A thread's 8 pixels share the prologue.
    """
    cubin = tmp_path / "gather.cubin"
    functions = compile_cuda("grad_input_gather.cu", "90", cubin, *MARKED)
    (mangled,) = (name for name, f in functions.items() if f.name == "gather<float, true>")
    assert functions[mangled].registers <= 64 and functions[mangled].frame == 0
    way = hot_way(disassemble(cubin)[mangled])
    (pixels,) = way.loops
    (channels,) = pixels.loops
    assert channels.count("LDG") == 9 and channels.count("STG") == 1
    costs = way.count() / 8 + pixels.count(), channels.count()
    print(costs)
    assert costs[0] <= 210 and costs[1] <= 45, costs
    for loop in way.all_loops():
        assert loop.count(FP64) == loop.count("CALL") == loop.count("LDL|STL") == 0
