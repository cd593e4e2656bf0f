"""The oracle itself, against PyTorch's two operators in float64, OpenCV, kornia and SciPy."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import stn_ext
from stn_ext import reference
from stn_ext.transforms import ThinPlateSpline
from tests.maps import MAPS, PADDINGS


@pytest.mark.parametrize("align_corners", (False, True))
@pytest.mark.parametrize("padding_mode", PADDINGS)
def test_value_and_gradients_are_pytorchs(padding_mode, align_corners):
    theta = torch.cat([t for name, t in MAPS.items() if "far" not in name])
    x = torch.randn(len(theta), 2, 11, 14, dtype=torch.float64)
    g = torch.randn(len(theta), 2, 9, 12, dtype=torch.float64)

    def run(f):
        a, t = x.clone().requires_grad_(), theta.clone().requires_grad_()
        y = f(a, t)
        return [y, *torch.autograd.grad(y, (a, t), g)]

    def pair(a, t):
        grid = F.affine_grid(t, list(g.shape), align_corners=align_corners)
        return F.grid_sample(a, grid, padding_mode=padding_mode, align_corners=align_corners)

    options = {"padding_mode": padding_mode, "align_corners": align_corners}
    ours = run(lambda a, t: reference.affine_sample(a, t, (9, 12), **options))
    for a, b in zip(ours, run(pair), strict=True):
        # Sums of a few hundred terms of magnitude up to about 10, in float64.
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


HOMOGRAPHY = torch.tensor([[[0.93, 0.21, 0.05], [-0.17, 1.08, -0.03], [0.13, -0.22, 1.0]]]).double()
BEHIND = torch.tensor([[[0.9, 0.1, 0.0], [0.2, 1.1, 0.1], [1.7, 0.6, 1.0]]]).double()


def pixel_matrix(theta: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """Between pixels what theta (3, 3) is between normalised coordinates of images of one size."""
    height, width = size
    to_normalised = np.array([[2 / width, 0, 1 / width - 1], [0, 2 / height, 1 / height - 1], [0, 0, 1]])
    return np.linalg.inv(to_normalised) @ theta.numpy() @ to_normalised


def upright_grid(height: int, width: int, align_corners: bool) -> torch.Tensor:
    """The output's own coordinates, (1, height, width, 2), in float64."""
    theta = torch.eye(2, 3, dtype=torch.float64)[None]
    return F.affine_grid(theta, (1, 1, height, width), align_corners=align_corners)


def test_a_homography_warps_as_opencv_does():
    cv2 = pytest.importorskip("cv2")
    x = torch.rand(1, 1, 40, 50, dtype=torch.float64)
    inverse = cv2.WARP_INVERSE_MAP | cv2.INTER_LINEAR
    matrix = pixel_matrix(HOMOGRAPHY[0], (40, 50))
    expected = cv2.warpPerspective(x[0, 0].float().numpy(), matrix, (50, 40), flags=inverse)
    ours = reference.projective_sample(x, HOMOGRAPHY)[0, 0]
    # OpenCV may round coordinates to 1/32 of a pixel; neighbours differ by 1 at most.
    np.testing.assert_allclose(ours.numpy(), expected, atol=2 / 32)
    assert np.abs(ours.numpy() - expected).mean() < 0.01


