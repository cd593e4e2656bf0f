"""affine_sample's gradients."""

import pytest
import torch

from stn_ext import affine_sample, reference
from tests.maps import MAPS, PADDINGS, SHAPES, rotation


def gradients(f, x, theta, grad):
    """The gradients of x and theta, for a given gradient of the output."""
    x, theta = x.detach().requires_grad_(), theta.detach().requires_grad_()
    return torch.autograd.grad(f(x, theta), (x, theta), grad)


@pytest.mark.parametrize("align_corners", (False, True))
@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_the_references(device, shape, padding_mode, align_corners):
    (n, *rest), size = SHAPES[shape]
    options = {"padding_mode": padding_mode, "align_corners": align_corners}
    for dtype in (torch.float32, torch.float64):
        x = torch.randn(n, *rest, dtype=dtype)
        grad = torch.randn(n, rest[0], *(size or rest[1:]), dtype=dtype)
        for name, theta in MAPS.items():
            if name == "far outside":
                continue  # reflected coordinates have no digits left to differentiate
            theta = theta.expand(n, 2, 3).to(dtype)
            ours = gradients(
                lambda a, t: affine_sample(a, t, size, **options),
                x.to(device),
                theta.to(device),
                grad.to(device),
            )
            exact = gradients(
                lambda a, t: reference.affine_sample(a, t, size, **options),
                x.double(),
                theta.double(),
                grad.double(),
            )
            # Sums of up to as many terms as there are pixels: relative to the largest entry, with a floor for
            # maps that leave the image. 2^-24 (2^-53) a term, growing with the root of their number, and a
            # coordinate's error of 2^-23 pixels (600 pixels' 2^-53) times differences of neighbours.
            for a, e in zip(ours, exact, strict=True):
                assert a.dtype == dtype
                scale = max(e.abs().max().item(), 1)
                tolerance = 1e-5 if dtype == torch.float32 else 1e-11
                torch.testing.assert_close(
                    a.cpu().double() / scale, e / scale, rtol=0, atol=tolerance, msg=name
                )


@pytest.mark.parametrize("align_corners", (False, True))
@pytest.mark.parametrize("zoom", (4.03, 47.03))
def test_input_gradient_with_many_reflections(device, zoom, align_corners):
    """Each output pixel is added once, whichever of the image's mirrored copies it falls on."""
    theta = rotation(20.3, zoom, (0.11, 0.07)).to(device)
    x = torch.randn(1, 2, 5, 70, dtype=torch.float64, device=device)
    grad = torch.randn(1, 2, 40, 30, dtype=torch.float64, device=device)
    options = {"padding_mode": "reflection", "align_corners": align_corners}
    ours, _ = gradients(lambda a, t: affine_sample(a, t, (40, 30), **options), x, theta, grad)
    exact, _ = gradients(
        lambda a, t: reference.affine_sample(a, t, (40, 30), **options), x.cpu(), theta.cpu(), grad.cpu()
    )
    # Coordinates of up to 47 * 70 pixels have errors of 2^-41; sums of up to a thousand terms.
    torch.testing.assert_close(ours.cpu(), exact, rtol=0, atol=1e-9)


