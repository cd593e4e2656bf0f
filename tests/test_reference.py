"""The oracle itself, against PyTorch's two operators in float64."""

import pytest
import torch
import torch.nn.functional as F

from stn_ext import reference
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
