"""Every mistake gets one clear line, before any memory is touched."""

import pytest
import torch

import stn_ext
from stn_ext import affine_sample

x = torch.zeros(4, 1, 6, 7)
theta = torch.zeros(4, 2, 3)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (
            (x[0], theta),
            {},
            ValueError,
            "expected input of shape (N, C, H, W) or (N, C, D, H, W), but got [1, 6, 7]",
        ),
        (
            (x.long(), theta),
            {},
            TypeError,
            "expected input of dtype torch.float32, float64, float16, bfloat16 or uint8, but got long",
        ),
        ((x[:, :, :0], theta, (6, 7)), {}, ValueError, "expected input of positive integers, but got [0, 7]"),
        (
            (x, theta[:3]),
            {},
            ValueError,
            "expected theta of shape (N, 2, 3) with N = 4, as the input's batch, but got [3, 2, 3]",
        ),
        ((x, theta[:, :, :2]), {}, ValueError, "but got [4, 2, 2]"),
        ((x, theta[0]), {}, ValueError, "but got [2, 3]"),
        ((x, theta.long()), {}, TypeError, "expected theta of a floating-point dtype, but got long"),
        (
            (x, theta, (6,)),
            {},
            ValueError,
            "expected size of two positive integers (height, width), but got (6,)",
        ),
        (
            (x, theta, (0, 7)),
            {},
            ValueError,
            "expected size of two positive integers (height, width), but got (0, 7)",
        ),
        ((x, theta, (5.0, 7)), {}, ValueError, "expected size of two positive integers"),
        (
            (x, theta),
            {"mode": "bicubic"},
            ValueError,
            "expected mode 'bilinear' or 'nearest', but got 'bicubic'",
        ),
        (
            (x, theta),
            {"padding_mode": "wrap"},
            ValueError,
            "expected padding_mode 'zeros', 'border' or 'reflection', but got 'wrap'",
        ),
        ((x.numpy(), theta), {}, TypeError, "expected tensors input and theta, but got ndarray and Tensor"),
    ],
)
def test_message(arguments, options, error, message):
    with pytest.raises(error) as caught:
        affine_sample(*arguments, **options)
    text = str(caught.value)
    assert text.startswith("affine_sample: ") and message in text
    assert "\n" not in text


def test_backward_operators_check_too():
    ops = torch.ops.stn_ext
    rest = None, None, None, "bilinear", "zeros", False
    with pytest.raises(
        ValueError, match=r"affine_sample's moments: expected grad of 4 images of 1 channels, as the output"
    ):
        ops.moments(torch.zeros(4, 2, 5, 5), x, theta, *rest)
    with pytest.raises(TypeError, match="affine_sample's moments: expected grad of dtype float, as input"):
        ops.moments(torch.zeros(4, 1, 5, 5).double(), x, theta, *rest)
    with pytest.raises(ValueError, match="affine_sample's adjoint: expected size of positive integers"):
        ops.adjoint(x, theta, None, None, None, 4, (0, 3), "bilinear", "zeros", False)


@pytest.mark.skipif(bool(stn_ext.build_info()["cuda"]), reason="this build has CUDA kernels")
def test_cuda_tensors_on_a_build_without_cuda():
    # The dispatcher's key for CUDA decides; a real CUDA tensor needs a GPU.
    kernels = torch._C._dispatch_dump("stn_ext::sample")
    assert "CUDA" in kernels