@pytest.mark.parametrize("align_corners", (False, True))
@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize(
    "name", ("small turn", "turn by 130", "zoom in", "zoom out", "shear", "half outside")
)
def test_gradcheck(device, name, padding_mode, align_corners):
    """Finite differences of 1e-6 stay within a cell: the maps are chosen away from pixel borders by more."""
    x = torch.randn(2, 2, 5, 6, dtype=torch.float64, device=device, requires_grad=True)
    theta = MAPS[name].repeat(2, 1, 1).to(device).requires_grad_()

    def f(a, t):
        return affine_sample(a, t, (4, 7), padding_mode=padding_mode, align_corners=align_corners)

    assert torch.autograd.gradcheck(f, (x, theta), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("padding_mode", PADDINGS)
def test_gradient_across_pixel_borders(device, padding_mode):
    """The value is continuous in theta: along a path it changes by the gradient's integral."""
    x = torch.randn(1, 1, 6, 6, dtype=torch.float64, device=device)
    start, end = rotation(0, 1.0).to(device), rotation(64.0, 1.3, (0.6, -0.4)).to(device)
    steps = 20000  # midpoint rule: errs where a border is crossed within a step, by a step's length each
    total = torch.zeros((), dtype=torch.float64, device=device)
    t = (torch.arange(steps, dtype=torch.float64, device=device) + 0.5) / steps
    path = start + t[:, None, None] * (end - start)
    weight = torch.randn(1, 1, 5, 5, dtype=torch.float64, device=device)
    for chunk in path.split(4000):
        theta = chunk.clone().requires_grad_()
        y = affine_sample(x.expand(len(chunk), 1, 6, 6), theta, (5, 5), padding_mode=padding_mode)
        (grad,) = torch.autograd.grad((y * weight).sum(), theta)
        total += (grad * (end - start)).sum() / steps

    def value(theta):
        return (affine_sample(x, theta, (5, 5), padding_mode=padding_mode) * weight).sum()

    torch.testing.assert_close(total, value(end) - value(start), rtol=0, atol=2e-2)
    assert (value(end) - value(start)).abs() > 0.2


@pytest.mark.parametrize("padding_mode", PADDINGS)
def test_adjoint_is_the_transpose(device, padding_mode):
    """<sample(x), g> = <x, adjoint(g)> for any map, to rounding."""
    for theta in MAPS.values():
        theta = theta.to(device)
        x = torch.randn(1, 2, 70, 90, dtype=torch.float64, device=device, requires_grad=True)
        y = affine_sample(x, theta, (50, 140), padding_mode=padding_mode)
        g = torch.randn_like(y)
        (grad,) = torch.autograd.grad(y, x, g)
        torch.testing.assert_close((y * g).sum(), (x * grad).sum(), rtol=1e-9, atol=1e-7)


def test_only_the_gradients_asked_for_are_computed(device, monkeypatch):
    called = []
    from stn_ext import autograd

    class Spy:
        def __getattr__(self, name):
            called.append(name)
            return getattr(torch.ops.stn_ext, name)

    monkeypatch.setattr(autograd, "ops", Spy())
    x = torch.randn(1, 1, 6, 6, device=device)
    theta = MAPS["small turn"].float().to(device)
    for need_x, need_theta, expected in (
        (False, False, set()),
        (True, False, {"adjoint"}),
        (False, True, {"moments"}),
        (True, True, {"backward"}),
    ):
        called.clear()
        a, t = x.clone().requires_grad_(need_x), theta.clone().requires_grad_(need_theta)
        y = affine_sample(a, t)
        assert y.requires_grad == (need_x or need_theta)
        if y.requires_grad:
            y.sum().backward()
        assert set(called) == {"sample"} | expected
        assert (a.grad is not None) == need_x and (t.grad is not None) == need_theta


def test_the_input_is_not_kept_for_its_own_gradient(device):
    x = torch.randn(1, 1, 64, 64, device=device, requires_grad=True)
    y = affine_sample(x, MAPS["small turn"].float().to(device))
    assert all(saved is None or saved.shape == (1, 2, 3) for saved in y.grad_fn.saved_tensors)


@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize("index", (None, (1, 0, 1)))
def test_both_gradients_have_the_bits_of_each_alone(device, padding_mode, index):
    count = 2 if index is None else len(index)
    index = None if index is None else torch.tensor(index, device=device)
    x, grad = (torch.randn(n, 3, 40, 70, device=device) for n in (2, count))
    theta = MAPS["turn by 130"].float().to(device).repeat(count, 1, 1)
    options = "bilinear", padding_mode, False
    ops = torch.ops.stn_ext
    grad_x, grad_theta = ops.backward(grad, x, theta, None, index, *options)
    assert torch.equal(grad_x, ops.adjoint(grad, theta, None, None, index, 2, x.shape[2:], *options))
    assert torch.equal(grad_theta, ops.moments(grad, x, theta, None, None, index, *options))


@pytest.mark.parametrize("layout", ("channels_last", "expanded", "transposed"))
def test_gradient_of_any_layout(device, layout):
    x = torch.randn(2, 4, 9, 11, device=device)
    theta = MAPS["small turn"].float().to(device).repeat(2, 1, 1)
    grad = {
        "channels_last": torch.randn(2, 4, 9, 11, device=device).to(memory_format=torch.channels_last),
        "expanded": torch.randn((), device=device).expand(2, 4, 9, 11),
        "transposed": torch.randn(2, 4, 11, 9, device=device).transpose(2, 3),
    }[layout]
    ours = gradients(affine_sample, x, theta, grad)
    expected = gradients(affine_sample, x, theta, grad.contiguous())
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


def test_empty_batch(device):
    x = torch.zeros(0, 3, 5, 6, device=device, requires_grad=True)
    theta = torch.zeros(0, 2, 3, device=device, requires_grad=True)
    affine_sample(x, theta, (4, 2)).sum().backward()
    assert x.grad.shape == x.shape and theta.grad.shape == theta.shape


def test_no_channels(device):
    x = torch.zeros(2, 0, 5, 6, device=device, requires_grad=True)
    theta = torch.zeros(2, 2, 3, device=device, requires_grad=True)
    affine_sample(x, theta).sum().backward()
    assert x.grad.shape == x.shape and torch.equal(theta.grad, torch.zeros_like(theta))


def test_second_order_by_the_input(device):
    """The output is linear in the input: all but the second derivative by theta is there."""
    x = torch.randn(1, 2, 5, 5, dtype=torch.float64, device=device, requires_grad=True)
    theta = MAPS["small turn"].to(device)
    assert torch.autograd.gradgradcheck(lambda a: affine_sample(a, theta, (4, 6)).square(), x)


def test_raw_operators_refuse_tensors_that_need_gradients(device):
    ops = torch.ops.stn_ext
    x = torch.randn(1, 1, 5, 5, device=device, requires_grad=True)
    theta = torch.eye(2, 3, device=device)[None]
    with pytest.raises(RuntimeError, match=r"stn_ext::sample has no derivative of its own"):
        ops.sample(x, theta, None, None, None, (5, 5), "bilinear", "zeros", False)
    with torch.no_grad():
        ops.sample(x, theta, None, None, None, (5, 5), "bilinear", "zeros", False)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x.detach(), torch.ones_like(x))
        with pytest.raises(RuntimeError, match="has no derivative of its own"):
            ops.sample(dual, theta, None, None, None, (5, 5), "bilinear", "zeros", False)


def test_functional_gradient(device):
    x = torch.randn(2, 3, 7, 8, device=device)
    theta = torch.cat([MAPS["small turn"], MAPS["shear"]]).float().to(device)
    weight = torch.randn_like(x)
    ours = torch.func.grad(lambda a, t: (affine_sample(a, t) * weight).sum(), argnums=(0, 1))(x, theta)
    expected = gradients(affine_sample, x, theta, weight)
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))
