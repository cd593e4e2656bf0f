"""The host's stand-in for CUDA sees what it is there to see."""

import shutil
import subprocess

import pytest

from .host_kernels import HERE, build_program

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


def test_what_a_block_leaves_in_shared_memory_is_lost(tmp_path):
    program = build_program(tmp_path, [HERE / "stale_kernel.cpp"], None)
    done = subprocess.run([program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_missing_barrier_is_seen(tmp_path):
    """What the thread sanitizer would say of a kernel that races."""
    sources = [HERE / "racy_kernel.cpp"]
    for synchronised in (True, False):
        program = build_program(
            tmp_path, sources, None, "-fsanitize=thread", f"-DSYNCHRONISED={synchronised:d}"
        )
        done = subprocess.run([program], capture_output=True, text=True, timeout=60)
        assert ("data race" in done.stderr) != synchronised, done.stderr
        assert (done.returncode == 0) == synchronised
