"""Checkpoints on disk: names, whole or not at all, and a state that comes back bit for bit."""

import os

import pytest
import torch

from stn_ext.training import checkpoints, config, engine, files
from stn_ext.training.data import Normalisation
from stn_ext.training.distributed import Process
from stn_ext.training.errors import UserError
from stn_ext.training.run import About, Run, rebuild

ALONE = Process(torch.device("cpu"))


def make_run(squares, seed="0"):
    args = config.parse(["--batch_size", "20", "--num_epoch", "4", "--seed", seed])
    return Run(args, About.of(squares), len(squares), ALONE)


def train(run, squares, epochs):
    for _ in range(epochs):
        order = engine.epoch_order(len(squares), run.args.batch_size, run.order)
        normalisation = Normalisation(run.about.background)
        engine.train_epoch(run.model, run.optimizer, run.scheduler, squares, normalisation, order, ALONE)
        run.epoch += 1


def test_a_run_goes_on_from_its_file_with_the_same_bits(squares, tmp_path):
    straight = make_run(squares)
    train(straight, squares, 4)

    first = make_run(squares)
    train(first, squares, 2)
    path = checkpoints.path_of(tmp_path, 2)
    files.write_atomically(path, checkpoints.to_bytes(first.state()))
    torch.rand(1000)  # random numbers drawn in between do not matter
    second = make_run(squares, seed="9")
    second.restore(checkpoints.load(path))
    assert second.epoch == 2
    train(second, squares, 2)
    for name, value in straight.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], value), name


def test_the_network_is_rebuilt_from_the_file_alone(squares, tmp_path):
    run = make_run(squares)
    train(run, squares, 1)
    path = checkpoints.path_of(tmp_path, 1)
    files.write_atomically(path, checkpoints.to_bytes(run.state()))
    model, x = rebuild(checkpoints.load(path)).eval(), torch.rand(5, 1, 12, 12)
    assert torch.equal(model(x), run.model.eval()(x))


def test_a_checkpoint_from_before_there_were_histories_and_averages_goes_on(squares, tmp_path):
    first = make_run(squares)
    train(first, squares, 1)
    state = first.state()
    del state["history"], state["averaged"], state["data"]["objective"]
    for name in ("ema", "label_smoothing", "width", "transform", "num_transformers", "control", "name_class"):
        del state["args"][name]
    path = checkpoints.path_of(tmp_path, 1)
    files.write_atomically(path, checkpoints.to_bytes(state))
    loaded, x = checkpoints.load(path), torch.rand(5, 1, 12, 12)
    assert torch.equal(rebuild(loaded).eval()(x), first.model.eval()(x))
    second = make_run(squares, seed="9")
    second.restore(loaded)
    assert second.epoch == 1 and second.history == []
    for run in (first, second):
        torch.set_rng_state(loaded["random"]["processes"][0]["cpu"])  # dropout's
        train(run, squares, 1)
    for name, value in first.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], value), name


def test_names_with_four_digits_and_more_are_found(tmp_path):
    for name in (
        "model_epoch0003.pth",
        "model_epoch00012.pth",
        "model_epoch7.pth",
        ".model_epoch00099.pth.tmp",
    ):
        (tmp_path / name).touch()
    assert checkpoints.find(tmp_path).name == "model_epoch00012.pth"
    assert checkpoints.find(tmp_path, 3).name == "model_epoch0003.pth"
    assert checkpoints.find(tmp_path, 7) is None
    assert checkpoints.find(tmp_path / "missing") is None
    assert checkpoints.path_of(tmp_path, 5).name == "model_epoch00005.pth"


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model_epoch00001.pth"
    files.write_atomically(path, b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match=r"cannot write .*: No space left on device"):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert checkpoints.find(tmp_path) == path
