"""Integers and truth values in mode "nearest": the very values, of PyTorch's nearest pixels."""

import pytest
import torch

import stn_ext
from tests.maps import PADDINGS
from tests.warps import WARPS, Affine

DTYPES = ("bool", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64")
kinds = pytest.mark.parametrize("kind", WARPS.values(), ids=WARPS.keys())


def labels(shape, dtype, device):
    """Any values there are: of 64 bits, more than float64 tells apart."""
    bits = torch.randint(-(2**63), 2**63 - 1, shape, device=device)
    return bits > 0 if dtype == torch.bool else bits.to(dtype)


def nearest(kind, images, theta, size, outside=0, **options):
    """The pixels whose numbers PyTorch's own nearest sampling of an image of numbers gives."""
    pixels = images[0, 0].numel()
    numbers = torch.arange(1.0, pixels + 1, dtype=torch.float64, device=images.device)
    numbers = numbers.view(1, 1, *images.shape[2:]).expand(len(theta), 1, *images.shape[2:])
    at = kind.composed(numbers, theta, size, mode="nearest", **options).long()
    beyond = torch.full((*images.shape[:2], 1), outside, dtype=images.dtype, device=images.device)
    values, at = torch.cat([beyond, images.flatten(2)], dim=2).cpu(), at.cpu()
    return torch.stack([image[:, place[0]] for image, place in zip(values, at, strict=True)])


def equal(a, b):
    """On the CPU: on GPUs PyTorch can neither index nor compare its unsigned integers."""
    return torch.equal(a.cpu(), b.cpu())


@kinds
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize("align_corners", (False, True))
def test_values_are_the_nearest_pixels(kind, dtype, padding_mode, align_corners, device):
    dtype = getattr(torch, dtype)
    x, theta = labels(kind.shape, dtype, device), kind.theta.to(device)
    options = {"padding_mode": padding_mode, "align_corners": align_corners}
    y = kind.warp(x, theta, kind.size, mode="nearest", **options)
    assert y.dtype == dtype
    assert equal(y, nearest(kind, x, theta, kind.size, **options))


@kinds
@pytest.mark.parametrize(
    "dtype, fill", (("int64", 2**62 + 1), ("int16", -100), ("bool", True), ("uint16", 65535))
)
def test_fill_is_exact_too(kind, dtype, fill, device):
    x, theta = labels(kind.shape, getattr(torch, dtype), device), kind.theta.to(device)
    expected = nearest(kind, x, theta, kind.size, fill)
    assert not equal(expected, nearest(kind, x, theta, kind.size))
    for value in (fill, torch.tensor(fill), [fill] * kind.shape[1]):
        assert equal(kind.warp(x, theta, kind.size, mode="nearest", fill=value), expected)


@pytest.mark.parametrize(
    "dtype, fill",
    (("int64", 0.5), ("uint16", -1), ("int8", 200), ("bool", 2), ("int32", float("nan")), ("uint64", -1)),
)
def test_a_fill_that_the_dtype_does_not_hold_is_refused(dtype, fill):
    x = labels(Affine.shape, getattr(torch, dtype), "cpu")
    with pytest.raises(
        ValueError, match=rf"^affine_sample: expected fill that torch\.{dtype} holds, but got"
    ):
        stn_ext.affine_sample(x, Affine.theta, mode="nearest", fill=fill)


@kinds
@pytest.mark.parametrize("dtype", ("int64", "bool", "uint32"))
def test_a_fill_of_its_own_for_each_pixel(kind, dtype, device):
    x, theta = labels(kind.shape, getattr(torch, dtype), device), kind.theta.to(device)
    value = labels((2, 1, *kind.size), x.dtype, device)
    inside = nearest(kind, torch.ones_like(x), theta, kind.size).bool()
    # As int64, for of unsigned integers PyTorch cannot choose.
    chosen = torch.where(inside, nearest(kind, x, theta, kind.size).long(), value.cpu().long())
    expected = chosen.to(x.dtype)
    assert equal(kind.warp(x, theta, kind.size, mode="nearest", fill=value), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels_last", (False, True))
@pytest.mark.parametrize("fill", (0, 1))
def test_large_maps_of_many_channels(dtype, channels_last, fill, device):
    """Of more bytes than are worth to be copied, in tiles inside, outside and in between."""
    theta = 1.1 * Affine.theta.to(device)
    x = labels((2, 5, 190, 230), getattr(torch, dtype), device)
    expected = nearest(Affine, x, theta, (150, 210), fill)
    given = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    y = stn_ext.affine_sample(given, theta, (150, 210), mode="nearest", fill=fill)
    assert equal(y, expected)


def test_shared_images_and_an_index(device):
    x, theta = labels(Affine.shape, torch.int64, device), Affine.theta.to(device)

    def warp(x, **options):
        return stn_ext.affine_sample(x, theta, 8, mode="nearest", **options)

    assert torch.equal(warp(x[:1]), warp(x[:1].expand(Affine.shape)))
    assert torch.equal(warp(x, index=[1, 1]), warp(x[[1, 1]]))
    for index in ([0, 2], [-1, 0]):
        if device.type == "cpu":
            with pytest.raises(
                IndexError, match=r"^affine_sample: expected index of images from 0 to 1, but got"
            ):
                warp(x, index=index)
    with pytest.raises(ValueError, match=r"^affine_sample: expected theta of shape \(N, 2, 3\) with N = 3"):
        warp(torch.cat([x, x[:1]]))


@pytest.mark.parametrize("dtype", ("int64", "uint8"))
def test_a_theta_that_is_trained_warps_labels_too(dtype, device):
    """Beside an image whose gradient trains it; labels have none."""
    theta = Affine.theta.to(device, copy=True).requires_grad_()
    x = torch.randint(0, 200, Affine.shape, device=device).to(getattr(torch, dtype))
    y = stn_ext.affine_sample(x, theta, mode="nearest")
    assert not y.requires_grad
    assert torch.equal(y, stn_ext.affine_sample(x.double(), theta.detach(), mode="nearest").to(x.dtype))


def test_coordinates_that_are_not_numbers_give_0(device):
    theta = torch.full((1, 2, 3), torch.nan, device=device)
    x = torch.ones(1, 1, 4, 5, dtype=torch.int64, device=device)
    assert torch.equal(stn_ext.affine_sample(x, theta, mode="nearest", fill=3), torch.zeros_like(x))


def test_channels_last_is_kept(device):
    x = labels((2, 3, 5, 6), torch.int32, device).to(memory_format=torch.channels_last)
    y = stn_ext.affine_sample(x, Affine.theta.to(device), 7, mode="nearest")
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", ((0, 3, 5, 6), (2, 0, 5, 6)))
def test_nothing_in_nothing_out(shape, device):
    x = torch.zeros(shape, dtype=torch.int64, device=device)
    y = stn_ext.affine_sample(x, Affine.theta[: shape[0]].to(device), (3, 4), mode="nearest")
    assert y.shape == (*shape[:2], 3, 4) and y.dtype == torch.int64


def test_a_compiler_takes_labels(device):
    torch._dynamo.reset()
    x, theta = labels(Affine.shape, torch.int64, device), Affine.theta.to(device)

    def warp(x, theta):
        return stn_ext.affine_sample(x, theta, (7, 8), mode="nearest", fill=-1)

    assert torch.equal(torch.compile(warp, fullgraph=True, backend="aot_eager")(x, theta), warp(x, theta))


def test_there_is_nothing_between_two_labels():
    for dtype in (torch.bool, torch.int64):
        x = labels(Affine.shape, dtype, "cpu")
        with pytest.raises(TypeError, match=rf"^affine_sample: .* or mode 'nearest', but got {dtype}$"):
            stn_ext.affine_sample(x, Affine.theta)