@pytest.mark.parametrize("align_corners", (False, True))
@pytest.mark.parametrize("padding_mode", PADDINGS)
def test_a_homography_is_that_of_kornias_points(padding_mode, align_corners):
    kornia = pytest.importorskip("kornia.geometry.linalg")
    x = torch.randn(1, 2, 11, 14, dtype=torch.float64)
    g = torch.randn(1, 2, 9, 12, dtype=torch.float64)
    options = {"padding_mode": padding_mode, "align_corners": align_corners}
    base = upright_grid(9, 12, align_corners).view(1, -1, 2)

    def kornias(a, t):
        return F.grid_sample(a, kornia.transform_points(t, base).view(1, 9, 12, 2), **options)

    results = []
    for f in (lambda a, t: reference.projective_sample(a, t, (9, 12), **options), kornias):
        a, t = x.clone().requires_grad_(), HOMOGRAPHY.clone().requires_grad_()
        y = f(a, t)
        results.append([y, *torch.autograd.grad(y, (a, t), g)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)  # kornia adds 1e-8 to its divisor


def test_an_affine_map_is_a_homography_and_a_spline():
    x, theta = torch.rand(2, 3, 9, 12, dtype=torch.float64), MAPS["turn by 130"].expand(2, -1, -1)
    expected = reference.affine_sample(x, theta, (7, 8))
    last = torch.tensor([[[0, 0, 1]]], dtype=torch.float64).expand(2, -1, -1)
    for factor in (1, 2.5):
        homography = factor * torch.cat((theta, last), 1)
        torch.testing.assert_close(reference.projective_sample(x, homography, (7, 8)), expected)
    points = torch.rand(5, 2, dtype=torch.float64)
    unbent = torch.cat((torch.zeros(2, 2, 5, dtype=torch.float64), theta), 2)
    torch.testing.assert_close(reference.thin_plate_spline_sample(x, unbent, points, (7, 8)), expected)


@pytest.mark.parametrize("padding_mode", PADDINGS)
def test_points_behind_the_horizon_are_outside(padding_mode):
    x = 1 + torch.rand(1, 1, 20, 20, dtype=torch.float64)
    theta = BEHIND.clone().requires_grad_()
    y = reference.projective_sample(x, theta, padding_mode=padding_mode)
    at = upright_grid(20, 20, False)[0]
    behind = 1.7 * at[..., 0] + 0.6 * at[..., 1] + 1.0 <= 0
    assert 20 < behind.sum() < 200
    outside = 0 if padding_mode == "zeros" else x[0, 0, -1, -1].item()  # the corner towards infinity
    assert (y[0, 0][behind] == outside).all()
    (gradient,) = torch.autograd.grad(y.sum(), theta)
    assert y.isfinite().all() and gradient.isfinite().all()


def test_a_homography_without_a_horizon_in_sight_sees_nothing_and_nan_stays():
    x = 1 + torch.rand(1, 1, 20, 20, dtype=torch.float64)
    assert reference.projective_sample(x, torch.zeros(1, 3, 3, dtype=torch.float64)).abs().max() == 0
    assert reference.projective_sample(x, -HOMOGRAPHY).abs().max() == 0
    assert reference.projective_sample(x, torch.full((1, 3, 3), torch.nan)).isnan().all()


@pytest.mark.parametrize("align_corners", (False, True))
def test_a_spline_reads_where_scipys_leads(align_corners):
    scipy = pytest.importorskip("scipy.interpolate")
    transform = ThinPlateSpline((3, 4))
    places = torch.tensor([transform.identity], dtype=torch.float64)
    places = places + 0.1 * torch.randn(2, places.shape[1], dtype=torch.float64)
    x = torch.randn(2, 3, 15, 12, dtype=torch.float64)
    at, points = upright_grid(9, 10, align_corners).view(-1, 2).numpy(), transform.points.numpy()
    led = [
        scipy.RBFInterpolator(points, row.view(-1, 2).numpy(), kernel="thin_plate_spline")(at)
        for row in places
    ]
    grid = torch.from_numpy(np.stack(led)).view(2, 9, 10, 2)
    ours = reference.thin_plate_spline_sample(
        x, transform(places), transform.points, (9, 10), align_corners=align_corners
    )
    expected = F.grid_sample(x, grid, align_corners=align_corners)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


def test_gradients_of_homographies_and_splines():
    x = torch.randn(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    for theta in (HOMOGRAPHY, BEHIND):
        leaf = theta.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda a, t: reference.projective_sample(a, t, (4, 5)), (x, leaf))
    points = ThinPlateSpline((2, 3)).points
    coefficients = 0.05 * torch.randn(1, 2, 9, dtype=torch.float64)
    coefficients[:, :, 6:] += 0.9 * torch.eye(2, 3, dtype=torch.float64)
    coefficients.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, t: reference.thin_plate_spline_sample(a, t, points, (4, 5)), (x, coefficients)
    )


@pytest.mark.parametrize("padding_mode", PADDINGS)
def test_the_operators_are_their_twins(padding_mode):
    """Values and both gradients, in float64, behind the horizon too."""
    x = torch.randn(2, 3, 11, 14, dtype=torch.float64)
    g = torch.randn(2, 3, 9, 12, dtype=torch.float64)
    transform = ThinPlateSpline((4, 4))
    places = torch.tensor([transform.identity], dtype=torch.float64)
    bent = transform(places + 0.1 * torch.randn(2, 32, dtype=torch.float64))
    pairs = {
        "projective_sample": (torch.cat((HOMOGRAPHY, BEHIND)),),
        "thin_plate_spline_sample": (bent, transform.points),
    }
    for name, (theta, *points) in pairs.items():
        results = []
        for module in (stn_ext, reference):
            a, t = x.clone().requires_grad_(), theta.clone().requires_grad_()
            y = getattr(module, name)(a, t, *points, (9, 12), padding_mode=padding_mode)
            results.append([y, *torch.autograd.grad(y, (a, t), g)])
        for ours, twins in zip(*results, strict=True):
            # Sums of a few hundred terms; near the horizon coordinates, and with them gradients, are large.
            torch.testing.assert_close(ours, twins, rtol=1e-8, atol=1e-8)
