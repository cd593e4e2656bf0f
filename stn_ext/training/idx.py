"""MNIST and the sets in its format: four IDX files, packaged, your own, or downloaded."""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import torch
from torch import Tensor

from . import memory
from .errors import UserError
from .files import open_regular

_PACKAGED = Path(__file__).parent / "mnist"
_SHA256 = {
    "train-images-idx3-ubyte.gz": "0b367032e93c5d0cea0925647cfdb18614af8ee15f83e6f2fc2ad904a6835971",
    "train-labels-idx1-ubyte.gz": "1787548bbe0bff1ec2ecdc0ef292b02df999e2d1a6002d27500982c652b17203",
    "t10k-images-idx3-ubyte.gz": "1a1a05eab793c14bb050b398624a11b0ffd1a2953baed553b1b9bd079e2a20be",
    "t10k-labels-idx1-ubyte.gz": "b91679a0acfe4ba0e50a2437a903084cba1f5f92592b016a25a7dfd00455798b",
}

# name: (torchvision's class, which is also its folder's name; the names of the classes)
SETS = {
    "mnist": ("MNIST", tuple("0123456789")),
    "fashion_mnist": (
        "FashionMNIST",
        (
            "T-shirt",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
    ),
    "kmnist": ("KMNIST", ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")),
}

_GZIP_RATIO = 1032  # bytes that a byte of a gzip file can become at most


def load(name: str, directory: Path, *, train: bool) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """(uint8 images (N, 1, H, W), int64 labels (N,), the classes' names)

    Raises:
        UserError: files that are missing or broken, or do not fit into memory.
    """
    _, classes = SETS[name]
    prefix = "train" if train else "t10k"
    images_path, labels_path = _find(
        name, directory, [f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"]
    )
    images, labels = read(images_path, 3), read(labels_path, 1)
    if len(images) != len(labels) or images.numel() == 0:
        raise UserError(f"{images_path} has {len(images)} images, but {labels_path} has {len(labels)} labels")
    if labels.max() >= len(classes):
        raise UserError(f"{labels_path}: expected labels below {len(classes)}, but got {labels.max()}")
    return images.unsqueeze(1), labels.long(), classes


def _find(name: str, directory: Path, stems: list[str]) -> list[Path]:
    """The files' paths: under --dir_data, else in the package, else as torchvision downloads them.

    A folder of which some files are missing is not filled up from elsewhere: a network would be trained on
    one set and tested on another, or a download would replace files of the user's.
    """
    raw = directory / SETS[name][0] / "raw"
    found, missing = _present(raw, stems)
    if missing and _names(raw):
        raise UserError(
            f"{raw} lacks {' and '.join(missing)} (plain or .gz): complete it, or remove the folder "
            f"to use {'the packaged files' if name == 'mnist' else 'a download'}"
        )
    if missing and name == "mnist":
        return [_PACKAGED / f"{stem}.gz" for stem in stems]
    if missing:
        _download(name, directory)
        found, missing = _present(raw, stems)
    if missing:
        raise UserError(f"the download of {name} did not bring {' and '.join(missing)} into {raw}")
    return found


def _names(folder: Path) -> list[str]:
    """What lies in the folder, hidden files apart; nothing where there is no such folder."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror}") from error


def _present(folder: Path, stems: list[str]) -> tuple[list[Path], list[str]]:
    """(the paths of those that are there, a plain file before its gzip; the stems that are missing)"""
    names = set(_names(folder))
    pairs = [(stem, f"{stem}.gz") for stem in stems]
    found = [folder / next(filter(names.__contains__, pair)) for pair in pairs if names & set(pair)]
    return found, [stem for stem in stems if not names & {stem, f"{stem}.gz"}]


def _download(name: str, directory: Path) -> None:
    folder = SETS[name][0]
    try:
        import torchvision  # here, as nothing else needs it; RuntimeError where it does not fit this PyTorch

        getattr(torchvision.datasets, folder)(directory, download=True)
    except (ImportError, OSError, RuntimeError) as error:
        raise UserError(
            f"cannot download {name}: put its four files *-idx?-ubyte.gz into "
            f"{directory / folder / 'raw'} ({error})"
        ) from error


def read(path: Path, dimensions: int) -> Tensor:
    """The uint8 tensor in an IDX file, plain or gzip.

    The format: two zero bytes, the type (8: unsigned byte), the number of dimensions, each dimension as a
    big-endian 32-bit integer, then the values. No more is read, or decompressed, than the header announces.

    Raises:
        UserError: a file that is missing, broken or too large for the memory.
    """
    with open_regular(path) as file:
        try:
            if path.parent == _PACKAGED:
                _check_packaged(path, file)
            most = os.fstat(file.fileno()).st_size
            if path.suffix != ".gz":
                return _read_values(path, file, dimensions, most)
            with gzip.open(file) as unpacked:
                return _read_values(path, cast(BinaryIO, unpacked), dimensions, most * _GZIP_RATIO)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"cannot read {path}: {error}") from error


def _check_packaged(path: Path, file: BinaryIO) -> None:
    if hashlib.sha256(file.read()).hexdigest() != _SHA256[path.name]:
        raise UserError(f"{path}: the checksum is wrong: the file is damaged, install the package again")
    file.seek(0)


def _read_values(path: Path, file: BinaryIO, dimensions: int, most: int) -> Tensor:
    """most: the bytes that the file can hold, whatever its header says."""
    start = 4 + 4 * dimensions
    header = file.read(start)
    if header[:4] != bytes([0, 0, 8, dimensions]) or len(header) < start:
        raise UserError(f"{path}: expected an IDX file of bytes in {dimensions} dimensions")
    shape = struct.unpack(f">{dimensions}I", header[4:])
    expected = math.prod(shape)
    wrong = f"{path}: expected {expected} bytes for the shape {shape} in its header, but got"
    if expected > most:
        raise UserError(f"{wrong} at most {most}")
    # Twice: a tenth is held out for validation, and both parts are copies.
    memory.check(2 * expected, str(path), "use fewer or smaller images")
    values = torch.empty(expected, dtype=torch.uint8)
    view, count = values.numpy(), 0
    while count < expected and (read := file.readinto(view[count : count + (1 << 24)])):  # type: ignore[attr-defined]
        count += read
    if count < expected:
        raise UserError(f"{wrong} {count}")
    if file.read(1):  # of gzip, the end is also where its checksum is compared
        raise UserError(f"{wrong} more")
    return values.reshape(shape)
