"""display_result.py on results that were damaged in 25 ways: one line each."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from stn_ext.training import report
from tests.hostile.isolation import assert_refused, run_isolated
from tests.test_display_result import METRICS

pytestmark = pytest.mark.hostile


def metrics(change):
    def damage(directory):
        path = directory / "metrics.json"
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return damage


def content(name, value):
    def damage(directory):
        (directory / name).write_bytes(value)

    return damage


def picture(size):
    return lambda directory: Image.new("L", size).save(directory / "images/00001-output.png")


def a_folder(directory):
    (directory / "predictions.csv").unlink()
    (directory / "predictions.csv").mkdir()


def a_link_to_a_device(directory):
    (directory / "metrics.json").unlink()
    (directory / "metrics.json").symlink_to("/dev/zero")


def half_a_picture(directory):
    path = directory / "images/00001-output.png"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:2000])


HEAD = b"index,label,prediction,confidence\n"
DAMAGES = {
    "no JSON": content("metrics.json", b"{"),
    "no text": content("metrics.json", b"\xff\xfe"),
    "empty JSON": content("metrics.json", b""),
    "a list": content("metrics.json", b"[]"),
    "a number": content("metrics.json", b"7"),
    "deep": content("metrics.json", b"[" * 100_000),
    "no accuracy": metrics(lambda m: {"classes": m["classes"]}),
    "no classes": metrics(lambda m: {"accuracy": 0.5}),
    "a word as accuracy": metrics(lambda m: {**m, "accuracy": "high"}),
    "no number as accuracy": metrics(lambda m: {**m, "accuracy": float("nan")}),
    "no class": metrics(lambda m: {**m, "classes": []}),
    "classes in a word": metrics(lambda m: {**m, "classes": "cat"}),
    "numbers as classes": metrics(lambda m: {**m, "classes": [1, 2]}),
    "a list as a class": metrics(lambda m: {**m, "classes": [["cat"], "dog"]}),
    "another class": metrics(lambda m: {**m, "classes": ["cow", "dog"]}),
    "an empty table": content("predictions.csv", b""),
    "no rows": content("predictions.csv", HEAD),
    "another head": content("predictions.csv", b"a,b\n1,2\n"),
    "short rows": content("predictions.csv", HEAD + b"0\n"),
    "zero bytes": content("predictions.csv", HEAD + b"0,\0,cat,1\n"),
    "no text in the table": content("predictions.csv", HEAD + b"0,\xff,cat,1\n"),
    "an open quote": content("predictions.csv", HEAD + b'0,"cat,cat,1\n'),
    "more rows than pictures": content("predictions.csv", HEAD + b"0,cat,cat,1\n" * 9),
    "a folder": a_folder,
    "a link to a device": a_link_to_a_device,
    "half a picture": half_a_picture,
    "no picture": content("images/00001-output.png", b"not a picture"),
    "an empty picture": content("images/00001-output.png", b""),
    "a picture of another size": picture((9, 8)),
    "a huge picture": picture((20_000, 20_000)),
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_damaged_results_are_one_line(tmp_path, damage):
    labels = torch.tensor([0, 1, 0])
    inputs = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    outcome = report.Outcome(inputs, 255 - inputs, labels, labels, torch.ones(3), ("cat", "dog"))
    report.write(tmp_path / "stn/tiny", outcome, METRICS, num_workers=1)
    DAMAGES[damage](tmp_path / "stn/tiny")
    assert_refused(run_isolated("display_result.py", "--dir_result", tmp_path, "--name_data", "tiny"))
