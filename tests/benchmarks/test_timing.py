"""What the benchmarks write beside their figures."""

import importlib.util
import shutil
import subprocess
import sys

import pytest
import timing


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_results_recorded_anew_do_not_make_a_commit_dirty(tmp_path, monkeypatch):
    def git(*args):
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", *who, *args], cwd=tmp_path, check=True, capture_output=True)

    source, result = tmp_path / "benchmarks/timing.py", tmp_path / "benchmarks/results/some.json"
    result.parent.mkdir(parents=True)
    shutil.copy(timing.__file__, source)
    result.write_text("old")
    git("init")
    git("add", ".")
    git("commit", "-m", "all")
    spec = importlib.util.spec_from_file_location("copied_timing", source)
    copied = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, copied)
    spec.loader.exec_module(copied)

    clean = copied._commit()
    assert len(clean) == 12
    result.write_text("new")
    assert copied._commit() == clean
    source.write_text(source.read_text() + "# changed")
    assert copied._commit() == f"{clean}-dirty"
