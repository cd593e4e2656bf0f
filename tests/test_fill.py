"""What lies outside takes the fill, and nothing else does, whatever the fill is."""

import math

import pytest
import torch

import stn_ext
from stn_ext import reference
from tests.maps import MAPS
from tests.warps import WARPS, Affine, Projective, ThinPlateSpline, Volume

kinds = pytest.mark.parametrize("kind", WARPS.values(), ids=WARPS.keys())
modes = pytest.mark.parametrize("mode", ("bilinear", "nearest"))
FILLS = (torch.inf, -torch.inf, torch.nan, 1e30, -3e38)


@kinds
@modes
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16))
@pytest.mark.parametrize("form", ("number", "tensor"))
def test_pixels_inside_do_not_know_of_the_fill(kind, mode, fill, dtype, form, device):
    x, theta = torch.randn(kind.shape, device=device).to(dtype), kind.theta.to(device)
    value = fill if form == "number" else torch.tensor(fill, device=device)
    y = kind.warp(x, theta, kind.size, mode=mode, fill=value)
    # The part of each pixel that the image gives, in float64 and by PyTorch's own operators.
    ones = torch.ones(kind.shape, dtype=torch.float64, device=device)
    inside = kind.composed(ones, theta, kind.size, mode=mode)
    whole = inside > 1 - 1e-6
    assert 0 < whole.sum() < whole.numel() and not ((inside > 1e-12) & (inside < 1e-6)).any()
    assert torch.equal(y[whole], kind.warp(x, theta, kind.size, mode=mode)[whole])
    if not math.isfinite(fill):
        expected = torch.full_like(y[~whole], fill)
        assert torch.equal(y[~whole].nan_to_num(7, 8, 9), expected.nan_to_num(7, 8, 9))
    else:
        # The image is nothing beside it. A part is 1 without sums of products, each rounded.
        parts = ((1 - inside) * fill)[~whole]
        atol = max(1e-5, torch.finfo(dtype).eps) * abs(fill)
        torch.testing.assert_close(y[~whole].double(), parts, rtol=0, atol=atol)


@modes
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("align_corners", (False, True))
@pytest.mark.parametrize("shape", ((2, 3, 45, 71), (2, 3, 1, 1), (1, 2, 5, 6, 7)))
def test_the_identity_stays_the_identity(mode, fill, align_corners, shape, device):
    """The outer pixels' neighbours outside have a weight of exactly 0."""
    x = torch.randn(shape, device=device)
    theta = torch.eye(len(shape) - 2, len(shape) - 1, device=device).expand(shape[0], -1, -1)
    assert torch.equal(stn_ext.affine_sample(x, theta, mode=mode, align_corners=align_corners, fill=fill), x)


@pytest.mark.parametrize("fill", (0.0, 3.5, torch.nan))
@modes
def test_values_are_scipys(fill, mode, device):
    """map_coordinates with a constant grid around the image, cval."""
    ndimage = pytest.importorskip("scipy.ndimage")
    theta = MAPS["half outside"]
    x = torch.rand(1, 1, 12, 15, dtype=torch.float64)
    places = reference.coordinates(reference.affine_map, theta, (12, 15), (20, 21), False)
    expected = ndimage.map_coordinates(
        x[0, 0].numpy(),
        [axis[0].numpy() for axis in reversed(places)],
        order={"bilinear": 1, "nearest": 0}[mode],
        mode="grid-constant",
        cval=fill,
    )
    y = stn_ext.affine_sample(x.to(device), theta.to(device), (20, 21), mode=mode, fill=fill)
    torch.testing.assert_close(y[0, 0].cpu(), torch.from_numpy(expected), rtol=0, atol=1e-12, equal_nan=True)


