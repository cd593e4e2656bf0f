"""The maps from parameters to theta, against matrices written out by hand, OpenCV and SciPy."""

import copy
import io
import math
import re

import numpy as np
import pytest
import torch

from stn_ext import geometry, transforms
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


def saved_and_loaded(module):
    file = io.BytesIO()
    torch.save(module, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False)


def state_loaded(module):
    new = ThinPlateSpline(module.grid)
    new.load_state_dict(module.half().state_dict())
    return new


@pytest.mark.parametrize(
    "way",
    [
        torch.nn.Module.half,
        torch.nn.Module.bfloat16,
        lambda module: module.bfloat16().float(),
        lambda module: module.to(torch.float16),
        lambda module: torch.nn.Sequential(module).to(torch.bfloat16)[0],
        lambda module: module.to("meta").to_empty(device="cpu"),
        copy.deepcopy,
        lambda module: copy.deepcopy(module.half()),
        saved_and_loaded,
        state_loaded,
    ],
)
def test_a_splines_constants_stay_what_they_are(way):
    expected, module = ThinPlateSpline((3, 5)), way(ThinPlateSpline((3, 5)))
    assert torch.equal(module.points, expected.points) and module.points.dtype == torch.float64
    assert torch.equal(module.solution, expected.solution)
    parameters = torch.rand(2, 30)
    assert torch.equal(module(parameters), expected(parameters))
    assert module.state_dict() == {}


def test_a_splines_constants_are_made_where_modules_are():
    with torch.device("meta"):
        module = ThinPlateSpline()
    assert module.points.is_meta and module.identity == ThinPlateSpline().identity
    assert torch.equal(module.to_empty(device="cpu").solution, ThinPlateSpline().solution)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_replica_is_its_own(name):
    """As DataParallel makes them, for another device: nothing in it may lead back to the original."""
    transform = transforms.create(name)
    replica = transform._replicate_for_data_parallel()
    replica._buffers = {key: value.to("meta") for key, value in transform.named_buffers()}
    parameters = torch.zeros(2, transform.num_parameters, device="meta")
    theta = replica(parameters)
    assert theta.is_meta and replica.sample(torch.zeros(2, 1, 5, 5, device="meta"), theta).is_meta


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
@pytest.mark.parametrize("name", TRANSFORMS)
def test_theta_of_half_parameters_is_that_of_the_same_numbers(name, dtype):
    """What is done to them costs no precision, whatever autocast says."""
    transform = transforms.create(name)
    parameters = torch.tensor([transform.identity] * 2) + 0.01 * torch.randn(2, transform.num_parameters)
    parameters = parameters.to(dtype)
    exact = transform(parameters.double())
    for cast in (None, torch.float16, torch.bfloat16):
        with torch.autocast("cpu", cast, enabled=cast is not None):
            theta = transform.to(dtype)(parameters)
        assert theta.dtype == torch.float32
        # A few roundings of numbers of up to 1, where half precision would be off by 5e-4 or more.
        torch.testing.assert_close(theta.double(), exact, rtol=0, atol=1e-6)


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
    with pytest.raises(ValueError, match="'affine' takes no such options: sample"):
        transforms.create("affine", sample=print)
    for grid in ((1, 4), 1, (4,), (4, 4, 4), (4.0, 4), "44", None, True, (True, 4)):
        with pytest.raises(ValueError, match=f"ThinPlateSpline: .* but got {re.escape(repr(grid))}"):
            transforms.create("thin_plate_spline", grid=grid)
    with pytest.raises(
        ValueError, match=r"'rotation': expected parameters of shape \(N, 1\), but got \(2, 3\)"
    ):
        transforms.create("rotation")(torch.zeros(2, 3))
    with pytest.raises(TypeError, match="'rotation': expected a tensor of parameters, but got tuple"):
        transforms.create("rotation")((1, 2))


TURNS = {"rotation": [[0.7], [-2.0]], "similarity": [[1.3, 0.7, 0.2, -0.1], [0.6, -2.0, 0.0, 0.3]]}


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("name", TURNS)
def test_a_picture_is_turned_as_it_is(name, align_corners):
    """Found again in pixels; without its size, or without aspect, it is the square that is turned."""
    given = torch.tensor(TURNS[name], dtype=torch.float64)
    theta = transforms.create(name)(given, (60, 120), align_corners)
    found = geometry.parameters(theta, (60, 120), align_corners=align_corners)
    scale, angle = (
        (given[:, 0], given[:, 1]) if name == "similarity" else (torch.ones(2).double(), given[:, 0])
    )
    torch.testing.assert_close(found.angle, angle)
    torch.testing.assert_close(found.scale, scale[:, None].expand(2, 2))
    torch.testing.assert_close(found.shear, torch.zeros(2).double(), rtol=0, atol=1e-12)
    square = transforms.create(name)(given)
    assert torch.equal(theta[:, :, 2], square[:, :, 2]) and not torch.equal(theta, square)
    assert torch.equal(transforms.create(name, aspect=False)(given, (60, 120), align_corners), square)
    for size in ((60, 60), 5, (1, 1), (0, 0)):
        assert torch.equal(transforms.create(name)(given, size, align_corners), square)
    for size in ((1, 7), (7, 1), (0, 7)):
        assert transforms.create(name)(given, size, align_corners).isfinite().all()


