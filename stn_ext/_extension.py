"""Loads the compiled module `_C`, or says in one line why it cannot be loaded and what to do."""

from __future__ import annotations

import importlib
import platform
import re
import shlex
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

import torch

PACKAGE = Path(__file__).resolve().parent


def load() -> ModuleType:
    """Imports `stn_ext._C`, which registers the operators `torch.ops.stn_ext.*`."""
    spec = PathFinder.find_spec("stn_ext._C", [str(PACKAGE)])
    if spec is None or spec.origin is None:
        raise ImportError(
            f"stn_ext: there is no compiled extension for Python {platform.python_version()} in {PACKAGE}; "
            f"build it with: {build_command()}"
        )
    # Asked before loading: code compiled against another PyTorch may crash while it is loaded.
    built_against = torch_version_of(Path(spec.origin))
    running = str(torch.__version__)
    if built_against != running:
        raise ImportError(
            f"stn_ext: the extension is built against PyTorch {built_against}, "
            f"but this is PyTorch {running}; rebuild it with: {build_command()}"
        )
    try:
        return importlib.import_module("stn_ext._C")
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise ImportError(
            f"stn_ext: the extension, built against this PyTorch {running}, does not load ({reason}); "
            f"rebuild it with: {build_command()}"
        ) from None


def torch_version_of(extension: Path) -> str:
    """The PyTorch version that csrc/ops.cpp leaves in the binary."""
    found = re.search(rb"stn_ext built against PyTorch ([^\0]+)\0", extension.read_bytes())
    return found[1].decode() if found else "(unknown version)"


def build_command() -> str:
    source = PACKAGE.parent
    if (source / "setup.py").is_file():
        return f"python -m pip install --no-deps -e {shlex.quote(str(source))}"
    return "python -m pip install --no-deps . (in the source folder of stn_ext)"


_C = load()
