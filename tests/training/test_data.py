"""Reading image sets, whole and damaged; background and validation split."""

import gzip
import hashlib
import struct
import urllib.error

import numpy as np
import pytest
import torch
from PIL import Image

from stn_ext.training import data
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
    content = bytearray((data._PACKAGED / name).read_bytes())
    content[-1] ^= 1
    (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(data, "_PACKAGED", tmp_path)
    with pytest.raises(UserError, match="checksum is wrong"):
        data.read_idx(tmp_path / name, 1)


def test_the_notice_states_the_checksums_of_the_files():
    notice = (data._PACKAGED / "NOTICE.md").read_text()
    for path in data._PACKAGED.glob("*.gz"):
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
        (lambda c: c + b"x", "but got 61"),
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
    "content", [b"no gzip at all", gzip.compress(b"half of it" * 100)[:30], gzip.compress(b"")]
)
def test_a_bad_gzip_file_is_refused(tmp_path, content):
    path = tmp_path / "some-idx3-ubyte.gz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"some-idx3-ubyte.gz"):
        data.read_idx(path, 3)


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


def test_unknown_data_lists_the_known():
    with pytest.raises(UserError, match="expected one of mnist, fashion_mnist, kmnist, imagefolder"):
        data.load("cifar", ".", train=True)


def test_the_validation_split_is_a_fixed_tenth_and_shares_no_image():
    images = torch.arange(200).view(200, 1, 1, 1).to(torch.uint8)
    whole = data.ImageSet(images, torch.arange(200), tuple(map(str, range(200))))
    train, validation = data.split(whole)
    torch.manual_seed(5)
    assert torch.equal(data.split(whole)[1].labels, validation.labels)
    assert (len(train), len(validation)) == (180, 20)
    assert sorted(torch.cat((train.labels, validation.labels)).tolist()) == list(range(200))
    assert torch.equal(train.images.flatten().long(), train.labels)
    with pytest.raises(UserError, match="at least 10 training images"):
        data.split(whole[:9])


def test_background_is_zero_after_normalisation_and_comes_back():
    images = torch.full((4, 3, 6, 6), 90, dtype=torch.uint8)
    images[:, 0], images[:, 1, 2:4, 2:4], images[:, 2] = 255, 7, 0
    background = data.find_background(images)
    assert background == [255, 90, 0]
    normalisation = data.Normalisation(background)
    seen = normalisation.apply(images)
    assert seen.dtype == torch.float32
    assert seen[:, :, 0].abs().max() == 0  # the edges are background: what zero padding means
    torch.testing.assert_close(seen[0, 1, 3, 3].item(), (7 - 90) / 255)
    assert torch.equal(normalisation.invert(seen), images)


def test_mnist_keeps_black_at_zero_and_white_at_one(tmp_path):
    images = data.load("mnist", tmp_path, train=False, limit=100).images
    assert data.find_background(images) == [0]
    seen = data.Normalisation([0]).apply(images)
    assert seen.min() == 0 and seen.max() == 1


# --- folders of pictures ---


def picture(path, colour, size=(10, 6), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


def test_an_imagefolder_takes_size_and_channels_from_its_first_image(tmp_path):
    picture(tmp_path / "train/cat/1.png", (255, 0, 0))
    picture(tmp_path / "train/cat/2.JPG", (0, 0, 0), size=(30, 30))
    picture(tmp_path / "train/dog/1.png", 200, mode="L")
    (tmp_path / "train/dog/notes.txt").write_text("no picture")
    loaded = data.load("imagefolder", tmp_path, train=True, num_workers=2)
    assert loaded.classes == ("cat", "dog")
    assert loaded.images.shape == (3, 3, 6, 10)
    assert loaded.labels.tolist() == [0, 1, 0]  # one of each class first: a limit keeps a fair sample
    assert loaded.images[0, :, 0, 0].tolist() == [255, 0, 0]
    assert loaded.images[1].unique().tolist() == [200]
    assert data.load("imagefolder", tmp_path, train=True, limit=2).labels.tolist() == [0, 1]


def test_an_imagefolder_in_another_size_and_in_grey(tmp_path):
    picture(tmp_path / "train/cat/1.png", (255, 255, 255))
    loaded = data.load("imagefolder", tmp_path, train=True, size=(8, 4), channels=1)
    assert loaded.images.shape == (1, 1, 8, 4)
    assert loaded.images.unique().tolist() == [255]


def test_mistakes_in_an_imagefolder(tmp_path):
    with pytest.raises(UserError, match=r"expected pictures as .*/train/CLASS/\*\.png"):
        data.load("imagefolder", tmp_path, train=True)
    (tmp_path / "train/cat").mkdir(parents=True)
    with pytest.raises(UserError, match="there are no"):
        data.load("imagefolder", tmp_path, train=True)
    (tmp_path / "train/cat/1.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"1.png: cannot read the picture"):
        data.load("imagefolder", tmp_path, train=True)
    with pytest.raises(UserError, match="the network knows no class 'cat', only dog"):
        data.load("imagefolder", tmp_path, train=True, classes=["dog"])
