"""Hostile pictures, lists and checkpoints for predict: one line that names what is the matter, or a
prediction; never a traceback, in bounded time and memory."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stn_ext.training import predict as prediction
from stn_ext.training import weights
from stn_ext.training.locks import locked
from tests.command_line import directories
from tests.hostile import files
from tests.hostile.isolation import assert_refused, run_isolated
from tests.hostile.training import command, command_and_output, little_room

pytestmark = pytest.mark.hostile

PREDICT = ["--mode", "predict", "--gpu_ids", "-1", "--num_workers", "1"]
PACKAGED = ["--weights", "mnist"]

Build = Callable[[Path], list]  # gets an empty folder, and gives the command's further words
REFUSED, TAKEN = [], []


def refused(message: str) -> Callable[[Build], None]:
    return lambda build: REFUSED.append(pytest.param(build, message, id=build.__name__))


def taken(build: Build) -> None:
    TAKEN.append(pytest.param(build, id=build.__name__))


def put(root: Path, name: str, content: bytes) -> Path:
    path = root / name
    path.write_bytes(content)
    return path


def predict(root: Path, *words: object, **options: object):
    return run_isolated("main.py", *PREDICT, *words, *directories(root), **options)


# --- pictures ---


@refused("has more than")
def a_bomb_by_its_header(root):
    return [*PACKAGED, put(root, "bomb.png", files.png(20000, 20000))]


@refused("has more than")
def a_bomb_beyond_32_bits(root):
    return [*PACKAGED, put(root, "bomb.png", files.png(2**31 - 1, 2**31 - 1))]


@refused("x.png: cannot read the picture")
def a_truncated_png(root):
    return [*PACKAGED, put(root, "x.png", files.content("png")[:500])]


@refused("x.jpg: cannot read the picture")
def text_that_is_called_a_picture(root):
    return [*PACKAGED, put(root, "x.jpg", b"no picture\n" * 1000)]


@refused("x.png: cannot read the picture")
def one_damaged_picture_among_others(root):
    whole = put(root, "a.png", files.content("png"))
    return [*PACKAGED, whole, put(root, "x.png", b""), whole]


@refused("x.png")
def a_picture_that_is_not_there(root):
    return [*PACKAGED, root / "x.png"]


@refused("x.png")
def a_fifo(root):
    os.mkfifo(root / "x.png")
    return [*PACKAGED, root / "x.png"]


@refused("zero")
def a_device_without_an_end(root):
    return [*PACKAGED, "/dev/zero"]


@refused("x.png")
def a_link_to_itself(root):
    (root / "x.png").symlink_to("x.png")
    return [*PACKAGED, root / "x.png"]


@refused("no pictures in")
def an_empty_folder(root):
    (root / "empty").mkdir()
    return [*PACKAGED, root / "empty"]


@refused("cannot read the picture")
def a_damaged_picture_whose_name_is_not_text(root):
    return [*PACKAGED, put(root, os.fsdecode(b"\xff\n\xfe.png"), b"no picture")]


@refused("expected a name")
def an_empty_name(root):
    return [*PACKAGED, ""]


# --- what predicts ---


@refused("mnist.pth")
def a_checkpoint_with_a_flipped_bit(root):
    content = bytearray(weights.find("mnist").read_bytes())
    content[len(content) // 2] ^= 8
    put(root, "mnist.pth", bytes(content))
    return ["--weights", root / "mnist.pth", put(root, "a.png", files.content("png"))]


@refused("none.pth")
def a_checkpoint_that_is_not_there(root):
    return ["--weights", root / "none.pth", put(root, "a.png", files.content("png"))]


@refused("a.png")
def a_picture_as_the_checkpoint(root):
    picture = put(root, "a.png", files.content("png"))
    return ["--weights", picture, picture]


# --- what is taken ---


@taken
def pictures_of_every_kind(root):
    """Of as many bits and colors as files have; what values they become is tested elsewhere."""
    gray = np.random.default_rng(0).integers(0, 2**16, (20, 30), dtype=np.uint16)
    Image.fromarray(gray).save(root / "16 bits.png")
    Image.fromarray(gray.astype(np.float32) / 2**16).save(root / "float.tif")
    for mode, ending in (
        ("CMYK", "jpg"),
        ("P", "png"),
        ("1", "png"),
        ("RGBA", "png"),
        ("LA", "png"),
        ("YCbCr", "jpg"),
    ):
        files.picture(1).convert("RGB").convert(mode).save(root / f"{mode}.{ending}")
    turned = Image.Exif()
    turned[0x0112] = 6
    files.picture(2).save(root / "turned.jpg", exif=turned)
    return [*PACKAGED, root]


@taken
def pictures_of_extreme_shapes(root):
    for width, height in ((1, 1), (1, 3000), (3000, 1), (2, 2)):
        Image.new("L", (width, height), 200).save(root / f"{width} x {height}.png")
    put(root, "large.png", files.black_png(9000))
    return [*PACKAGED, root]


@taken
def names_that_are_not_text(root):
    for name in (b"\xff\xfe.png", b"new\nline.png", b"clear\x1b[2J.png", b"<script>alert(1)<script>.png"):
        put(root, os.fsdecode(name), files.content("png"))
    return [*PACKAGED, root]


@taken
def the_same_picture_a_hundred_times(root):
    return [*PACKAGED, *[put(root, "a.png", files.content("png"))] * 100]


@taken
def links_that_lead_around(root):
    put(root, "a.png", files.content("png"))
    (root / "up").symlink_to("..")
    (root / "here").symlink_to(".")
    return [*PACKAGED, root]


@pytest.mark.parametrize("build, message", REFUSED)
def test_it_is_refused_in_one_line(tmp_path, build, message):
    assert_refused(predict(tmp_path, *build(tmp_path)), message)
    assert not list(tmp_path.rglob("predictions.csv"))


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "no pictures in -"),
        (b"nowhere.png\n", "nowhere.png"),
        (b"a\0b\n", "cannot read a\\x00b"),
        (b"\x1b[2J\xff", "cannot read \\x1b[2J\\udcff"),
        (b"x" * 5000, "File name too long"),
        (b"a.png\n" * (12 << 20), "the list of pictures is longer than"),
    ],
)
def test_a_list_on_standard_input_is_refused_in_one_line(tmp_path, content, message):
    assert_refused(predict(tmp_path, *PACKAGED, "-", stdin=content), message)


@pytest.mark.parametrize("build", TAKEN)
def test_it_is_predicted(tmp_path, build):
    folder = tmp_path / "given"
    folder.mkdir()
    done = predict(tmp_path, *build(folder))
    assert done.returncode == 0 and done.stderr == "", done
    (results,) = tmp_path.rglob("predictions.json")
    predictions = json.loads(results.read_text())
    assert predictions and all(0 <= p["confidence"] <= 1 for p in predictions)
    with (results.parent / "predictions.csv").open(newline="", errors="surrogateescape") as file:
        assert len(list(csv.DictReader(file))) == len(predictions)


# --- where the results belong ---

RESULTS = "results/weights_mnist/mnist"


def occupied(*names: str):
    """Files of the user's at those names below the folder, each a link to itself where it ends in "@"."""

    def build(root):
        for name in names:
            path = root / name.rstrip("@")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(path.name) if name.endswith("@") else path.write_bytes(b"mine")

    return build


