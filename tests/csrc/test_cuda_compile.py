"""The CUDA kernels compile for every GPU that is served, without warnings, and hold all in registers."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from .cuda_compiler import ARCHITECTURES, compile_cuda

# Of each source: of each kind of map in each dtype, and of each element's size; the gradient of the input has
# four dtypes, and kernels with and without a tangent.
# Of kinds of maps and storages; those whose channels may be vectors, three storages, besides.
KERNELS = {"sample.cu": 4 * 7 + 4 * 3, "nearest.cu": 4 * 4, "grad_theta.cu": 4 * 4 + 4 * 3 + 1}
KERNELS |= {"grad_input.cu": 4 + 4 * 4 + 4, "grad_input_scatter.cu": 4 * 4 * 2}
KERNELS |= {"grad_input_gather.cu": 3 + 2 * (2 * 4 + 3) + 2 * 3}


@pytest.mark.parametrize("source", KERNELS)
def test_kernels_use_no_local_memory(tmp_path, source):
    def compile(architecture):
        return compile_cuda(source, architecture, tmp_path / f"{architecture}.o").values()

    with ThreadPoolExecutor(2) as pool:
        results = dict(zip(ARCHITECTURES, pool.map(compile, ARCHITECTURES), strict=True))
    lines = [
        f"sm_{architecture:3} {f.registers or '-':>4} registers {f.spilled:5} bytes spilled "
        f"{f.frame:5} of stack  {f.name}"
        for architecture, functions in results.items()
        for f in functions
    ]
    table = "\n".join(lines)
    print(table)
    kernels = [f for functions in results.values() for f in functions if f.registers]
    assert len(kernels) == len(ARCHITECTURES) * KERNELS[source], table
    functions = [f for of_one in results.values() for f in of_one]
    assert all(f.spilled == 0 for f in functions), table
    assert all(f.frame == 0 for f in functions), table
