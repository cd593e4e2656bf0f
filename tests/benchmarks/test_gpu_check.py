"""benchmarks/gpu_check.sh goes on after a stage that fails, and says so at its end."""

import os
import subprocess

import pytest

from tests.command_line import ROOT

# Answers as the interpreter would, without its work: fails where FAILING says.
FAKE = """#!/bin/sh
case "$*" in
*"$FAILING"*) echo "no luck"; exit 3 ;;
*get_device_capability*) echo 9.0 ;;
-) echo "$SANITIZER" ;;
*) echo "did $*" ;;
esac
"""


def run(folder, failing, sanitizer=True):
    for name, text in (("python", FAKE), ("compute-sanitizer", '#!/bin/sh\necho "checked"\n')):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    fakes = {"PYTHON": str(folder / "python"), "FAILING": failing}
    fakes["SANITIZER"] = str(folder / "compute-sanitizer") if sanitizer else ""
    command = ["bash", "benchmarks/gpu_check.sh", folder / "out"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | fakes, capture_output=True, text=True, timeout=60
    )
    return done.returncode, (folder / "out/summary.txt").read_text().splitlines()


def test_all_stages_pass(tmp_path):
    status, lines = run(tmp_path, "nothing at all")
    assert status == 0
    names = [line.split(":")[0] for line in lines]
    assert names == ["gpu", "build", "first", "tests", "sampler", "memcheck", "racecheck", "all"]
    assert all("passed" in line for line in lines)
    assert len(list((tmp_path / "out").iterdir())) <= 9


@pytest.mark.parametrize(
    ("failing", "stage"), [("get_device_name", "gpu"), ("setup.py", "build"), ("sampler.py", "sampler")]
)
def test_a_stage_that_fails_is_recorded_and_the_rest_runs(tmp_path, failing, stage):
    status, lines = run(tmp_path, failing)
    assert status == 1 and len(lines) == 8
    (line,) = (line for line in lines if line.startswith(f"{stage}:"))
    assert "FAILED (status 3)" in line and "no luck" in line
    assert sum("FAILED" in line for line in lines) == 2 and lines[-1].startswith("all: FAILED")


def test_a_missing_sanitizer_is_named(tmp_path):
    status, lines = run(tmp_path, "nothing at all", sanitizer=False)
    assert status == 1 and sum("MISSING: no compute-sanitizer" in line for line in lines) == 2


def test_usage(tmp_path):
    script = ROOT / "benchmarks/gpu_check.sh"
    done = subprocess.run(["bash", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "usage" in done.stderr
