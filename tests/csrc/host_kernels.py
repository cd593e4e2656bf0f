"""CUDA kernels without a GPU: their own source, compiled for the host against cuda_on_host/."""

import subprocess
from pathlib import Path

import torch

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

# What rounding a sum to half changes, relative to it.
HALF_ROUNDING = {torch.float16: 2**-11, torch.bfloat16: 2**-8}

SANITIZERS = {
    "address": ("-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"),
    "thread": ("-fsanitize=thread",),
}


def build_program(folder, kernels, main, *flags):
    """The program of sources of kernels, whose shared memory it poisons, and of another that calls them."""
    program = folder / "program"
    includes = ["-I", HERE / "cuda_on_host", "-I", ROOT / "csrc", "-I", HERE]
    warnings = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
    compiler = ["g++", "-std=c++17", "-O1", "-g", "-pthread", *warnings, *flags, *includes]
    objects = []
    for source in kernels:
        compiled = folder / f"{source.stem}.o"
        subprocess.run([*compiler, "-x", "c++", "-c", source, "-o", compiled], check=True)
        # All that a source of kernels has of static variables is their shared memory.
        rename = ["objcopy", "--rename-section", ".bss=cuda_shared,alloc,data,contents", compiled]
        subprocess.run(rename, check=True)
        objects.append(compiled)
    subprocess.run([*compiler, *([main] if main else []), *objects, "-o", program], check=True)
    return program


def span(tensor):
    """The elements from a tensor's first to its last, as they lie in memory."""
    length = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.as_strided((length,), (1,))


def layouts(x):
    """The same images, laid out in memory in other ways."""
    wide = torch.full((*x.shape[:2], x.shape[2] + 2, x.shape[3] + 3), torch.nan)
    wide[:, :, 1:-1, 2:-1] = x
    return {
        "channels_last": x.to(memory_format=torch.channels_last),
        "transposed": x.transpose(2, 3).contiguous().transpose(2, 3),
        "cropped": wide[:, :, 1:-1, 2:-1],
        "every second": torch.stack((x, x), -1).flatten(-2)[..., ::2],
    }
