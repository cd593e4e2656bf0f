"""Builds the extension stn_ext._C: the C++ kernels, and the CUDA ones where PyTorch and an nvcc allow."""

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import setuptools
from setuptools import Extension, setup

ROOT = Path(__file__).resolve().parent
os.chdir(ROOT)
sys.path.insert(0, str(ROOT / "build_support"))

from backend import OLDEST_TORCH, release  # noqa: E402
from cuda_toolkit import architectures, choose_toolkit  # noqa: E402

# What an isolated build is sure to find, and a build without isolation may not.
if release(setuptools.__version__) < (77,):
    raise SystemExit(f"stn_ext: the build needs setuptools 77 or newer, but found {setuptools.__version__}")
try:
    import torch
except ImportError as error:
    raise SystemExit(f"stn_ext: the build needs PyTorch 2.6 or newer in its environment: {error}") from None
if release(torch.__version__) < OLDEST_TORCH:
    raise SystemExit(f"stn_ext: the build needs PyTorch 2.6 or newer, but found {torch.__version__}")

TOOLKIT, REASON = choose_toolkit(torch.version.cuda, os.environ)
if TOOLKIT:
    # cpp_extension reads both; by itself it takes the folder above the nvcc on PATH, and the GPUs at hand.
    os.environ["CUDA_HOME"] = str(TOOLKIT.root)
    if not os.environ.get("TORCH_CUDA_ARCH_LIST"):
        os.environ["TORCH_CUDA_ARCH_LIST"] = architectures(TOOLKIT, torch._C._cuda_getArchFlags().split())

from torch.utils.cpp_extension import BuildExtension  # noqa: E402

CXX = os.environ.get("CXX", "c++")
ARCHITECTURES = os.environ["TORCH_CUDA_ARCH_LIST"] if TOOLKIT else ""
DEBUG = os.environ.get("DEBUG", "0") not in ("", "0")


def ninja_version():
    """Of the ninja that builds; cpp_extension does without one where there is none."""
    try:
        return subprocess.check_output(["ninja", "--version"], text=True).strip()
    except (OSError, subprocess.CalledProcessError):
        return "none"


# A folder that stays, so that ninja sees what is built already; one for each PyTorch, kind of build,
# and ninja: a version takes for outdated what another has built, and isolated builds bring their own.
DEVICE = f"cuda{TOOLKIT.version}" if TOOLKIT else "cpu"
KIND = f"{sysconfig.get_config_var('SOABI')}-torch{torch.__version__}-{DEVICE}{'-debug' if DEBUG else ''}"
BUILD = ROOT / "build" / f"{KIND}-ninja{ninja_version()}"
# PyTorch by a name that stays: an isolated build may find it in a temporary folder.
TORCH = BUILD / "torch"


class BuildKernels(BuildExtension):
    def finalize_options(self):
        super().finalize_options()
        self.force = True  # it is ninja that knows what is out of date
        self.build_temp = str(BUILD)
        # Nothing lies in a virtual environment's own include folder, and its name may be a temporary one.
        own = os.path.join(sys.exec_prefix, "include")
        self.include_dirs = [folder for folder in self.include_dirs if folder != own]

    def build_extensions(self):
        report()
        BUILD.mkdir(parents=True, exist_ok=True)
        TORCH.unlink(missing_ok=True)
        TORCH.symlink_to(Path(torch.__file__).parent)
        write_facts(self.distribution.get_version())
        try:
            super().build_extensions()
        except (RuntimeError, ValueError) as error:  # cpp_extension's, for a compiler's error or a user's
            raise SystemExit(f"stn_ext: {error}") from None


def report():
    """One line for each decision; pip shows them with -v."""
    print(f"stn_ext: PyTorch: {torch.__version__} in {Path(torch.__file__).parent}")
    print(f"stn_ext: CUDA: {'yes' if TOOLKIT else 'no'}, {REASON}")
    print(f"stn_ext: architectures: {ARCHITECTURES or 'none, without CUDA'}")
    print(f"stn_ext: folder: {BUILD}")
    try:
        version = subprocess.check_output([*shlex.split(CXX), "--version"], text=True).splitlines()[0]
    except OSError:
        raise SystemExit(f"stn_ext: no C++ compiler: {CXX!r} does not run; install g++ or set CXX") from None
    if sys.platform == "linux" and "clang" in version:
        raise SystemExit(f"stn_ext: expected g++, whose OpenMP is PyTorch's, but CXX is {CXX!r}: {version}")
    print(f"stn_ext: compiler: {version}{', for debugging' if DEBUG else ''}", flush=True)


def write_facts(version):
    """What build_info() says: in a header of its own, so that a change recompiles nothing but ops.cpp."""
    facts = {
        "VERSION": version,
        "TORCH_VERSION": torch.__version__,
        "CUDA_VERSION": TOOLKIT.version if TOOLKIT else "",
        "CUDA_ARCHITECTURES": ARCHITECTURES,
    }
    text = "".join(f'#define STN_EXT_{name} "{value}"\n' for name, value in facts.items())
    header = BUILD / "build_facts.h"
    if not header.exists() or header.read_text() != text:
        header.write_text(text)


def extension():
    patterns = ["csrc/*.cpp", "csrc/cpu/*.cpp"]
    libraries = ["c10", "torch", "torch_cpu", "torch_python"]
    link_args = []
    if TOOLKIT:
        patterns += ["csrc/cuda/*.cpp", "csrc/cuda/*.cu"]
        libraries += ["c10_cuda", "torch_cuda"]
        link_args = [str(TOOLKIT.runtime)]
    return Extension(
        "stn_ext._C",
        sorted(str(path) for pattern in patterns for path in Path().glob(pattern)),
        include_dirs=[str(ROOT / "csrc"), str(BUILD)],
        library_dirs=[str(TORCH / "lib")],
        libraries=libraries,
        extra_compile_args={"cxx": cxx_flags(), "nvcc": nvcc_flags()},
        extra_link_args=link_args,
        language="c++",
    )


def cxx_flags():
    flags = ["-O0", "-g", "-UNDEBUG"] if DEBUG else ["-O3", "-g0"]
    flags += ["-Wall", "-Wextra", "-Wno-psabi", "-fvisibility=hidden"]
    if sys.platform == "linux":
        # OpenMP's library is not linked: PyTorch brings its own, whose threads are to be shared.
        flags += ["-fopenmp", "-DAT_PARALLEL_OPENMP=1"]
    # As system headers: no warnings from them, and no rebuild when the same PyTorch is installed again.
    includes = [TORCH / "include", TORCH / "include/torch/csrc/api/include"]
    if TOOLKIT:
        flags += ["-DSTN_EXT_WITH_CUDA"]
        includes += [TOOLKIT.root / "include"]
    return flags + [flag for folder in includes for flag in ("-isystem", str(folder))]


def nvcc_flags():
    return ["-O0", "-g", "-G"] if DEBUG else ["-O3", "-lineinfo"]


def requirements():
    """The operator itself needs PyTorch alone; the rest serves main.py and display_result.py."""
    # The very version built against: pip would replace it to have the newest torchvision.
    public, _, _ = torch.__version__.partition("+")
    main = ["torchvision", "numpy", "pillow", "tensorboard", "tqdm", "jinja2", "matplotlib", "pyyaml"]
    return [f"torch=={public}", *main]


setup(ext_modules=[extension()], cmdclass={"build_ext": BuildKernels}, install_requires=requirements())
