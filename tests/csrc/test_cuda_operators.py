"""What only a GPU shows of the operators: half images, launches, streams, graphs and large tensors.

The operators' other tests run there too (--device cuda).
"""

import subprocess
import sys

import pytest
import torch

import stn_ext
from stn_ext import affine_sample, reference
from tests.maps import MAPS, PADDINGS

CUDA = torch.device("cuda")
pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or not stn_ext.build_info()["cuda"], reason="needs a GPU and CUDA kernels"
)


def problem(*shape, dtype=torch.float32, device=CUDA):
    """(input, theta, gradient of the output)"""
    x, grad = (torch.randn(shape, device=device).to(dtype) for _ in range(2))
    return x, MAPS["turn by 130"].float().to(device).repeat(shape[0], 1, 1), grad


def everything(x, theta, grad, padding_mode="zeros"):
    x, theta = x.detach().requires_grad_(), theta.detach().requires_grad_()
    y = affine_sample(x, theta, grad.shape[2:], padding_mode=padding_mode)
    return y.detach(), *torch.autograd.grad(y, (x, theta), grad)


def assert_same(ours, expected):
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


@pytest.mark.parametrize("memory_format", (torch.contiguous_format, torch.channels_last))
@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
def test_half_images_are_computed_with_in_float32(dtype, padding_mode, memory_format):
    """Rounded once, on writing; theta's gradient not at all."""
    x, theta, grad = problem(2, 5, 40, 70, dtype=dtype)
    x, grad = x.to(memory_format=memory_format), grad.to(memory_format=memory_format)
    ours = everything(x, theta, grad, padding_mode)
    assert ours[0].dtype == ours[1].dtype == dtype and ours[2].dtype == torch.float32
    expected = everything(x.float(), theta, grad.float(), padding_mode)
    assert_same(ours, (expected[0].to(dtype), expected[1].to(dtype), expected[2]))
    half_theta = everything(x, theta.to(dtype), grad, padding_mode)
    assert half_theta[2].dtype == dtype
    assert_same(half_theta[:2], everything(x, theta.to(dtype).float(), grad, padding_mode)[:2])


def launches(f):
    """The names of the kernels and memory operations on the GPU that a call starts."""
    f()
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        f()
        torch.cuda.synchronize()
    return [event.name for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]


@pytest.mark.parametrize("deterministic", (False, True))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float16))
def test_launches(dtype, deterministic):
    """Of the input's gradient: a memory operation, the maps' inverses, the gather, and for maps without a
    usable inverse, which the device alone knows, three kernels."""
    x, theta, grad = problem(4, 3, 200, 200, dtype=dtype)
    x.requires_grad_(), theta.requires_grad_()
    torch.use_deterministic_algorithms(deterministic)
    try:
        assert len(launches(lambda: affine_sample(x, theta))) == 1
        for wanted, count in (((x, theta), 8), ((theta,), 2), ((x,), 6)):
            leaves = [t if any(t is w for w in wanted) else t.detach() for t in (x, theta)]
            y = affine_sample(*leaves)

            def backward(wanted=wanted, y=y):
                torch.autograd.grad(y, wanted, grad, retain_graph=True)

            assert len(launches(backward)) == count, launches(backward)
    finally:
        torch.use_deterministic_algorithms(False)


def test_current_stream():
    """Work goes to the stream that is current, behind what waits there."""
    x, theta, grad = problem(2, 3, 300, 300)
    expected = everything(x, theta, grad)
    buffer = torch.zeros_like(x)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        buffer.copy_(x)
        ours = everything(buffer, theta, grad)
    stream.synchronize()
    assert_same(ours, expected)


def test_graph_replays():
    """A captured forward and backward, replayed on other images and maps, one of them without an inverse."""
    x, theta, grad = problem(3, 2, 60, 70)
    # What is captured has run before, so that nothing is loaded on the way.
    everything(x, theta, grad)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = everything(x, theta, grad)
    for name in ("small turn", "singular", "zoom out"):
        x.normal_()
        theta.copy_(MAPS[name].float().expand(3, 2, 3))
        graph.replay()
        assert_same(captured, everything(x, theta, grad))


def test_an_index_beyond_the_batch_ends_the_work():
    """In a process of its own, for the device takes no more work from it."""
    call = "stn_ext.affine_sample(torch.zeros(2, 1, 4, 4, device='cuda'), theta, index=index)"
    program = (
        "import torch, stn_ext; theta = torch.eye(2, 3, device='cuda').repeat(2, 1, 1);"
        f"index = torch.tensor([0, 2], device='cuda'); {call}; torch.cuda.synchronize()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    assert done.returncode != 0 and "device-side assert" in done.stderr, done.stderr


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_tensors_on_another_device_than_the_current_one():
    arguments = problem(2, 3, 40, 50)
    elsewhere = [t.to("cuda:1") for t in arguments]
    with torch.cuda.device(0):
        ours = everything(*elsewhere)
    assert all(t.device.index == 1 for t in ours)
    assert_same([t.to(CUDA) for t in ours], everything(*arguments))


def test_tensors_of_more_than_2_31_elements():
    """The last image of a batch lies beyond, with the bits that it has alone."""
    shape = (2, 1, 1 << 15, 40000)
    needed = 2 * 5 * torch.Size(shape).numel()
    if torch.cuda.mem_get_info()[0] < needed:
        pytest.skip(f"needs {needed / 2**30:.0f} GiB of GPU memory")
    x = torch.empty(shape, dtype=torch.float16, device=CUDA).uniform_()
    theta = MAPS["small turn"].float().to(CUDA).repeat(shape[0], 1, 1)
    whole = everything(x, theta, x)
    assert_same([t[-1:] for t in whole], everything(x[-1:].clone(), theta[-1:], x[-1:].clone()))


def test_against_the_reference_on_many_channels():
    """More channels than a block takes at once, in each layout."""
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x, theta, grad = problem(2, 150, 30, 40)
        x, grad = x.to(memory_format=memory_format), grad.to(memory_format=memory_format)
        y, grad_x, grad_theta = everything(x, theta, grad)
        a, t = x.double().cpu().requires_grad_(), theta.double().cpu().requires_grad_()
        expected = reference.affine_sample(a, t)
        expected_grads = torch.autograd.grad(expected, (a, t), grad.double().cpu())
        # As in test_functional.py for values and in test_autograd.py for gradients.
        torch.testing.assert_close(y.double().cpu(), expected.detach(), rtol=0, atol=8e-6)
        for ours, exact in zip((grad_x, grad_theta), expected_grads, strict=True):
            scale = max(exact.abs().max().item(), 1)
            torch.testing.assert_close(ours.double().cpu() / scale, exact / scale, rtol=0, atol=1e-5)


def test_rows_that_are_too_long_are_refused():
    theta = torch.eye(2, 3, device=CUDA)[None]
    x = torch.zeros(1, 1, 1, 1, dtype=torch.uint8, device=CUDA).expand(1, 1, 1, 2**28 + 1)
    with pytest.raises(ValueError, match=r"at most 268435456 pixels along an axis of the input"):
        stn_ext.affine_sample(x, theta, (1, 4))
    assert torch.equal(stn_ext.affine_sample(x[..., 1:], theta, (1, 4)), x[..., :4])
