"""The CPU kernels read and write nothing outside the tensors, whatever theta is: under AddressSanitizer."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_no_access_outside_the_tensors(tmp_path):
    program = tmp_path / "cpu_kernels"
    sources = [
        Path(__file__).with_name("cpu_kernels_main.cpp"),
        *sorted((ROOT / "csrc/cpu").glob("level_*.cpp")),
    ]
    flags = [
        "-std=c++17",
        "-O1",
        "-g",
        "-Wno-psabi",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
    ]
    subprocess.run(["g++", *flags, "-I", ROOT / "csrc", *sources, "-o", program], check=True)
    result = subprocess.run([program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "portable done" in result.stdout
