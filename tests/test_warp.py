"""warp_affine and warp_perspective in kornia's place: against kornia, and under kornia's own tests."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from stn_ext import affine_sample, normalised_to_pixels, projective_sample, warp_affine, warp_perspective
from tests.maps import MAPS, PADDINGS, rotation
from tests.warps import recent_torch

# Odd and even, of one pixel, and results of another size.
SIZES = [((12, 17), (12, 17)), ((9, 30), (21, 5)), ((31, 8), (1, 40)), ((1, 7), (6, 7)), ((8, 1), (5, 1))]
WARPS = (warp_affine, warp_perspective)


def random_maps(count, seed):
    """From source to result in pixels: turns, scales by 1/2 to 2, shears and shifts, (count, 2, 3)."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low, high):
        return torch.empty(count, dtype=torch.float64).uniform_(low, high, generator=generator)

    angle, scale, shear = uniform(-3.1, 3.1), uniform(0.5, 2), uniform(-0.4, 0.4)
    c, s = scale * angle.cos(), scale * angle.sin()
    return torch.stack((c, c * shear - s, uniform(-9, 9), s, s * shear + c, uniform(-9, 9)), 1).view(-1, 2, 3)


def random_homographies(count, seed):
    """random_maps in perspective, of any scale and sign; the horizons of some cross their images."""
    generator = torch.Generator().manual_seed(seed)
    rows = 0.05 * torch.randn(count, 1, 3, dtype=torch.float64, generator=generator)
    rows[..., 2] = 1 + 10 * rows[..., 2]
    scales = torch.tensor([1.0, -1.0, 1e-3, -1e30], dtype=torch.float64)[:count, None, None]
    return torch.cat((random_maps(count, seed), rows), 1) * scales


def check_against_kornia(warp, device, in_size, dsize, **options):
    kornia = pytest.importorskip("kornia", minversion="0.9")
    theirs = getattr(kornia.geometry, warp.__name__)
    for seed in range(5):
        src = torch.rand(4, 3, *in_size, dtype=torch.float64, device=device)
        M = (random_maps if warp is warp_affine else random_homographies)(4, seed).to(device)
        ours = warp(src, M, dsize, **options)
        expected = theirs(src, M, dsize, **options)
        # Coordinates of up to a hundred pixels in float64, on either side; near a horizon of thousands.
        atol = 1e-11 if warp is warp_affine else 1e-8
        torch.testing.assert_close(ours, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("warp", WARPS)
@pytest.mark.parametrize("align_corners", (False, True))
@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize("in_size, dsize", SIZES)
def test_values_are_kornias(device, in_size, dsize, padding_mode, align_corners, warp):
    options = {"padding_mode": padding_mode, "align_corners": align_corners}
    check_against_kornia(warp, device, in_size, dsize, **options)


@pytest.mark.parametrize("warp", WARPS)
@pytest.mark.parametrize("padding_mode", (*PADDINGS, "fill"))
def test_nearest_is_kornias(device, padding_mode, warp):
    """Random maps in float64 put no coordinate half way between two pixels."""
    check_against_kornia(warp, device, (9, 30), (12, 17), mode="nearest", padding_mode=padding_mode)


@pytest.mark.parametrize("warp", WARPS)
@pytest.mark.parametrize("align_corners", (False, True))
@pytest.mark.parametrize("shape", [(1,), (3,), (4, 3, 1, 1), (1, 1, 12, 17), (12, 17)])
def test_fill_of_any_shape_is_kornias(device, shape, align_corners, warp):
    fill = torch.rand(shape, dtype=torch.float64, device=device)
    options = {"padding_mode": "fill", "align_corners": align_corners, "fill_value": fill}
    check_against_kornia(warp, device, (9, 30), (12, 17), **options)


@pytest.mark.parametrize("warp", WARPS)
def test_gradients_are_kornias(device, warp):
    kornia = pytest.importorskip("kornia", minversion="0.9")
    src = torch.rand(4, 3, 9, 14, dtype=torch.float64, device=device, requires_grad=True)
    M = random_maps(4, 7)
    if warp is warp_perspective:
        M = torch.cat((M, torch.tensor([[[0.01, -0.02, 1.1]]], dtype=torch.float64).expand(4, 1, 3)), 1)
    M = M.to(device).requires_grad_()
    fill = torch.rand(3, dtype=torch.float64, device=device, requires_grad=True)
    options = {"padding_mode": "fill", "fill_value": fill}
    grad = torch.randn(4, 3, 11, 10, dtype=torch.float64, device=device)
    ours, expected = (
        torch.autograd.grad(f(src, M, (11, 10), **options), (src, M, fill), grad)
        for f in (warp, getattr(kornia.geometry, warp.__name__))
    )
    # M's gradient is a sum over a hundred pixels, times coordinates of some ten.
    for a, e in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-8, atol=1e-8)


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


@recent_torch
def test_warp_perspective_compiles_whole_and_is_exported_for_any_batch(device):
    class Module(nn.Module):
        def forward(self, src, M):
            return warp_perspective(src, M, (8, 9))

    def arguments(batch):
        return torch.rand(batch, 2, 6, 7, device=device), random_homographies(batch, 3).float().to(device)

    compiled = torch.compile(Module(), fullgraph=True, dynamic=True, backend="aot_eager")
    batch = torch.export.Dim("batch")
    program = torch.export.export(Module(), arguments(4), dynamic_shapes=({0: batch}, {0: batch})).module()
    for given in (arguments(3), arguments(2)):
        torch.testing.assert_close(compiled(*given), Module()(*given))
        torch.testing.assert_close(program(*given), Module()(*given))


