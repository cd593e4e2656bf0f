"""Finds the CUDA toolkit to build with, and says why it is or is not used."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

STANDARD_ROOT = Path("/usr/local/cuda")


class Toolkit(NamedTuple):
    root: Path
    version: str
    runtime: Path
    """libcudart: toolkits from wheels have it under its full name only, which -lcudart does not find."""


def choose_toolkit(torch_cuda: str | None, environ: Mapping[str, str]) -> tuple[Toolkit | None, str]:
    """The toolkit to build with or none, and the reason; SystemExit if what is forced cannot be done."""
    forced = environ.get("STN_EXT_CUDA", "")
    if forced not in ("", "0", "1"):
        raise SystemExit(f"stn_ext: expected STN_EXT_CUDA to be 0, 1 or unset, but got {forced!r}")
    if forced == "0":
        return None, "STN_EXT_CUDA=0"
    if torch_cuda is None:
        toolkit, reason = None, "this PyTorch is built without CUDA"
    else:
        toolkit, reason = find_toolkit(torch_cuda, environ)
    if toolkit is None and forced == "1":
        raise SystemExit(f"stn_ext: STN_EXT_CUDA=1, but the CUDA kernels cannot be built: {reason}")
    return toolkit, reason


def find_toolkit(torch_cuda: str, environ: Mapping[str, str]) -> tuple[Toolkit | None, str]:
    """The first toolkit that fits PyTorch's CUDA, or none and what is wrong with each one found."""
    refused = []
    for place, root in candidates(environ):
        try:
            toolkit = check_toolkit(root, torch_cuda)
        except LookupError as error:
            refused.append(f"{place}: {error}")
        else:
            return toolkit, f"CUDA {toolkit.version} in {root} (found by {place})"
    if not refused:
        refused = [f"no CUDA_HOME, no nvidia-cuda-nvcc wheel, no {STANDARD_ROOT}, no nvcc on PATH"]
    return None, "; ".join(refused)


def candidates(environ: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    """Where a toolkit may be, in order: the name of the place, and the toolkit's root."""
    if environ.get("CUDA_HOME"):
        yield "CUDA_HOME", Path(environ["CUDA_HOME"])
    for folder in wheel_folders():
        for nvcc in sorted(folder.glob("cu*/bin/nvcc")):
            yield "nvidia-cuda-nvcc wheel", nvcc.parent.parent
    if STANDARD_ROOT.exists():
        yield "standard folder", STANDARD_ROOT
    nvcc = shutil.which("nvcc", path=environ.get("PATH"))
    if nvcc:
        yield "PATH", toolkit_of(nvcc)


def wheel_folders() -> list[Path]:
    """The folders into which NVIDIA's wheels unpack."""
    spec = importlib.util.find_spec("nvidia")
    return [Path(folder) for folder in spec.submodule_search_locations or ()] if spec else []


def toolkit_of(nvcc: str) -> Path:
    """The root of a compiler's toolkit: what is on PATH may be a script that runs an nvcc elsewhere."""
    dry_run = run(nvcc, "--dryrun", "-c", "-x", "cu", "/dev/null", "-o", "/dev/null")
    top = re.search(r"^#\$ TOP=(.+)$", dry_run, re.MULTILINE)
    return Path(top[1].strip() if top else Path(nvcc).parents[1]).resolve()


def check_toolkit(root: Path, torch_cuda: str) -> Toolkit:
    """The toolkit at a root; LookupError if an extension of PyTorch cannot be built with it."""
    for part in ("bin/nvcc", "include/cuda_runtime.h"):
        if not (root / part).is_file():
            raise LookupError(f"{root} has no {part}")
    runtimes = [path for folder in ("lib64", "lib") for path in sorted(root.glob(f"{folder}/libcudart.so*"))]
    if not runtimes:
        raise LookupError(f"{root} has no libcudart.so")
    release = re.search(r"release (\d+\.\d+)", run(str(root / "bin/nvcc"), "--version"))
    if not release:
        raise LookupError(f"{root}/bin/nvcc does not say its version")
    if release[1].split(".")[0] != torch_cuda.split(".")[0]:
        raise LookupError(f"{root} is CUDA {release[1]}, but PyTorch is built for CUDA {torch_cuda}")
    return Toolkit(root, release[1], runtimes[0])


def architectures(toolkit: Toolkit, torch_architectures: Sequence[str]) -> str:
    """Every GPU that both PyTorch and the compiler serve, as TORCH_CUDA_ARCH_LIST spells them.

    Code for the newest is kept in portable form (PTX) too, for GPUs that are newer still.
    """
    served = run(str(toolkit.root / "bin/nvcc"), "--list-gpu-code").split()
    common = [name for name in torch_architectures if name.startswith("sm_") and name in served]
    numbers = [re.fullmatch(r"sm_(\d+)(\d[a-z]?)", name).groups() for name in common]
    return ";".join(f"{major}.{minor}" for major, minor in numbers) + "+PTX"


def run(*command: str) -> str:
    """All that a command prints, or nothing where it cannot run."""
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
    except OSError:
        return ""
