"""Decoded pictures in a file: the same as in memory, and no damaged or outdated file is believed."""

import os
import shutil
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from stn_ext.training import data, files, imagefolder, locks, picture_file
from stn_ext.training.data import MappedSet
from stn_ext.training.errors import UserError
from tests.command_line import directories, succeed
from tests.hostile.training import command, command_and_output


def folder(root, count=12, size=(9, 7), grey=False):
    """Pictures of three classes below root/train."""
    draw = np.random.default_rng(0)
    for index in range(count):
        path = root / "train" / "abc"[index % 3] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels[:, :, 0] if grey else pixels).save(path)
    return root / "train"


def load(root, **options):
    """(the set, what was said)"""
    said = []
    loaded = data.load_mapped(root, root / "cache", say=said.append, num_workers=2, **options)
    return loaded, "\n".join(said)


def the_file(root):
    (path,) = (root / "cache").glob("*.pictures")
    return path


ALL = slice(None)


@pytest.mark.parametrize("options", [{}, {"size": (5, 6)}, {"channels": 1}, {"limit": 5}])
@pytest.mark.parametrize("grey", [False, True])
def test_it_holds_what_memory_would(tmp_path, options, grey):
    folder(tmp_path, grey=grey)
    expected = data.load("imagefolder", tmp_path, train=True, **options)
    for again in (False, True):
        loaded, said = load(tmp_path, **options)
        assert isinstance(loaded, MappedSet) and loaded.shape == expected.shape
        assert torch.equal(loaded.batch(ALL).images, expected.images)
        assert torch.equal(loaded.batch(ALL).labels, expected.labels) and loaded.classes == expected.classes
        assert ("holds them decoded" in said) == again and ("decoding" in said) != again
    index = torch.tensor([3, 0, 0, 2])
    assert torch.equal(loaded[1:].batch(index).images, expected.images[1:][index])
    assert data.background_of(loaded) == data.find_background(expected.images)


def test_no_picture_is_decoded_again(tmp_path, monkeypatch):
    folder(tmp_path)
    _, first = load(tmp_path, size=(5, 6), channels=3)
    monkeypatch.setattr(imagefolder.decoding, "decode", None)
    monkeypatch.setattr(imagefolder.decoding, "read_header", None)
    _, second = load(tmp_path, size=(5, 6), channels=3)
    for said in (first, second):  # what was changed is said each time
        assert "12 of 12 pictures were resized" in said


def test_what_it_takes_is_said_before(tmp_path, monkeypatch):
    folder(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, 5_000_000))
    _, said = load(tmp_path)
    # A page, and 12 pictures of 9 x 7 x 3 bytes with a checksum of 4.
    assert the_file(tmp_path).stat().st_size == 4096 + 12 * (9 * 7 * 3 + 4)
    assert "decoding 12 pictures as 9 7 (HEIGHT WIDTH) in colour in " in said
    assert "6.41 KB of disk, of 5 MB that are free, and about 1 s" in said


def test_what_the_disk_cannot_hold_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    folder(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, 6411))
    monkeypatch.setattr(picture_file.Writer, "keep", None)
    with pytest.raises(UserError, match=r"need 6.41 KB of disk, but only 6.41 KB are free: .*--cache_dir"):
        load(tmp_path)
    assert not list((tmp_path / "cache").glob("*.pictures"))


