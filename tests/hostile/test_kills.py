"""kill -9 at any moment: training goes on to the same bits, and a report is of one test, whole.

STN_EXT_KILLS says how often each is killed; few times by default, as each takes a new process.
"""

import hashlib
import os
import random
import re
import signal
import time

import pytest
import torch

from stn_ext.training import checkpoints
from tests.command_line import directories, started

from . import files
from .test_flips import leaves
from .training import SMALL, command, trained

pytestmark = pytest.mark.hostile

KILLS = int(os.environ.get("STN_EXT_KILLS", "2"))
# What two runs of the same training may differ in: places, and how they were started.
FREE = re.compile(r"/args/(dir_.*|train_continue)|.*/seconds")


@pytest.fixture(autouse=True)
def _one_thread():
    """As in the processes that are killed: the bits depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def kill_when(process, due, delay):
    """Kills the process some seconds after it is due, and tells whether it was still at work."""
    while not due() and process.poll() is None:
        time.sleep(0.002)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def test_training_killed_at_any_moment_ends_with_the_same_bits(tmp_path):
    chance, options = random.Random(0), [*SMALL, "--num_epoch", 4 * KILLS + 4]
    straight = trained(tmp_path / "straight", *options[-2:])
    directory = tmp_path / "killed/checkpoints/stn/mnist"
    kills = 0
    while kills < KILLS:
        before = checkpoints.find(directory)
        again = ["--train_continue", "on"] if before else []
        with started("main.py", *options, *again, *directories(tmp_path / "killed")) as process:
            # At once after an epoch, in the middle of the next, or while its checkpoint is written.
            kills += kill_when(
                process,
                lambda before=before: checkpoints.find(directory) != before,
                chance.choice([0, chance.uniform(0, 0.2)]),
            )
        if checkpoints.find(directory).name == straight.name:
            break
    code, errors = command(tmp_path / "killed", *SMALL[-4:], "--train_continue", "on")
    assert code == 0, errors
    one, other = (leaves(checkpoints.load(path)) for path in (straight, directory / straight.name))
    assert one.keys() == other.keys()
    for name, value in one.items():
        same = value.equal(other[name]) if hasattr(value, "equal") else value == other[name]
        assert same or FREE.fullmatch(name), name
    assert not list(directory.glob(".*")), "temporaries were left"
    print(f"{kills} times kill -9 of training, the same bits in the end")


def fingerprint(directory):
    """The content of each file below the directory."""
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.rglob("*")
        if path.is_file()
    }


def check_that_reports_are_whole(root, directory, *lines):
    """Kills the command of each line in turn while it writes its report in place of the other's."""
    chance, whole, kills = random.Random(0), [], 0
    for line in lines:
        assert command(root, *line) == (0, "")
        whole.append(fingerprint(directory))
    assert whole[0].keys() == whole[1].keys() and whole[0]["predictions.csv"] != whole[1]["predictions.csv"]
    (directory / "notes.txt").write_text("the user's own")
    temporary = f".{directory.name}.*.tmp"
    for line in lines * KILLS:
        if kills == KILLS:
            break
        with started("main.py", *line, *directories(root)) as process:
            kills += kill_when(
                process,
                lambda: any(directory.parent.glob(f"{temporary}/images/*.png")),
                chance.uniform(0, 0.1),
            )
        found = fingerprint(directory)
        notes = found.pop("notes.txt", None)
        assert found in whole, "parts of two reports"
    assert not kills or notes or list(directory.parent.glob(f"{temporary}/notes.txt"))
    assert command(root, *lines[0]) == (0, "")
    assert fingerprint(directory) == {**whole[0], "notes.txt": hashlib.sha256(b"the user's own").hexdigest()}
    assert not list(directory.parent.glob(".*.tmp"))
    print(f"{kills} times kill -9 of {lines[0][1]}, a whole report each time")


def test_a_killed_test_leaves_the_whole_report_of_one(tmp_path):
    trained(tmp_path, "--num_epoch", 2, "--lr_cls", 0.05)
    test = ["--mode", "test", "--limit", 300, "--num_workers", 1, "--gpu_ids", "-1"]
    lines = [[*test, "--epoch", epoch] for epoch in (1, 2)]
    check_that_reports_are_whole(tmp_path, tmp_path / "results/stn/mnist", *lines)


def test_a_killed_prediction_leaves_the_whole_report_of_one(tmp_path):
    predict = ["--mode", "predict", "--weights", "mnist", "--num_workers", 1, "--gpu_ids", "-1"]
    lines = []
    for seed in (0, 300):
        folder = tmp_path / str(seed)
        folder.mkdir()
        for index in range(300):
            files.picture(seed + index).save(folder / f"{index}.png")
        lines.append([*predict, folder])
    check_that_reports_are_whole(tmp_path, tmp_path / "results/weights_mnist/mnist/predict", *lines)


def test_what_was_killed_before_is_cleared_at_the_next_start(tmp_path):
    trained(tmp_path)
    checkpoint, results = tmp_path / "checkpoints/stn/mnist", tmp_path / "results/stn"
    left = checkpoint / ".model_epoch00002.pth.0123456789abcdef.tmp"
    left.write_bytes(b"half")
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (checkpoint / ".model_epoch00002.pth.tmp").symlink_to(victim)  # not a name that this program gives
    half = results / ".mnist.0123456789abcdef.tmp"
    (half / "images").mkdir(parents=True)
    (half / "images/00000-input.png").write_bytes(b"half")
    (half / "notes.txt").write_text("the user's own")
    trained(tmp_path, "--num_epoch", 2, "--train_continue", "on")
    assert not left.exists() and victim.read_text() == "mine"
    assert command(tmp_path, "--mode", "test", "--limit", 5) == (0, "")
    assert not half.exists() and (results / "mnist/notes.txt").read_text() == "the user's own"