@kinds
@modes
def test_uint8_keeps_its_image(kind, mode, device):
    """Outside, numbers are brought into the range, and what is no number is 0."""
    x = torch.randint(1, 256, kind.shape, dtype=torch.uint8, device=device)
    theta = kind.theta.to(device)
    inside = kind.composed(
        torch.ones(kind.shape, dtype=torch.float64, device=device), theta, kind.size, mode=mode
    )
    whole = inside > 1 - 1e-6
    plain = kind.warp(x, theta, kind.size, mode=mode)
    for fill, expected in ((torch.nan, 0), (torch.inf, 255), (-torch.inf, 0), (1e9, 255)):
        y = kind.warp(x, theta, kind.size, mode=mode, fill=fill)
        assert y.dtype == torch.uint8 and torch.equal(y[whole], plain[whole])
        assert (y[inside < 0.9] == expected).all()


def in_float64(kind, x, theta, grad, **options):
    """The reference's value and gradients by x and theta."""
    name = {Affine: "affine", Projective: "projective", ThinPlateSpline: "thin_plate_spline"}[kind]
    points = (kind.points.double().to(x.device),) if kind is ThinPlateSpline else ()
    x, theta = (t.detach().double().requires_grad_() for t in (x, theta))
    y = getattr(reference, f"{name}_sample")(x, theta, *points, tuple(grad.shape[2:]), **options)
    return y.detach(), *torch.autograd.grad(y, (x, theta), grad.double())


@pytest.mark.parametrize("kind", (Affine, Projective, ThinPlateSpline))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("memory_format", (torch.contiguous_format, torch.channels_last))
@pytest.mark.parametrize("align_corners", (False, True))
@pytest.mark.parametrize("channels", (1, 3, 20))
def test_values_and_gradients_are_the_references(kind, dtype, memory_format, align_corners, channels, device):
    """Of planes, of a few channels and of vectors of them, in tiles inside, outside and in between."""
    x = torch.randn(2, channels, 40, 37, device=device).to(dtype=dtype, memory_format=memory_format)
    grad = torch.randn(2, channels, 70, 90, device=device).to(dtype=dtype, memory_format=memory_format)
    theta = 1.3 * kind.theta.to(device, dtype)
    fill = torch.linspace(-3, 2, channels, device=device)
    expected = in_float64(kind, x, theta, grad, align_corners=align_corners, fill=fill)
    leaves = [t.clone().requires_grad_() for t in (x, theta)]
    y = kind.warp(*leaves, grad.shape[2:], align_corners=align_corners, fill=fill)
    ours = y.detach(), *torch.autograd.grad(y, leaves, grad)
    # theta's gradient sums some 10^5 products, of both signs.
    tolerances = (1e-4, 1e-4, 1e-2) if dtype == torch.float32 else (1e-11, 1e-11, 1e-9)
    for a, b, tolerance in zip(ours, expected, tolerances, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=tolerance, atol=tolerance)


@kinds
def test_each_channel_has_its_own(kind, device):
    """What is not finite in one channel is nothing to the others."""
    x, theta = torch.randn(kind.shape, device=device), kind.theta.to(device)
    fill = torch.tensor([torch.nan, 0.5, -torch.inf][: kind.shape[1]], device=device)
    y = kind.warp(x, theta, kind.size, fill=fill)
    for c, value in enumerate(fill.tolist()):
        alone = kind.warp(x[:, c : c + 1], theta, kind.size, fill=value)
        torch.testing.assert_close(y[:, c : c + 1], alone, rtol=0, atol=1e-6, equal_nan=True)


@kinds
@pytest.mark.parametrize("tensor", (False, True))
def test_forward_mode(kind, tensor, device):
    """The derivative along a change of images and of maps is that of images less the fill, in zeros."""
    x = torch.randn(kind.shape, dtype=torch.float64, device=device)
    theta = kind.theta.to(device)
    fill = torch.tensor(0.7, dtype=torch.float64, device=device) if tensor else 0.7
    along = torch.randn_like(x), torch.randn_like(theta)
    ours = torch.func.jvp(lambda x, t: kind.warp(x, t, kind.size, fill=fill), (x, theta), along)
    shifted = torch.func.jvp(lambda x, t: kind.warp(x - 0.7, t, kind.size) + 0.7, (x, theta), along)
    for a, b in zip(ours, shifted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)  # sums of a few terms of about 1