@pytest.mark.parametrize("where", ["posix_fallocate", "pwrite", "fsync"])
def test_a_disk_that_fills_up_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, where):
    folder(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, where, full)
    with pytest.raises(UserError, match=r"cannot write .*\.pictures: No space left on device"):
        load(tmp_path)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_file_system_without_allocation_does(tmp_path, monkeypatch):
    folder(tmp_path)

    def without(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", without)
    assert len(load(tmp_path)[0].batch(ALL)) == 12


# --- outdated ---


def touched(root):
    path = root / "train/a/0.png"
    os.utime(path, ns=(1, 1))


def repainted(root):
    Image.new("RGB", (7, 9), "red").save(root / "train/a/0.png")


def renamed(root):
    (root / "train/a/0.png").rename(root / "train/a/zero.png")


def moved_to_another_class(root):
    (root / "train/a/0.png").rename(root / "train/b/0.png")


def one_more(root):
    shutil.copy(root / "train/a/3.png", root / "train/a/9999.png")


def one_less(root):
    (root / "train/c/11.png").unlink()


@pytest.mark.parametrize("change", [touched, repainted, renamed, moved_to_another_class, one_more, one_less])
def test_pictures_that_changed_are_decoded_anew(tmp_path, change):
    folder(tmp_path)
    load(tmp_path)
    change(tmp_path)
    loaded, said = load(tmp_path)
    assert "is of pictures that have changed" in said and "decoding" in said
    assert torch.equal(loaded.batch(ALL).images, data.load("imagefolder", tmp_path, train=True).images)
    assert "holds them decoded" in load(tmp_path)[1]
    assert len(list((tmp_path / "cache").glob("*.pictures"))) == 1


def test_another_pillow_decodes_anew(tmp_path, monkeypatch):
    folder(tmp_path)
    load(tmp_path)
    monkeypatch.setattr("PIL.__version__", "0.1")
    assert "or of another Pillow: they are decoded anew" in load(tmp_path)[1]


def test_other_sizes_backgrounds_and_limits_have_files_of_their_own(tmp_path):
    folder(tmp_path)
    choices = ({}, {"size": (5, 6)}, {"channels": 1}, {"limit": 5}, {"background": "red"})
    for options in choices:
        assert "decoding" in load(tmp_path, **options)[1]
    for options in choices:
        assert "decoding" not in load(tmp_path, **options)[1]
    assert len(list((tmp_path / "cache").glob("*.pictures"))) == len(choices)


def test_a_grey_set_that_gets_a_coloured_picture_is_coloured(tmp_path):
    folder(tmp_path, grey=True)
    assert load(tmp_path)[0].shape == (1, 9, 7)
    Image.new("RGB", (7, 9), "red").save(tmp_path / "train/a/red.png")
    assert load(tmp_path)[0].shape == (3, 9, 7)
    # One made because grey was asked for is not taken where the pictures decide.
    (tmp_path / "cache").rename(tmp_path / "old")
    load(tmp_path, channels=1)
    assert load(tmp_path)[0].shape == (3, 9, 7)


# --- damaged and foreign ---


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("place", [20, 100, -1, -48])
def test_a_damaged_page_or_table_is_found_at_the_start(tmp_path, place):
    folder(tmp_path)
    load(tmp_path)
    flip(the_file(tmp_path), place)
    loaded, said = load(tmp_path)
    assert "is damaged: " in said and "decoded anew" in said
    assert torch.equal(loaded.batch(ALL).images, data.load("imagefolder", tmp_path, train=True).images)


@pytest.mark.parametrize("length", [30, 4095, 4096, 6000, 6411])
def test_a_file_cut_short_is_found_at_the_start(tmp_path, length):
    folder(tmp_path)
    load(tmp_path)
    os.truncate(the_file(tmp_path), length)
    assert "is damaged: " in load(tmp_path)[1]


@pytest.mark.parametrize("place", [4096, 5000, 4096 + 12 * 189 - 1])
def test_a_damaged_picture_is_found_when_it_is_read_and_the_file_removed(tmp_path, place):
    folder(tmp_path)
    load(tmp_path)
    flip(the_file(tmp_path), place)
    loaded, _ = load(tmp_path)
    number = (place - 4096) // 189
    loaded.batch(torch.tensor([(number + 1) % 12]))  # another one is as it was
    with pytest.raises(UserError, match=f"checksum of picture {number} is another.* has been removed: start"):
        loaded.batch(ALL)
    assert "decoding" in load(tmp_path)[1]


def test_a_file_that_is_cut_short_meanwhile_is_one_line(tmp_path):
    folder(tmp_path)
    loaded, _ = load(tmp_path)
    os.truncate(the_file(tmp_path), 4096)
    with pytest.raises(UserError, match=r"it was cut short.* has been removed"):
        loaded.batch(ALL)


@pytest.mark.parametrize("content", [b"", b"notes", b"stn_ext checkpoint 1", bytes(9000)])
def test_a_foreign_file_is_refused_and_stays(tmp_path, content):
    folder(tmp_path)
    load(tmp_path)
    the_file(tmp_path).write_bytes(content)
    with pytest.raises(UserError, match="holds no decoded pictures: move it away, or choose another"):
        load(tmp_path)
    assert the_file(tmp_path).read_bytes() == content


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path):
    folder(tmp_path)
    load(tmp_path)
    path = the_file(tmp_path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="is a named pipe"):
        load(tmp_path)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    folder(tmp_path)
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match="cannot write to the directory"):
        load(tmp_path)


def test_what_a_killed_run_left_is_cleared(tmp_path):
    folder(tmp_path)
    load(tmp_path)
    path = the_file(tmp_path)
    left = files.temporary_name(path)
    path.rename(left)
    other = path.parent / ".notes.0123456789abcdef.tmp"
    other.write_text("mine")
    load(tmp_path)
    assert not left.exists() and other.exists()


# --- two at once ---


