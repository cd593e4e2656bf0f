"""The installed command, python -m stn_ext and main.py are one program; a wheel and an sdist bring it."""

import subprocess
import sys
import zipfile
from configparser import ConfigParser

import pytest

from tests.command_line import ROOT, directories, environment

STARTS = {
    "main.py": ["main.py"],
    "python -m stn_ext": ["-m", "stn_ext"],
    # What an installed script runs.
    "stn-ext": [
        "-c",
        "import sys, stn_ext_startup; sys.argv[0] = 'stn-ext'; sys.exit(stn_ext_startup.command())",
    ],
}


def start(how, *words):
    return subprocess.run(
        [sys.executable, *STARTS[how], *map(str, words)],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize("how", STARTS)
def test_each_name_starts_the_program(how, tmp_path):
    done = start(how, "--mode", "test", "--weights", "mnist", "--limit", 20, *directories(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert "mnist.pth: 20 test images" in done.stdout
    done = start(how, "--epoch", "0")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("how", STARTS)
def test_help_calls_it_by_its_name(how):
    done = start(how, "--help")
    assert done.returncode == 0 and done.stdout.startswith(f"usage: {how} "), done.stdout[:80]


def test_a_wheel_brings_the_command_and_the_weights(tmp_path):
    """Without the extension, which takes minutes to build: what is packed besides it."""
    place = str(tmp_path)
    commands = [
        "-q",
        "egg_info",
        "--egg-base",
        place,
        "build",
        "--build-base",
        place,
        "bdist_wheel",
        "-d",
        place,
    ]
    code = (
        "import runpy, setuptools, sys\n"
        "whole = setuptools.setup\n"
        "setuptools.setup = lambda **options: whole(**options | {'ext_modules': []})\n"
        "sys.argv[0] = 'setup.py'\n"
        "runpy.run_path('setup.py', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *commands],
        cwd=ROOT, env=environment() | {"STN_EXT_CUDA": "0"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        names = set(wheel.namelist())
        (entry,) = [name for name in names if name.endswith("entry_points.txt")]
        scripts = ConfigParser()
        scripts.read_string(wheel.read(entry).decode())
    assert scripts["console_scripts"]["stn-ext"] == "stn_ext_startup:command"
    assert {"stn_ext_startup.py", "stn_ext/__main__.py"} <= names
    files = [path.name for path in (ROOT / "stn_ext/training/weights").iterdir()]
    assert len(files) == 6 and {f"stn_ext/training/weights/{name}" for name in files} <= names
    assert {f"stn_ext/training/templates/report.{kind}" for kind in ("css", "js")} <= names
