"""SpatialTransformer: identity at the start, any localisation network, gradients into it, its mistakes."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stn_ext.nn import SpatialTransformer
from stn_ext.transforms import TRANSFORMS


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
        localization(TRANSFORMS[transform].num_parameters), transform,
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
