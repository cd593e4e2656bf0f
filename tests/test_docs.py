"""The documentation builds without a warning, and its examples give what they say."""

import subprocess
import sys
from pathlib import Path

import pytest

import stn_ext

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Runs a Sphinx builder, every warning an error; the folder of its output."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def run(builder):
        command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", builder]
        result = subprocess.run(
            [*command, ROOT / "docs", tmp_path], capture_output=True, text=True, cwd=tmp_path
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return tmp_path

    return run


def test_every_public_name_has_its_place_in_the_pages(build):
    text = (build("html") / "api.html").read_text()
    functions = [name for name in stn_ext.__all__ if callable(getattr(stn_ext, name))]
    assert "affine_sample" in functions
    for name in functions:
        assert f'id="stn_ext.{name}"' in text, name
    for module in ("geometry", "nn", "transforms"):
        for name in getattr(stn_ext, module).__all__:
            assert f'id="stn_ext.{module}.{name}"' in text, name


def test_examples_run(build):
    summary = (build("doctest") / "output.txt").read_text()
    assert "0 failures in tests" in summary
    assert summary.count("items passed all tests") == 2  # of the guide and of the docstrings
