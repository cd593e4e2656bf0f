"""Random shapes and maps against the float64 oracle."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stn_ext import affine_sample, reference
from tests.maps import PADDINGS

lengths = st.integers(1, 90)
entries = st.floats(-3, 3, allow_nan=False, width=32)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    n=st.integers(1, 3),
    c=st.integers(1, 6),
    size=st.tuples(lengths, lengths),
    out_size=st.tuples(lengths, lengths),
    theta=st.lists(entries, min_size=6, max_size=6),
    padding_mode=st.sampled_from(PADDINGS),
    align_corners=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_float64_value_and_adjoint(n, c, size, out_size, theta, padding_mode, align_corners, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, c, *size, dtype=torch.float64, generator=generator, requires_grad=True)
    theta = torch.tensor(theta, dtype=torch.float64).view(1, 2, 3).expand(n, 2, 3)
    options = {"padding_mode": padding_mode, "align_corners": align_corners}
    y = affine_sample(x, theta, out_size, **options)
    expected = reference.affine_sample(x, theta, out_size, **options)
    # Coordinates of up to 500 pixels: 1e-13 in the last digit, times differences of neighbours of up to 8.
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-11)
    g = torch.randn(y.shape, dtype=torch.float64, generator=generator)
    (ours,) = torch.autograd.grad(y, x, g)
    (exact,) = torch.autograd.grad(expected, x, g)
    # Up to 8100 output pixels may fall on one input pixel.
    torch.testing.assert_close(ours, exact, rtol=1e-10, atol=1e-9)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    size=st.tuples(lengths, lengths),
    out_size=st.tuples(lengths, lengths),
    theta=st.lists(st.floats(width=32), min_size=6, max_size=6),
    padding_mode=st.sampled_from(PADDINGS),
    align_corners=st.booleans(),
    dtype=st.sampled_from((torch.float32, torch.float64)),
)
def test_any_theta_gives_values_within_the_images_or_nan(
    size, out_size, theta, padding_mode, align_corners, dtype
):
    """Whatever theta is, infinite and NaN included: a mean of pixels and padding, or NaN."""
    x = (torch.rand(1, 2, *size, dtype=dtype) + 1).requires_grad_()
    theta = torch.tensor(theta, dtype=torch.float32).view(1, 2, 3).requires_grad_()
    y = affine_sample(x, theta, out_size, padding_mode=padding_mode, align_corners=align_corners)
    low = 0 if padding_mode == "zeros" else 1
    assert (y.isnan() | ((y >= low - 1e-5) & (y <= 2 + 1e-5))).all()
    if theta.isfinite().all() and theta.abs().max() < 1e30:
        assert not y.isnan().any()
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert grad.isfinite().all()
    if padding_mode != "zeros" and not y.isnan().any():
        # Each output pixel hands out weights that sum to 1.
        torch.testing.assert_close(grad.double().sum().item(), float(y.numel()), rtol=1e-4, atol=1e-3)