@kinds
@pytest.mark.parametrize("mode", ("bilinear", "nearest"))
def test_vmap(kind, mode, device):
    """With one fill for all, and with one for each."""
    x = torch.randn(3, *kind.shape, dtype=torch.float64, device=device)
    theta, fills = kind.theta.to(device), torch.tensor([0.5, -2.0, 3.0], device=device)

    def warp(x, fill):
        return kind.warp(x, theta, kind.size, mode=mode, fill=fill)

    ours = torch.func.vmap(warp, in_dims=(0, None))(x, 0.5), torch.func.vmap(warp)(x, fills)
    loops = [warp(a, 0.5) for a in x], [warp(a, f) for a, f in zip(x, fills, strict=True)]
    for a, b in zip(ours, loops, strict=True):
        torch.testing.assert_close(a, torch.stack(b), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("fill", FILLS[:-1])  # the last one times a gradient is beyond all floats
def test_gradients_inside_do_not_know_of_the_fill(fill, device):
    results = []
    for value in (fill, None):
        x = torch.randn(Affine.shape, generator=torch.Generator().manual_seed(1)).to(device).requires_grad_()
        theta = Affine.theta.float().to(device).requires_grad_()
        y = stn_ext.affine_sample(x, theta, Affine.size, fill=value)
        whole = stn_ext.affine_sample(torch.ones_like(x), theta.detach(), Affine.size) > 1 - 1e-5
        results.append(torch.autograd.grad(y[whole].square().sum(), (x, theta)))
    for ours, expected in zip(*results, strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("kind", (Affine, Volume))
def test_the_derivative_at_the_edge_is_that_of_the_fill(kind, device):
    """Of the identity between aligned corners: a step outwards mixes the outer pixels with the fill."""
    x = torch.randn(kind.shape, dtype=torch.float64, device=device)
    dims = x.ndim - 2
    theta = torch.eye(dims, dims + 1, dtype=torch.float64, device=device).repeat(len(x), 1, 1)

    def filled(t):
        return stn_ext.affine_sample(x, t, align_corners=True, fill=0.7).square().sum()

    def shifted(t):
        """What lies outside is the fill, so that without it the image would be 0 there."""
        return (stn_ext.affine_sample(x - 0.7, t, align_corners=True) + 0.7).square().sum()

    expected = torch.func.grad(shifted)(theta)
    assert expected.abs().sum() > 0.1
    ours = torch.func.grad(filled)(theta)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)
    # In forward mode the other side may be taken of pixels that are hit, with a fill and without.
    direction = torch.randn_like(theta)
    ours, expected = (torch.func.jvp(f, (theta,), (direction,))[1] for f in (filled, shifted))
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


def test_a_fill_of_many_digits(device):
    x = torch.zeros(1, 1, 3, 3, dtype=torch.float64, device=device)
    theta = torch.tensor([[[1.0, 0, 9], [0, 1, 9]]], device=device)
    for fill in (0.1, [0.1], torch.tensor(0.1, dtype=torch.float64, device=device)):
        assert (stn_ext.affine_sample(x, theta, fill=fill) == 0.1).all()


@pytest.mark.parametrize(
    "fill, error",
    (
        ("white", TypeError),
        ([1, "a", 2], TypeError),
        ([[1, 2, 3], [4]], TypeError),
        ({}, TypeError),
        (1j, TypeError),
        (10**400, TypeError),
        (torch.zeros(3, device="meta"), ValueError),
        (torch.zeros((), device="meta"), ValueError),
    ),
    ids=str,
)
def test_other_fills_are_refused(fill, error):
    with pytest.raises(error, match=r"^affine_sample: expected fill o[fn] .*, but got ") as caught:
        stn_ext.affine_sample(torch.zeros(2, 3, 4, 4), Affine.theta, fill=fill)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200
