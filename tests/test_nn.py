"""SpatialTransformer: identity at the start, any localisation network, gradients into it, its mistakes."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stn_ext.nn import ParallelTransformers, SpatialTransformer
from stn_ext.transforms import TRANSFORMS, create


def localization(parameters: int, channels: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, parameters)
    )


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_starts_as_the_identity(transform, padding_mode, align_corners):
    x = torch.rand(2, 3, 9, 12)
    module = SpatialTransformer(
        localization(create(transform).num_parameters), transform,
        padding_mode=padding_mode, align_corners=align_corners,
    )  # fmt: skip
    # A coordinate in float32 is off by a few units in its last place, a pixel's value by as much.
    torch.testing.assert_close(module(x), x, atol=1e-5, rtol=0)


def test_returns_theta_on_request():
    warped, theta = SpatialTransformer(localization(6))(torch.rand(2, 3, 8, 8), return_theta=True)
    assert warped.shape == (2, 3, 8, 8)
    assert torch.equal(theta, torch.eye(2, 3).expand(2, 2, 3))


def test_warps_as_theta_says_and_to_any_size():
    module = SpatialTransformer(localization(6), size=(5, 7), padding_mode="border", align_corners=True)
    values = torch.tensor([0.7, 0.2, 0.1, -0.3, 0.8, -0.2])
    with torch.no_grad():
        module.localization[-1].bias.copy_(values)
    x = torch.rand(2, 3, 8, 8)
    grid = F.affine_grid(values.view(1, 2, 3).expand(2, 2, 3), (2, 3, 5, 7), align_corners=True)
    expected = F.grid_sample(x, grid, padding_mode="border", align_corners=True)
    torch.testing.assert_close(module(x), expected, atol=1e-5, rtol=1e-5)


def test_a_training_step_moves_theta_away_from_the_identity():
    torch.manual_seed(0)
    module = SpatialTransformer(localization(6))
    x = torch.rand(2, 3, 8, 8)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    (module(x) - x.flip(3)).square().sum().backward()
    optimizer.step()
    theta = module(x, return_theta=True)[1]
    assert (theta - torch.eye(2, 3)).abs().max() > 0.01


@pytest.mark.parametrize(
    "module, arguments, message",
    [
        (localization(5), {}, "out_features = 6 for transform 'affine', but got 5"),
        (
            localization(6),
            {"transform": "attention"},
            "out_features = 3 for transform 'attention', but got 6",
        ),
        (localization(6), {"transform": "swirl"}, "expected a transform of affine, .* but got 'swirl'"),
        (nn.Flatten(), {}, "end in an nn.Linear with a bias"),
        (nn.Linear(4, 6, bias=False), {}, "end in an nn.Linear with a bias"),
    ],
)
def test_a_localization_that_does_not_fit_is_refused(module, arguments, message):
    with pytest.raises(ValueError, match=message):
        SpatialTransformer(module, **arguments)


def test_options_reach_the_transform():
    module = SpatialTransformer(localization(12), "thin_plate_spline", grid=(2, 3))
    assert module(torch.rand(2, 3, 8, 8), return_theta=True)[1].shape == (2, 2, 9)
    with pytest.raises(ValueError, match="'affine' takes no such options: grid"):
        SpatialTransformer(localization(6), grid=(2, 3))


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transformers_at_several_depths_learn_together(transform):
    parameters = create(transform).num_parameters
    network = nn.Sequential(
        SpatialTransformer(localization(parameters), transform),
        nn.Conv2d(3, 5, 3),
        SpatialTransformer(localization(parameters, 5), transform, size=(6, 7)),
        SpatialTransformer(localization(parameters, 5), transform),
    )
    x = torch.rand(2, 3, 12, 14)
    optimizer = torch.optim.SGD(network.parameters(), 1e-4)
    for _ in range(2):  # a localisation network's first layers get a gradient once its last is not zero
        optimizer.zero_grad()
        y = network(x)
        y.square().sum().backward()
        optimizer.step()
    assert y.shape == (2, 5, 6, 7)
    for name, parameter in network.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_parallel_transformers_concatenate_what_each_sees():
    module = ParallelTransformers(SpatialTransformer(localization(6), size=(5, 4)) for _ in range(4))
    with torch.no_grad():
        for transformer in module.transformers:
            transformer.localization[-1].bias.add_(0.1 * torch.randn(6))
    x = torch.rand(2, 3, 8, 8)
    warped, thetas = module(x, return_theta=True)
    assert warped.shape == (2, 12, 5, 4) and len(thetas) == 4
    for i, transformer in enumerate(module.transformers):
        assert torch.equal(warped[:, 3 * i : 3 * i + 3], transformer(x))
        assert torch.equal(thetas[i], transformer(x, return_theta=True)[1])
    assert torch.equal(module(x), warped)


def test_antialiasing_averages_the_pixels_that_an_output_pixel_covers():
    x = torch.rand(2, 3, 12, 18)
    module = SpatialTransformer(localization(6), size=(4, 3), antialias=True)
    torch.testing.assert_close(module(x), F.avg_pool2d(x, (3, 6)), atol=1e-5, rtol=0)
    # Where nothing shrinks it changes nothing.
    for size in (None, (12, 18), (20, 18)):
        modules = [SpatialTransformer(localization(6), size=size, antialias=a) for a in (True, False)]
        assert torch.equal(modules[0](x), modules[1](x))


@pytest.mark.parametrize("transform", ["affine", "projective", "thin_plate_spline"])
def test_antialiasing_leaves_nothing_of_a_pattern_finer_than_the_output(transform):
    """Stripes of one pixel, seen at a quarter of the resolution through a small zoom, are even grey."""
    stripes = (torch.arange(64) % 2).float().expand(1, 1, 64, 64)
    seen = {}
    for antialias in (True, False):
        parameters = create(transform)
        module = SpatialTransformer(
            localization(parameters.num_parameters, 1), transform, (16, 16), antialias=antialias
        )
        with torch.no_grad():
            factor = torch.tensor(parameters.identity) * 0.93
            module.localization[-1].bias.copy_(factor)
            if transform == "projective":
                module.localization[-1].bias[[0, 4]] = -0.07
        seen[antialias] = module(stripes)[0, 0]
    assert seen[False].std() > 0.2
    assert (seen[True] - 0.5).abs().max() < 0.15  # four bilinear samples to a period of two pixels


def test_antialiasing_has_no_meaning_with_aligned_corners():
    with pytest.raises(ValueError, match="align_corners=False with antialias"):
        SpatialTransformer(localization(6), size=(4, 4), antialias=True, align_corners=True)
