"""What a training step does with its options, against arithmetic done otherwise."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stn_ext import reference
from stn_ext.models import ImageClassifier
from stn_ext.training import augmentation, config, engine
from stn_ext.training.data import Normalisation
from stn_ext.training.distributed import Process
from stn_ext.training.errors import UserError
from stn_ext.training.objectives import Classification
from stn_ext.training.steps import Recipe

ALONE = Process(torch.device("cpu"))


def linear_model():
    torch.manual_seed(0)
    return ImageClassifier(nn.Sequential(nn.Flatten(), nn.Linear(144, 3)))


def train(squares, batch_size=20, **how):
    """(the model after an epoch by plain gradient descent, its first layer's inputs and outputs)"""
    model, seen = linear_model(), []
    model.classifier[1].register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    order = engine.epoch_order(len(squares), batch_size, torch.Generator().manual_seed(0))
    recipe = Recipe(Classification(), **how)
    metrics = engine.train_epoch(
        model, optimizer, None, squares, Normalisation([0]), order, ALONE, recipe=recipe
    )
    return model, seen, metrics


def weights(model):
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def test_batches_added_up_are_one_step(squares):
    whole, seen, metrics = train(squares, 40)
    parts, seen_in_parts, metrics_of_parts = train(squares, 40, accumulate=4)
    assert (len(seen), len(seen_in_parts)) == (3, 12)
    assert max(len(inputs) for inputs, _ in seen_in_parts) == 9
    # The same sums in another order, in float32.
    torch.testing.assert_close(weights(parts), weights(whole), rtol=1e-4, atol=1e-5)
    assert metrics_of_parts.loss == pytest.approx(metrics.loss, rel=1e-4)
    assert metrics_of_parts.accuracy == metrics.accuracy


def test_more_parts_than_images_are_as_many_as_there_are(squares):
    _, seen, _ = train(squares, 3, accumulate=5)
    assert {len(inputs) for inputs, _ in seen} == {1} and len(seen) == 103


def test_a_part_too_small_for_the_processes_is_refused(squares):
    order = engine.epoch_order(103, 40, torch.Generator())
    recipe = Recipe(Classification(), accumulate=20)
    with pytest.raises(UserError, match="too few images in a batch for 3 processes"):
        engine.train_epoch(
            linear_model(), None, None, squares, Normalisation([0]), order,
            Process(torch.device("cpu"), 0, 3), recipe=recipe,
        )  # fmt: skip


def test_a_step_is_no_longer_than_the_gradient_may_be(squares):
    start = weights(linear_model())
    free, _, _ = train(squares, 103)
    bounded, _, _ = train(squares, 103, clip_grad=0.01)
    way, short = weights(free) - start, weights(bounded) - start
    assert way.norm() > 0.5 * 0.01 * 2  # it would have been longer
    # One step of rate 0.5 in the same direction; weights of float32 hold the difference to some 1e-8.
    torch.testing.assert_close(short, way / way.norm() * 0.5 * 0.01, rtol=1e-3, atol=1e-7)
    assert torch.equal(weights(train(squares, 103, clip_grad=1e6)[0]), weights(free))


def test_layers_compute_in_bfloat16_and_weights_stay(squares):
    model, seen, metrics = train(squares, bfloat16=True)
    assert {output.dtype for _, output in seen} == {torch.bfloat16}
    assert weights(model).dtype == torch.float32
    _, seen, exact = train(squares)
    assert {output.dtype for _, output in seen} == {torch.float32}
    # 8 bits of each output, for a loss of about 1.
    assert metrics.loss != exact.loss and metrics.loss == pytest.approx(exact.loss, abs=0.05)


def test_validation_stays_in_float32(squares):
    model, seen, _ = train(squares, bfloat16=True)
    seen.clear()
    engine.evaluate(model, squares, Normalisation([0]), ALONE)
    assert {output.dtype for _, output in seen} == {torch.float32}


def test_each_image_is_warped_by_its_own_map(squares):
    maps = augmentation.random_maps(1, 0, 1, len(squares), (12, 12))
    index = torch.tensor([5, 99, 2])
    seen, labels = Recipe(Classification(), maps=maps).load(squares, index, Normalisation([7]))
    assert torch.equal(labels, squares.labels[index])
    expected = reference.affine_sample((squares.images[index].double() - 7) / 255, maps[index].double())
    # float32's rounding of values of about 1.
    torch.testing.assert_close(seen, expected.float(), rtol=0, atol=1e-5)
    plain, _ = Recipe(Classification()).load(squares, index, Normalisation([7]))
    assert (seen - plain).abs().max() > 0.1


def test_training_sees_the_warped_images(squares):
    maps = augmentation.random_maps(1, 0, 1, len(squares), (12, 12))
    _, seen, _ = train(squares, 103, maps=maps)
    order = engine.epoch_order(len(squares), 103, torch.Generator().manual_seed(0))[0]
    warped = F.grid_sample(
        squares.images.float()[order] / 255,
        F.affine_grid(maps[order], [103, 1, 12, 12], align_corners=False), align_corners=False,
    )  # fmt: skip
    # grid_sample's coordinates have float32's digits.
    torch.testing.assert_close(seen[0][0], warped.flatten(1), rtol=0, atol=1e-4)


def test_random_maps_stay_within_what_the_help_says():
    size = (40, 100)
    maps = augmentation.random_maps(1, 3, 2, 5000, size).double()
    sides = torch.tensor([100.0, 40.0], dtype=torch.float64)
    linear = maps[:, :, :2] * sides[:, None] / sides  # of pixels
    angle = torch.atan2(linear[:, 1, 0], linear[:, 0, 0])
    scale = linear[:, :, 0].norm(dim=1)  # of what is shown, which the picture's is one over
    turned_back = torch.stack((angle.cos(), angle.sin(), -angle.sin(), angle.cos()), 1).view(-1, 2, 2)
    shear = (turned_back @ linear)[:, 0, 1] / scale
    shift = maps[:, :, 2] / 2  # of the sides
    for values, most in (
        (angle, math.radians(15)), (scale.log(), math.log(1.1)), (shear, 0.1), (shift[:, 0], 0.1),
        (shift[:, 1], 0.1),
    ):  # fmt: skip
        # 5000 uniform draws come this near to their bounds; float32 holds 7 digits.
        assert 0.99 * most < values.max() < most * (1 + 1e-5)
        assert 0.99 * most < -values.min() < most * (1 + 1e-5)
    torch.testing.assert_close((turned_back @ linear)[:, 1, 1], scale, rtol=1e-5, atol=0)  # no other stretch


def test_random_maps_are_of_the_seed_and_the_epoch():
    first = augmentation.random_maps(1, 0, 1, 10, (8, 8))
    assert torch.equal(first, augmentation.random_maps(1, 0, 1, 10, (8, 8)))
    assert not torch.equal(first, augmentation.random_maps(1, 0, 2, 10, (8, 8)))
    assert not torch.equal(first, augmentation.random_maps(1, 1, 1, 10, (8, 8)))
    assert len(first.unique(dim=0)) == 10
    identity = torch.eye(2, 3)
    weak = augmentation.random_maps(0.01, 0, 1, 10, (8, 8))
    # The shift is of the strength itself, turning and scaling nearly so.
    torch.testing.assert_close((weak - identity)[:, :, 2], 0.01 * (first - identity)[:, :, 2])
    assert (weak - identity).abs().max() < 0.01


def test_the_recipe_of_the_command_line():
    args = config.parse(["--accumulate", "3", "--clip_grad", "0.5", "--amp", "bf16"])
    assert Recipe.of(args, Classification()) == Recipe(Classification(), 3, 0.5, True)
    assert Recipe.of(config.parse([]), Classification()) == Recipe(Classification())
    assert config.parse(["--augment"]).augment == 1 and config.parse(["--augment", "0.5"]).augment == 0.5
    assert config.parse(["--compile"]).compile == "on" and config.parse([]).compile == "off"
