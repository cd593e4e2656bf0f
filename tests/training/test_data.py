"""What holds for all image sets: background and validation split."""

import pytest
import torch

from stn_ext.training import data
from stn_ext.training.errors import UserError


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
