"""--mode export on full disks, to places that are taken, and under kill -9: one line, and nothing is lost."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from importlib.util import find_spec

import pytest
import torch

from stn_ext.training import export, weights
from stn_ext.training.locks import locked
from tests.command_line import ROOT, directories, environment

from .training import command, command_and_output, little_room

pytestmark = pytest.mark.hostile

EXPORT = ["--mode", "export", "--limit", 5, "--gpu_ids", "-1"]
PACKAGED = [*EXPORT, "--weights", "mnist"]
FOLDER = "checkpoints/weights_mnist/mnist"
# Of aoti, which compiles for a minute, tests/training/test_export.py has one.
FORMATS = [
    *("state_dict", "weights", "pt2"),
    pytest.param("onnx", marks=pytest.mark.skipif(find_spec("onnxruntime") is None, reason="needs onnx")),
]


def name_of(kind):
    return f"mnist{export.ENDINGS[kind]}"


def content(folder):
    """What the user has below the folder: all but the locks, which are empty of it."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else os.lstat(path).st_mode
        for path in folder.rglob("*")
        if not path.name.endswith(".lock")
    }


def assert_one_line(code, errors, message):
    assert code == 2 and len(errors.splitlines()) == 1 and len(errors) < 1000, errors
    assert errors.startswith("error: ") and message in errors, errors


# --- places ---

PLACES = {
    "a folder in the file's place": lambda path: path.mkdir(),
    "a folder in the description's place": lambda path: path.with_name(f"{path.name}.json").mkdir(),
    "a link to itself in the file's place": lambda path: path.symlink_to(path.name),
    "a link in the description's place": lambda path: path.with_name(f"{path.name}.json").symlink_to(
        "/dev/null"
    ),
    "a pipe in the file's place": os.mkfifo,
    "a folder in the lock's place": lambda path: path.with_name(f".{path.name}.lock").mkdir(),
}


@pytest.fixture
def no_work(monkeypatch):
    """Nothing is exported, nor are test images read for it."""
    for name in ("write", "test_images"):
        monkeypatch.setattr(export, name, lambda *words: pytest.fail("it was worked on"))


@pytest.mark.parametrize("place", PLACES)
def test_what_is_taken_is_found_before_the_work(tmp_path, no_work, place):
    path = tmp_path / FOLDER / name_of("pt2")
    path.parent.mkdir(parents=True)
    PLACES[place](path)
    before = content(tmp_path)
    assert_one_line(*command(tmp_path, *PACKAGED, "--format", "pt2"), str(path.parent))
    assert content(tmp_path) == before


def test_a_file_where_the_folder_belongs_is_found_before_the_work(tmp_path, no_work):
    (tmp_path / "checkpoints").write_text("mine")
    assert_one_line(*command(tmp_path, *PACKAGED, "--format", "pt2"), f"{tmp_path}/{FOLDER}: Not a directory")
    assert (tmp_path / "checkpoints").read_text() == "mine"


def checkpoint(path):
    """A checkpoint of the user's."""
    path.write_bytes(weights.find("mnist").read_bytes())
    return path


def test_a_name_that_is_too_long_is_found_before_the_work(tmp_path, no_work):
    path = checkpoint(tmp_path / f"{'x' * 230}.pth")
    assert_one_line(*command(tmp_path, *EXPORT, "--weights", path, "--format", "pt2"), "File name too long")
    assert content(tmp_path) == {path.name: path.read_bytes()}


def test_a_checkpoint_is_not_replaced_by_its_export(tmp_path, no_work):
    path = checkpoint(tmp_path / "mine.pt2")
    before = path.read_bytes()
    assert_one_line(
        *command(tmp_path, *EXPORT, "--weights", path, "--format", "pt2"), "is the checkpoint itself"
    )
    assert content(tmp_path) == {path.name: before}


def test_weights_of_the_package_that_are_named_by_a_path_are_not_written_beside(tmp_path, monkeypatch):
    package = tmp_path / "package"
    package.mkdir()
    checkpoint(package / "mnist.pth")
    monkeypatch.setattr(weights, "FOLDER", package)
    monkeypatch.chdir(package)
    assert command(tmp_path, *EXPORT, "--weights", "./mnist.pth", "--format", "weights") == (0, "")
    assert list(content(package)) == ["mnist.pth"] and (tmp_path / FOLDER / name_of("weights")).exists()


def test_two_exports_of_a_file_wait_for_each_other(tmp_path, monkeypatch):
    path = tmp_path / FOLDER / name_of("weights")
    path.parent.mkdir(parents=True)
    with locked(path, "an export"):
        # Here it would wait for ever.
        monkeypatch.setattr("time.sleep", lambda seconds: (_ for _ in ()).throw(KeyboardInterrupt))
        code, printed, errors = command_and_output(tmp_path, *PACKAGED, "--format", "weights")
    assert (code, errors) == (130, "interrupted\n") and "in use by an export, process" in printed


