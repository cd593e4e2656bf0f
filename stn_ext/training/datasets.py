"""The image sets by name, to train, validate and test on: as they are, or distorted, as in ``mnist_rts``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from . import data
from .data import AnySet, ImageSet
from .distortions import BATCH, DISTORTIONS, Distortion
from .errors import UserError

_DISTORTED = {
    f"{name}_{suffix}": (name, distortion)
    for name in data.NAMES
    if name != "imagefolder"  # whose pictures may have any size: the distortions are for digits'
    for suffix, distortion in DISTORTIONS.items()
}
NAMES = (*data.NAMES, *_DISTORTED)


CHECKSUMS = Path(__file__).parent / "checksums.json"  # of the distorted test sets of mnist


@dataclass(frozen=True)
class TrainingSet:
    """What is trained on: the same images in every epoch, or each time distorted anew."""

    images: AnySet
    distortion: Distortion | None
    seed: int
    pool: ImageSet | None = None  # what clutter is cut from, if not from the images

    def __len__(self) -> int:
        return len(self.images)

    def epoch(self, number: int) -> AnySet:
        """An epoch's images, for the device: the same whenever it is asked for."""
        if self.distortion is None:
            return self.images
        assert isinstance(self.images, ImageSet)  # none of the sets that are distorted is large
        words = f"training, seed {self.seed}, epoch {number}"
        return self.distortion.apply(self.images, words, pool=self.pool)

    def to(self, device: torch.device) -> TrainingSet:
        return replace(self, images=self.images.to(device), pool=self.pool and self.pool.to(device))


def objective_of(name: str) -> str:
    """What is learned from the images of that name: a name in objectives.OBJECTIVES."""
    return _DISTORTED[name][1].objective if name in _DISTORTED else "classification"


def load_training(
    name: str,
    directory: str | Path,
    *,
    seed: int,
    name_class: str | None = None,
    limit: int | None = None,
    cache_dir: str | Path | None = None,
    **options,
) -> tuple[TrainingSet, AnySet]:
    """(the images to train on, those to validate on); seed: of what is new in each epoch.

    With a ``cache_dir`` an imagefolder's pictures lie in a file there, and few are in memory.

    The images to validate on are a fixed tenth, and what distorts them is fixed too. Where classes are not
    what is learned, all are of one class: ``name_class``, or the first. The options are those of
    :func:`stn_ext.training.data.load`.

    Raises:
        UserError: files that are missing or broken, too few images, or an unknown class.
    """
    if name == "imagefolder" and cache_dir is not None:
        mapped, held_out = data.split(data.load_mapped(directory, cache_dir, limit=limit, **options))
        return TrainingSet(mapped, None, seed), held_out
    base, distortion = _DISTORTED.get(name, (name, None))
    if objective_of(name) != "colocalisation":
        training, validation = data.split(data.load(base, directory, train=True, limit=limit, **options))
        pool = None
    else:
        pool = data.load(base, directory, train=True)
        training, validation = data.split(one_class(pool, name_class)[:limit])
    if distortion is None:
        return TrainingSet(training, None, seed, pool), validation
    if distortion.sizes is None:
        validation = distortion.fixed(validation, "validation", pool=pool)
        return TrainingSet(training, distortion, seed, pool), validation
    training = distortion.fixed(training[: distortion.sizes[0]], "training", pool=pool)
    validation = distortion.fixed(validation[: distortion.sizes[1]], "validation", pool=pool)
    return TrainingSet(training, None, seed, pool), validation


def load_test(
    name: str,
    directory: str | Path,
    *,
    classes: Sequence[str] | None = None,
    name_class: str | None = None,
    limit: int | None = None,
    **options,
) -> ImageSet:
    """The images to test on, the same in every run, or the first ``limit`` of them; options as above."""
    if name not in _DISTORTED:
        return data.load(name, directory, train=False, classes=classes, limit=limit, **options)
    base, distortion = _DISTORTED[name]
    pool = data.load(base, directory, train=False)
    images = pool if objective_of(name) != "colocalisation" else one_class(pool, name_class)
    if distortion.sizes:  # each image several times, each time distorted otherwise; whole batches of them
        count = min(distortion.sizes[2], BATCH * -(-(limit or distortion.sizes[2]) // BATCH))
        images = images[torch.arange(count) % len(images)]
    return distortion.fixed(images, "test", pool=pool)[:limit]


def one_class(images: ImageSet, name: str | None) -> ImageSet:
    """The images of that class, or of the first."""
    if name is not None and name not in images.classes:
        raise UserError(f"--name_class {name}: expected one of {', '.join(images.classes)}")
    return images[images.labels == images.classes.index(name or images.classes[0])]
