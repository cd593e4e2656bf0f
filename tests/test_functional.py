"""affine_sample's values: against the reference in float64, and against PyTorch's two operators."""

import pytest
import torch
import torch.nn.functional as F

from stn_ext import affine_sample, reference
from tests.maps import MAPS, PADDINGS, SHAPES, rotation

# In float32, interpolation rounds a handful of times, each by 2^-24 of values of magnitude max|x| = about 4,
# and fractions of a coordinate are good to 2^-23, which neighbours that differ by up to 2 max|x| multiply.
# In float64, a coordinate of up to 1000 pixels has 1e-13 for its last digit, in the oracle too.
TOLERANCE = {torch.float32: 8e-6, torch.float64: 4e-12}


def oracle(x, theta, size, **options):
    return reference.affine_sample(x.double(), theta.double(), size, **options)


def pair(x, theta, size, padding_mode, align_corners):
    size = x.shape[-2:] if size is None else size
    grid = F.affine_grid(theta, [*x.shape[:2], *size], align_corners=align_corners)
    return F.grid_sample(x, grid, padding_mode=padding_mode, align_corners=align_corners)


@pytest.mark.parametrize("align_corners", (False, True))
@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize("shape", SHAPES)
def test_value_is_the_references(device, shape, padding_mode, align_corners):
    (n, *rest), size = SHAPES[shape]
    options = {"padding_mode": padding_mode, "align_corners": align_corners}
    for dtype, tolerance in TOLERANCE.items():
        x = torch.randn(n, *rest, dtype=dtype)
        for name, theta in MAPS.items():
            theta = theta.expand(n, 2, 3).to(dtype)
            y = affine_sample(x.to(device), theta.to(device), size, **options)
            assert y.dtype == dtype and y.device.type == device.type
            assert y.shape[-2:] == (size or x.shape[-2:])
            expected = oracle(x, theta, size, **options)
            atol = tolerance
            if name == "far outside" and padding_mode == "reflection":
                atol = 1e-3  # 1e11 pixels have 1e-5 of a pixel for their last digit, in the oracle too
            torch.testing.assert_close(y.cpu().double(), expected, rtol=0, atol=atol, msg=name)


@pytest.mark.parametrize("align_corners", (False, True))
@pytest.mark.parametrize("padding_mode", PADDINGS)
def test_value_is_pytorchs(device, padding_mode, align_corners):
    x = torch.randn(2, 3, 33, 47, dtype=torch.float64)
    for name, theta in MAPS.items():
        theta = theta.expand(2, 2, 3)
        y = affine_sample(
            x.to(device), theta.to(device), (21, 50), padding_mode=padding_mode, align_corners=align_corners
        )
        expected = pair(x, theta, (21, 50), padding_mode, align_corners)
        if name == "far outside" and padding_mode == "reflection":
            continue  # reduced from 1e9 pixels, to different last digits
        torch.testing.assert_close(y.cpu(), expected, rtol=0, atol=1e-12, msg=name)


@pytest.mark.parametrize("padding_mode", PADDINGS)
def test_identity_returns_the_input_bit_for_bit(device, padding_mode):
    x = torch.randn(2, 3, 45, 71, device=device)
    theta = torch.eye(2, 3, device=device).expand(2, 2, 3)
    for align_corners in (False, True):
        assert torch.equal(affine_sample(x, theta, padding_mode=padding_mode, align_corners=align_corners), x)


def test_error_is_no_larger_than_pytorchs(device):
    """DESIGN's bound, in float32, for values and both gradients, on images from one digit to a photograph."""
    for shape in ((64, 1, 28, 28), (8, 16, 56, 56), (4, 3, 224, 224), (1, 1, 512, 512), (1, 3, 540, 960)):
        x, g = torch.randn(shape), torch.randn(shape)
        theta = torch.cat([rotation(17.7 * k + 3, 0.9 + 0.01 * k) for k in range(shape[0])]).float()

        def errors(f, x, theta, g):
            a, t = x.to(device).requires_grad_(), theta.to(device).requires_grad_()
            y = f(a, t)
            return [
                y.detach().cpu().double(),
                *(v.cpu().double() for v in torch.autograd.grad(y, (a, t), g.to(device))),
            ]

        exact = errors(lambda a, t: reference.affine_sample(a, t), x.double(), theta.double(), g.double())
        ours = errors(affine_sample, x, theta, g)
        theirs = errors(lambda a, t: pair(a, t, None, "zeros", False), x, theta, g)
        for name, e, a, b in zip(("output", "grad input", "grad theta"), exact, ours, theirs, strict=True):
            assert (a - e).abs().max() <= (b - e).abs().max(), f"{name} at {shape}"


@pytest.mark.parametrize("padding_mode", PADDINGS)
def test_layouts_give_the_same_bits(device, padding_mode):
    x = torch.randn(2, 6, 19, 22, device=device)
    theta = MAPS["half outside"].float().to(device).expand(2, 2, 3)
    expected = affine_sample(x, theta, (15, 18), padding_mode=padding_mode)
    assert expected.is_contiguous()
    wide = torch.randn(2, 6, 24, 30, device=device)
    wide[:, :, 3:22, 5:27] = x
    layouts = {
        "transposed": x.transpose(2, 3).contiguous().transpose(2, 3),
        "cropped": wide[:, :, 3:22, 5:27],
        "every second": torch.stack((x, x), -1).flatten(-2)[..., ::2],
    }
    for name, images in layouts.items():
        y = affine_sample(images, theta, (15, 18), padding_mode=padding_mode)
        assert torch.equal(y, expected), name
    strided_theta = torch.stack((theta, theta), -1)[..., 0]
    assert torch.equal(affine_sample(x, strided_theta, (15, 18), padding_mode=padding_mode), expected)


