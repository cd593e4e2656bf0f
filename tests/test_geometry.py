"""Maps composed and inverted, against places taken through them one by one and images warped twice."""

import numpy as np
import pytest
import torch

from stn_ext import affine_sample, geometry, normalised_to_pixels, projective_sample
from tests.maps import MAPS


def maps(kind, count=5, dtype=torch.float64, seed=0):
    """Well away from having no inverse: (N, 2, 3), (N, 3, 3) or (N, 3, 4)."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = {"affine": (2, 3), "projective": (3, 3), "volume": (3, 4)}[kind]
    noise = 0.2 * torch.randn(count, rows, columns, generator=generator, dtype=torch.float64)
    return (torch.eye(rows, columns, dtype=torch.float64) + noise).to(dtype)


def places(theta, points):
    """Where maps (N, rows, columns) take points (K, axes): the definition, by NumPy's matrix product."""
    theta, points = theta.double().numpy(), points.double().numpy()
    ones = np.ones((len(points), 1))
    taken = np.einsum("nrc,kc->nkr", theta, np.concatenate((points, ones), 1))
    if theta.shape[1] == points.shape[1] + 1:
        taken = taken[..., :-1] / taken[..., -1:]
    return torch.from_numpy(taken)


def points(kind, count=7):
    generator = torch.Generator().manual_seed(1)
    axes = 3 if kind == "volume" else 2
    return torch.rand(count, axes, generator=generator, dtype=torch.float64) - 0.5


PAIRS = [
    ("affine", "affine"),
    ("affine", "projective"),
    ("projective", "affine"),
    ("projective", "projective"),
    ("volume", "volume"),
]


