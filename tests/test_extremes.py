"""Threads, worker processes, odd views, and images of more than 2^31 elements."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import stn_ext

from .warps import WARPS, Affine

kinds = pytest.mark.parametrize("kind", WARPS.values(), ids=WARPS.keys())


def step(kind, seed, device):
    """The output and both gradients, for a seed's images."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(kind.shape, generator=generator).to(device).requires_grad_()
    theta = kind.theta.float().to(device).requires_grad_()
    y = kind.warp(x, theta, kind.size)
    return y.detach(), *torch.autograd.grad(y.square().sum(), (x, theta))


@kinds
def test_python_threads_do_not_disturb_each_other(kind, device):
    seeds = [k % 8 for k in range(64)]
    expected = [step(kind, seed, device) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda seed: step(kind, seed, device), seeds))
    for seed, result in zip(seeds, results, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(result, expected[seed], strict=True))


class Warped(Dataset):
    """An item warps by itself: what augmentation in a loader's worker does.

    Without gradients: PyTorch refuses them in a forked worker once any earlier test has started its threads.
    """

    def __len__(self):
        return 8

    def __getitem__(self, k):
        kind = list(WARPS.values())[k % len(WARPS)]
        x = torch.randn(kind.shape, generator=torch.Generator().manual_seed(k))
        return kind.warp(x, kind.theta.float(), kind.size)


@pytest.mark.parametrize("method", ("fork", "spawn"))
def test_loader_workers(method):
    """The parent has used the operators, on several threads, before its workers are forked."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        large = torch.rand(1, 3, 300, 300)
        stn_ext.affine_sample(large, Affine.theta[:1])
        expected = [Warped()[k] for k in range(8)]
        loader = DataLoader(Warped(), None, num_workers=2, multiprocessing_context=method, timeout=120)
        for ours, alone in zip(loader, expected, strict=True):
            assert torch.equal(ours, alone)
    finally:
        torch.set_num_threads(threads)


@kinds
@pytest.mark.parametrize("view", ("offset", "expanded", "steps", "flipped axes"))
def test_views(kind, view, device):
    """Views that start within their storage, repeat it, skip or transpose: the same as their copies."""
    shape, dims = kind.shape, len(kind.shape)
    x = {
        "offset": lambda: torch.randn(shape[0] + 1, *shape[1:])[1:],
        "expanded": lambda: torch.randn(1, 1, *shape[2:]).expand(shape),
        "steps": lambda: torch.randn(*shape[:-1], 3 * shape[-1])[..., 1::3],
        "flipped axes": lambda: torch.randn(shape[::-1]).permute(*reversed(range(dims))),
    }[view]().to(device)
    assert x.shape == shape
    theta = kind.theta.float()
    theta = torch.cat([theta[:1] * 0, theta])[1:].to(device)  # begins within its storage too
    for mode in ("bilinear", "nearest"):
        y = kind.warp(x, theta, kind.size, mode=mode)
        torch.testing.assert_close(
            y, kind.warp(x.contiguous(), theta, kind.size, mode=mode), rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("mode", ("bilinear", "nearest"))
def test_rows_beyond_2_to_the_31_elements(mode, device):
    """An image of 2^32 elements, of which one plane is stored: all channels are alike, and none is lost."""
    if device.type == "cuda":
        pytest.skip("a GPU's kernels copy what is not dense")
    side, channels = 2**11, 2**10
    plane = torch.rand(side, side)
    x = plane.expand(1, channels, side, side)
    assert x.numel() == 2**32
    theta = torch.tensor([[[0.7, 0.1, 0.05], [-0.1, 0.7, 0.1]]])
    y = stn_ext.affine_sample(x, theta, (3, 4), mode=mode)
    alone = stn_ext.affine_sample(plane[None, None], theta, (3, 4), mode=mode)
    assert torch.equal(y, alone.expand(1, channels, 3, 4))


TURN = [[0.7, 0.1, 0.05], [-0.1, 0.7, 0.1]]
TURN_3D = [[0.7, 0.1, 0.02, 0.05], [-0.1, 0.7, 0.03, 0.1], [0.05, -0.02, 0.7, 0.02]]


@pytest.mark.parametrize(
    ("warp", "shape", "size", "theta"),
    [
        (stn_ext.affine_sample, (50_000, 50_000), (5, 6), TURN),
        (stn_ext.projective_sample, (50_000, 50_000), (5, 6), [*TURN, [0, 0, 1]]),
        (stn_ext.affine_sample, (1500, 1500, 1500), (4, 5, 6), TURN_3D),
    ],
)
def test_more_than_2_to_the_31_pixels(warp, shape, size, theta, device):
    """On a ramp along x, of which one row is stored, the result is the place that is read."""
    if device.type == "cuda":
        pytest.skip("a GPU's kernels copy what is not dense")
    x = torch.linspace(-1, 1, shape[-1]).expand(1, 1, *shape)
    assert x[0, 0].numel() > 2**31
    theta = torch.tensor(theta)[None].requires_grad_()
    y = warp(x, theta, size, align_corners=True)
    axes = torch.meshgrid(*(torch.linspace(-1, 1, n, dtype=torch.float64) for n in size), indexing="ij")
    at = torch.stack([*reversed(axes), torch.ones_like(axes[0])])  # (x, y, 1) or (x, y, z, 1)
    expected = torch.einsum("k,k...->...", theta[0, 0].detach().double(), at)
    # The ramp's own values and the last weights are float32's.
    torch.testing.assert_close(y[0, 0].double(), expected, rtol=0, atol=1e-6)
    (grad,) = torch.autograd.grad(y.sum(), theta)
    # Differences of neighbouring values of a ramp in float32, 2^-24 of 1 / 25 000.
    torch.testing.assert_close(grad[0, 0].double(), at.flatten(1).sum(1), rtol=0, atol=0.1)
