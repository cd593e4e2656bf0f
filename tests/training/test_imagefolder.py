"""Folders of pictures: what is a class and a picture, what is left out, and that all of it is said."""

import inspect
import os
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from stn_ext.training import data, decoding, imagefolder, memory
from stn_ext.training.errors import UserError


def picture(path, colour, size=(10, 6), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)
    return path


def load(root, **options):
    """(the images, what was said)"""
    said = []
    options = {"train": True, "num_workers": 2, "say": said.append, **options}
    return data.load("imagefolder", root, **options), "\n".join(said)


def test_size_is_the_first_images_and_classes_take_turns(tmp_path):
    picture(tmp_path / "train/cat/1.png", (255, 0, 0))
    picture(tmp_path / "train/cat/2.JPG", (0, 0, 0), size=(30, 30))
    picture(tmp_path / "train/dog/1.png", 200, mode="L")
    loaded, said = load(tmp_path)
    assert loaded.classes == ("cat", "dog")
    assert loaded.images.shape == (3, 3, 6, 10) and loaded.images.dtype == torch.uint8
    assert loaded.labels.tolist() == [0, 1, 0]  # one of each class first: a limit keeps a fair sample
    assert loaded.images[0, :, 0, 0].tolist() == [255, 0, 0]
    assert loaded.images[1].unique().tolist() == [200]
    assert "3 pictures in 2 classes\n  cat  2\n  dog  1\n" in said
    assert "1 of 3 pictures were resized" in said
    assert load(tmp_path, limit=2)[0].labels.tolist() == [0, 1]


def test_another_size_and_grey(tmp_path):
    picture(tmp_path / "train/cat/1.png", (255, 255, 255))
    loaded, said = load(tmp_path, size=(8, 4), channels=1)
    assert loaded.images.shape == (1, 1, 8, 4)
    assert loaded.images.unique().tolist() == [255]
    assert "1 of 1 pictures were resized" in said and "1 of 1 pictures were turned grey" in said


def test_one_colour_picture_makes_all_coloured_wherever_it_stands(tmp_path):
    picture(tmp_path / "train/a/1.png", 10, mode="L")
    assert load(tmp_path)[0].images.shape == (1, 1, 6, 10)
    picture(tmp_path / "train/b/1.png", (1, 2, 3))
    loaded, said = load(tmp_path)
    assert loaded.images[:, :, 0, 0].tolist() == [[10, 10, 10], [1, 2, 3]]
    assert "grey" not in said


def test_transparent_pictures_show_the_background(tmp_path):
    picture(tmp_path / "train/a/1.png", (1, 2, 3, 0), mode="RGBA")
    loaded, said = load(tmp_path)
    assert loaded.images.unique().tolist() == [255]
    assert "1 of 1 pictures were transparent, and laid over the background" in said
    assert load(tmp_path, background="#010203")[0].images[0, :, 0, 0].tolist() == [1, 2, 3]


# --- class names ---


@pytest.mark.parametrize(
    "pattern", ["[ab]", "dog [small]", "nut*", "?", "**", "a{b,c}", "!a", "~", "$HOME", "-x"]
)
def test_a_class_name_is_no_pattern(tmp_path, pattern):
    names = sorted({pattern, "a", "b", "d", "nut", "nutmeg", "dog s", "ab"})
    for value, name in enumerate(names):
        picture(tmp_path / "train" / name / "x.png", value, mode="L")
    loaded, _ = load(tmp_path)
    assert loaded.classes == tuple(names)
    assert loaded.images[:, 0, 0, 0].tolist() == loaded.labels.tolist() == list(range(len(names)))


@pytest.mark.parametrize("path", ["../../secret", "..", ".", "cat/..", "/", "", "cat/sub", "*"])
def test_a_class_name_is_no_path(tmp_path, path):
    picture(tmp_path / "data/test/cat/1.png", 1, mode="L")
    picture(tmp_path / "data/test/cat/sub/1.png", 2, mode="L")
    picture(tmp_path / "secret/1.png", 99, mode="L")
    loaded, said = load(tmp_path / "data", train=False, classes=["cat", path])
    assert loaded.images[:, 0, 0, 0].tolist() == [1, 2] and loaded.labels.tolist() == [0, 0]
    assert f"no folder, hence no pictures of {path}" in said


def test_a_class_that_the_network_does_not_know(tmp_path):
    picture(tmp_path / "train/cat/1.png", 1, mode="L")
    with pytest.raises(UserError, match="the network knows no class 'cat', only dog"):
        load(tmp_path, classes=["dog"])


