"""Training and tests that come to no number end in one line, and keep what was good before."""

import json
from dataclasses import replace

import pytest
import torch

from stn_ext.training import checkpoints, engine, train
from tests.hostile.training import SMALL, command, trained

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("name, value", [("training", NAN), ("validation", NAN), ("validation", INF)])
def test_a_loss_that_is_no_number_ends_training_and_the_last_good_epoch_is_named(
    tmp_path, monkeypatch, name, value
):
    function = {"training": "train_epoch", "validation": "evaluate"}[name]
    original, calls = getattr(engine, function), []

    def diverging(*arguments, **options):
        metrics = original(*arguments, **options)
        calls.append(metrics)
        return metrics if len(calls) < 3 else replace(metrics, loss=value)

    monkeypatch.setattr(engine, function, diverging)
    code, errors = command(tmp_path, *SMALL, "--num_epoch", 5, "--num_freq_save", 5)
    path = tmp_path / "checkpoints/stn/mnist/model_epoch00002.pth"
    assert code == 2 and errors.splitlines() == [
        f"error: the {name} loss became {value} in epoch 3: lower --lr_cls and --lr_stn; "
        f"the last good checkpoint is {path}"
    ]
    assert checkpoints.load(path)["epoch"] == 2 and list(path.parent.iterdir()) == [path]


def test_weights_that_are_no_numbers_are_never_saved(tmp_path, monkeypatch):
    original = engine.settle

    def spoil(model, *arguments):
        original(model, *arguments)
        with torch.no_grad():
            next(model.parameters()).fill_(NAN)

    monkeypatch.setattr(engine, "settle", spoil)
    # The losses do not show it, as if what is spoiled were not used.
    figures = engine.Metrics(1.0, 0.5)
    monkeypatch.setattr(train.engine, "evaluate", lambda *_: figures)
    code, errors = command(tmp_path, *SMALL, "--num_epoch", 1)
    assert code == 2 and "the weights became infinite or no numbers in epoch 1" in errors, errors
    assert "no epoch before it was finished" in errors
    assert not list((tmp_path / "checkpoints/stn/mnist").iterdir())


def test_a_test_whose_loss_is_no_number_writes_no_report(tmp_path):
    path = trained(tmp_path)
    test = ["--mode", "test", "--limit", 20, "--gpu_ids", "-1"]
    assert command(tmp_path, *test)[0] == 0
    metrics = tmp_path / "results/stn/mnist/metrics.json"
    before = metrics.read_text()
    state = torch.load(path, weights_only=True)
    for weight in state["model"].values():
        weight.fill_(3e38)  # finite, but no sum of them is
    torch.save(state, path)
    code, errors = command(tmp_path, *test)
    assert code == 2 and len(errors.splitlines()) == 1, errors
    assert f"{path}: the cross entropy of the test images is " in errors and "--epoch" in errors
    assert metrics.read_text() == before and json.loads(before)["num_images"] == 20
