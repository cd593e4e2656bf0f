"""The figure of a test run's inputs and outputs."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from stn_ext.training import report
from tests.command_line import run, succeed

METRICS = {"cross_entropy": 0.1, "accuracy": 0.5, "num_images": 8, "scope": "stn", "name_data": "tiny",
           "net": "cnn",
           "transformer": "on", "num_transformers": 1, "transform": "affine", "num_parameters": 7,
           "epoch": 1, "seed": 0, "history": []}  # fmt: skip


@pytest.fixture
def results(tmp_path):
    """Black inputs, white outputs; four of one class, three of another, none of the third."""
    labels = torch.tensor([0, 1, 0, 1, 0, 1, 0])
    inputs = torch.zeros(7, 1, 8, 8, dtype=torch.uint8)
    outcome = report.Outcome(inputs, 255 - inputs, labels, labels, torch.ones(7), ("cat", "dog", "eel"))
    report.write(tmp_path / "stn/tiny", outcome, METRICS, num_workers=2)
    return tmp_path


def test_draws_a_row_a_class_without_a_display(results, tmp_path):
    path = tmp_path / "deep/figure.png"
    options = ["--dir_result", results, "--name_data", "tiny", "--num_columns", "3"]
    assert str(path) in succeed("display_result.py", *options, "--output", path)
    pixels = np.asarray(Image.open(path).convert("L")).astype(int)
    left, right = np.array_split(pixels, 2, axis=1)
    # The inputs are black, the outputs white.
    assert (left < 30).mean() > 0.5 and (right < 30).mean() < 0.1


def test_the_default_file_lies_among_the_results(results):
    succeed("display_result.py", "--dir_result", results, "--name_data", "tiny")
    assert (results / "stn/tiny/display.png").exists()


def test_a_mosaic_has_the_images_in_their_places(results):
    import display_result

    directory = results / "stn/tiny/images"
    mosaic = display_result.mosaic(directory, {"cat": [0, 2, 4], "dog": [1, 3]}, "input")
    assert mosaic.shape == (16, 24, 3)
    assert (mosaic[8:, 16:] == 255).all() and mosaic[:, :16].max() == 0 and mosaic[:8].max() == 0


@pytest.mark.parametrize(
    "options, message",
    [
        (["--name_data", "none"], "no test results in"),
        (["--name_data", "tiny", "--output", "figure.nonsense"], "cannot write figure.nonsense"),
        (["--num_columns", "0"], "expected a whole number from 1 to 1,000"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(results, options, message):
    done = run("display_result.py", "--dir_result", results, *options)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert message in done.stderr


@pytest.mark.parametrize("name", ["$\\bad$", "$x", "=1+1", "-3", "'quoted", "two\nlines", "猫", ""])
def test_a_class_may_have_any_name(tmp_path, name):
    labels = torch.tensor([0, 1])
    inputs = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    outcome = report.Outcome(inputs, 255 - inputs, labels, labels, torch.ones(2), (name, "dog"))
    report.write(tmp_path / "stn/tiny", outcome, METRICS, num_workers=2)
    done = run("display_result.py", "--dir_result", tmp_path, "--name_data", "tiny")
    assert (done.returncode, done.stderr) == (0, "")
    with open(tmp_path / "stn/tiny/predictions.csv", newline="") as file:
        cells = [row["label"] for row in csv.DictReader(file)]
    assert len(cells) == 2 and cells[1] == "dog" and cells[0].endswith(name)
    assert not cells[0].startswith(("=", "+", "-", "@"))


@pytest.mark.parametrize("output", ["folder", "folder/none", "."])
def test_an_output_that_is_no_file_is_refused(results, output):
    (results / "folder").mkdir()
    options = ["--dir_result", results, "--name_data", "tiny", "--output", results / output]
    done = run("display_result.py", *options)
    assert done.returncode == 2 and "expected a file's name" in done.stderr
    assert not list(results.glob("folder*.png"))


def test_a_missing_picture_is_named(results):
    (results / "stn/tiny/images/00002-output.png").unlink()
    done = run("display_result.py", "--dir_result", results, "--name_data", "tiny")
    assert done.returncode == 2 and "00002-output.png" in done.stderr and len(done.stderr.splitlines()) == 1
