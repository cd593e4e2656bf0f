"""The benchmarks are scripts: their folder is not a package."""

import sys

import pytest
import torch

from tests.command_line import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))


@pytest.fixture(autouse=True)
def _threads():
    """The benchmarks set their number."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def recorded(tmp_path):
    """The file of a small result of benchmarks/sampler.py."""
    import sampler

    path = tmp_path / "sampler-cpu.json"
    cases, passes = ["--case=digits", "--case=tiny"], ["--pass=forward", "--pass=forward+backward"]
    options = ["--contender=pytorch", "--threads=1", "--threads=2", "--seconds=0", f"--json={path}"]
    sampler.main([*cases, *passes, *options])
    return path
