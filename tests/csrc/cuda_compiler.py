"""CUDA sources compiled, and what the compiler says of their kernels; skips where there is none."""

import os
import re
import subprocess
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


def compile_cuda(source, architecture, output, *flags):
    """A source of csrc/cuda to an object, or with the flag -cubin to machine code; of each kernel and each
    function, by its mangled name, what it takes."""
    toolkit, reason = find_toolkit(torch.version.cuda or "", os.environ)
    if toolkit is None:
        pytest.skip(f"no nvcc: {reason}")
    command = [toolkit.root / "bin/nvcc", "-std=c++17", "-O3", "-Xptxas", "-v", "--Werror", "all-warnings"]
    command += ["-I", ROOT / "csrc", f"-arch=sm_{architecture}", *(flags or ["-c"])]
    command += [ROOT / "csrc/cuda" / source, "-o", output]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return parse(done.stderr)


def parse(output):
    """What ptxas -v says, kernels and functions in either order."""
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
    return {
        mangled: Function(name, registers.get(mangled), spilled[mangled], frames[mangled])
        for mangled, name in zip(spilled, demangled(spilled), strict=True)
    }


def demangled(names):
    """Kernels' names with their templates' arguments, without namespaces and parameters."""
    readable = subprocess.check_output(["c++filt", *names], text=True).splitlines()
    return [brief(name) for name in readable]


def brief(name):
    name = re.sub(r"\(anonymous namespace\)::|\w+::|^void ", "", name)
    return re.sub(r"\(Padding\)(\d)", lambda found: PADDINGS[int(found[1])], name).split("(")[0]