@pytest.mark.parametrize(
    "place", ["results", RESULTS, f"{RESULTS}@", f"{RESULTS}/predict", f"{RESULTS}/predict@"]
)
def test_a_place_that_cannot_be_written_is_found_before_any_picture_is_read(tmp_path, monkeypatch, place):
    monkeypatch.setattr(prediction, "read", lambda *words: pytest.fail("pictures were read"))
    occupied(place)(tmp_path)
    picture = put(tmp_path, "a.png", files.content("png"))
    code, printed, errors = command_and_output(tmp_path, *PREDICT, *PACKAGED, picture)
    assert (code, printed, len(errors.splitlines())) == (2, "", 1) and str(tmp_path / RESULTS) in errors
    path = tmp_path / place.rstrip("@")
    assert path.is_symlink() if place.endswith("@") else path.read_bytes() == b"mine"


def test_a_place_that_another_run_holds_is_found_before_any_picture_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(prediction, "read", lambda *words: pytest.fail("pictures were read"))
    picture = put(tmp_path, "a.png", files.content("png"))
    (tmp_path / RESULTS).mkdir(parents=True)
    with locked(tmp_path / RESULTS, "a test"):
        code, _, errors = command_and_output(tmp_path, *PREDICT, *PACKAGED, picture)
    assert code == 2 and len(errors.splitlines()) == 1 and "in use by a test" in errors


@pytest.mark.parametrize(
    "room, what", [(0, ".mnist.lock"), (300, "images"), (3000, "predictions.json"), (20_000, "index.html")]
)
def test_a_full_disk_leaves_the_earlier_report_whole(tmp_path, room, what):
    """Whichever file it is that does not fit."""
    pictures = [put(tmp_path, f"{i}.png", files.content("png", i)) for i in range(20)]
    assert command(tmp_path, *PREDICT, *PACKAGED, pictures[0]) == (0, "")
    report = tmp_path / RESULTS / "predict"
    before = {path: path.read_bytes() for path in report.rglob("*.*")}
    with little_room(room):
        code, errors = command(tmp_path, *PREDICT, *PACKAGED, "--paper", "off", *pictures)
    assert code == 2 and len(errors.splitlines()) == 1 and errors.endswith(": File too large\n"), errors
    assert errors.startswith("error: cannot write ") and what in errors and str(tmp_path) in errors
    assert {path: path.read_bytes() for path in report.rglob("*.*")} == before
    assert [path.name for path in (tmp_path / RESULTS).iterdir()] == ["predict"]
