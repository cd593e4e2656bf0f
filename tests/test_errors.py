"""Every mistake gets one clear line, before any memory is touched."""

import subprocess
import sys

import pytest
import torch

import stn_ext
from stn_ext import affine_sample
from tests.warps import WARPS, ThinPlateSpline

x = torch.zeros(4, 1, 6, 7)
theta = torch.zeros(4, 2, 3)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (
            (x[0], theta),
            {},
            ValueError,
            "expected input of shape (N, C, H, W) or (N, C, D, H, W), but got (1, 6, 7)",
        ),
        (
            (x.to(torch.complex64), theta),
            {},
            TypeError,
            "of dtype torch.float32, float64, float16, bfloat16, or of integers, but got torch.complex64",
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
        ((x, theta.long()), {}, TypeError, "expected theta of a floating-point dtype, but got torch.int64"),
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
        ((x, theta), {"mode": None}, TypeError, "expected mode of type str, but got None"),
        ((x, theta), {"mode": 0}, TypeError, "expected mode of type str, but got 0"),
        ((x, theta), {"padding_mode": None}, TypeError, "expected padding_mode of type str, but got None"),
        ((x, theta), {"theta_units": None}, TypeError, "expected theta_units of type str, but got None"),
        (
            (x, theta),
            {"align_corners": "yes"},
            TypeError,
            "expected align_corners of type bool, but got 'yes'",
        ),
        ((x, theta), {"align_corners": None}, TypeError, "expected align_corners of type bool, but got None"),
        ((x.to_sparse(), theta), {}, TypeError, "expected a dense input, but got a tensor that is Sparse"),
        ((x.to_sparse(), theta), {"fill": 1}, TypeError, "expected a dense input, but got"),
        ((x, theta.to_sparse()), {}, TypeError, "expected a dense theta, but got a tensor that is Sparse"),
        ((x.to_mkldnn(), theta), {}, TypeError, "expected a dense input, but got a tensor that is Mkldnn"),
        (
            (x, theta),
            {"index": torch.zeros(4)},
            TypeError,
            "expected index of dtype torch.int64, but got torch.float32",
        ),
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
    rest = None, None, None, None, "bilinear", "zeros", False
    with pytest.raises(
        ValueError, match=r"affine_sample's moments: expected grad of 4 images of 1 channels, as the output"
    ):
        ops.moments(torch.zeros(4, 2, 5, 5), x, theta, *rest)
    with pytest.raises(TypeError, match=r"moments: expected grad of dtype torch\.float32, as input, but"):
        ops.moments(torch.zeros(4, 1, 5, 5).double(), x, theta, *rest)
    with pytest.raises(ValueError, match="affine_sample's adjoint: expected size of positive integers"):
        ops.adjoint(x, theta, None, None, None, 4, (0, 3), "bilinear", "zeros", False)


@pytest.mark.parametrize(
    "kind, argument",
    [(kind, name) for kind in WARPS.values() for name in ("input", "theta", "index", "fill")]
    + [(ThinPlateSpline, "points")],
)
@pytest.mark.parametrize("mode", ("bilinear", "nearest"))
def test_a_tensor_on_another_device_is_refused(kind, argument, mode):
    """The meta device has no memory: a result that took part in it would be whatever lies in memory."""
    options = {"index": torch.tensor([0, 1]), "fill": torch.ones(kind.shape[1])}
    for name in ("index", "fill"):
        options[name] = options[name].to("meta") if argument == name else options[name]
    x, theta = torch.ones(kind.shape), kind.theta
    x, theta = (t.to("meta" if argument == n else "cpu") for n, t in (("input", x), ("theta", theta)))
    expected = "theta on meta, as the images, but got cpu"  # the first of several
    if argument != "input":
        expected = f"{argument} on cpu, as the images, but got meta"
    for images in (x, x.to(torch.uint8), x.clone().requires_grad_()):
        with pytest.raises(ValueError, match=rf"^\w+_sample: expected {expected}$"):
            if argument == "points":
                points = kind.points.to("meta")
                stn_ext.thin_plate_spline_sample(images, theta, points, kind.size, mode=mode, **options)
            else:
                kind.warp(images, theta, kind.size, mode=mode, **options)


def test_backward_operators_refuse_other_devices():
    grad, rest = torch.ones(4, 1, 6, 7), ("bilinear", "zeros", False)
    ops, away = torch.ops.stn_ext, theta.to("meta")
    for call in (
        lambda: ops.adjoint(grad, away, None, None, None, 4, (6, 7), *rest),
        lambda: ops.adjoint(grad, theta, None, away, None, 4, (6, 7), *rest),
        lambda: ops.moments(grad, x, away, None, None, None, None, *rest),
        lambda: ops.moments(grad.to("meta"), x, theta, None, None, None, None, *rest),
        lambda: ops.backward(grad, x, away, None, None, None, *rest),
    ):
        with pytest.raises(
            ValueError, match=r"^affine_sample: expected \w+ on cpu, as the images, but got meta"
        ):
            call()


def test_all_on_the_meta_device_gives_a_shape():
    y = affine_sample(
        x.to("meta"), theta.to("meta"), 3, index=torch.zeros(4, dtype=torch.int64, device="meta")
    )
    assert y.device.type == "meta" and y.shape == (4, 1, 3, 3)


RACE = """
import threading
import time

import torch

import stn_ext

count = 20_000
index = torch.zeros(count, dtype=torch.int64)
stop = threading.Event()


def disturb():
    while not stop.is_set():
        for image in (2**40, 0):
            index.numpy().fill(image)
            time.sleep(2e-4)


thread = threading.Thread(target=disturb)
thread.start()
x, theta = torch.ones(2, 1, 4, 4), torch.eye(2, 3).repeat(count, 1, 1)
results = {"refused": 0, "right": 0}
for _ in range(200):
    try:
        y = stn_ext.affine_sample(x, theta, index=index)
        assert bool((y == 1).all())
        results["right"] += 1
    except IndexError:
        results["refused"] += 1
stop.set()
thread.join()
print(results["refused"] > 0, results["right"] > 0)
"""


def test_an_index_that_another_thread_writes_to_reads_no_memory_but_the_images():
    """Whatever was checked is what is read."""
    run = subprocess.run([sys.executable, "-c", RACE], capture_output=True, text=True, timeout=100)
    assert (run.returncode, run.stdout) == (0, "True True\n"), run.stderr


@pytest.mark.skipif(bool(stn_ext.build_info()["cuda"]), reason="this build has CUDA kernels")
def test_cuda_tensors_on_a_build_without_cuda():
    # The dispatcher's key for CUDA decides; a real CUDA tensor needs a GPU.
    kernels = torch._C._dispatch_dump_table("stn_ext::sample")
    (line,) = (line for line in kernels.splitlines() if line.startswith("CUDA: "))
    assert "csrc/ops.cpp" in line
