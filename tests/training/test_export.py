"""--mode export: every format is another way to the same logits, and says what it needs to be used."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import stn_ext
from stn_ext.models import create_model
from stn_ext.training import checkpoints, data, export, schema
from tests.command_line import ROOT, directories, run_here, succeed_here

pytest.importorskip("onnxruntime", reason="needs onnxruntime")

TRANSFORMS = ["affine", "projective", "thin_plate_spline"]
ENDINGS = {"onnx": "onnx", "pt2": "pt2", "state_dict": "state_dict.pth", "weights": "weights.pth"}


@pytest.fixture(scope="module", params=TRANSFORMS)
def trained(request, tmp_path_factory):
    """The folder of a network that has left the identity."""
    root = tmp_path_factory.mktemp(request.param)
    options = ["--transform", request.param, "--net", "small", "--limit", 300, "--num_epoch", 2]
    succeed_here(*options, "--lr_stn", "0.01", "--num_freq_save", 2, *directories(root))
    return root


def exported(root, kind):
    """(the file, its description)"""
    printed = succeed_here("--mode", "export", "--format", kind, *directories(root))
    path = root / f"checkpoints/stn/mnist/model_epoch00002.{ENDINGS[kind]}"
    assert f"{path}: the same logits" in printed
    return path, json.loads(path.with_name(f"{path.name}.json").read_text())


def digits(count):
    images = data.load("mnist", "none", train=False, limit=count).images
    return images, data.Normalisation((0,)).apply(images).contiguous()


SERVER = """
import json, sys
sys.modules["torch"] = None  # whoever imports it fails
import numpy as np, onnxruntime
path, images, output = sys.argv[1:]
about = json.load(open(path + ".json"))
session = onnxruntime.InferenceSession(path)
normalisation = about["normalisation"]
subtract = np.array(normalisation["subtract"], np.float32).reshape(-1, 1, 1)
values = (np.load(images).astype(np.float32) - subtract) / np.float32(normalisation["divide"])
np.save(output, session.run(["logits"], {"images": values})[0])
"""


def test_the_onnx_file_runs_where_pytorch_cannot_be_imported(trained, tmp_path):
    path, about = exported(trained, "onnx")
    network = stn_ext.load(path.with_suffix(".pth"))
    for count in (1, 7):
        images, _ = digits(count)
        np.save(tmp_path / "images.npy", images.numpy())
        words = [path, tmp_path / "images.npy", tmp_path / "logits.npy"]
        subprocess.run([sys.executable, "-c", SERVER, *map(str, words)], check=True, cwd=tmp_path)
        logits = torch.from_numpy(np.load(tmp_path / "logits.npy"))
        with torch.no_grad():
            assert (logits - network(images)).abs().max() < 1e-4
    assert about["classes"] == [str(digit) for digit in range(10)]
    assert about["input"]["shape"] == ["batch", 1, 28, 28] and about["largest_difference"] < 1e-4


def test_the_exported_program_takes_any_batch(trained):
    path, _ = exported(trained, "pt2")
    program = torch.export.load(path).module()
    network = stn_ext.load(path.with_suffix(".pth"))
    for count in (1, 7):
        images, normalised = digits(count)
        with torch.no_grad():
            assert (program(normalised) - network(images)).abs().max() < 1e-4


def test_the_state_dict_is_of_the_network_that_its_description_makes(trained):
    path, about = exported(trained, "state_dict")
    network = create_model(**about["network"]).eval()
    network.load_state_dict(torch.load(path, weights_only=True))
    images, normalised = digits(7)
    with torch.no_grad():
        same = stn_ext.load(path.with_name("model_epoch00002.pth"))(images)
        assert torch.equal(network(normalised), same)


def test_weights_alone_are_smaller_and_cannot_be_gone_on_with(trained, tmp_path):
    path, _ = exported(trained, "weights")
    whole = path.with_name("model_epoch00002.pth")
    assert path.stat().st_size < 0.5 * whole.stat().st_size
    images, _ = digits(7)
    with torch.no_grad():
        assert torch.equal(stn_ext.load(path)(images), stn_ext.load(whole)(images))
    place = tmp_path / "checkpoints/stn/mnist/model_epoch00002.pth"
    place.parent.mkdir(parents=True)
    place.write_bytes(path.read_bytes())
    done = run_here("--train_continue", "on", "--num_epoch", 3, *directories(tmp_path))
    assert done.returncode == 2 and "holds the weights alone" in done.stderr
    state = checkpoints.load(path)
    assert schema.is_weights_alone(state) and not schema.is_weights_alone(checkpoints.load(whole))


def test_aotinductor(trained, monkeypatch):
    """Where there is a compiler; without one it is a line."""
    monkeypatch.setitem(ENDINGS, "aoti", "aoti.pt2")
    path, _ = exported(trained, "aoti")
    network = torch._inductor.aoti_load_package(str(path))
    for count in (1, 7):
        images, normalised = digits(count)
        with torch.no_grad():
            expected = stn_ext.load(path.with_name("model_epoch00002.pth"))(images)
            assert (network(normalised) - expected).abs().max() < 1e-4


def test_a_file_that_says_something_else_is_not_written(tmp_path, monkeypatch):
    def write(file, model, example, state):
        file.write(b"something else")
        return lambda images: model(images) + 1e-3

    monkeypatch.setattr(export, "write_pt2", write)
    options = ["--mode", "export", "--format", "pt2", "--weights", "mnist", *directories(tmp_path)]
    done = run_here(*options)
    assert done.returncode == 2 and "differs from the checkpoint's by 1.0e-03" in done.stderr
    assert not list(tmp_path.rglob("*.pt2"))


def test_weights_of_the_package_are_exported_among_ones_own_checkpoints(tmp_path):
    options = ["--mode", "export", "--format", "state_dict", "--weights", "mnist_rts", "--limit", 5]
    succeed_here(*options, *directories(tmp_path))
    (path,) = (tmp_path / "checkpoints/weights_mnist_rts/mnist_rts").glob("*.pth")
    about = json.loads(path.with_name(f"{path.name}.json").read_text())
    assert about["compared_images"] == 5 and about["input"]["shape"] == ["batch", 1, 42, 42]
    assert about["network"]["warp_size"] == [28, 28]


def test_a_fresh_training_sets_exports_aside_too(tmp_path):
    options = ["--net", "small", "--limit", 60, "--num_epoch", 1, *directories(tmp_path)]
    succeed_here(*options)
    succeed_here("--mode", "export", "--format", "weights", *directories(tmp_path))
    assert "checkpoints are now in" in succeed_here(*options)
    folder = tmp_path / "checkpoints/stn/mnist"
    assert [path.name for path in folder.glob("model_epoch*")] == ["model_epoch00001.pth"]
    assert (folder / "previous/1/model_epoch00001.weights.pth.json").exists()


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "--mode export needs a --format: onnx, pt2, aoti, state_dict, weights"),
        (["--format", "tflite"], "invalid choice: 'tflite'"),
        (["--format", "pt2", "--weights", "none"], "none: expected a checkpoint's file"),
        (["--format", "pt2", "--scope", "cls"], "no checkpoint in"),
        (["--format", "pt2", "--paper", "off"], "--paper is for --mode predict only"),
        (["--format", "pt2", "--report_limit", 5], "--report_limit is for --mode test, predict only"),
    ],
)
def test_mistakes_get_one_line(tmp_path, words, message):
    done = run_here("--mode", "export", *words, *directories(tmp_path))
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and message in done.stderr, done.stderr


def test_the_server_of_the_documentation_reads_digits_without_pytorch(tmp_path):
    succeed_here("--mode", "export", "--format", "onnx", "--weights", "mnist", *directories(tmp_path))
    (path,) = tmp_path.rglob("*.onnx")
    digits = data.load("mnist", "none", train=False, limit=5)
    names = [str(tmp_path / f"{index}.png") for index in range(5)]
    for name, image in zip(names, digits.images, strict=True):
        Image.fromarray(image[0].numpy()).save(name)
    program = (
        "import runpy, sys; sys.modules['torch'] = None; runpy.run_path(sys.argv[1], run_name='__main__')"
    )
    program = program.replace("runpy.run_path", "sys.argv.pop(0); runpy.run_path").replace(
        "argv[1]", "argv[0]"
    )
    words = [sys.executable, "-c", program, str(ROOT / "docs/serve.py"), str(path), *names]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    expected = [f"{name} {label}" for name, label in zip(names, digits.labels.tolist(), strict=True)]
    assert done.stdout.splitlines() == expected
