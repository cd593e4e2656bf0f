"""The sampler's share of a step is what its operators take of it, and finding it changes nothing."""

import itertools

import pytest
import torch

from stn_ext.models import create_model
from stn_ext.training import shares
from stn_ext.training.data import ImageSet, Normalisation


def share(squares, **options):
    images = squares.images.repeat_interleave(3, 2).repeat_interleave(3, 3)  # as large as the network needs
    squares = ImageSet(images, squares.labels, squares.classes)
    model = create_model("small", squares.shape, len(squares.classes), **options)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    drawn = torch.get_rng_state()
    result = shares.sampler_share(model, squares, Normalisation([0]), 32)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())
    assert torch.equal(torch.get_rng_state(), drawn)
    return result


def test_it_is_a_share(squares):
    assert 0 < share(squares, transformer=True, jitter=0.1) < 1


@pytest.mark.parametrize("num_transformers", [1, 2])
def test_operators_alone_are_counted(squares, monkeypatch, num_transformers):
    ticks = itertools.count()  # a clock that moves on each time it is looked at, and not otherwise
    monkeypatch.setattr(shares.SamplerClock, "now", lambda clock: float(next(ticks)))
    calls = 2 * num_transformers  # forth and back
    expected = calls / (2 * calls + 1)
    assert share(squares, transformer=True, num_transformers=num_transformers) == expected


def test_without_a_transformer_there_is_none(squares):
    assert share(squares, transformer=False) is None