def test_names_that_are_not_utf_8(tmp_path):
    picture(tmp_path / "train/cat/1.png", 7, mode="L").rename(tmp_path / os.fsdecode(b"train/cat/\xff.png"))
    assert load(tmp_path)[0].images.unique().tolist() == [7]
    os.mkdir(tmp_path / os.fsdecode(b"train/\xfe"))
    with pytest.raises(UserError, match=r"expected the class '\\udcfe' to have a name in UTF-8"):
        load(tmp_path)


def test_names_of_control_characters_are_printed_as_such(tmp_path):
    picture(tmp_path / "train/a\nb\x1b[31m/1.png", 7, mode="L")
    loaded, said = load(tmp_path)
    assert loaded.classes == ("a\nb\x1b[31m",)
    assert r"'a\nb\x1b[31m'" in said and "\x1b" not in said


# --- what is left out ---


def test_hidden_folders_and_files_are_left_out_and_named(tmp_path):
    picture(tmp_path / "train/cat/1.png", 1, mode="L")
    for hidden in (
        ".ipynb_checkpoints/1-checkpoint.png",
        "__MACOSX/cat/1.png",
        "cat/._1.png",
        "cat/.x/2.png",
    ):
        picture(tmp_path / "train" / hidden, 2, mode="L")
    loaded, said = load(tmp_path)
    assert loaded.classes == ("cat",) and loaded.images.unique().tolist() == [1]
    assert "left out, hidden (4): .ipynb_checkpoints, __MACOSX, cat/._1.png, cat/.x" in said


def test_pictures_are_found_in_folders_below_and_in_capitals(tmp_path):
    for value, name in enumerate(
        ("1.BMP", "deep/2.Webp", "deep/er/3.tif", "deep/er/4.GIF", "deep/er/x.y/5.PNG")
    ):
        picture(tmp_path / "train/cat" / name, value, mode="L")
    loaded, _ = load(tmp_path)
    assert loaded.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]


def test_what_is_no_picture_is_counted(tmp_path):
    picture(tmp_path / "train/cat/1.png", 1, mode="L")
    for name in ("notes.txt", *(f"cat/{index}.heic" for index in range(7))):
        (tmp_path / "train" / name).write_text("")
    _, said = load(tmp_path)
    assert "left out, in no class's folder (1): notes.txt" in said
    names = ", ".join(f"cat/{index}.heic" for index in range(5))
    assert f"left out, of no format that Pillow reads (7): {names} and 2 more" in said


def test_links_that_lead_around_are_entered_once(tmp_path):
    picture(tmp_path / "elsewhere/2.png", 2, mode="L")
    picture(tmp_path / "train/cat/1.png", 1, mode="L")
    for name, target in {
        "cat/elsewhere": tmp_path / "elsewhere",  # pictures may be links, or lie behind one
        "cat/3.png": tmp_path / "elsewhere/2.png",
        "cat/up": "..",
        "cat/self": ".",
        "cat/again": "elsewhere",
        "parent": "..",
        "here": ".",
        "root": "/",
    }.items():
        (tmp_path / "train" / name).symlink_to(target)
    loaded, said = load(tmp_path)
    assert loaded.classes == ("cat",) and sorted(loaded.images[:, 0, 0, 0].tolist()) == [1, 2, 2]
    assert "left out, a link to a folder around it (3): here, parent, root" in said
    assert re.search(r"around it, or seen already \(3\): cat/\w+, cat/self, cat/up", said)


def test_folders_of_great_depth(tmp_path):
    picture(tmp_path / "train/cat/1.png", 3, mode="L")
    folder = f"{tmp_path}/train/cat"
    for _ in range(300):
        folder += "/d"
        os.mkdir(folder)
    os.rename(tmp_path / "train/cat/1.png", f"{folder}/1.png")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 200)  # a deeper tree is one that pytest could not delete
    try:
        assert load(tmp_path)[0].images.unique().tolist() == [3]
    finally:
        sys.setrecursionlimit(limit)


# --- mistakes ---


def test_no_folder_and_no_class(tmp_path):
    with pytest.raises(UserError, match=r"expected pictures in .*/train/CLASS, but there is no folder"):
        load(tmp_path)
    picture(tmp_path / "train/1.png", 1, mode="L")
    with pytest.raises(UserError, match=r"expected pictures in .*/train/CLASS, but .*/train holds no such"):
        load(tmp_path)


