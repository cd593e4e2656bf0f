"""The PEP 517 build backend: setuptools' own, made to build against the right PyTorch.

Installers build in an isolated environment. A PyTorch fetched there would be the newest one, not the
one that will load the extension. So: where the target environment has a supported PyTorch, nothing is
fetched and the build sees that one; where it has none, the build asks for what the install will get.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path

from setuptools import build_meta

OLDEST_TORCH = (2, 6)
# torchvision only because the install needs it too: a PyTorch that is too new for it would be no use.
REQUIREMENTS = ["torch>=2.6", "torchvision"]

# The last line printed is the answer: a start-up file of that environment may print too.
PROBE = """
import importlib.metadata, importlib.util, json, os, sysconfig
spec = importlib.util.find_spec("torch")
origin = spec and spec.origin
print()
print(json.dumps({
    "abi": sysconfig.get_config_var("SOABI"),
    "site": origin and os.path.dirname(os.path.dirname(origin)),
    "torch": origin and importlib.metadata.version("torch"),
}))
"""


def get_requires_for_build_wheel(config_settings=None):
    return [] if target_site(os.environ) else REQUIREMENTS


get_requires_for_build_editable = get_requires_for_build_wheel
get_requires_for_build_sdist = get_requires_for_build_wheel


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    use_target_environment()
    return build_meta.prepare_metadata_for_build_wheel(metadata_directory, config_settings)


def prepare_metadata_for_build_editable(metadata_directory, config_settings=None):
    use_target_environment()
    return build_meta.prepare_metadata_for_build_editable(metadata_directory, config_settings)


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    use_target_environment()
    # setuptools fills this folder, but never takes out what is no longer in the sources.
    for stale in Path("build").glob("lib*"):
        shutil.rmtree(stale)
    return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    use_target_environment()
    return build_meta.build_editable(wheel_directory, config_settings, metadata_directory)


def build_sdist(sdist_directory, config_settings=None):
    use_target_environment()
    return build_meta.build_sdist(sdist_directory, config_settings)


def use_target_environment() -> None:
    """Puts the target's packages behind those of the build environment."""
    site = target_site(os.environ)
    if site and site not in sys.path:
        sys.path.append(site)


def target_site(environ: Mapping[str, str]) -> str | None:
    """The folder from which the target environment imports a supported PyTorch, if it has one."""
    for python in target_pythons(environ):
        found = probe(python, environ)
        if found and found["torch"] and release(found["torch"]) >= OLDEST_TORCH:
            return found["site"]
    return None


def target_pythons(environ: Mapping[str, str]) -> Iterator[str]:
    """Interpreters that may be the one to install for, the likeliest first."""
    if chosen := environ.get("STN_EXT_PYTHON"):
        yield chosen
        return
    yield sys.executable
    if "PIP_BUILD_TRACKER" in environ:
        return  # pip runs the build with the target's own interpreter
    # Others, as uv and build, make an environment for the build, and may put it first on PATH.
    if parent := parent_python():
        yield parent
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        if environ.get(variable):
            yield str(Path(environ[variable], "bin", "python"))
    for folder in environ.get("PATH", "").split(os.pathsep):
        if python := shutil.which("python", path=folder):
            yield python


def parent_python() -> str | None:
    """The interpreter that started this process, by the name it was called by, where /proc tells."""
    try:
        program = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().split(b"\0")[0].decode()
    except (OSError, UnicodeDecodeError):
        return None
    return program if Path(program).name.startswith("python") else None


def probe(python: str, environ: Mapping[str, str]) -> dict | None:
    """What an interpreter says of itself and its PyTorch, if it can load what this one builds."""
    # Without what lets this process see the build environment, and from a folder without packages.
    clean = {key: value for key, value in environ.items() if key not in ("PYTHONPATH", "PYTHONNOUSERSITE")}
    command = [python, "-c", PROBE]
    try:
        run = subprocess.run(command, env=clean, cwd="/", stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(run.stdout.splitlines()[-1])
    except (OSError, subprocess.CalledProcessError, ValueError):
        return None
    return found if found["abi"] == sysconfig.get_config_var("SOABI") else None


def release(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split(".")[:2])
