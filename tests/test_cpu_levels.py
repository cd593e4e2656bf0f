"""Every SIMD level of this machine passes the operator's tests; the best one does in the other files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import stn_ext

TESTS = Path(__file__).parent


def run_at(level, *command):
    environment = os.environ | {"STN_EXT_CPU_LEVEL": level}
    environment.pop("PYTEST_ADDOPTS", None)
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, cwd=TESTS.parent
    )


LEVELS = ["portable", "avx2", "avx512"]
FILES = ("functional", "autograd", "properties", "determinism", "warps", "extremes", "calculus")
# What is the same at every level: compilers and transforms that see the operators from outside, and refusals.
SAME = ("opcheck", "compile", "hessian", "vmap", "jacobians", "each_sample", "loader_workers", "refused")


@pytest.mark.parametrize("level", LEVELS[:-1])
def test_lower_level(level):
    if stn_ext.build_info()["simd"] not in LEVELS[LEVELS.index(level) + 1 :]:
        pytest.skip("not below the best level here")
    files = [TESTS / f"test_{name}.py" for name in FILES]
    selection = ["-k", " and ".join(f"not {name}" for name in SAME)]
    result = run_at(level, "-m", "pytest", "-q", "--device", "cpu", *selection, *files)
    assert result.returncode == 0, result.stdout


def test_the_level_can_be_lowered():
    script = "import stn_ext; print(stn_ext.build_info()['simd'])"
    assert run_at("portable", "-c", script).stdout.strip() == "portable"


def test_unknown_level():
    result = run_at("avx1024", "-c", "import stn_ext; stn_ext.build_info()")
    assert "STN_EXT_CPU_LEVEL: expected one of this processor's levels (portable" in result.stderr