def test_a_class_without_a_picture_is_named(tmp_path):
    picture(tmp_path / "train/cat/1.png", 1, mode="L")
    (tmp_path / "train/dog").mkdir()
    (tmp_path / "train/fox/deeper").mkdir(parents=True)
    (tmp_path / "train/fox/1.heic").write_text("")
    with pytest.raises(UserError, match=r"expected a picture in each class's folder .* none in dog, fox$"):
        load(tmp_path)


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    picture(tmp_path / "train/cat/1.png", 1, mode="L")
    picture(tmp_path / "train/dog/1.png", 1, mode="L")
    scandir = os.scandir

    def refuse(path):  # the superuser, as whom tests may run, may read everything
        if path.name == "dog":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"cannot read the folder .*/train/dog: Permission denied"):
        load(tmp_path)


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path):
    picture(tmp_path / "train/cat/1.png", 1, mode="L")
    path = tmp_path / "train/cat/2.png"
    for make, message in (
        (lambda: os.mkfifo(path), "expected a regular file, but it is a named pipe"),
        (lambda: path.symlink_to("/dev/zero"), "expected a regular file, but it is a device"),
        (lambda: path.symlink_to("nowhere"), "cannot read .*2.png: No such file"),
        (lambda: path.symlink_to("2.png"), "cannot read .*2.png: Too many levels"),
        (lambda: path.write_bytes(b"no picture"), "2.png: cannot read the picture"),
    ):
        make()
        with pytest.raises(UserError, match=message):
            load(tmp_path)
        path.unlink()


# --- sizes and memory ---


def test_a_large_first_picture_is_said_and_a_huge_one_refused(tmp_path):
    picture(tmp_path / "train/a/1.png", 1, (640, 480), "L")
    loaded, said = load(tmp_path)
    assert loaded.shape == (1, 480, 640)
    assert "480 640 (HEIGHT WIDTH), slow to train on: --image_size 48 64 makes" in said
    assert "slow" not in load(tmp_path, size=(480, 640))[1]
    picture(tmp_path / "train/a/1.png", 1, (1200, 1000), "L")
    with pytest.raises(UserError, match=r"a/1.png has 1200000 pixels, too many .*--image_size HEIGHT WIDTH"):
        load(tmp_path)
    assert load(tmp_path, size=(5, 6))[0].shape == (1, 5, 6)


def test_the_memory_is_said_and_refused_before_pictures_are_decoded(tmp_path, monkeypatch):
    for index in range(10):
        picture(tmp_path / f"train/a/{index}.png", (1, 2, 3), (100, 50))
    needed = 2 * 10 * 3 * 50 * 100 + 2 * 50 * 100 * decoding.BYTES_PER_PIXEL  # by two threads at a time
    monkeypatch.setattr(memory, "available", lambda: needed)
    assert (
        f"reading 10 pictures as 50 100 (HEIGHT WIDTH) in colour: {memory.size(needed)}" in load(tmp_path)[1]
    )
    monkeypatch.setattr(memory, "available", lambda: needed - 1)
    monkeypatch.setattr(torch, "empty", None)
    with pytest.raises(UserError, match=r"10 pictures .* needs .* are free: .*--image_size, .*--limit"):
        load(tmp_path, size=(50, 100))


def test_of_many_classes_the_first_twenty_are_shown(tmp_path):
    for index in range(23):
        picture(tmp_path / f"train/class {index:02d}/1.png", 1, mode="L")
    _, said = load(tmp_path)
    assert (
        "23 pictures in 23 classes" in said and "  class 19  1\n  and 3 more classes with 3 pictures" in said
    )
    assert "class 20" not in said


def test_a_bar_shows_how_far_it_is_on_a_terminal(tmp_path, monkeypatch, capsys):
    picture(tmp_path / "train/a/1.png", 1, mode="L")
    load(tmp_path)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    load(tmp_path)
    assert "\rreading the pictures: " in capsys.readouterr().out
    load(tmp_path, say=None)
    assert capsys.readouterr().out == ""


def test_any_number_of_threads_reads_the_same(tmp_path):
    generator = np.random.default_rng(0)
    for index in range(30):
        path = tmp_path / f"train/{index % 3}/{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(path)
    one, many = (load(tmp_path, num_workers=number)[0] for number in (0, 8))
    assert torch.equal(one.images, many.images) and torch.equal(one.labels, many.labels)
    with Image.open(tmp_path / "train/0/0.png") as first:
        assert torch.equal(one.images[0], torch.from_numpy(np.array(first)).permute(2, 0, 1))
    assert imagefolder.list_classes(tmp_path / "train").classes.keys() == {"0", "1", "2"}