def test_expanded_batch(device):
    x = torch.randn(1, 2, 9, 9, device=device)
    theta = torch.cat([MAPS["small turn"], MAPS["mirror"]]).float().to(device)
    y = affine_sample(x.expand(2, 2, 9, 9), theta)
    assert torch.equal(y, torch.cat([affine_sample(x, theta[k : k + 1]) for k in range(2)]))


def test_channels_last_is_kept(device):
    x = torch.randn(2, 6, 19, 22, device=device)
    theta = MAPS["small turn"].float().to(device).expand(2, 2, 3)
    y = affine_sample(x.to(memory_format=torch.channels_last), theta, (15, 18))
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, affine_sample(x, theta, (15, 18)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("image", (torch.float32, torch.float64))
@pytest.mark.parametrize("map", (torch.float16, torch.bfloat16, torch.float32, torch.float64))
def test_theta_may_be_of_another_dtype(device, image, map):
    x = torch.randn(1, 2, 12, 13, dtype=image, device=device)
    theta = MAPS["small turn"].to(map).to(device)
    y = affine_sample(x, theta)
    assert y.dtype == image
    torch.testing.assert_close(y, affine_sample(x, theta.double()), rtol=0, atol=0)


@pytest.mark.parametrize("padding_mode", PADDINGS)
def test_empty_batch_and_no_channels(device, padding_mode):
    y = affine_sample(torch.zeros(0, 3, 5, 6, device=device), torch.zeros(0, 2, 3, device=device), (4, 2))
    assert y.shape == (0, 3, 4, 2)
    y = affine_sample(torch.zeros(2, 0, 5, 6, device=device), torch.zeros(2, 2, 3, device=device))
    assert y.shape == (2, 0, 5, 6)


@pytest.mark.parametrize("padding_mode", PADDINGS)
def test_nan_coordinates_give_nan(device, padding_mode):
    x = torch.randn(1, 2, 6, 7, device=device)
    for row, column in ((0, 0), (0, 2), (1, 1), (1, 2)):
        theta = torch.eye(2, 3, device=device)[None].clone()
        theta[0, row, column] = torch.nan
        assert affine_sample(x, theta, (9, 70), padding_mode=padding_mode).isnan().all()
    # Even where the other coordinate is outside.
    theta = torch.tensor([[[1.0, 0, torch.nan], [0, 1, 9]]], device=device)
    assert affine_sample(x, theta, padding_mode=padding_mode).isnan().all()


@pytest.mark.parametrize("value", (torch.inf, -torch.inf, 1e30, -1e30, 3e9))
@pytest.mark.parametrize("column", (0, 1, 2))
def test_infinite_and_huge_coordinates_are_outside(device, value, column):
    x = torch.rand(1, 1, 5, 8, device=device) + 1
    theta = torch.eye(2, 3, device=device)[None].clone()
    theta[0, 0, column] = value
    # An even number of columns and rows: none lies at 0, where infinity would make NaN.
    y = affine_sample(x, theta, (6, 70))
    assert (y == 0).all()
    y = affine_sample(x, theta, (6, 70), padding_mode="border")
    assert torch.isfinite(y).all()
    edges = torch.stack((x[..., 0], x[..., -1]), -1)
    between = (y >= edges.amin() - 1e-6) & (y <= edges.amax() + 1e-6)
    assert between.all()
    y = affine_sample(x, theta, (6, 70), padding_mode="reflection")
    assert (y >= 1 - 1e-6).all() and (y <= 2 + 1e-6).all()


def test_pixels_that_take_no_part_do_not_spread(device):
    """NaN and infinity stay within a pixel's reach of where they are."""
    x = torch.zeros(1, 1, 8, 8, device=device)
    x[0, 0, 0, 0], x[0, 0, 7, 7] = torch.nan, torch.inf
    theta = rotation(0, 1.0, (0.1, 0.1)).float().to(device)
    y = affine_sample(x, theta * 1.7, (40, 40))
    expected = pair(x.cpu(), theta.cpu() * 1.7, (40, 40), "zeros", False)
    assert torch.equal(y.cpu().isfinite(), expected.isfinite())
    assert 0 < (~y.isfinite()).sum() < 150


@pytest.mark.parametrize("channels", (1, 3, 20))
def test_a_gradient_that_is_nan_reaches_the_pixels_under_it_alone(device, channels):
    """Not those of other channels and images, nor those that are computed next."""
    shape = 3, channels, 70, 140
    theta = rotation(17, 1.1, (0.05, -0.02)).float().expand(3, 2, 3).to(device)

    def gradient(grad):
        x = torch.zeros(shape, device=device, requires_grad=True)
        return torch.autograd.grad(affine_sample(x, theta), x, grad)[0]

    grad = torch.zeros(shape, device=device)
    for place in ((0, 0, 35, 62), (1, channels - 1, 68, 20), (2, channels // 2, 2, 100)):
        grad[place] = 1
    under = gradient(grad) != 0
    assert under.flatten(1).any(1).all()
    assert torch.equal(gradient(torch.where(grad == 1, torch.nan, 0)).isnan(), under)


def test_zero_outside_everywhere_without_reading(device):
    x = torch.full((1, 1, 6, 6), torch.nan, device=device)
    theta = rotation(0, 1.0, (5.0, 0.0)).float().to(device)
    assert (affine_sample(x, theta) == 0).all()
