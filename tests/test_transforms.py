"""The maps from parameters to theta, against matrices written out by hand."""

import math

import pytest
import torch

from stn_ext.transforms import TRANSFORMS


@pytest.mark.parametrize("name", TRANSFORMS)
def test_identity_parameters_give_the_identity(name):
    transform = TRANSFORMS[name]
    theta = transform.theta(torch.tensor([transform.identity] * 2, dtype=torch.float64))
    assert theta.dtype == torch.float64
    torch.testing.assert_close(theta, torch.eye(2, 3, dtype=torch.float64).expand(2, 2, 3))


@pytest.mark.parametrize(
    "name, parameters, expected",
    [
        ("affine", [1, 2, 3, 4, 5, 6], [[1, 2, 3], [4, 5, 6]]),
        ("attention", [0.5, 0.1, -0.2], [[0.5, 0, 0.1], [0, 0.5, -0.2]]),
        ("translation", [0.1, -0.2], [[1, 0, 0.1], [0, 1, -0.2]]),
        ("rotation", [math.pi / 2], [[0, -1, 0], [1, 0, 0]]),
        ("similarity", [2, math.pi / 2, 0.1, -0.2], [[0, -2, 0.1], [2, 0, -0.2]]),
    ],
)
def test_theta_of_known_parameters(name, parameters, expected):
    theta = TRANSFORMS[name].theta(torch.tensor([parameters], dtype=torch.float64))
    torch.testing.assert_close(theta, torch.tensor([expected], dtype=torch.float64))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_gradients_reach_all_parameters(name):
    transform = TRANSFORMS[name]
    parameters = torch.rand(3, transform.num_parameters, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(transform.theta, parameters)
