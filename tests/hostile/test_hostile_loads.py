"""stn_ext.load of anything: one line of one public exception, in which no code of the file's is run."""

import io
import os
import pickle

import numpy as np
import pytest
import torch

import stn_ext
from stn_ext.training import weights
from tests.hostile import files

pytestmark = pytest.mark.hostile


class Call:
    """Calls a function of the system's when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (os.fspath(self.path),)


def written(content):
    def build(path):
        path.write_bytes(content)

    return build


def a_checkpoint(change):
    def build(path):
        path.write_bytes(change(bytearray(weights.find("mnist").read_bytes())))

    return build


def flipped(content):
    content[len(content) // 2] ^= 8
    return content


def of_the_package_with(name, value):
    def build(path):
        state = torch.load(weights.find("mnist"), weights_only=True)
        torch.save({**state, name: value}, path)

    return build


MARK = "called"  # a folder beside the file, which code in it would make
FILES = {
    "none": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "empty": written(b""),
    "random bytes": written(np.random.default_rng(0).bytes(5000)),
    "text": written(b"not a checkpoint\n" * 1000),
    "a picture": written(files.content("png")),
    "half": a_checkpoint(lambda content: content[: len(content) // 2]),
    "a flipped bit": a_checkpoint(flipped),
    "a pickle of a call": lambda path: path.write_bytes(pickle.dumps(Call(path.with_name(MARK)))),
    "PyTorch's file of a call": lambda path: torch.save(Call(path.with_name(MARK)), path),
    "PyTorch's old file of a call": lambda path: torch.save(
        Call(path.with_name(MARK)), path, _use_new_zipfile_serialization=False
    ),
    "a checkpoint with a call": lambda path: of_the_package_with("args", Call(path.with_name(MARK)))(path),
    "a state dict": lambda path: torch.save({"weight": torch.zeros(3)}, path),
    "a tensor": lambda path: torch.save(torch.zeros(3), path),
    "another program's checkpoint": of_the_package_with("format", "another"),
    "options of another network": of_the_package_with("args", {"net": "huge"}),
    "no network": of_the_package_with("model", {}),
}


def assert_one_line(error, name):
    text = str(error)
    assert name in text and text.isprintable() and len(text) < 1000, text
    assert error.__suppress_context__ and error.__cause__ is None  # a traceback shows nothing below
    assert isinstance(error, OSError) and isinstance(error, ValueError)


@pytest.mark.parametrize("name", list(FILES))
def test_a_hostile_file_is_one_line(tmp_path, name):
    path = tmp_path / "x.pth"
    FILES[name](path)
    with pytest.raises(stn_ext.FileError) as caught:
        stn_ext.load(path)
    assert_one_line(caught.value, str(path))
    assert not (tmp_path / MARK).exists(), "code of the file's was run"


def test_the_calls_would_be_seen(tmp_path):
    """Or the tests above could not fail."""
    path = tmp_path / "x.pth"
    for name in ("a pickle of a call", "PyTorch's file of a call", "PyTorch's old file of a call"):
        FILES[name](path)
        with path.open("rb") as file:
            pickle.load(file) if name == "a pickle of a call" else torch.load(file, weights_only=False)
        (tmp_path / MARK).rmdir()


@pytest.mark.parametrize("name", ["", "no such", "mnist.pth", "a\0b", "\udcff\n\x1b[2J", "../../mnist"])
def test_a_name_of_nothing_is_one_line(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(stn_ext.FileError) as caught:
        stn_ext.load(name)
    assert_one_line(caught.value, "expected a")


@pytest.mark.parametrize("path", [None, 3, b"mnist", io.BytesIO(), ["mnist"], {"epoch": 1}, torch.zeros(2)])
def test_what_is_no_path_is_a_type_error(path):
    with pytest.raises(TypeError) as caught:
        stn_ext.load(path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, "float32", 1])
def test_a_dtype_without_networks_is_a_type_error(dtype):
    with pytest.raises(TypeError, match=r"^stn_ext.load: expected a dtype .* but got [^\n]*$"):
        stn_ext.load("mnist", dtype=dtype)


@pytest.mark.parametrize("method", ["predict", "theta", "warp", "read"])
def test_a_hostile_picture_is_one_line(tmp_path, method):
    act = getattr(stn_ext.load("mnist"), method)
    (tmp_path / "text.png").write_bytes(b"no picture\n")
    (tmp_path / "bomb.png").write_bytes(files.png(20_000, 20_000))
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("none.png", "text.png", "bomb.png", "pipe.png", "a\0b.png"):
        with pytest.raises(stn_ext.FileError) as caught:
            act([tmp_path / name])
        assert_one_line(caught.value, name.replace("\0", "\\x00"))