def test_pictures_that_are_turned_in_steps_are_turned_at_once():
    one, other = (torch.tensor([[s, a, 0.1, 0.2]]).double() for s, a in ((1.2, 0.4), (0.9, -1.1)))
    similarity = transforms.create("similarity")
    both = geometry.compose(similarity(one, (30, 50)), similarity(other, (30, 50)))
    found = geometry.parameters(both, (30, 50))
    torch.testing.assert_close(found.angle, one[:, 1] + other[:, 1])
    torch.testing.assert_close(found.scale, (one[:, 0] * other[:, 0]).expand(1, 2))


@pytest.mark.parametrize("name", sorted(set(TRANSFORMS) - set(TURNS)))
def test_the_others_do_not_ask_for_a_size(name):
    transform = transforms.create(name)
    parameters = torch.rand(2, transform.num_parameters)
    assert torch.equal(transform(parameters, (3, 9), True), transform(parameters))
    with pytest.raises(ValueError, match="takes no such options: aspect"):
        transforms.create(name, aspect=True)


def test_mistakes_of_aspect():
    with pytest.raises(
        TypeError, match=r"^transform 'rotation': expected aspect of type bool, but got 'yes'"
    ):
        transforms.create("rotation", aspect="yes")
    with pytest.raises(ValueError, match=r"^transform 'rotation': expected in_size of two .* got \(3,\)"):
        transforms.create("rotation")(torch.zeros(1, 1), (3,))
    assert "aspect=False" in repr(transforms.create("similarity", aspect=False))


SCATTERED = [[-0.9, -1.1], [0.8, -0.7], [0.1, 0.2], [-0.6, 0.9], [1.0, 1.0], [0.3, -0.2]]


@pytest.mark.parametrize(
    "kind", [list, lambda p: tuple(map(tuple, p)), np.array, lambda p: torch.tensor(p, dtype=torch.float64)]
)
def test_a_spline_of_any_points_is_that_of_scipy(kind):
    transform = transforms.create("thin_plate_spline", points=kind(SCATTERED))
    points = transform.points.numpy()
    np.testing.assert_array_equal(points, SCATTERED)
    assert transform.grid is None and "points=6" in repr(transform)
    places = torch.from_numpy(points + 0.2 * np.random.default_rng(0).normal(size=points.shape))
    theta = transform(places.reshape(1, 12))[0]
    scipy = pytest.importorskip("scipy.interpolate")
    oracle = scipy.RBFInterpolator(points, places.numpy(), kernel="thin_plate_spline", degree=1)
    at = np.random.default_rng(0).uniform(-1.5, 1.5, (50, 2))
    np.testing.assert_allclose(spline_values(theta, transform.points, at), oracle(at), atol=1e-10)


def test_a_grid_of_points_is_the_grid():
    grid = ThinPlateSpline((3, 5))
    same = ThinPlateSpline(points=grid.points)
    assert same.identity == grid.identity and torch.equal(same.solution, grid.solution)
    for module in (same.half(), copy.deepcopy(same), saved_and_loaded(same)):
        assert torch.equal(module.points, grid.points) and torch.equal(module.solution, grid.solution)
    with torch.device("meta"):
        away = ThinPlateSpline(points=SCATTERED)
    assert away.points.is_meta
    assert torch.equal(away.to_empty(device="cpu").solution, ThinPlateSpline(points=SCATTERED).solution)


@pytest.mark.parametrize(
    "points, message",
    [
        ([[0, 0], [1, 0]], "not on one line, at least three, but got 2"),
        ([[0, 0], [1, 1], [2, 2], [0.5, 0.5]], "but got 4 on one line"),
        ([[0, 0], [1, 0], [0, 1], [1, 0]], "different points, but of 4 got 3 places"),
        ([[0, 0], [1, 0], [0, float("nan")]], "finite points"),
        ([0, 1, 2], r"points of shape \(K, 2\), but got \[0, 1, 2\]"),
        (torch.zeros(3, 3), r"points of shape \(K, 2\), but got a shape \(3, 3\)"),
        (torch.zeros(0, 2), "at least three, but got 0"),
        ("corners", "but got 'corners'"),
        (3, "but got 3"),
    ],
)
def test_points_that_make_no_spline(points, message):
    with pytest.raises(ValueError, match=f"^ThinPlateSpline: expected .*{message}"):
        ThinPlateSpline(points=points)


def test_either_a_grid_or_points():
    with pytest.raises(ValueError, match=r"either grid or points, but got grid=\(3, 3\) too"):
        ThinPlateSpline((3, 3), points=SCATTERED)


@pytest.mark.parametrize("grid", [3, [3, 3], np.array([3, 3])])
def test_a_grid_of_whatever_holds_integers(grid):
    assert ThinPlateSpline(grid).grid == (3, 3)
