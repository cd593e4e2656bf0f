"""Sets in MNIST's format: packaged, in a folder, to be downloaded; whole, incomplete and damaged."""

import gzip
import hashlib
import struct
import urllib.error
import zlib

import numpy as np
import pytest
import torch

from stn_ext.training import data, idx, memory
from stn_ext.training.errors import UserError


def write_idx(path, array, compress=False):
    array = np.asarray(array, dtype=np.uint8)
    content = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if compress else content)


def test_the_packaged_mnist_is_mnist(tmp_path):
    train = data.load("mnist", tmp_path, train=True)
    test = data.load("mnist", tmp_path, train=False)
    assert train.images.shape == (60000, 1, 28, 28) and train.images.dtype == torch.uint8
    assert test.images.shape == (10000, 1, 28, 28) and test.labels.dtype == torch.int64
    # The counts of each digit, as published with the set.
    assert train.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    # The mean and deviation that every recipe for the set quotes.
    values = train.images.double() / 255
    assert values.mean().item() == pytest.approx(0.1307, abs=5e-5)
    assert values.std().item() == pytest.approx(0.3081, abs=5e-5)


def test_a_damaged_packaged_file_is_noticed(tmp_path, monkeypatch):
    name = "t10k-labels-idx1-ubyte.gz"
    content = bytearray((idx._PACKAGED / name).read_bytes())
    content[-1] ^= 1
    (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(idx, "_PACKAGED", tmp_path)
    with pytest.raises(UserError, match="checksum is wrong"):
        idx.read(tmp_path / name, 1)


def test_the_notice_states_the_checksums_of_the_files():
    notice = (idx._PACKAGED / "NOTICE.md").read_text()
    for path in idx._PACKAGED.glob("*.gz"):
        assert f"| {path.name} | {hashlib.sha256(path.read_bytes()).hexdigest()} |" in notice


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(
    "name, folder", [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST"), ("kmnist", "KMNIST")]
)
def test_files_in_the_data_directory_are_used_first(tmp_path, name, folder, compress):
    images, labels = np.arange(3 * 5 * 4).reshape(3, 5, 4), [2, 0, 9]
    ending = ".gz" if compress else ""
    write_idx(tmp_path / folder / "raw" / f"t10k-images-idx3-ubyte{ending}", images, compress)
    write_idx(tmp_path / folder / "raw" / f"t10k-labels-idx1-ubyte{ending}", labels, compress)
    loaded = data.load(name, tmp_path, train=False)
    assert loaded.images.squeeze(1).tolist() == images.tolist()
    assert loaded.labels.tolist() == labels
    assert len(loaded.classes) == 10


def test_limit_keeps_the_first_images(tmp_path):
    whole = data.load("mnist", tmp_path, train=False)
    part = data.load("mnist", tmp_path, train=False, limit=7)
    assert torch.equal(part.images, whole.images[:7]) and torch.equal(part.labels, whole.labels[:7])


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda c: c[:-1], "expected 60 bytes for the shape .* but got 59"),
        (lambda c: c + b"x", "but got more"),
        (lambda c: c[:9], "expected an IDX file of bytes in 3 dimensions"),
        (lambda c: b"", "expected an IDX file"),
        (lambda c: c[:2] + b"\x0d" + c[3:], "expected an IDX file"),
        (lambda c: c[:4] + b"\xff" * 12 + c[16:], "expected [0-9]+ bytes"),
    ],
)
def test_a_bad_idx_file_is_refused(tmp_path, damage, message):
    path = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    write_idx(path, np.zeros((3, 5, 4)))
    write_idx(path.with_name("t10k-labels-idx1-ubyte"), [0, 1, 2])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=message):
        data.load("mnist", tmp_path, train=False)


@pytest.mark.parametrize(
    "content",
    [b"no gzip at all", gzip.compress(b"half of it" * 100)[:30], gzip.compress(b"")],
    ids=["no gzip", "half", "empty"],
)
def test_a_bad_gzip_file_is_refused(tmp_path, content):
    path = tmp_path / "some-idx3-ubyte.gz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"some-idx3-ubyte.gz"):
        idx.read(path, 3)


