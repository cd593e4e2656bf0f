"""Image sets, whole, as uint8 tensors in memory.

``mnist`` is part of the package; ``fashion_mnist`` and ``kmnist`` are downloaded by torchvision; an
``imagefolder`` is your own pictures, a folder for each class.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from . import cache, idx, imagefolder
from .errors import UserError
from .picture_file import PictureFile

NAMES = (*idx.SETS, "imagefolder")

CPU = torch.device("cpu")
BACKGROUND_BATCH = 100  # images whose borders are looked at together


@dataclass(frozen=True)
class ImageSet:
    """Images (N, C, H, W) in uint8, their labels in int64, and the classes' names.

    What the labels are is the objective's, a name in :data:`stn_ext.training.objectives.OBJECTIVES`: classes
    (N,), or for co-localisation the row and the column (N, 2) where the digit's box begins. ``files`` are the
    names of the images' files, below the set's folder, where each has one of its own.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    objective: str = "classification"
    files: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | Tensor) -> ImageSet:
        files = self.files
        if files is not None:
            files = files[index] if isinstance(index, slice) else tuple(files[i] for i in _positions(index))
        return replace(self, images=self.images[index], labels=self.labels[index], files=files)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)"""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def to(self, device: torch.device) -> ImageSet:
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    @property
    def index_device(self) -> torch.device:
        """Where an index of images is to be, so that nothing waits for it."""
        return self.images.device

    def batch(self, index: slice | Tensor) -> ImageSet:
        """Some of the images, in memory."""
        return self[index]

    def checksum(self) -> str:
        """SHA-256 of the pixels and the labels, in hexadecimal."""
        digest = hashlib.sha256(self.images.cpu().numpy().tobytes())
        digest.update(self.labels.cpu().numpy().astype("<i8").tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class MappedSet:
    """The same of images that lie in a file: only those of a :meth:`batch` are in memory, on its device."""

    file: PictureFile
    places: Tensor  # int64 (N,), which of the file's
    labels: Tensor
    classes: tuple[str, ...]
    device: torch.device = CPU
    objective: str = "classification"

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | Tensor) -> MappedSet:
        index = index if isinstance(index, slice) else index.cpu()
        return replace(self, places=self.places[index], labels=self.labels[index])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)"""
        return self.file.contents.shape

    def to(self, device: torch.device) -> MappedSet:
        return replace(self, device=device)

    @property
    def index_device(self) -> torch.device:
        return CPU

    def batch(self, index: slice | Tensor) -> ImageSet:
        """Raises UserError where the file is damaged."""
        part = self[index]
        images = self.file.read(part.places)
        return ImageSet(images, part.labels, self.classes, self.objective).to(self.device)

    def checksum(self) -> str:
        """SHA-256 of each image's checksum and of the labels, in hexadecimal; no image is read."""
        digest = hashlib.sha256(self.file.checksums[self.places.numpy()].tobytes())
        digest.update(self.labels.numpy().astype("<i8").tobytes())
        return digest.hexdigest()


AnySet = ImageSet | MappedSet
Images = TypeVar("Images", ImageSet, MappedSet)


def _positions(index: Tensor) -> list[int]:
    """Those that a tensor of positions, or of booleans, selects."""
    return (index.nonzero()[:, 0] if index.dtype == torch.bool else index).tolist()


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
    return _medians(_border(images))


def background_of(images: AnySet) -> list[int]:
    """The same of a set, of which some images at a time are looked at."""
    starts = range(0, len(images), BACKGROUND_BATCH)
    counts = [_border(images.batch(slice(start, start + BACKGROUND_BATCH)).images) for start in starts]
    return _medians(torch.stack(counts).sum(0))


def _border(images: Tensor) -> Tensor:
    """How often each value is that of an outermost pixel, (C, 256)."""
    edges = (images[:, :, 0], images[:, :, -1], images[:, :, :, 0], images[:, :, :, -1])
    border = torch.cat([edge.transpose(0, 1).flatten(1) for edge in edges], 1)
    return torch.stack([torch.bincount(channel.int(), minlength=256) for channel in border])


def _medians(counts: Tensor) -> list[int]:
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
    background: str = "white",
    say: Callable[[str], None] | None = None,
) -> ImageSet:
    """The training or the test images of a data set.

    Args:
        name: one of :data:`NAMES`.
        directory: where the files lie, or are downloaded to.
        size: (height, width) of an imagefolder's images; the first one's when None.
        channels: 1 or 3, of an imagefolder's images; 1 when None and all are grey, otherwise 3.
        classes: those of an imagefolder; its sub-folders when None.
        limit: keep only the first so many images.
        num_workers: threads that decode an imagefolder's files.
        background: the colour behind the transparent pictures of an imagefolder, such as white or #ff8000.
        say: gets lines about an imagefolder: how many pictures each class has, what is left out or changed.
            There is a progress bar then too.

    Raises:
        UserError: files that are missing or broken, or do not fit into memory.
    """
    if name == "imagefolder":
        folder = Path(directory) / ("train" if train else "test")
        images, labels, names, files = imagefolder.load(
            folder,
            size=size,
            channels=channels,
            classes=classes,
            limit=limit,
            num_workers=num_workers,
            background=background,
            say=say,
        )
        return ImageSet(images, labels, names, files=files)
    if name not in idx.SETS:
        raise UserError(f"unknown data {name!r}: expected one of {', '.join(NAMES)}")
    return ImageSet(*idx.load(name, Path(directory), train=train))[:limit]


def load_mapped(directory: str | Path, cache_dir: str | Path, **options: Any) -> MappedSet:
    """An imagefolder's training images, decoded into a file in ``cache_dir``; the options are load's.

    Raises:
        UserError: files that are missing or broken, or a file that cannot be written.
    """
    return MappedSet(*cache.load(Path(directory) / "train", Path(cache_dir), **options))


def split(training: Images) -> tuple[Images, Images]:
    """Holds out a tenth for validation, the same in every run: (train, validation)."""
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(training), generator=generator)
    held_out = len(training) // 10
    if held_out == 0:
        raise UserError(
            f"expected at least 10 training images, of which a tenth is held out, but got {len(training)}"
        )
    return training[order[held_out:]], training[order[:held_out]]
