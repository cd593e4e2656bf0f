"""warp_affine in kornia's place: against kornia, and under kornia's own tests."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stn_ext import affine_sample, normalised_to_pixels, warp_affine
from tests.maps import MAPS, PADDINGS, rotation

SIZES = [((12, 17), (12, 17)), ((9, 30), (21, 5)), ((31, 8), (1, 40))]


def random_maps(count, seed):
    """From source to result in pixels: turns, scales by 1/2 to 2, shears and shifts, (count, 2, 3)."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low, high):
        return torch.empty(count, dtype=torch.float64).uniform_(low, high, generator=generator)

    angle, scale, shear = uniform(-3.1, 3.1), uniform(0.5, 2), uniform(-0.4, 0.4)
    c, s = scale * angle.cos(), scale * angle.sin()
    return torch.stack((c, c * shear - s, uniform(-9, 9), s, s * shear + c, uniform(-9, 9)), 1).view(-1, 2, 3)


def check_against_kornia(device, in_size, dsize, **options):
    kornia = pytest.importorskip("kornia")
    for seed in range(5):
        src = torch.rand(4, 3, *in_size, dtype=torch.float64, device=device)
        M = random_maps(4, seed).to(device)
        ours = warp_affine(src, M, dsize, **options)
        expected = kornia.geometry.warp_affine(src, M, dsize, **options)
        # Coordinates of up to a hundred pixels in float64, on either side.
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("align_corners", (False, True))
@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize("in_size, dsize", SIZES)
def test_values_are_kornias(device, in_size, dsize, padding_mode, align_corners):
    check_against_kornia(device, in_size, dsize, padding_mode=padding_mode, align_corners=align_corners)


@pytest.mark.parametrize("padding_mode", (*PADDINGS, "fill"))
def test_nearest_is_kornias(device, padding_mode):
    """Random maps in float64 put no coordinate half way between two pixels."""
    check_against_kornia(device, (9, 30), (12, 17), mode="nearest", padding_mode=padding_mode)


@pytest.mark.parametrize("align_corners", (False, True))
@pytest.mark.parametrize("shape", [(1,), (3,), (4, 3, 1, 1), (1, 1, 12, 17), (12, 17)])
def test_fill_of_any_shape_is_kornias(device, shape, align_corners):
    fill = torch.rand(shape, dtype=torch.float64, device=device)
    options = {"padding_mode": "fill", "align_corners": align_corners, "fill_value": fill}
    check_against_kornia(device, (9, 30), (12, 17), **options)


def test_gradients_are_kornias(device):
    kornia = pytest.importorskip("kornia")
    src = torch.rand(4, 3, 9, 14, dtype=torch.float64, device=device, requires_grad=True)
    M = random_maps(4, 7).to(device).requires_grad_()
    fill = torch.rand(3, dtype=torch.float64, device=device, requires_grad=True)
    options = {"padding_mode": "fill", "fill_value": fill}
    grad = torch.randn(4, 3, 11, 10, dtype=torch.float64, device=device)
    ours, expected = (
        torch.autograd.grad(f(src, M, (11, 10), **options), (src, M, fill), grad)
        for f in (warp_affine, kornia.geometry.warp_affine)
    )
    # M's gradient is a sum over a hundred pixels, times coordinates of some ten.
    for a, e in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-9, atol=1e-9)


def test_it_is_the_inverse_of_the_samplers_map(device):
    """What affine_sample reads by theta, warp_affine writes by theta's inverse in pixels."""
    x = torch.randn(1, 2, 10, 13, device=device)
    theta = MAPS["small turn"]
    M = torch.linalg.inv(
        torch.cat((normalised_to_pixels(theta, (10, 13), (8, 9)), torch.tensor([[[0.0, 0, 1]]])), 1)
    )
    y = warp_affine(x, M[:, :2].to(device), (8, 9))
    torch.testing.assert_close(y, affine_sample(x, theta.to(device), (8, 9)), rtol=0, atol=1e-6)


def test_one_map_for_all_images(device):
    src = torch.rand(3, 2, 6, 7, device=device)
    M = random_maps(1, 0).to(device)
    assert torch.equal(warp_affine(src, M, (5, 6)), warp_affine(src, M.repeat(3, 1, 1), (5, 6)))


