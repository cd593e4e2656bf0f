"""--init: training that starts from trained weights."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from stn_ext.training import checkpoints, weights
from tests.command_line import directories, run_here, succeed_here

STEPS = ["--limit", 100, "--num_epoch", 1]


def saved(root, scope="stn", data="mnist"):
    return checkpoints.load(root / f"checkpoints/{scope}/{data}/model_epoch00001.pth")


def test_training_starts_with_the_weights(tmp_path):
    """At a learning rate of nothing the weights stay what they were."""
    still = ["--lr_cls", 0, "--lr_stn", 0]
    printed = succeed_here("--init", "mnist", *still, *STEPS, *directories(tmp_path))
    assert f"starting from the weights of {weights.FOLDER / 'mnist.pth'}" in printed
    given = checkpoints.load(weights.find("mnist"))["model"]
    for name, parameter in saved(tmp_path)["model"].items():
        if "running" not in name and "num_batches" not in name:  # statistics of the images seen
            assert torch.equal(parameter, given[name]), name
    assert saved(tmp_path)["history"][0]["train"]["accuracy"] > 0.9  # and it knows its digits from the start


def test_the_network_is_the_checkpoints(tmp_path):
    succeed_here(
        "--init", "mnist_rts", "--name_data", "mnist_rts", "--ema", 0.9, *STEPS, *directories(tmp_path)
    )
    state = saved(tmp_path, data="mnist_rts")
    assert state["args"]["warp_size"] == [28, 28] and state["args"]["init"] == "mnist_rts"
    assert "warp_size: [28, 28]" in (tmp_path / "log/stn/mnist_rts/arg.txt").read_text()
    given = checkpoints.load(weights.find("mnist_rts"))["model"]
    # The averages too began there: of weights at random they would have nothing.
    name = "classifier.0.weight"
    average = state["averaged"][f"module.{name}"]
    assert (average - given[name]).abs().max() < 0.1 * given[name].abs().max()
    printed = succeed_here(
        "--name_data", "mnist_rts", "--train_continue", "on", "--num_epoch", 2, *directories(tmp_path)
    )
    assert "starting from" not in printed and "epoch 2/2" in printed


def test_other_classes_get_a_last_layer_of_their_own(tmp_path):
    generator = np.random.default_rng(0)
    for name, value in (("dark", 60), ("bright", 200), ("middle", 130)):
        folder = tmp_path / "datasets/train" / name
        folder.mkdir(parents=True)
        for index in range(10):
            pixels = generator.integers(value - 40, value + 40, (28, 28), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}.png")
    still = ["--lr_cls", 0, "--lr_stn", 0]
    options = ["--name_data", "imagefolder", "--init", "mnist", *still, *STEPS, *directories(tmp_path)]
    succeed_here(*options)
    own = saved(tmp_path, data="imagefolder")["model"]
    given = checkpoints.load(weights.find("mnist"))["model"]
    differ = [name for name in own if own[name].shape != given[name].shape]
    assert len(differ) == 2 and all(own[name].shape[0] == 3 for name in differ)
    assert torch.equal(own["classifier.0.weight"], given["classifier.0.weight"])


@pytest.mark.parametrize(
    "words, message",
    [
        (["--init", "none"], "none: expected a checkpoint's file, or one of mnist"),
        (["--init", "mnist", "--net", "small"], "is of another architecture: --net cnn, not small"),
        (["--init", "mnist", "--scope", "cls"], "is of another architecture: --transformer on, not off"),
        (["--init", "mnist", "--train_continue", "on"], "--init starts afresh, --train_continue goes on"),
        (["--init", "mnist", "--name_data", "mnist_add"], "--init: the weights do not fit this network"),
        (["--weights", "mnist"], "--weights is for --mode test, predict, export only, not for train"),
    ],
)
def test_mistakes_get_one_line(tmp_path, words, message):
    done = run_here(*words, *STEPS, *directories(tmp_path))
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and message in done.stderr, done.stderr


def test_the_weights_are_tested_by_their_name(tmp_path):
    printed = succeed_here("--mode", "test", "--weights", "mnist_rts", "--limit", 30, *directories(tmp_path))
    assert "mnist_rts.pth: 30 test images" in printed
    metrics = json.loads((tmp_path / "results/weights_mnist_rts/mnist_rts/metrics.json").read_text())
    assert metrics["accuracy"] > 0.85 and metrics["name_data"] == "mnist_rts"  # 98.9 % of ten thousand
