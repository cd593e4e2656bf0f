"""Derivatives of every order and mode, of every kind of warp, against differences and against loops."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import stn_ext

from .maps import PADDINGS
from .warps import WARPS, Affine, Projective, ThinPlateSpline, recent_torch

kinds = pytest.mark.parametrize("kind", WARPS.values(), ids=WARPS.keys())
paddings = pytest.mark.parametrize("padding_mode", PADDINGS)


def small(kind, device):
    """Few enough pixels for differences."""
    shape = (2, 2, 4, 5) if len(kind.shape) == 4 else (2, 1, 3, 4, 3)
    size = (3, 4) if len(kind.shape) == 4 else (2, 3, 3)
    input = torch.randn(shape, dtype=torch.float64, device=device, requires_grad=True)
    return input, kind.theta.to(device, copy=True).requires_grad_(), size


# Differences of 1e-6 leave some 1e-9 of error; gradcheck's own tolerances (1e-5, 1e-3) are far above.


@kinds
@paddings
def test_first_order_in_both_modes(kind, padding_mode, device):
    input, theta, size = small(kind, device)
    assert gradcheck(
        lambda x, t: kind.warp(x, t, size, padding_mode=padding_mode),
        (input, theta),
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
    )


@kinds
@paddings
def test_second_order(kind, padding_mode, device):
    input, theta, size = small(kind, device)
    assert gradgradcheck(
        lambda x, t: kind.warp(x, t, size, padding_mode=padding_mode),
        (input, theta),
        check_fwd_over_rev=True,
        check_rev_over_rev=True,
    )


@kinds
def test_second_order_of_nearest_and_shared_images(kind, device):
    input, theta, size = small(kind, device)
    index = torch.tensor([1, 1], device=device)
    assert gradgradcheck(lambda x, t: kind.warp(x, t, size, mode="nearest"), (input, theta))
    assert gradgradcheck(lambda x, t: kind.warp(x, t, size, index=index), (input, theta))
    assert gradgradcheck(lambda x, t: kind.warp(x[:1], t, size, fill=0.7), (input, theta))


@kinds
def test_both_orders_with_a_fill(kind, device):
    input, theta, size = small(kind, device)
    fill = torch.linspace(0.7, -1.3, input.shape[1], dtype=torch.float64, device=device)

    def warp(x, t):
        return kind.warp(x, t, size, fill=fill)

    assert gradcheck(warp, (input, theta), check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(warp, (input, theta), check_fwd_over_rev=True)
    trained = fill.clone().requires_grad_()
    assert gradgradcheck(lambda x, t, f: kind.warp(x, t, size, fill=f), (input, theta, trained))


@recent_torch
@kinds
def test_hessian(kind, device):
    input, theta, size = small(kind, device)
    input = input.detach()
    count = kind.warp(input, theta, size).numel()
    weights = torch.linspace(-1, 1, count, dtype=torch.float64, device=device)

    def loss(warp):
        return lambda t: (warp(input, t, size).flatten().square() * weights).sum()

    ours = torch.func.hessian(loss(kind.warp))(theta.detach())
    expected = torch.autograd.functional.hessian(loss(kind.composed), theta.detach())
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)  # both float64


@kinds
def test_jacobians(kind, device):
    input, theta, size = small(kind, device)
    input, theta = input.detach(), theta.detach()

    def f(x, t):
        return kind.warp(x, t, size)

    for argument in (0, 1):
        forward = torch.func.jacfwd(f, argnums=argument)(input, theta)
        backward = torch.func.jacrev(f, argnums=argument)(input, theta)
        torch.testing.assert_close(forward, backward, rtol=1e-12, atol=1e-12)


@kinds
@pytest.mark.parametrize("dims", ((0, 0), (1, None), (None, 0)))
@pytest.mark.parametrize("share", (None, "one image", "index"))
def test_vmap(kind, dims, share, device):
    input, theta, size = small(kind, device)
    options = {"index": torch.tensor([1, 0], device=device)} if share == "index" else {}
    x = input.detach()[:1] if share == "one image" else input.detach()
    xs = x if dims[0] is None else torch.stack([x, 2 * x + 1, x * x], dim=dims[0])
    t = theta.detach()
    ts = t if dims[1] is None else torch.stack([t, 0.9 * t, t * t], dim=dims[1])

    def f(x, t):
        return kind.warp(x, t, size, **options)

    ours = torch.func.vmap(f, in_dims=dims)(xs, ts)
    loop = [
        f(x if dims[0] is None else xs.select(dims[0], k), t if dims[1] is None else ts.select(dims[1], k))
        for k in range(3)
    ]
    torch.testing.assert_close(ours, torch.stack(loop), rtol=1e-12, atol=1e-12)


@kinds
@pytest.mark.parametrize("dims", ((0, 0), (None, 0), (0, None)))
def test_gradients_of_each_sample(kind, dims, device):
    input, theta, size = small(kind, device)
    x, t = input.detach(), theta.detach()
    xs = x if dims[0] is None else torch.stack([x, 2 * x + 1, x * x])
    ts = t if dims[1] is None else torch.stack([t, 0.9 * t, 0.8 * t])

    def loss(x, t):
        return kind.warp(x, t, size).square().sum()

    gradient = torch.func.grad(loss, argnums=(0, 1))
    ours = torch.func.vmap(gradient, in_dims=dims)(xs, ts)
    loop = [gradient(x if dims[0] is None else xs[k], t if dims[1] is None else ts[k]) for k in range(3)]
    for a, b in zip(ours, zip(*loop, strict=True), strict=True):
        torch.testing.assert_close(a, torch.stack(b), rtol=1e-11, atol=1e-11)


def test_vmap_over_control_points_is_refused(device):
    points = torch.stack([ThinPlateSpline.points] * 2).to(device)
    theta = ThinPlateSpline.theta.to(device)
    x = torch.zeros(2, 1, 4, 4, device=device)
    with pytest.raises(NotImplementedError, match="vmap takes one set of points"):
        torch.func.vmap(lambda p: stn_ext.thin_plate_spline_sample(x, theta, p))(points)


@pytest.mark.parametrize("kind", (Affine, Projective))
def test_third_order_is_refused(kind, device):
    input, theta, size = small(kind, device)
    (first,) = torch.autograd.grad(kind.warp(input, theta, size).square().sum(), theta, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), theta, create_graph=True)
    with pytest.raises(NotImplementedError, match="third order"):
        second.sum().backward()


def test_points_that_need_a_gradient_are_refused(device):
    points = ThinPlateSpline.points.to(device, copy=True).requires_grad_()
    with pytest.raises(ValueError, match="expected points that need no gradient"):
        stn_ext.thin_plate_spline_sample(
            torch.zeros(2, 1, 4, 4, device=device), ThinPlateSpline.theta.to(device), points
        )
