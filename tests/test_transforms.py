"""The maps from parameters to theta, against matrices written out by hand, OpenCV and SciPy."""

import math

import numpy as np
import pytest
import torch

from stn_ext import transforms
from stn_ext.transforms import TRANSFORMS, ThinPlateSpline


@pytest.mark.parametrize("name", TRANSFORMS)
def test_identity_parameters_give_the_identity(name):
    transform = transforms.create(name)
    theta = transform(torch.tensor([transform.identity] * 2, dtype=torch.float64))
    assert theta.dtype == torch.float64
    expected = torch.eye(3, dtype=torch.float64)[: theta.shape[1]]
    # Before the affine part a spline has its bends, none of them here.
    expected = torch.cat((torch.zeros(len(expected), theta.shape[2] - 3, dtype=torch.float64), expected), 1)
    torch.testing.assert_close(theta, expected.expand(2, -1, -1), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "name, parameters, expected",
    [
        ("affine", [1, 2, 3, 4, 5, 6], [[1, 2, 3], [4, 5, 6]]),
        ("attention", [0.5, 0.1, -0.2], [[0.5, 0, 0.1], [0, 0.5, -0.2]]),
        ("translation", [0.1, -0.2], [[1, 0, 0.1], [0, 1, -0.2]]),
        ("rotation", [math.pi / 2], [[0, -1, 0], [1, 0, 0]]),
        ("similarity", [2, math.pi / 2, 0.1, -0.2], [[0, -2, 0.1], [2, 0, -0.2]]),
        ("projective", [1, 2, 3, 4, 5, 6, 7, 8], [[2, 2, 3], [4, 6, 6], [7, 8, 1]]),
    ],
)
def test_theta_of_known_parameters(name, parameters, expected):
    theta = transforms.create(name)(torch.tensor([parameters], dtype=torch.float64))
    torch.testing.assert_close(theta, torch.tensor([expected], dtype=torch.float64))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_gradients_reach_all_parameters(name):
    transform = transforms.create(name)
    parameters = torch.rand(3, transform.num_parameters, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(transform, parameters)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_warps_by_the_identity_to_the_image_itself(name):
    transform, x = transforms.create(name), torch.rand(2, 3, 9, 12, dtype=torch.float64)
    theta = transform(torch.tensor([transform.identity] * 2, dtype=torch.float64))
    torch.testing.assert_close(transform.sample(x, theta, padding_mode="border"), x, rtol=0, atol=1e-12)


def spline_values(theta: torch.Tensor, points: torch.Tensor, at: np.ndarray) -> np.ndarray:
    """The spline (2, K + 3) at the points (M, 2), as the formula has it: (M, 2)."""
    squared = ((at[:, None] - points.numpy()) ** 2).sum(2)
    with np.errstate(divide="ignore", invalid="ignore"):
        basis = np.where(squared == 0, 0, squared * np.log(squared))
    return np.concatenate((basis, at, np.ones((len(at), 1))), 1) @ theta.numpy().T


@pytest.mark.parametrize("grid", [(4, 4), (2, 2), (3, 5), (6, 2)])
def test_the_spline_is_that_of_scipy(grid):
    transform = ThinPlateSpline(grid)
    places = torch.tensor(transform.identity, dtype=torch.float64) + 0.2 * torch.randn(
        2 * grid[0] * grid[1], dtype=torch.float64
    )
    theta = transform(places[None])[0]
    points = transform.points.numpy()
    assert points.min() == -1 and points.max() == 1 and len(points) == grid[0] * grid[1]
    scipy = pytest.importorskip("scipy.interpolate")
    oracle = scipy.RBFInterpolator(points, places.view(-1, 2).numpy(), kernel="thin_plate_spline", degree=1)
    at = np.random.default_rng(0).uniform(-1.5, 1.5, (50, 2))
    # Both solve a well-conditioned system of some 20 unknowns in float64.
    np.testing.assert_allclose(spline_values(theta, transform.points, at), oracle(at), atol=1e-10)
    reached = spline_values(theta, transform.points, points)
    np.testing.assert_allclose(reached, places.view(-1, 2).numpy(), atol=1e-12)


def test_control_points_go_row_by_row():
    # x runs first, as pixels do in memory.
    assert ThinPlateSpline((2, 3)).identity == (-1, -1, 0, -1, 1, -1, -1, 1, 0, 1, 1, 1)


def test_the_solution_moves_with_its_module_and_is_no_part_of_its_state():
    transform = ThinPlateSpline()
    assert transform.state_dict() == {} and transform.solution.dtype == torch.float64
    assert transform.to("meta").points.device.type == "meta"


def test_a_homography_through_four_corners_is_opencvs():
    cv2 = pytest.importorskip("cv2")
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=np.float32)
    moved = corners + np.array([[0.1, 0.2], [-0.3, 0.1], [0.2, -0.1], [0.05, 0.3]], dtype=np.float32)
    matrix = cv2.getPerspectiveTransform(corners, moved)
    theta = transforms.create("projective")(torch.from_numpy((matrix - np.eye(3)).flatten()[None, :8]))[0]
    image = theta.numpy() @ np.concatenate((corners, np.ones((4, 1))), 1).T
    np.testing.assert_allclose((image[:2] / image[2]).T, moved, atol=1e-6)  # the corners are in float32


def test_mistakes():
    with pytest.raises(ValueError, match=r"expected a transform of affine, .*, but got 'swirl'"):
        transforms.create("swirl")
    with pytest.raises(ValueError, match="'affine' takes no such options: grid"):
        transforms.create("affine", grid=(4, 4))
    with pytest.raises(ValueError, match=r"at least 2 x 2 points, but got \(1, 4\)"):
        transforms.create("thin_plate_spline", grid=(1, 4))