@pytest.mark.parametrize("warp", WARPS)
def test_singular_maps_give_nan(device, warp):
    src = torch.rand(1, 1, 4, 4, device=device)
    M = torch.tensor([[[1.0, 2.0, 0.3], [0.5, 1.0, 0.1], [0.0, 0.0, 0.0]]], device=device)
    assert warp(src, M[:, : 2 if warp is warp_affine else 3], (3, 3)).isnan().all()


def test_before_the_horizon_it_is_the_inverse_of_the_samplers_map(device):
    x = torch.randn(1, 2, 10, 13, device=device)
    theta = torch.tensor([[[1.01, 0.2, 0.01], [-0.1, 0.9, 0.03], [0.2, -0.1, 1.1]]], dtype=torch.float64)
    M = -3 * torch.linalg.inv(normalised_to_pixels(theta, (10, 13), (8, 9)))
    y = warp_perspective(x, M.to(device), (8, 9))
    torch.testing.assert_close(y, projective_sample(x, theta.to(device), (8, 9)), rtol=0, atol=2e-6)


def test_large_images_are_inverted_precisely(device):
    """M in float32 is inverted and normalised in float64: no loss beyond the sampler's own."""
    src = torch.rand(1, 1, 40, 1920, device=device)
    M = rotation(0.3, 0.97, (13.7, 0.9)).float().to(device)
    exact = warp_affine(src.double(), M.double(), (40, 1920))
    # Fractions of a coordinate to 2^-23, times differences of at most 1, and a few roundings.
    torch.testing.assert_close(warp_affine(src, M, (40, 1920)).double(), exact, rtol=0, atol=1e-6)


@pytest.mark.parametrize("warp", WARPS)
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
        ({"M": torch.zeros(2, 4, 3)}, ValueError, r"expected M of shape \(B, ., 3\), but got \(2, 4, 3\)"),
        ({"dsize": (-1, 4)}, ValueError, r"two non-negative integers .*, but got \(-1, 4\)"),
        ({"dsize": (6.0, 7)}, ValueError, r"two non-negative integers .*, but got \(6\.0, 7\)"),
        ({"dsize": None}, ValueError, "two non-negative integers .*, but got None"),
        ({"mode": "bicubic"}, ValueError, "expected mode 'bilinear' or 'nearest', but got 'bicubic'"),
        ({"mode": None}, TypeError, "expected mode of type str, but got None"),
        ({"padding_mode": "wrap"}, ValueError, "'zeros', 'border', 'reflection' or 'fill', but got 'wrap'"),
        ({"align_corners": "yes"}, TypeError, "expected align_corners of type bool, but got 'yes'"),
        ({"padding_mode": "fill", "fill_value": 3}, TypeError, "expected a tensor fill_value, but got int"),
        (
            {"padding_mode": "fill", "fill_value": torch.zeros(4)},
            ValueError,
            r"of one for each of 3 channels, or .*\(2, 3, 6, 7\), but got \(4,\)",
        ),
    ],
)
def test_errors(change, error, message, warp):
    rows = 2 if warp is warp_affine else 3
    M = torch.eye(rows, 3).repeat(2, 1, 1)
    arguments = {"src": torch.zeros(2, 3, 4, 5), "M": M, "dsize": (6, 7)}
    with pytest.raises(error, match=f"^{warp.__name__}: .*{message}") as caught:
        warp(**(arguments | change))
    assert "\n" not in str(caught.value)
    with pytest.raises(TypeError, match=f"^{warp.__name__}: expected M of a floating-point dtype, but got"):
        warp(**(arguments | {"M": M.int()}))


@pytest.mark.parametrize("warp", WARPS)
def test_sizes_of_any_kind_of_integer(device, warp):
    src = torch.rand(2, 3, 4, 5, device=device)
    M = torch.eye(2 if warp is warp_affine else 3, 3, device=device).repeat(2, 1, 1)
    expected = warp(src, M, (6, 6))
    for dsize in (6, np.array([6, 6]), torch.Size([6, 6]), [np.int64(6), 6]):
        assert torch.equal(warp(src, M, dsize), expected)
    assert warp(src, M, (0, 6)).shape == (2, 3, 0, 6)


# kornia's tests that say something else than what the two compute.
NOT_OURS = {
    "test_jit_script": "TorchScript does not compile Python functions over custom operators",
    "test_singleton_identity_survives_tracing": "expects a warning that affine_grid gives while it is traced",
    "test_empty_destination_blames_an_integral_src_by_name": "expects NotImplementedError; here a TypeError",
    "test_empty_destination_keeps_grid_sample_validation": "expects grid_sample's and kornia's own messages",
}
# Puts our functions in the place of kornia's, wherever kornia has them.
PLUGIN = """
import sys
import kornia
import stn_ext
for function in ("warp_affine", "warp_perspective"):
    original, ours = getattr(kornia.geometry, function), getattr(stn_ext, function)
    for name, module in list(sys.modules.items()):
        if name.startswith("kornia") and getattr(module, function, None) is original:
            setattr(module, function, ours)
    assert getattr(kornia.geometry.transform, function) is ours
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
            f"(TestWarp or warp_affine or warp_perspective) and not ({left_out})",
        ],
        cwd=os.environ["KORNIA_SOURCE"],
        env=os.environ
        | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[1]}", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert int(re.search(r"(\d+) passed", run.stdout)[1]) >= 20
