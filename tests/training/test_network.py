"""stn_ext.load: a trained network in one line."""

import subprocess
import sys

import pytest
import torch
from PIL import Image

import stn_ext
from stn_ext.training import data, weights
from stn_ext.training.data import Normalisation
from tests.command_line import ROOT
from tests.photographs import save_all


@pytest.fixture(scope="module")
def network():
    return stn_ext.load("mnist")


@pytest.fixture(scope="module")
def digits():
    return data.load("mnist", "none", train=False, limit=100)


def test_nothing_of_the_training_is_loaded_before_it_is_asked_for():
    program = (
        "import sys, stn_ext; loaded = [n for n in sys.modules if n.startswith('stn_ext.training')]; "
        "assert not loaded and 'PIL' not in sys.modules, loaded"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_predicts_what_the_network_itself_says(network, digits):
    expected = network.model(Normalisation((0,)).apply(digits.images)).softmax(1)
    predictions = network.predict(digits.images)
    assert [p.label for p in predictions] == [network.classes[i] for i in expected.argmax(1)]
    for prediction, row in zip(predictions, expected.tolist(), strict=True):
        first, second = sorted(row)[-1], sorted(row)[-2]
        assert prediction.confidence == pytest.approx(first, abs=1e-6)
        assert prediction.second_confidence == pytest.approx(second, abs=1e-6)
        assert network.classes[row.index(second)] == prediction.second
    right = sum(p.label == str(label) for p, label in zip(predictions, digits.labels.tolist(), strict=True))
    assert right >= 98  # of a hundred, of which 99.6 % are right in all


def test_theta_and_warp_are_the_transformers(network, digits):
    images = Normalisation((0,)).apply(digits.images)
    warped, theta = network.model.transformer(images, return_theta=True)
    assert torch.equal(network.theta(digits.images), theta)
    assert torch.equal(network.warp(digits.images), (255 * warped).round().clamp(0, 255).to(torch.uint8))
    assert torch.equal(network.warp(digits.images[0]), network.warp(digits.images[:1]))


def test_images_may_be_of_other_dtypes_and_paths(network, digits, tmp_path):
    as_bytes = network.predict(digits.images[:5])
    as_floats = network.predict(digits.images[:5].double() / 255)
    assert [p.label for p in as_bytes] == [p.label for p in as_floats]
    assert as_bytes[0].confidence == pytest.approx(as_floats[0].confidence, abs=1e-5)
    path = tmp_path / "digit.png"
    Image.fromarray(digits.images[0, 0].numpy()).save(path)
    assert network.predict(path) == network.predict([str(path)]) == network.predict(digits.images[:1])


def test_the_drawn_photographs_are_read_right_by_each_of_the_networks_of_digits(tmp_path):
    saved = save_all(tmp_path)
    for name in ("mnist", "mnist_cls"):
        assert [p.label for p in stn_ext.load(name).predict(list(saved))] == list(saved.values())


@pytest.mark.parametrize(
    "dtype, tolerance", [(torch.float64, 1e-4), (torch.float16, 0.05), (torch.bfloat16, 0.3)]
)
def test_dtypes(network, digits, dtype, tolerance):
    """Logits, of up to some ten: the tolerance is that of the dtype's few digits through the layers."""
    other = stn_ext.load("mnist", dtype=dtype, device="cpu")
    logits = other(digits.images[:20])
    assert logits.dtype == dtype
    torch.testing.assert_close(logits.float(), network(digits.images[:20]).float(), rtol=0.05, atol=tolerance)


def test_empty_batches(network):
    none = torch.zeros(0, 1, 28, 28, dtype=torch.uint8)
    assert network.predict(none) == [] and network.predict([]) == []
    assert network.theta(none).shape == (0, 2, 3) and network.warp(none).shape == (0, 1, 28, 28)


def test_mistakes(network, tmp_path):
    with pytest.raises(
        ValueError, match=r"expected images of shape \(N, 1, 28, 28\), but got \(2, 3, 28, 28\)"
    ):
        network.predict(torch.zeros(2, 3, 28, 28))
    with pytest.raises(TypeError, match=r"uint8, or floating point .* torch.int64"):
        network.predict(torch.zeros(1, 1, 28, 28, dtype=torch.int64))
    with pytest.raises(ValueError, match="this network has no transformer"):
        stn_ext.load("mnist_cls").theta(torch.zeros(1, 1, 28, 28))
    message = "expected a checkpoint's file, or one of mnist, mnist_cls, mnist_rts"
    with pytest.raises(stn_ext.FileError, match=message):
        stn_ext.load(tmp_path / "none.pth")
    (tmp_path / "none.png").write_text("no picture")
    with pytest.raises(stn_ext.FileError, match="damaged, or none"):
        network.predict(tmp_path / "none.png")


def test_what_comes_with_the_package_is_small_and_says_how_it_was_made():
    import json

    assert weights.names() == ["mnist", "mnist_cls", "mnist_rts"]
    assert sum(path.stat().st_size for path in weights.FOLDER.iterdir()) < 2_000_000
    for name in weights.names():
        facts = json.loads((weights.FOLDER / f"{name}.json").read_text())
        assert facts["command"].startswith("python main.py --scope") and len(facts["commit"]) == 40
        assert facts["num_images"] == 10_000 and 0.98 < facts["accuracy"] < 1
        assert facts["classes"] == list(stn_ext.load(name).classes)


def test_the_accuracy_that_is_said_is_the_networks(network):
    """On the first two thousand of the ten, within what a sample of so many may differ."""
    import json

    said = json.loads((weights.FOLDER / "mnist.json").read_text())["accuracy"]
    digits = data.load("mnist", "none", train=False, limit=2000)
    labels = [p.label for p in network.predict(digits.images)]
    right = sum(label == str(true) for label, true in zip(labels, digits.labels.tolist(), strict=True))
    assert abs(right / 2000 - said) < 0.006
