"""Two trainings at once in the same directories: the second says who is there, the first goes on."""

import os
import signal
import socket

import pytest

from tests.command_line import directories, started

from .training import SMALL, command

pytestmark = pytest.mark.hostile


def test_the_second_training_says_who_holds_the_directory(tmp_path):
    options = [*SMALL, "--num_epoch", 100_000, "--num_freq_save", 100_000]
    with started("main.py", *options, *directories(tmp_path)) as first:
        while not first.stdout.readline().startswith("epoch 1/"):
            assert first.poll() is None, first.stderr.read()
        for again in ([], ["--train_continue", "on"]):
            code, errors = command(tmp_path, *SMALL, "--num_epoch", 1, *again)
            assert code == 2 and len(errors.splitlines()) == 1, errors
            holder = f"a training, process {first.pid} on {socket.gethostname()}, since 2"
            assert f"is in use by {holder}" in errors, errors
        assert first.poll() is None
        first.send_signal(signal.SIGKILL)  # the kernel lets go of the lock
        first.communicate()
    code, errors = command(tmp_path, *SMALL, "--num_epoch", 1)
    assert code == 0, errors
    assert os.listdir(tmp_path / "checkpoints/stn/mnist") == ["model_epoch00001.pth"]


def test_log_and_checkpoints_may_share_a_directory(tmp_path):
    both = ["--dir_log", tmp_path / "both", "--dir_checkpoint", tmp_path / "both"]
    code, errors = command(tmp_path, *SMALL, "--num_epoch", 1, *both)
    assert code == 0, errors
    assert (tmp_path / "both/stn/mnist/arg.txt").exists()