def test_one_pixel_wide_images_keep_their_place(device):
    """A column of pixels moved to the right by one, whatever align_corners."""
    src = torch.tensor([[[[1.0], [2.0]]]], device=device)
    M = torch.tensor([[[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]], device=device)
    for align_corners in (False, True):
        y = warp_affine(src, M, (2, 3), align_corners=align_corners)
        assert y.tolist() == [[[[0, 1, 0], [0, 2, 0]]]]


def test_singular_maps_give_nan(device):
    src = torch.rand(1, 1, 4, 4, device=device)
    M = torch.tensor([[[1.0, 2.0, 0.3], [0.5, 1.0, 0.1]]], device=device)
    assert warp_affine(src, M, (3, 3)).isnan().all()


def test_large_images_are_inverted_precisely(device):
    """M in float32 is inverted and normalised in float64: no loss beyond the sampler's own."""
    src = torch.rand(1, 1, 40, 1920, device=device)
    M = rotation(0.3, 0.97, (13.7, 0.9)).float().to(device)
    exact = warp_affine(src.double(), M.double(), (40, 1920))
    # Fractions of a coordinate to 2^-23, times differences of at most 1, and a few roundings.
    torch.testing.assert_close(warp_affine(src, M, (40, 1920)).double(), exact, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"src": 0.0}, TypeError, "expected a tensor src, but got float"),
        ({"M": 0.0}, TypeError, "expected a tensor M, but got float"),
        (
            {"src": torch.zeros(3, 4, 5)},
            ValueError,
            r"expected src of shape \(B, C, H, W\), but got \(3, 4, 5",
        ),
        (
            {"src": torch.zeros(2, 3, 0, 5)},
            ValueError,
            r"src's height and width must be positive, but got \(0",
        ),
        ({"M": torch.zeros(2, 3, 3)}, ValueError, r"expected M of shape \(B, 2, 3\), but got \(2, 3, 3\)"),
        (
            {"dsize": (-1, 4)},
            ValueError,
            r"expected dsize of two non-negative integers (.*), but got \(-1, 4\)",
        ),
        (
            {"padding_mode": "fill", "fill_value": torch.zeros(4)},
            ValueError,
            r"of one for each of 3 channels, or .*\(2, 3, 6, 7\), but got \(4,\)",
        ),
    ],
)
def test_errors(change, error, message):
    arguments = {"src": torch.zeros(2, 3, 4, 5), "M": torch.eye(2, 3).repeat(2, 1, 1), "dsize": (6, 7)}
    with pytest.raises(error, match=f"^warp_affine: .*{message}"):
        warp_affine(**(arguments | change))


# kornia's tests that say something else than what warp_affine computes.
NOT_OURS = {
    "test_jit_script": "TorchScript does not compile Python functions over custom operators",
    "test_singleton_identity_survives_tracing": "expects a warning that affine_grid gives while it is traced",
    "test_empty_destination_blames_an_integral_src_by_name": "expects NotImplementedError; here a TypeError",
    "test_empty_destination_keeps_grid_sample_validation": "expects grid_sample's and kornia's own messages",
}
# Puts our function in the place of kornia's, wherever kornia has it.
PLUGIN = """
import sys
import kornia
import stn_ext
original = kornia.geometry.warp_affine
for name, module in list(sys.modules.items()):
    if name.startswith("kornia") and getattr(module, "warp_affine", None) is original:
        module.warp_affine = stn_ext.warp_affine
assert kornia.geometry.transform.warp_affine is stn_ext.warp_affine
"""


@pytest.mark.skipif(
    "KORNIA_SOURCE" not in os.environ, reason="KORNIA_SOURCE, a checkout of kornia with its tests, is not set"
)
def test_kornias_own_tests(tmp_path):
    (tmp_path / "in_kornias_place.py").write_text(PLUGIN)
    left_out = " or ".join(NOT_OURS)
    run = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "in_kornias_place", "-p", "no:cacheprovider"),
            *("tests/geometry/transform/test_imgwarp.py", "-k"),
            f"(TestWarpAffine or warp_affine) and not ({left_out})",
        ],
        cwd=os.environ["KORNIA_SOURCE"],
        env=os.environ
        | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[1]}", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert int(re.search(r"(\d+) passed", run.stdout)[1]) >= 20
