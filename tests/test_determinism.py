"""The same inputs give the same bits, run after run and for any number of threads."""

import pytest
import torch

from stn_ext import affine_sample
from tests.maps import MAPS, PADDINGS, rotation


def everything(x, theta, grad, padding_mode):
    a, t = x.clone().requires_grad_(), theta.clone().requires_grad_()
    y = affine_sample(a, t, grad.shape[-2:], padding_mode=padding_mode)
    return [y.detach(), *torch.autograd.grad(y, (a, t), grad)]


CASES = {
    "one large image": ((1, 3, 300, 420), (333, 410)),
    "many small images": ((200, 1, 28, 28), (28, 28)),
    "features": ((2, 32, 56, 56), (56, 56)),
}


@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize("case", CASES)
def test_bits(device, case, padding_mode):
    shape, size = CASES[case]
    x, grad = torch.randn(shape, device=device), torch.randn(*shape[:2], *size, device=device)
    names = [name for name in MAPS if name != "far outside"]
    if shape[0] == 1:
        theta = rotation(17, 1.1, (0.1, 0.2))
    else:
        theta = torch.cat([MAPS[names[k % len(names)]] for k in range(shape[0])])
    theta = theta.float().to(device)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = everything(x, theta, grad, padding_mode)
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            for a, b in zip(everything(x, theta, grad, padding_mode), expected, strict=True):
                assert torch.equal(a, b), f"{count} threads"
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_deterministic_algorithms_are_the_only_ones(device, dtype):
    """The same bits, no exception, and no element that is left as allocated (not a number, in this mode)."""
    x = torch.randn(3, 2, 40, 50, dtype=dtype, device=device)
    theta = torch.cat([MAPS[name] for name in ("small turn", "singular", "half outside")]).to(x)
    expected = everything(x, theta, x, "zeros")
    torch.use_deterministic_algorithms(True)
    try:
        ours = everything(x, theta, x, "zeros")
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))
