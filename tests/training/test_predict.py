"""--mode predict: one's own pictures, from their names to a table and a page; and what it refuses."""

import csv
import io
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import stn_ext
from stn_ext.training import data, predict
from tests.command_line import directories, run_here, succeed_here
from tests.photographs import save_all


def predicted(root, *words):
    return succeed_here("--mode", "predict", "--weights", "mnist", *words, "--dir_result", root / "results")


def results(root, scope="weights_mnist"):
    folder = root / "results" / scope / "mnist/predict"
    with open(folder / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return folder, rows, json.loads((folder / "predictions.json").read_text())


@pytest.fixture
def digits(tmp_path):
    """A folder with twelve test digits in several formats, and their labels by path."""
    folder = tmp_path / "digits"
    (folder / "below").mkdir(parents=True)
    images = data.load("mnist", tmp_path, train=False, limit=12)
    labels = {}
    for index, (image, label) in enumerate(zip(images.images, images.labels.tolist(), strict=True)):
        ending = ["png", "bmp", "tiff", "gif"][index % 4]
        path = folder / ("below" if index % 3 == 0 else "") / f"{index}.{ending}"
        Image.fromarray(image[0].numpy()).save(path)
        labels[str(path)] = str(label)
    return folder, labels


def test_the_photographs_from_a_fresh_clone_to_the_page(tmp_path):
    """Nothing has been trained here: a folder of photographs is all there is."""
    (tmp_path / "photos").mkdir()
    saved = save_all(tmp_path / "photos")
    printed = predicted(tmp_path, tmp_path / "photos")
    assert "3 of 3 taken for photographs of ink on paper" in printed
    folder, rows, objects = results(tmp_path)
    assert {row["file"]: row["prediction"] for row in rows} == {str(p): digit for p, digit in saved.items()}
    assert [entry["class"] for entry in objects] == [row["prediction"] for row in rows]
    for path, digit in saved.items():
        (line,) = [line for line in printed.splitlines() if line.startswith(str(path))]
        assert line.removeprefix(str(path)).split()[0] == digit
    network = stn_ext.load("mnist")
    for entry, row in zip(objects, rows, strict=True):
        (own,) = network.predict(entry["file"])
        assert (own.label, own.second) == (entry["class"], entry["second"])
        assert entry["confidence"] == pytest.approx(own.confidence, abs=1e-5)
        assert torch.tensor([entry["theta"]]).sub(network.theta(entry["file"])).abs().max() < 1e-5
        assert entry["warp"] == row["warp"] and ("turned by" in row["warp"] or "scaled" in row["warp"])
    assert len(list((folder / "images").glob("*.png"))) == 6
    page = (folder / "index.html").read_text()
    assert all(path.name in page for path in saved) and "Confusion matrix" not in page
    assert not (folder / "metrics.json").exists()


def test_folders_files_and_a_list_on_standard_input(tmp_path, digits, monkeypatch):
    folder, labels = digits
    (folder / "notes.txt").write_text("no picture")
    printed = predicted(tmp_path, folder)
    assert "left out, of no format that Pillow reads (1): notes.txt" in printed
    _, rows, _ = results(tmp_path)
    assert {row["file"]: row["prediction"] for row in rows} == labels  # all twelve are right
    names = list(labels)
    listed = io.TextIOWrapper(io.BytesIO("\n".join([names[3], "", names[1]]).encode() + b"\r\n"))
    monkeypatch.setattr(sys, "stdin", listed)
    predicted(tmp_path, names[5], "-", names[2])
    assert [row["file"] for row in results(tmp_path)[1]] == [names[i] for i in (5, 3, 1, 2)]
    predicted(tmp_path, folder, "--limit", 4)
    assert len(results(tmp_path)[1]) == 4


def test_paper_off_takes_pixels_as_they_are(tmp_path):
    saved = save_all(tmp_path)
    printed = predicted(tmp_path, *saved, "--paper", "off")
    assert "taken for photographs" not in printed
    folder, *_ = results(tmp_path)
    with_paper = np.asarray(Image.open(folder / "images/00000-input.png"))
    assert with_paper[0].mean() > 100  # the paper, which is light
    predicted(tmp_path, *saved)
    assert np.asarray(Image.open(folder / "images/00000-input.png"))[0].mean() < 20


def test_the_page_has_the_first_and_the_files_have_all(tmp_path, digits):
    folder, _ = digits
    predicted(tmp_path, folder, "--report_limit", 5)
    written, rows, objects = results(tmp_path)
    assert len(rows) == len(objects) == 12
    assert len(list((written / "images").glob("*.png"))) == 10
    assert "The page has the first 5 of 12 images" in (written / "index.html").read_text()


def test_a_run_of_ones_own_and_a_network_without_a_transformer(tmp_path, digits):
    folder, _ = digits
    small = ["--net", "small", "--limit", 100, "--num_epoch", 1]
    succeed_here("--scope", "cls", *small, *directories(tmp_path))
    succeed_here("--mode", "predict", "--scope", "cls", *directories(tmp_path), folder)
    _, rows, objects = results(tmp_path, "cls")
    assert len(rows) == 12 and "warp" not in rows[0]
    assert objects[0]["theta"] is None and objects[0]["warp"] is None


def test_two_transformers_have_two_thetas(tmp_path, digits):
    common = ["--num_transformers", 2, "--net", "small", "--limit", 100, "--num_epoch", 1]
    succeed_here(*common, *directories(tmp_path))
    succeed_here("--mode", "predict", *directories(tmp_path), digits[0])
    theta = torch.tensor([entry["theta"] for entry in results(tmp_path, "stn")[2]])
    assert theta.shape == (12, 2, 2, 3)


def test_a_test_leaves_a_prediction_where_it_is(tmp_path, digits):
    options = ["--weights", "mnist", "--limit", 20, "--dir_result", tmp_path / "results"]
    predicted(tmp_path, digits[0])
    printed = succeed_here("--mode", "test", *options)
    assert "weights/mnist.pth: 20 test images" in printed
    assert (tmp_path / "results/weights_mnist/mnist/metrics.json").exists()
    assert len(results(tmp_path)[1]) == 12


def test_a_long_table_is_cut_and_the_files_have_it_all(tmp_path, digits, monkeypatch):
    monkeypatch.setattr(predict, "TABLE", 3)
    printed = predicted(tmp_path, digits[0])
    assert "and 9 more, in predictions.csv" in printed
    assert sum(str(digits[0]) in line for line in printed.splitlines()) == 3


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "--mode predict needs pictures"),
        (["{tmp}/none.png"], "cannot read {tmp}/none.png"),
        (["{tmp}/empty"], "no pictures in {tmp}/empty"),
        (["{tmp}/text.png"], "{tmp}/text.png: cannot read the picture"),
        (["{tmp}/empty", "--weights", "nothing"], "nothing: expected a checkpoint's file, or one of mnist"),
        (["{tmp}/text.png", "--weights", "{tmp}/text.png"], "{tmp}/text.png is no readable checkpoint"),
        (["x.png", "--epoch", "3"], "--weights is one checkpoint"),
        (["x.png", "--net", "small"], "is of another architecture: --net cnn, not small"),
        (["x.png", "--scope", "cls"], "is of another architecture: --transformer on, not off"),
        (["x.png", "--format", "onnx"], "--format is for --mode export only, not for predict"),
        (["x.png", "--init", "mnist"], "--init is for --mode train only, not for predict"),
    ],
)
def test_mistakes_get_one_line(tmp_path, words, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no picture")
    words = [word.replace("{tmp}", str(tmp_path)) for word in words]
    if "--weights" not in words:
        words += ["--weights", "mnist"]
    done = run_here("--mode", "predict", *words, "--dir_result", tmp_path / "results")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and message.replace("{tmp}", str(tmp_path)) in done.stderr, (
        done.stderr
    )


def test_pictures_are_for_predict_alone():
    done = run_here("digit.png")
    assert done.returncode == 2 and "'digit.png': a picture is for --mode predict only" in done.stderr


def test_co_localisation_has_no_classes_to_predict(tmp_path):
    common = ["--name_data", "mnist_coloc", *directories(tmp_path)]
    succeed_here("--net", "small", "--limit", 40, "--num_epoch", 1, *common)
    done = run_here("--mode", "predict", "x.png", *common)
    assert done.returncode == 2 and "it knows no classes to predict" in done.stderr
    network = stn_ext.load(next((tmp_path / "checkpoints").rglob("*.pth")))
    images = torch.zeros(2, *network.shape, dtype=torch.uint8)
    assert network.theta(images).shape == (2, 2, 3) and network.warp(images).shape == (2, 1, 28, 28)
    with pytest.raises(ValueError, match="knows no classes"):
        network.predict(images)
