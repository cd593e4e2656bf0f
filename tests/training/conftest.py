"""Fixtures of the training's tests."""

import pytest
import torch

from stn_ext.training.data import ImageSet


@pytest.fixture
def squares() -> ImageSet:
    """103 grey images of 12 x 12 in three classes: a bright square at one of three heights."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (103,), generator=generator)
    images = torch.randint(0, 60, (103, 1, 12, 12), dtype=torch.uint8, generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[0, 4 * label : 4 * label + 4, 4:8] = 220
    return ImageSet(images, labels, ("top", "middle", "bottom"))
