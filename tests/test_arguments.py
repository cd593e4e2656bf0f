"""Sizes and indices in whatever form users have them, the same in every function."""

import numpy as np
import pytest
import torch

from stn_ext import (
    affine_sample,
    normalised_to_pixels,
    pixels_to_normalised,
    projective_sample,
    thin_plate_spline_sample,
    warp_affine,
)
from tests.warps import Affine, Projective, ThinPlateSpline, Volume

SIZES = {
    "list": lambda size: list(size),
    "torch.Size": torch.Size,
    "NumPy integers": lambda size: tuple(np.int64(n) for n in size),
    "NumPy integers of few bits": lambda size: [np.uint8(n) for n in size],
    "NumPy array": np.array,
    "tensor": torch.tensor,
    "tensors of one number": lambda size: tuple(torch.tensor(n) for n in size),
}

FUNCTIONS = {
    "affine_sample": lambda size: affine_sample(torch.ones(2, 1, 5, 6), Affine.theta, size),
    "projective_sample": lambda size: projective_sample(torch.ones(2, 1, 5, 6), Projective.theta, size),
    "thin_plate_spline_sample": lambda size: thin_plate_spline_sample(
        torch.ones(2, 1, 5, 6), ThinPlateSpline.theta, ThinPlateSpline.points, size
    ),
    "affine_sample in pixels": lambda size: affine_sample(
        torch.ones(2, 1, 5, 6), Affine.theta, size, theta_units="pixel"
    ),
    "warp_affine": lambda size: warp_affine(torch.ones(2, 1, 5, 6), Affine.theta, size),
    "pixels_to_normalised": lambda size: pixels_to_normalised(Affine.theta, (5, 6), size),
    "normalised_to_pixels": lambda size: normalised_to_pixels(Affine.theta, size, (5, 6)),
}
functions = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS.keys())


@functions
@pytest.mark.parametrize("form", SIZES.values(), ids=SIZES.keys())
def test_sizes_are_whatever_is_an_integer(function, form):
    assert torch.equal(function(form((3, 4))), function((3, 4)))


@functions
@pytest.mark.parametrize("number", (4, np.int32(4), torch.tensor(4)))
def test_one_number_is_a_square(function, number):
    assert torch.equal(function(number), function((4, 4)))


def test_one_number_is_a_cube():
    x = torch.ones(Volume.shape)
    assert torch.equal(affine_sample(x, Volume.theta, 3), affine_sample(x, Volume.theta, (3, 3, 3)))


@functions
@pytest.mark.parametrize(
    "size",
    (
        (True, True),
        True,
        (np.True_, 3),
        (3.0, 4),
        2.5,
        (3,),
        (3, 4, 5),
        (-1, 4),
        -1,
        "34",
        {3, 4},
        (None, 4),
        np.ones((2, 2), int),
        (2**63, 1),
        10**30,
    ),
    ids=repr,
)
def test_other_sizes_are_refused(function, size):
    with pytest.raises(ValueError, match=r"^\w+: expected \w*size of .*, but got ") as caught:
        function(size)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", ((2**62, 2**62), (2**40, 2**40), (2**63 - 1, 1)))
def test_a_result_that_no_memory_can_hold_is_refused(size):
    with pytest.raises(ValueError, match=r"^affine_sample: expected size of a result below 2\^63 bytes, but"):
        affine_sample(torch.ones(2, 1, 5, 6), Affine.theta, size)


@pytest.mark.parametrize("form", (list, tuple, np.array, lambda n: np.array(n, np.uint8), torch.tensor))
def test_an_index_is_a_list_or_a_tensor(form, device):
    x = torch.randn(3, 2, 5, 6, device=device)
    index = form([2, 0])
    index = index.to(device) if isinstance(index, torch.Tensor) else index
    y = affine_sample(x, Affine.theta.to(device), index=index)
    assert torch.equal(y, affine_sample(x[[2, 0]], Affine.theta.to(device)))


def test_an_index_may_be_empty():
    assert affine_sample(torch.ones(3, 2, 5, 6), Affine.theta[:0], index=[]).shape == (0, 2, 5, 6)


@pytest.mark.parametrize(
    "index, error",
    (
        ([0.0, 1.0], TypeError),
        ([True, False], TypeError),
        ("01", TypeError),
        (1, TypeError),
        ({0, 1}, TypeError),
        (torch.tensor([True, False]), TypeError),
        (torch.tensor([0, 1], dtype=torch.int32), TypeError),
        ([[0, 1]], TypeError),
        (torch.tensor([[0, 1]]), ValueError),
        ([0], ValueError),
        ([0, 3], IndexError),
        ([-1, 0], IndexError),
        ([2**63, 0], IndexError),
    ),
)
def test_other_indices_are_refused(index, error):
    with pytest.raises(error, match=r"^affine_sample: expected index of .*, but got ") as caught:
        affine_sample(torch.ones(3, 2, 5, 6), Affine.theta, index=index)
    assert "\n" not in str(caught.value)


def test_numpys_truth_values_are_truth_values():
    x = torch.rand(2, 1, 5, 6)
    for align_corners in (False, True):
        y = affine_sample(x, Affine.theta, 4, align_corners=np.bool_(align_corners))
        assert torch.equal(y, affine_sample(x, Affine.theta, 4, align_corners=align_corners))
