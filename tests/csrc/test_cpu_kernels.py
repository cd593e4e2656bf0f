"""The CPU kernels read and write nothing outside the tensors, whatever theta is: under AddressSanitizer."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_no_access_outside_the_tensors(tmp_path):
    sources = [
        Path(__file__).with_name("cpu_kernels_main.cpp"),
        *sorted((ROOT / "csrc/cpu").glob("level_*.cpp")),
    ]
    objects = [tmp_path / source.with_suffix(".o").name for source in sources]
    sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    flags = [
        "-std=c++17",
        "-O1",
        "-fno-inline-functions",
        "-g1",
        "-Wno-psabi",
        *sanitize,
        "-I",
        ROOT / "csrc",
    ]
    compilers = [
        subprocess.Popen(["g++", *flags, "-c", source, "-o", target])
        for source, target in zip(sources, objects, strict=True)
    ]
    assert [compiler.wait() for compiler in compilers] == [0] * len(sources)
    program = tmp_path / "cpu_kernels"
    subprocess.run(["g++", *sanitize, *objects, "-o", program], check=True)
    levels = [
        subprocess.Popen([program, name], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for name in ("portable", "avx2", "avx512")
    ]
    outputs = [level.communicate() for level in levels]
    assert [level.returncode for level in levels] == [0] * len(levels), outputs
    assert outputs[0][0] == "portable done\n"
