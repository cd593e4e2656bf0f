"""The CUDA kernels compile for every GPU that is served, without warnings, and hold all in registers."""

import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from build_support.cuda_toolkit import find_toolkit
from tests.maps import PADDINGS

ROOT = Path(__file__).parents[2]
ARCHITECTURES = ("75", "80", "86", "89", "90", "100", "120")


class Function(NamedTuple):
    name: str
    registers: int | None  # of a kernel and all that it calls; none for a function that is not inlined
    spilled: int  # bytes stored
    frame: int  # bytes of local memory: what is spilled, and arrays that are not held in registers


def parse(output):
    """What ptxas -v says of each kernel and each function, in either order, demangled."""
    spilled, frames, registers, name = {}, {}, {}, None
    for line in output.splitlines():
        if found := re.search(r"Compiling entry function '(\w+)'", line):
            kernel = found[1]
        elif found := re.search(r"Function properties for (\w+)", line):
            name = found[1]
        elif found := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores", line):
            frames[name], spilled[name] = map(int, found.groups())
        elif found := re.search(r"Used (\d+) registers", line):
            registers[kernel] = int(found[1])
    names = subprocess.check_output(["c++filt", *spilled], text=True).splitlines()
    return [
        Function(brief(name), registers.get(mangled), spilled[mangled], frames[mangled])
        for name, mangled in zip(names, spilled, strict=True)
    ]


def brief(name):
    """A kernel's name with its template's arguments, without namespaces and parameters."""
    name = re.sub(r"\(anonymous namespace\)::|\w+::|^void ", "", name)
    return re.sub(r"\(Padding\)(\d)", lambda found: PADDINGS[int(found[1])], name).split("(")[0]


# Of each source. The general ones: sample, moments and adjoint of images and volumes with and without a
# tangent, and the bounds of both, in two dtypes; and the sums of moments.
KERNELS = {"affine": 37, "warp": 2 * (3 * 2 * 2 + 2) + 1}

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
    toolkit, reason = find_toolkit(torch.version.cuda or "", os.environ)
    if toolkit is None:
        pytest.skip(f"no nvcc: {reason}")
    flags = ["-std=c++17", "-O3", "-Xptxas", "-v", "--Werror", "all-warnings", "-c", "-I", ROOT / "csrc"]

    def compile(architecture):
        command = [toolkit.root / "bin/nvcc", *flags, f"-arch=sm_{architecture}"]
        files = [ROOT / f"csrc/cuda/{source}_kernels.cu", "-o", tmp_path / f"{architecture}.o"]
        done = subprocess.run([*command, *files], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return parse(done.stderr)

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
