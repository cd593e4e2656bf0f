"""Hostile files in MNIST's format: main.py takes them as they are meant, or says in one line why not, in
bounded time and memory."""

import os
import zlib

import pytest

from tests.hostile import files
from tests.hostile.cases import Cases, check

CASES = Cases()
refused, taken = CASES.refused, CASES.taken


def gzip_bomb():
    """100 kB that become 100 MB of zeros."""
    packer = zlib.compressobj(9, wbits=31)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(100)) + packer.flush()


@refused("but got more")
def a_bomb_behind_the_images(root):
    path = files.mnist(root, ending=".gz") / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes() + gzip_bomb())


@refused("but got more")
def a_bomb_behind_the_labels(root):
    path = files.mnist(root, ending=".gz") / "train-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes() + gzip_bomb())


@refused("expected an IDX file")
def a_bomb_of_zeros(root):
    (files.mnist(root, ending=".gz") / "train-images-idx3-ubyte.gz").write_bytes(gzip_bomb())


@refused("but got at most")
def a_header_of_2_to_the_93rd(root):
    files.mnist(root, files.idx(2**31, 2**31, 2**31, values=bytes(100)))


@refused("but got at most")
def a_packed_header_of_2_to_the_93rd(root):
    files.mnist(root, files.idx(2**31, 2**31, 2**31, values=bytes(100)), ending=".gz")


@refused("of memory, but only")
def a_file_of_holes(root):
    path = files.mnist(root, files.idx(2**20, 2**8, 2**8, values=b"")) / "train-images-idx3-ubyte"
    os.truncate(path, 16 + 2**36)


@refused("has 1073741824 images, but")
def images_of_no_pixels(root):
    files.mnist(root, files.idx(2**30, 0, 28))


@refused("expected a regular file, but it is a named pipe")
def images_from_a_pipe(root):
    raw = files.mnist(root)
    (raw / "train-images-idx3-ubyte").unlink()
    os.mkfifo(raw / "train-images-idx3-ubyte")


@refused("expected a regular file, but it is a device")
def labels_from_a_device(root):
    raw = files.mnist(root)
    (raw / "train-labels-idx1-ubyte").unlink()
    (raw / "train-labels-idx1-ubyte").symlink_to("/dev/urandom")


@refused("expected a regular file, but it is a folder")
def a_folder_in_the_images_place(root):
    raw = files.mnist(root)
    (raw / "train-images-idx3-ubyte").unlink()
    (raw / "train-images-idx3-ubyte").mkdir()


@refused("cannot read")
def images_packed_by_half(root):
    path = files.mnist(root, ending=".gz") / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])


@refused("cannot read")
def images_of_another_checksum(root):
    path = files.mnist(root, ending=".gz") / "train-images-idx3-ubyte.gz"
    data = bytearray(path.read_bytes())
    data[-8] ^= 1
    path.write_bytes(data)


@refused("cannot read")
def images_that_are_not_packed(root):
    (files.mnist(root, ending=".gz") / "train-images-idx3-ubyte.gz").write_bytes(files.idx(20, 28, 28))


@refused("expected an IDX file of bytes in 3 dimensions")
def images_of_floats(root):
    files.mnist(root, files.idx(20, 28, 28, kind=13))


@refused("raw lacks train-labels-idx1-ubyte (plain or .gz)")
def labels_that_are_missing(root):
    (files.mnist(root) / "train-labels-idx1-ubyte").unlink()


@refused("raw lacks train-images-idx3-ubyte and train-labels-idx1-ubyte")
def the_test_files_alone(root):
    raw = files.mnist(root)
    for path in raw.iterdir():
        path.rename(raw / path.name.replace("train", "t10k"))


@refused("20 images, but")
def labels_of_another_number(root):
    files.mnist(root, labels=files.idx(19))


@refused("expected labels below 10, but got 200")
def labels_beyond_the_classes(root):
    files.mnist(root, labels=files.idx(20, values=bytes([200] * 20)))


@refused("cannot read the folder")
def a_file_in_mnists_place(root):
    (root / "datasets").mkdir()
    (root / "datasets/MNIST").write_text("no folder")


@taken("cls: small on 18 images")
def files_that_are_as_they_should_be(root):
    files.mnist(root, ending=".gz")


@pytest.mark.hostile
@pytest.mark.parametrize("build, message, said, options", CASES)
def test_hostile_data(tmp_path, build, message, said, options):
    check(tmp_path, build, message, said, options)


def test_the_number_of_cases():
    assert len(CASES) == 20
