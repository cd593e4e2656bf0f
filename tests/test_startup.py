"""What meets the programs before they have begun, and standard streams that are closed or full."""

import os
import signal
import subprocess
import sys

import pytest

from tests.command_line import ROOT, directories, environment, started

# In PyTorch's place: an import that takes long, and that keeps exceptions to itself as some packages do.
SLOW = """
import time
print("importing", flush=True)
for _ in range(600):
    try:
        time.sleep(0.1)
    except BaseException:
        pass
"""
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture
def with_torch(tmp_path, monkeypatch):
    """Replaces PyTorch by a text, for the programs that a test starts."""

    def replace(text: str) -> dict[str, str]:
        (tmp_path / "torch").mkdir()
        (tmp_path / "torch/__init__.py").write_text(text)
        return {**environment(), "PYTHONPATH": str(tmp_path)}

    return replace


@pytest.mark.parametrize("script", ["main.py", "display_result.py"])
@pytest.mark.parametrize("how", SIGNALS)
def test_a_signal_during_the_imports_ends_in_one_line(with_torch, script, how):
    with started(script, env=with_torch(SLOW)) as process:
        assert process.stdout.readline() == "importing\n"
        process.send_signal(how)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "interrupted\n")


def test_what_nohup_ignores_stays_ignored(with_torch):
    with started("main.py", env=with_torch(SLOW), ignored=[signal.SIGHUP]) as process:
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 130


@pytest.mark.parametrize("script", ["main.py", "display_result.py"])
def test_a_package_that_is_missing_is_one_line(with_torch, script):
    done = subprocess.run(
        [sys.executable, script, "--help"],
        cwd=ROOT, env=with_torch("import nobodys_package"), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (2, "error: No module named 'nobodys_package'\n")


def shell(redirected: str, *words: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", "-c", f'exec "$@" {redirected}', "bash", sys.executable, "main.py", *map(str, words)],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize(
    "redirected, message",
    [
        (">&-", ""),
        ("<&- >&- 2>&-", ""),
        ("> /dev/full", "standard output cannot be written (No space left on device): going on without it\n"),
        ("2> /dev/full", ""),
    ],
)
def test_training_goes_on_without_its_standard_streams(tmp_path, redirected, message):
    options = ["--net", "small", "--limit", "100", "--num_epoch", "1", *directories(tmp_path)]
    done = shell(redirected, *options)
    assert (done.returncode, done.stderr) == (0, message)
    assert (tmp_path / "checkpoints/stn/mnist/model_epoch00001.pth").exists()


@pytest.mark.parametrize("redirected", [">&-", "2>&-", "> /dev/full", "2> /dev/full"])
def test_a_mistake_keeps_its_exit_code_without_standard_streams(redirected):
    done = shell(redirected, "--width", "0")
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_a_name_that_is_no_text_can_be_printed(tmp_path):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    options = ["--net", "small", "--limit", "100", "--num_epoch", "1", "--train_continue", "on"]
    done = shell("", *options, "--dir_checkpoint", name, "--dir_log", name)
    assert done.returncode == 0 and "\\udcff" in done.stdout, done.stderr
