"""The CUDA kernels compile for every GPU that is served, without warnings, and hold all in registers."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from .cuda_compiler import ARCHITECTURES, compile_cuda

# Of each source. The general ones: sample, moments and adjoint of images and volumes with and without a
# tangent, and the bounds of both, in two dtypes; and the sums of moments.
KERNELS = {"affine_kernels.cu": 37, "warp_kernels.cu": 2 * (3 * 2 * 2 + 2) + 1}
# Of each kind of map: in each dtype, and of each element's size.
KERNELS |= {"sample.cu": 4 * 7, "nearest.cu": 4 * 4, "grad_theta.cu": 4 * 4 + 1}

# The frames that there are, in bytes: arrays that are indexed by an axis' number, which only a launch knows.
FRAMES = {
    "tile_moments<2, false, float>": 160,
    "tile_moments<2, false, double>": 160,
    "tile_moments<2, true, float>": 160,
    "tile_moments<2, true, double>": 160,
    "tile_moments<3, false, float>": 192,
    "tile_moments<3, false, double>": 192,
    "tile_moments<3, true, float>": 304,
    "tile_moments<3, true, double>": 400,
}


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
    assert [f for f in functions if f.frame > FRAMES.get(f.name, 0)] == [], table