@pytest.mark.parametrize("first, then", PAIRS)
def test_places_go_through_then_and_first(first, then):
    one, other = maps(first), maps(then, seed=1)
    both = geometry.compose(one, other)
    assert both.shape == (5, 3, 3) if "projective" in (first, then) else one.shape
    through = places(other, points(first))
    expected = torch.stack([places(one[n : n + 1], through[n])[0] for n in range(5)])
    # A few roundings of float64, and a division by a w of at least 0.3.
    torch.testing.assert_close(places(both, points(first)), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind, sample", [("affine", affine_sample), ("projective", projective_sample)])
@pytest.mark.parametrize("units", ["normalised", "pixel"])
def test_one_warp_does_what_two_do(kind, sample, units):
    """On a picture of its own coordinates, which bilinear sampling reads without loss."""
    y, x = torch.meshgrid(torch.arange(60.0), torch.arange(80.0), indexing="ij")
    picture = torch.stack((x, y))[None].double().expand(5, 2, 60, 80)
    first, then = (0.1 * (maps(kind, seed=seed)) for seed in (0, 1))
    if kind == "projective":  # small maps, and small perspective
        first[:, 2], then[:, 2] = (theta.new_tensor([0.01, 0.02, 1.0]) for theta in (first, then))
    first[:, 0, 0] += 0.5
    size = (60, 80)
    if units == "pixel":
        first, then = (normalised_to_pixels(theta, size, size) for theta in (first, then))
    twice = sample(sample(picture, first, theta_units=units), then, theta_units=units)
    # Between pixels a projective map is no straight line, by which the picture in between is read.
    tolerance = 0.05 if kind == "projective" else 1e-10
    once = sample(picture, geometry.compose(first, then), theta_units=units)
    inside = twice > 0
    assert inside.double().mean() > 0.9
    torch.testing.assert_close(once[inside], twice[inside], rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["affine", "projective", "volume"])
def test_the_inverse_leads_back(kind, dtype):
    theta = maps(kind, dtype=dtype)
    back = geometry.invert(theta)
    assert back.shape == theta.shape
    assert back.dtype == torch.promote_types(dtype, torch.float32)
    identity = torch.eye(*theta.shape[1:], dtype=torch.float64).expand(theta.shape)
    # The inverse's numbers of up to some 5 are rounded to its dtype; nothing else is.
    tolerance = 1e-13 if dtype == torch.float64 else 2e-6
    for both in (geometry.compose(theta, back), geometry.compose(back, theta)):
        torch.testing.assert_close(both.double(), identity, rtol=0, atol=tolerance)


def test_the_inverse_is_numpys_and_opencvs():
    theta = maps("projective", 9)
    expected = torch.from_numpy(np.linalg.inv(theta.numpy()))
    torch.testing.assert_close(geometry.invert(theta), expected, rtol=1e-12, atol=1e-12)
    cv2 = pytest.importorskip("cv2")
    for matrix in maps("affine"):
        expected = torch.from_numpy(cv2.invertAffineTransform(matrix.numpy()))
        torch.testing.assert_close(geometry.invert(matrix[None])[0], expected, rtol=1e-12, atol=1e-12)


def test_behind_the_horizon_stays_there():
    """The true inverse, not a multiple: the sign of w says which side of the horizon a place is on."""
    theta = -maps("projective")
    w = (theta @ torch.tensor([0.1, 0.2, 1.0], dtype=torch.float64))[:, 2]
    assert (w < 0).all()
    taken = places(theta, torch.tensor([[0.1, 0.2]], dtype=torch.float64))[:, 0]
    ones = torch.ones(5, 1, dtype=torch.float64)
    back = geometry.invert(theta) @ torch.cat((taken, ones), 1)[:, :, None]
    torch.testing.assert_close(back[:, 2, 0], 1 / w)


def test_a_map_without_inverse_is_no_number_and_raises_nothing():
    flat = torch.cat([MAPS["to a line"], MAPS["to a point"], MAPS["small turn"]]).float()
    back = geometry.invert(flat)
    assert not back[:2].isfinite().all(2).all(1).any()
    assert back[2].isfinite().all()


def test_the_identity_changes_no_bit():
    for kind in ("affine", "projective", "volume"):
        theta = maps(kind, dtype=torch.float32)
        identity = torch.eye(*theta.shape[1:])[None]
        assert torch.equal(geometry.compose(identity, theta), theta)
        assert torch.equal(geometry.compose(theta, identity), theta)
        assert torch.equal(geometry.invert(identity), identity)


def test_the_wider_dtype_is_kept():
    single, double = maps("affine", dtype=torch.float32), maps("affine")
    assert geometry.compose(single, double).dtype == torch.float64
    assert geometry.compose(single.half(), single.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("first, then", PAIRS)
def test_derivatives(first, then):
    one, other = (maps(kind, 2, seed=n).requires_grad_() for n, kind in enumerate((first, then)))
    assert torch.autograd.gradcheck(geometry.compose, (one, other), check_forward_ad=True)
    assert torch.autograd.gradcheck(geometry.invert, (one,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(geometry.invert, (one,))


def test_compilers_take_any_number_of_maps():
    def both(first, then):
        return geometry.compose(first, geometry.invert(then))

    compiled = torch.compile(both, backend="aot_eager", fullgraph=True, dynamic=True)
    traced = torch.fx.symbolic_trace(both)
    for count in (2, 5):
        one, other = maps("affine", count), maps("projective", count, seed=1)
        for program in (compiled, traced, torch.func.vmap(lambda a, b: both(a[None], b[None])[0])):
            torch.testing.assert_close(program(one, other), both(one, other), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    "first, then, error, message",
    [
        (torch.eye(3), torch.eye(3)[None], ValueError, r"first of shape .* but got \(3, 3\)"),
        (torch.eye(3)[None], torch.eye(4)[None], ValueError, r"then of shape .* but got \(1, 4, 4\)"),
        (torch.eye(3)[None], torch.eye(3, 4)[None], ValueError, "both of images or both of volumes"),
        (
            torch.zeros(2, 2, 3),
            torch.zeros(3, 2, 3),
            ValueError,
            "as many maps first as then, but got 2 and 3",
        ),
        (torch.eye(3)[None], [[1.0]], TypeError, "a tensor then, but got list"),
        (torch.eye(3)[None].int(), torch.eye(3)[None], TypeError, "first of a floating-point dtype"),
    ],
)
def test_mistakes_are_told(first, then, error, message):
    with pytest.raises(error, match=f"compose: expected .*{message}"):
        geometry.compose(first, then)
    with pytest.raises((ValueError, TypeError), match="invert: expected"):
        geometry.invert(torch.eye(4)[None])


def test_one_map_is_composed_with_many():
    one, many = maps("affine", 1), maps("affine", 4, seed=1)
    for n in range(4):
        assert torch.equal(geometry.compose(one, many)[n], geometry.compose(one, many[n : n + 1])[0])
