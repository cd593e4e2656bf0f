"""Image sets, whole, as uint8 tensors in memory.

``mnist`` is part of the package; ``fashion_mnist`` and ``kmnist`` are downloaded by torchvision; an
``imagefolder`` is your own pictures, a folder for each class.
"""

from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from .errors import UserError

_PACKAGED = Path(__file__).parent / "mnist"
_SHA256 = {
    "train-images-idx3-ubyte.gz": "0b367032e93c5d0cea0925647cfdb18614af8ee15f83e6f2fc2ad904a6835971",
    "train-labels-idx1-ubyte.gz": "1787548bbe0bff1ec2ecdc0ef292b02df999e2d1a6002d27500982c652b17203",
    "t10k-images-idx3-ubyte.gz": "1a1a05eab793c14bb050b398624a11b0ffd1a2953baed553b1b9bd079e2a20be",
    "t10k-labels-idx1-ubyte.gz": "b91679a0acfe4ba0e50a2437a903084cba1f5f92592b016a25a7dfd00455798b",
}

# name: (torchvision's class, which is also its folder's name; the names of the classes)
_IDX_SETS = {
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

NAMES = (*_IDX_SETS, "imagefolder")


@dataclass(frozen=True)
class ImageSet:
    """Images (N, C, H, W) in uint8, their labels in int64, and the classes' names.

    What the labels are is the objective's, a name in :data:`stn_ext.training.objectives.OBJECTIVES`: classes
    (N,), or for co-localisation the row and the column (N, 2) where the digit's box begins.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    objective: str = "classification"

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | Tensor) -> ImageSet:
        return replace(self, images=self.images[index], labels=self.labels[index])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)"""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def to(self, device: torch.device) -> ImageSet:
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


class Normalisation:
    """From uint8 to what a network sees, and back.

    The background is 0 afterwards: what the sampler fills in beyond the image's border is then background
    as well. Values are at most 1 away from it.
    """

    def __init__(self, background: Sequence[int], device: torch.device | str = "cpu") -> None:
        """background: a uint8 value for each channel."""
        self.background = torch.tensor(background, dtype=torch.float32, device=device).view(-1, 1, 1)

    def apply(self, images: Tensor) -> Tensor:
        """uint8 (N, C, H, W) to float32, channels last."""
        images = images.to(torch.float32, memory_format=torch.channels_last)
        return images.sub_(self.background).div_(255)

    def invert(self, images: Tensor) -> Tensor:
        """float32 (N, C, H, W), or K images' channels one after the other (N, K * C, H, W), to uint8."""
        background = self.background.repeat(images.shape[1] // len(self.background), 1, 1)
        return (images * 255 + background).round().clamp(0, 255).to(torch.uint8)


def pictures(images: Tensor, channels: int) -> Tensor:
    """Images (N, K * channels, H, W) as grey or coloured pictures (N, 1 or 3, H, ...), side by side.

    ``channels`` are those of one image; where they are neither 1 nor 3, each is a grey picture.
    """
    return torch.cat(images.split(channels if channels in (1, 3) else 1, 1), 3)


def find_background(images: Tensor) -> list[int]:
    """The median of the outermost pixels, for each channel: 0 for MNIST, 255 for ink on white paper."""
    edges = (images[:, :, 0], images[:, :, -1], images[:, :, :, 0], images[:, :, :, -1])
    border = torch.cat([edge.transpose(0, 1).flatten(1) for edge in edges], 1)
    counts = torch.stack([torch.bincount(channel.int(), minlength=256) for channel in border])
    return (counts.cumsum(1) * 2 >= counts.sum(1, keepdim=True)).int().argmax(1).tolist()


def load(
    name: str,
    directory: str | Path,
    *,
    train: bool,
    size: Sequence[int] | None = None,
    channels: int | None = None,
    classes: Sequence[str] | None = None,
    limit: int | None = None,
    num_workers: int = 0,
) -> ImageSet:
    """The training or the test images of a data set.

    Args:
        name: one of :data:`NAMES`.
        directory: where the files lie, or are downloaded to.
        size, channels: of an imagefolder's images; the first image's when None.
        classes: those of an imagefolder; its sub-folders when None.
        limit: keep only the first so many images.
        num_workers: threads that decode an imagefolder's files.

    Raises:
        UserError: files that are missing or broken.
    """
    if name == "imagefolder":
        folder = Path(directory) / ("train" if train else "test")
        return _read_imagefolder(folder, size, channels, classes, limit, num_workers)
    if name not in _IDX_SETS:
        raise UserError(f"unknown data {name!r}: expected one of {', '.join(NAMES)}")
    return _read_idx_set(name, Path(directory), train)[:limit]


def split(training: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Holds out a tenth for validation, the same in every run: (train, validation)."""
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(training), generator=generator)
    held_out = len(training) // 10
    if held_out == 0:
        raise UserError(
            f"expected at least 10 training images, of which a tenth is held out, but got {len(training)}"
        )
    return training[order[held_out:]], training[order[:held_out]]


# --- IDX files ---------------------------------------------------------------------------------------


def _read_idx_set(name: str, directory: Path, train: bool) -> ImageSet:
    _, classes = _IDX_SETS[name]
    prefix = "train" if train else "t10k"
    stems = [f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"]
    images_path, labels_path = _find_idx(name, directory, stems)
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1).long()
    if len(images) != len(labels) or images.numel() == 0:
        raise UserError(f"{images_path} has {len(images)} images, but {labels_path} has {len(labels)} labels")
    if labels.max() >= len(classes):
        raise UserError(f"{labels_path}: expected labels below {len(classes)}, but got {labels.max()}")
    return ImageSet(images.unsqueeze(1), labels, classes)


def _find_idx(name: str, directory: Path, stems: list[str]) -> list[Path]:
    """The files' paths: under --dir_data, else in the package, else as torchvision downloads them."""
    raw = directory / _IDX_SETS[name][0] / "raw"

    def present() -> list[Path]:
        candidates = [(raw / stem, raw / f"{stem}.gz") for stem in stems]
        return [next(filter(Path.is_file, pair)) for pair in candidates if any(map(Path.is_file, pair))]

    found = present()
    if len(found) < len(stems) and name == "mnist":
        found = [_PACKAGED / f"{stem}.gz" for stem in stems]
    if len(found) < len(stems):
        _download(name, directory)
        found = present()
    return found


def _download(name: str, directory: Path) -> None:
    folder = _IDX_SETS[name][0]
    try:
        import torchvision  # here, as nothing else needs it; RuntimeError where it does not fit this PyTorch

        getattr(torchvision.datasets, folder)(directory, download=True)
    except (ImportError, OSError, RuntimeError) as error:
        raise UserError(
            f"cannot download {name}: put its four files *-idx?-ubyte.gz into "
            f"{directory / folder / 'raw'} ({error})"
        ) from error


def read_idx(path: Path, dimensions: int) -> Tensor:
    """The uint8 tensor in an IDX file, plain or gzip.

    The format: two zero bytes, the type (8: unsigned byte), the number of dimensions, each dimension as a
    big-endian 32-bit integer, then the values.
    """
    try:
        content = path.read_bytes()
        if path.parent == _PACKAGED and hashlib.sha256(content).hexdigest() != _SHA256[path.name]:
            raise UserError(f"{path}: the checksum is wrong: the file is damaged, install the package again")
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    start = 4 + 4 * dimensions
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) < start:
        raise UserError(f"{path}: expected an IDX file of bytes in {dimensions} dimensions")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    values = torch.frombuffer(bytearray(content[start:] or b"\0"), dtype=torch.uint8)[: len(content) - start]
    expected = torch.Size(shape).numel()
    if len(values) != expected:
        raise UserError(
            f"{path}: expected {expected} bytes for the shape {shape} in its header, but got {len(values)}"
        )
    return values.reshape(shape)


# --- folders of pictures -----------------------------------------------------------------------------


def _read_imagefolder(
    folder: Path,
    size: Sequence[int] | None,
    channels: int | None,
    classes: Sequence[str] | None,
    limit: int | None,
    num_workers: int,
) -> ImageSet:
    found = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if not found:
        raise UserError(f"expected pictures as {folder}/CLASS/*.png or *.jpg, but there is no such folder")
    classes = tuple(classes or found)
    unknown = [name for name in found if name not in classes]
    if unknown:
        raise UserError(
            f"{folder / unknown[0]}: the network knows no class {unknown[0]!r}, only {', '.join(classes)}"
        )
    files = []
    for label, name in enumerate(classes):
        pictures = [p for p in folder.glob(f"{name}/*") if p.suffix.lower() in (".png", ".jpg", ".jpeg")]
        files += [(position, label, path) for position, path in enumerate(sorted(pictures))]
    # One of each class, then a second one of each: the first N are a fair sample.
    files = sorted(files)[:limit]
    if not files:
        raise UserError(f"{folder}: there are no *.png or *.jpg in its folders")

    width_height = (size[1], size[0]) if size else _decode(files[0][2]).size
    mode = {1: "L", 3: "RGB"}[
        channels or (1 if _decode(files[0][2]).mode in ("1", "L", "I", "I;16", "F") else 3)
    ]

    def read(path: Path) -> Tensor:
        picture = _decode(path).convert(mode)
        if picture.size != width_height:
            picture = picture.resize(width_height)
        values = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
        return values.view(width_height[1], width_height[0], -1).permute(2, 0, 1)

    with ThreadPoolExecutor(max(1, num_workers)) as pool:
        images = torch.stack(list(pool.map(read, [path for _, _, path in files])))
    return ImageSet(images, torch.tensor([label for _, label, _ in files]), classes)


def _decode(path: Path):
    from PIL import Image  # here, as nothing else needs it

    try:
        with Image.open(path) as picture:
            picture.load()
            return picture
    except OSError as error:
        raise UserError(f"{path}: cannot read the picture: {error}") from error