@pytest.mark.parametrize(
    "labels, message", [([0, 1], "3 images, but .* 2 labels"), ([0, 1, 10], "labels below 10")]
)
def test_labels_that_do_not_fit_are_refused(tmp_path, labels, message):
    raw = tmp_path / "MNIST" / "raw"
    write_idx(raw / "t10k-images-idx3-ubyte", np.zeros((3, 5, 4)))
    write_idx(raw / "t10k-labels-idx1-ubyte", labels)
    with pytest.raises(UserError, match=message):
        data.load("mnist", tmp_path, train=False)


def test_without_network_the_error_says_where_to_put_the_files(tmp_path, monkeypatch):
    import torchvision

    def fail(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torchvision.datasets, "KMNIST", fail)
    with pytest.raises(UserError, match=r"put its four files .* into .*KMNIST/raw"):
        data.load("kmnist", tmp_path, train=True)


def test_what_stands_after_the_announced_values_is_not_even_decompressed(tmp_path):
    """A small gzip that would become 100 MB, of which the header announces 60 bytes."""
    path = tmp_path / "some-idx3-ubyte.gz"
    write_idx(path, np.zeros((3, 5, 4)), compress=True)
    packer = zlib.compressobj(9, wbits=31)
    with open(path, "ab") as file:  # a second member of the gzip file, whose content follows the first one's
        for _ in range(100):
            file.write(packer.compress(bytes(1 << 20)))
        file.write(packer.flush())
    taken = []

    class Counting(gzip.GzipFile):
        def read(self, size=-1):
            taken.append(size)
            return super().read(size)

        def readinto(self, buffer):
            taken.append(len(buffer))
            return super().readinto(buffer)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match="but got more"):
        patch.setattr(gzip, "open", lambda file: Counting(fileobj=file))
        idx.read(path, 3)
    assert 0 < sum(taken) <= 2 * (16 + 60 + 1) and min(taken) > 0  # twice: readinto may call read


@pytest.mark.parametrize("compress", [False, True])
def test_a_header_of_more_than_the_file_can_hold_is_refused_before_memory_is_taken(
    tmp_path, compress, monkeypatch
):
    path = tmp_path / f"some-idx3-ubyte{'.gz' if compress else ''}"
    content = struct.pack(">4B3I", 0, 0, 8, 3, 2**31, 2**31, 2**31) + bytes(100)
    path.write_bytes(gzip.compress(content) if compress else content)
    monkeypatch.setattr(torch, "empty", None)
    with pytest.raises(UserError, match=rf"expected {2**93} bytes .* but got at most [0-9]+$"):
        idx.read(path, 3)


def test_what_does_not_fit_into_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "some-idx3-ubyte"
    write_idx(path, np.zeros((10, 50, 40)))
    monkeypatch.setattr(memory, "available", lambda: 39_999)
    with pytest.raises(UserError, match=r"needs 40 KB of memory, but only 40 KB are free: use fewer"):
        idx.read(path, 3)
    monkeypatch.setattr(memory, "available", lambda: 40_000)
    assert idx.read(path, 3).shape == (10, 50, 40)


@pytest.mark.parametrize("name, folder", [("mnist", "MNIST"), ("kmnist", "KMNIST")])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("kept", ["images", "labels", "the other part's", "one of another name"])
def test_an_incomplete_folder_is_not_filled_up_from_elsewhere(
    tmp_path, monkeypatch, name, folder, train, kept
):
    raw, part = tmp_path / folder / "raw", "train" if train else "t10k"
    if kept == "images":
        write_idx(raw / f"{part}-images-idx3-ubyte", np.zeros((3, 5, 4)))
    elif kept == "labels":
        write_idx(raw / f"{part}-labels-idx1-ubyte.gz", np.zeros(3), compress=True)
    elif kept == "the other part's":
        write_idx(raw / f"{'t10k' if train else 'train'}-images-idx3-ubyte", np.zeros((3, 5, 4)))
    else:
        write_idx(raw / f"{part}-images.idx3-ubyte", np.zeros((3, 5, 4)))
    monkeypatch.setattr(idx, "_download", None)
    missing = f"{part}-{'labels-idx1' if kept == 'images' else 'images-idx3'}-ubyte"
    with pytest.raises(UserError, match=rf"{folder}/raw lacks {missing}.*complete it, or remove the folder"):
        data.load(name, tmp_path, train=train)


def test_an_empty_folder_is_as_good_as_none(tmp_path):
    raw = tmp_path / "MNIST/raw"
    raw.mkdir(parents=True)
    (raw / ".DS_Store").write_text("")
    assert len(data.load("mnist", tmp_path, train=False)) == 10000