# --- disks ---


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("room", [0, 100, 20_000])
def test_a_full_disk_leaves_the_earlier_export(tmp_path, kind, room):
    assert command(tmp_path, *PACKAGED, "--format", "state_dict") == (0, "")
    path = tmp_path / FOLDER / name_of(kind)
    for place in (path, path.with_name(f"{path.name}.json")):
        place.write_bytes(b"earlier")
    before = content(tmp_path)
    with little_room(room):
        assert_one_line(*command(tmp_path, *PACKAGED, "--format", kind), f"{path.name}")
    assert content(tmp_path) == before


def test_a_disk_with_room_for_one_of_the_two_files_leaves_both(tmp_path, monkeypatch):
    """The description is the larger one, here."""
    described = export.description
    monkeypatch.setattr(export, "description", lambda *words: {**described(*words), "long": "x" * 2_000_000})
    path = tmp_path / FOLDER / name_of("weights")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"earlier")
    before = content(tmp_path)
    with little_room(1_000_000):
        assert_one_line(*command(tmp_path, *PACKAGED, "--format", "weights"), f"{path}.json: File too large")
    assert content(tmp_path) == before


@pytest.mark.parametrize("kind", FORMATS)
def test_no_temporary_folder_is_needed(tmp_path, monkeypatch, kind):
    """Whose being full ended PyTorch's writer, and the process with it."""
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    assert command(tmp_path, *PACKAGED, "--format", kind) == (0, "")


# --- what exporters meet ---


@pytest.mark.parametrize(
    "kind, name",
    [
        ("state_dict", "torch.save"),
        ("pt2", "torch.export.export"),
        ("pt2", "torch.export.load"),
        ("onnx", "stn_ext.onnx.export"),
        ("onnx", "onnxruntime.InferenceSession"),
        ("aoti", "torch._inductor.aoti_compile_and_package"),
    ],
)
def test_what_an_exporter_raises_is_one_line(tmp_path, monkeypatch, kind, name):
    if kind == "onnx":
        pytest.importorskip("onnxruntime", reason="needs onnxruntime")

    def fail(*words, **options):
        raise RuntimeError("[enforce fail] unexpected pos 0 vs 1\nframe #0: c10::ThrowEnforceNotMet")

    monkeypatch.setattr(name, fail)
    code, errors = command(tmp_path, *PACKAGED, "--format", kind)
    assert_one_line(code, errors, f"--format {kind}: ")
    assert "unexpected pos 0 vs 1" in errors and "frame #0" not in errors
    assert content(tmp_path / FOLDER) == {}


def test_what_the_exported_network_raises_is_one_line(tmp_path, monkeypatch):
    def fail(images):
        raise RuntimeError("no such kernel\nframe #0")

    monkeypatch.setattr(export, "write_pt2", lambda *words: fail)
    assert_one_line(*command(tmp_path, *PACKAGED, "--format", "pt2"), "--format pt2: ")
    assert content(tmp_path / FOLDER) == {}


# --- checkpoints ---


@pytest.mark.parametrize(
    "damage",
    [lambda c: b"", lambda c: c[: len(c) // 2], lambda c: bytes(5000), lambda c: b"cos\nsystem\n(S'x'\ntR."],
)
def test_a_damaged_checkpoint_is_one_line(tmp_path, no_work, damage):
    path = tmp_path / "mine.pth"
    path.write_bytes(damage(weights.find("mnist").read_bytes()))
    before = content(tmp_path)
    assert_one_line(*command(tmp_path, *EXPORT, "--weights", path, "--format", "onnx"), str(path))
    assert content(tmp_path) == before


# --- kill -9 ---

# Ends itself when it is to give a file its place for the so-many-th time.
KILLED = """
import os, runpy, signal, sys
count, replace = int(sys.argv.pop(1)), os.replace
def replacing(*words):
    global count
    count -= 1
    os.kill(os.getpid(), signal.SIGKILL) if count == 0 else replace(*words)
os.replace = replacing
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("moment", [1, 2])
def test_kill_9_leaves_whole_files_and_the_next_export_clears_the_rest(tmp_path, moment):
    line = list(map(str, [*PACKAGED, "--format", "weights"]))
    path = tmp_path / FOLDER / name_of("weights")
    about = path.with_name(f"{path.name}.json")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"earlier")
    about.write_text(json.dumps({"sha256": hashlib.sha256(b"earlier").hexdigest()}))
    before = content(path.parent)
    words = [sys.executable, "-c", KILLED, str(moment), "main.py", *line, *directories(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True)
    assert done.returncode == -signal.SIGKILL, done
    after = content(path.parent)
    assert after[about.name] == before[about.name]
    if moment == 1:
        assert after[path.name] == before[path.name]
    else:
        assert torch.load(path, weights_only=True)["model"]  # the new one is whole
    assert any(name.endswith(".tmp") for name in after)
    assert command(tmp_path, *line) == (0, "")
    assert content(path.parent).keys() == before.keys()
    assert json.loads(about.read_text())["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_temporaries_of_others_stay(tmp_path):
    """Such as of a training that writes a checkpoint there."""
    folder = tmp_path / FOLDER
    folder.mkdir(parents=True)
    other = folder / ".model_epoch00002.pth.0123456789abcdef.tmp"
    other.write_bytes(b"half")
    assert command(tmp_path, *PACKAGED, "--format", "weights") == (0, "")
    assert other.read_bytes() == b"half"