def test_of_two_runs_one_decodes_and_the_other_waits(tmp_path, monkeypatch):
    folder(tmp_path)
    decoded, decode = [], imagefolder.decoding.decode

    def slowly(path, *options):
        decoded.append(path)
        time.sleep(0.02)
        return decode(path, *options)

    monkeypatch.setattr(imagefolder.decoding, "decode", slowly)
    found = []
    runs = [threading.Thread(target=lambda: found.append(load(tmp_path))) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    one, other = (loaded.batch(ALL).images for loaded, _ in found)
    assert torch.equal(one, other)
    said = [said for _, said in found]
    assert sum("decoding" in text for text in said) == 1
    # Each looks at the first for its size; one decodes a sample, and then all.
    assert len(decoded) == 2 + 12 + 12


def test_waiting_for_a_lock_says_for_whom(tmp_path):
    said, path = [], tmp_path / "x.pictures"
    entered = threading.Event()

    def second():
        with locks.locked(path, "the second", said.append):
            entered.set()

    with locks.locked(path, "the first"):
        thread = threading.Thread(target=second)
        thread.start()
        assert not entered.wait(0.3)
    thread.join(10)
    assert entered.is_set()
    assert len(said) == 1 and f"is in use by the first, process {os.getpid()}" in said[0]
    assert said[0].endswith(": waiting for its end")
    assert (tmp_path / ".x.pictures.lock").read_text().startswith("the second, process")


# --- training ---


def test_a_training_is_the_same_as_from_memory_and_goes_on(tmp_path):
    folder(tmp_path / "datasets", 60, (20, 24))
    options = ["--name_data", "imagefolder", "--net", "small", "--batch_size", "16", "--device", "cpu"]
    options += ["--lr_policy", "step", "--augment", "--scope", "cls"]
    cached = ["--cache_dir", tmp_path / "cache"]
    code, said, errors = command_and_output(tmp_path / "memory", *options, "--num_epoch", 2,
                                            "--dir_data", tmp_path / "datasets")  # fmt: skip
    assert (code, errors) == (0, "")
    data_dir = ["--dir_data", tmp_path / "datasets"]
    for more in (["--num_epoch", 1], ["--num_epoch", 2, "--train_continue", "on"]):
        code, said, errors = command_and_output(tmp_path / "file", *options, *cached, *data_dir, *more)
        assert (code, errors) == (0, "")
    assert "holds them decoded" in said  # the same file, though the checkpoint gives the size
    one, other = (
        torch.load(tmp_path / kind / "checkpoints/cls/imagefolder/model_epoch00002.pth", weights_only=True)
        for kind in ("memory", "file")
    )
    assert all(torch.equal(value, other["model"][name]) for name, value in one["model"].items())


def test_mistake_a_cache_of_digits(tmp_path):
    code, errors = command(tmp_path, "--cache_dir", tmp_path / "cache")
    assert code == 2 and "--cache_dir is for --name_data imagefolder only" in errors


def test_mapped_memory_is_let_go_of(tmp_path, monkeypatch):
    """What is mapped stays below the bound, which is small here, and a batch."""
    folder(tmp_path, 64, (128, 128))  # 3 MB
    loaded, _ = load(tmp_path)
    monkeypatch.setattr(picture_file, "RESIDENT", 1_000_000)

    def mapped():
        """Bytes of the file that are in this process's memory."""
        lines = iter(open("/proc/self/smaps"))  # noqa: SIM115
        for line in lines:
            if line.rstrip().endswith(".pictures"):
                return next(int(row.split()[1]) * 1024 for row in lines if row.startswith("Rss:"))
        raise AssertionError("the file is not mapped")

    most = 0
    for start in range(0, 64, 4):
        loaded.batch(slice(start, start + 4))
        most = max(most, mapped())
    # The bound, four pictures of 48 KB, and what the system maps around each.
    assert 0 < most < 1_000_000 + 4 * (49_152 + 2 * 65_536) < 64 * 49_152
    loaded.batch(ALL)
    assert mapped() <= 2 * 65_536


MEASURED = """
import os, resource, runpy, sys
sys.argv = ["main.py", *sys.argv[1:]]
try:
    runpy.run_path("main.py", run_name="__main__")
finally:
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def test_twice_as_many_pictures_take_no_more_memory(tmp_path):
    """540 pictures more of 197 KB each are 106 MB, and twice that where training splits them in memory.

    Batches, validation's too, are of the same sizes. A process's peak varies by some MB from run to run.
    """
    picture = Image.new("RGB", (256, 256))
    for index in range(1080):
        path = tmp_path / "train" / "abc"[index % 3] / f"{index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.paste((index % 256, 50 * (index % 3), index // 256), (10, 10, 90, 90))
        picture.save(path, compress_level=1)
    script = tmp_path / "measured.py"
    script.write_text(MEASURED)
    options = ["--name_data", "imagefolder", "--net", "paper_fcn", "--warp_size", "28", "--batch_size", "32"]
    options += ["--num_epoch", "1", "--device", "cpu", *directories(tmp_path), "--dir_data", tmp_path]
    peaks = []
    for count in (540, 1080):
        where = ["--cache_dir", tmp_path / "cache", "--limit", count]
        printed = succeed(str(script), *options, *where)
        peaks.append(int(printed.split("peak ")[1]))
    assert peaks[1] - peaks[0] < 50e6, peaks
