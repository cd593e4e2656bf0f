"""Every kind of warp gives what the same warp composed of PyTorch's operators gives in float64."""

import pytest
import torch
import torch.nn.functional as F

import stn_ext

from .maps import PADDINGS
from .warps import WARPS, Affine, Projective, ThinPlateSpline, Volume, output_grid

kinds = pytest.mark.parametrize("kind", WARPS.values(), ids=WARPS.keys())
paddings = pytest.mark.parametrize("padding_mode", PADDINGS)
alignments = pytest.mark.parametrize("align_corners", (False, True))


def problem(kind, device, dtype=torch.float64):
    input = torch.randn(kind.shape, device=device, dtype=dtype)
    return input, kind.theta.to(device, copy=True)


def gradients(warp, input, theta, size, **options):
    input, theta = input.detach().requires_grad_(), theta.detach().requires_grad_()
    output = warp(input, theta, size, **options)
    # Multiples of 1/64 up to 1: of every dtype.
    weights = torch.arange(output.numel(), device=output.device).remainder(65).to(output.dtype) / 64
    return [output.detach(), *torch.autograd.grad(output, (input, theta), weights.view_as(output))]


@kinds
@paddings
@alignments
def test_values_and_gradients(kind, padding_mode, align_corners, device):
    input, theta = problem(kind, device)
    options = {"padding_mode": padding_mode, "align_corners": align_corners}
    ours = gradients(kind.warp, input, theta, kind.size, **options)
    expected = gradients(kind.composed, input, theta, kind.size, **options)
    for a, b in zip(ours, expected, strict=True):
        # Both in float64: some hundred roundings of numbers near 1, and in theta's gradient the image's size.
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@kinds
@paddings
def test_float32(kind, padding_mode, device):
    input, theta = problem(kind, device)
    ours = gradients(kind.warp, input.float(), theta.float(), kind.size, padding_mode=padding_mode)
    expected = gradients(kind.composed, input, theta.float().double(), kind.size, padding_mode=padding_mode)
    for a, b in zip(ours, expected, strict=True):
        # 2^-24 times the image's size (13) and the gradients' terms (some 10), with room for sums.
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=2e-4)


@kinds
@paddings
@alignments
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_nearest(kind, padding_mode, align_corners, dtype, device):
    input, theta = problem(kind, device, dtype)
    options = {"mode": "nearest", "padding_mode": padding_mode, "align_corners": align_corners}
    ours = gradients(kind.warp, input, theta.to(dtype), kind.size, **options)
    expected = gradients(kind.composed, input.double(), theta.to(dtype).double(), kind.size, **options)
    assert torch.equal(ours[0].double(), expected[0])
    torch.testing.assert_close(ours[1].double(), expected[1], rtol=1e-5, atol=1e-5)
    assert torch.equal(ours[2], torch.zeros_like(theta, dtype=dtype))


def test_nearest_of_two_takes_the_even_pixel(device):
    input = torch.arange(8.0, device=device).view(1, 1, 1, 8)
    # Half a pixel to the right, exactly: 0.5, 1.5, 2.5, ...
    theta = torch.tensor([[[1, 0, 1 / 8], [0, 1, 0]]], device=device)
    output = stn_ext.affine_sample(input, theta, mode="nearest")
    assert output.flatten().tolist() == [0, 2, 2, 4, 4, 6, 6, 0]


@kinds
@pytest.mark.parametrize("mode", ("bilinear", "nearest"))
def test_channels_last_in_channels_last_out(kind, mode, device):
    input, theta = problem(kind, device, torch.float32)
    last = torch.channels_last if input.ndim == 4 else torch.channels_last_3d
    expected = gradients(kind.warp, input, theta, kind.size, mode=mode)
    ours = gradients(kind.warp, input.to(memory_format=last), theta, kind.size, mode=mode)
    assert ours[0].is_contiguous(memory_format=last)
    for a, b in zip(ours, expected, strict=True):
        # Kernels of their own sum some hundred terms in another order.
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@kinds
@pytest.mark.parametrize("mode", ("bilinear", "nearest"))
def test_what_is_not_a_number(kind, mode, device):
    input, theta = problem(kind, device, torch.float32)
    theta[0, 0, 0] = torch.nan
    theta[1, 0, -1] = torch.inf if kind is not Projective else 1e300
    output, grad_input, _ = gradients(kind.warp, input, theta, kind.size, mode=mode)
    assert output[0].isnan().all()
    assert torch.equal(output[1], torch.zeros_like(output[1]))
    assert torch.equal(grad_input, torch.zeros_like(grad_input))


@kinds
@pytest.mark.parametrize("mode", ("bilinear", "nearest"))
def test_infinite_slopes_lead_outside(kind, mode, device):
    input, theta = problem(kind, device, torch.float32)
    dims = input.ndim - 2
    theta[:, 0, -dims - 1] = torch.inf  # of x; no pixel lies on the axis in the middle of an even width
    output = kind.warp(input, theta, (*kind.size[:-1], 8), mode=mode)
    assert torch.equal(output, torch.zeros_like(output))


def test_points_behind_the_horizon_lie_outside(device):
    input = torch.rand(1, 2, 8, 9, device=device) + 1
    theta = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [2, 0, 0]]], device=device)  # depth 2 x
    output = stn_ext.projective_sample(input, theta)
    assert torch.equal(output[..., :4], torch.zeros_like(output[..., :4]))  # left of the middle
    assert output[..., 4].abs().sum() > 0 or output[..., 5].abs().sum() > 0
    border = stn_ext.projective_sample(input, theta, padding_mode="border")
    assert torch.equal(border[..., :4], input[..., -1:, -1:].expand(1, 2, 8, 4))
    grads = gradients(lambda *a, **k: stn_ext.projective_sample(*a, **k), input, theta, (8, 9))
    assert all(g.isfinite().all() for g in grads)


@kinds
@pytest.mark.parametrize("mode", ("bilinear", "nearest"))
def test_one_image_through_many_maps(kind, mode, device):
    input, theta = problem(kind, device)
    one = input[:1]
    ours = gradients(kind.warp, one, theta, kind.size, mode=mode)

    def copied(a, *rest, **options):
        return kind.warp(a.repeat(2, *[1] * (a.ndim - 1)), *rest, **options)

    expected = gradients(copied, one, theta, kind.size, mode=mode)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@kinds
@pytest.mark.parametrize("channels", (3, 20))
def test_index(kind, channels, device):
    input = torch.randn(5, channels, *kind.shape[2:], device=device, dtype=torch.float64)
    theta = kind.theta.to(device).repeat(3, 1, 1)
    index = torch.tensor([4, 0, 2, 4, 4, 1], device=device)
    ours = gradients(lambda a, *r: kind.warp(a, *r, index=index), input, theta, kind.size)
    expected = gradients(lambda a, *r: kind.warp(a[index], *r), input, theta, kind.size)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert torch.equal(ours[1][3], torch.zeros_like(ours[1][3]))


def test_an_index_beyond_the_batch_is_refused():
    with pytest.raises(IndexError, match="affine_sample: expected index of images from 0 to 1, but got 2"):
        stn_ext.affine_sample(torch.zeros(2, 1, 4, 4), Affine.theta, index=torch.tensor([0, 2]))


@kinds
@pytest.mark.parametrize("mode", ("bilinear", "nearest"))
@pytest.mark.parametrize("fill", (0.7, "channels"))
def test_fill(kind, mode, fill, device):
    input, theta = problem(kind, device)
    value = torch.tensor([0.3, -1.1, 2.0][: kind.shape[1]], device=device) if fill == "channels" else fill
    ours = gradients(kind.warp, input, theta, kind.size, mode=mode, fill=value)
    # What lies outside is the fill, so that without it the image would be 0 there.
    level = value.view(-1, *[1] * (input.ndim - 2)) if fill == "channels" else value
    expected = gradients(
        lambda a, *r, **k: kind.composed(a - level, *r, **k) + level, input, theta, kind.size, mode=mode
    )
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)
    inside = kind.warp(torch.ones_like(input), theta, kind.size, mode=mode) == 1
    assert torch.equal(ours[0][inside], kind.warp(input, theta, kind.size, mode=mode)[inside])


def test_fill_has_a_gradient(device):
    input, theta = problem(Affine, device)
    fill = torch.tensor([0.3, -1.1, 2.0], device=device, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f: stn_ext.affine_sample(input, theta, fill=f), fill)


@pytest.mark.parametrize(
    "fill", (torch.zeros(2), torch.zeros(3, 1), [1.0, 2.0], torch.zeros(2, 1, 1, 3), torch.zeros(1, 3, 1))
)
def test_a_fill_that_does_not_fit_is_refused(fill):
    with pytest.raises(ValueError, match=r"affine_sample: expected fill of one number, of 3, .* but got"):
        stn_ext.affine_sample(torch.zeros(2, 3, 4, 4), Affine.theta, fill=fill)
    with pytest.raises(ValueError, match="expected padding_mode 'zeros' with fill, but got 'border'"):
        stn_ext.affine_sample(torch.zeros(2, 3, 4, 4), Affine.theta, fill=1, padding_mode="border")


@kinds
@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
@pytest.mark.parametrize("theta_dtype", (torch.float32, None))
def test_half(kind, dtype, theta_dtype, device):
    input, theta = problem(kind, device)
    input, theta = input.to(dtype), theta.to(theta_dtype or dtype)
    ours = gradients(kind.warp, input, theta, kind.size)
    assert [a.dtype for a in ours] == [dtype, dtype, theta.dtype]
    half = gradients(kind.composed, input.double(), theta.double(), kind.size)
    for a, b in zip(ours, half, strict=True):
        # Coordinates and sums are float's: only the results are rounded, once.
        eps = torch.finfo(a.dtype).eps
        torch.testing.assert_close(a.double(), b, rtol=max(eps, 1e-5), atol=2e-4)


def test_autocast_keeps_images_half_and_theta_float(device):
    input, theta = problem(Affine, device, torch.bfloat16)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        output = stn_ext.affine_sample(input, theta.float())
    assert output.dtype == torch.bfloat16
    assert torch.equal(output, stn_ext.affine_sample(input.float(), theta.float()).bfloat16())


@kinds
@pytest.mark.parametrize("dtype", (torch.uint8, torch.int16, torch.uint16))
@pytest.mark.parametrize("memory_format", ("contiguous", "channels last"))
@pytest.mark.parametrize("fill", (None, 77, -1e9, 1e9))
def test_integers_are_rounded(kind, dtype, memory_format, fill, device):
    limits = torch.iinfo(dtype)
    input = torch.randint(limits.min, limits.max + 1, kind.shape, device=device).to(dtype)
    if memory_format == "channels last":
        last = torch.channels_last if input.ndim == 4 else torch.channels_last_3d
        input = input.contiguous(memory_format=last)
    theta = kind.theta.to(device)
    output = kind.warp(input, theta, kind.size, fill=fill)
    expected = kind.warp(input.double(), theta, kind.size, fill=fill).round().clamp(limits.min, limits.max)
    assert output.dtype == dtype
    output = output.double()  # PyTorch's uint16 knows few operations
    # A value within float's error of a half may be rounded either way; of 16 bits it has 2^-8 and less behind
    # the point, as long as nothing outside is larger.
    if fill is not None and abs(fill) > limits.max:
        whole = kind.warp(torch.ones_like(input, dtype=torch.float64), theta, kind.size)
        clear = (whole > 1 - 1e-9) | (whole < 0.99)
        output, expected = output[clear], expected[clear]
    assert (output - expected).abs().max() <= 1
    assert (output != expected).double().mean() < 0.05


@pytest.mark.parametrize("dtype", (torch.uint8, torch.int16, torch.uint16))
def test_integers_have_0_for_what_is_no_number_and_ties_go_to_even(dtype, device):
    x = torch.tensor([[[[1, 2, 5, 6]]]], device=device).to(dtype)
    nan = torch.full((1, 2, 3), torch.nan, device=device)
    assert torch.equal(stn_ext.affine_sample(x, nan, fill=3), torch.zeros_like(x))
    half = torch.tensor([[[1.0, 0.0, 0.25], [0.0, 1.0, 0.0]]], device=device)  # 1.5, 3.5, 5.5, and 6 and 0
    assert stn_ext.affine_sample(x, half).flatten().tolist() == [2, 4, 6, 3]


def test_uint8_has_no_gradient(device):
    theta = Affine.theta.to(device, copy=True).requires_grad_()
    with pytest.raises(TypeError, match=r"for a gradient, but got torch\.uint8"):
        stn_ext.affine_sample(torch.zeros(2, 3, 4, 4, dtype=torch.uint8, device=device), theta)


@kinds
@pytest.mark.parametrize("shape", ((0, 3), (2, 0)))
def test_nothing_in_nothing_out(kind, shape, device):
    input = torch.zeros(*shape, *kind.shape[2:], device=device)
    theta = kind.theta[: shape[0]].to(device)
    output, grad_input, grad_theta = gradients(kind.warp, input, theta, kind.size)
    assert output.shape == (*shape, *kind.size) and grad_input.shape == input.shape
    assert torch.equal(grad_theta, torch.zeros_like(theta))


@kinds
@pytest.mark.parametrize("axis", (2, 3, None))
def test_one_pixel(kind, axis, device):
    shape = list(kind.shape)
    for d in range(2, len(shape)) if axis is None else [axis]:
        shape[d] = 1
    input = torch.randn(shape, dtype=torch.float64, device=device)
    theta = kind.theta.to(device)
    for align_corners in (False, True):
        ours = gradients(kind.warp, input, theta, kind.size, align_corners=align_corners)
        expected = gradients(kind.composed, input, theta, kind.size, align_corners=align_corners)
        for a, b in zip(ours, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@kinds
def test_strided_views(kind, device):
    input, theta = problem(kind, device)
    wide = torch.stack([input, input + 1], dim=-1).movedim(1, 2)
    view = wide.movedim(2, 1)[..., 0]
    assert not view.is_contiguous() and torch.equal(view, input)
    ours = gradients(kind.warp, view, theta, kind.size)
    expected = gradients(kind.warp, input, theta, kind.size)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


class Steep(Projective):
    """The horizon behind one edge; and, of the second map, across the image."""

    theta = torch.tensor(
        [
            [[0.9, 0.2, 0.01], [-0.1, 0.8, 0.03], [0.9, 0.05, 1.0]],
            [[0.5, -0.1, 0.1], [0.2, 0.6, -0.2], [0.3, 1.7, 1.1037]],
        ],
        dtype=torch.float64,
    )

    @staticmethod
    def composed(input, theta, size, *, padding_mode="zeros"):
        u = torch.einsum("hwb,nsb->nhws", output_grid(size, False, theta), theta)
        at = torch.where(u[..., 2:] > 0, u[..., :2] / u[..., 2:], 1e6)
        return F.grid_sample(input, at, "bilinear", padding_mode, False)


class Grid(ThinPlateSpline):
    """More control points than are summed at a time."""

    points = torch.cartesian_prod(torch.linspace(-1, 1, 9), torch.linspace(-1, 1, 8))
    theta = 0.02 * torch.randn(2, 2, 75, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    theta[:, 0, 72] += 0.9
    theta[:, 1, 73] += 0.8


class Wild(ThinPlateSpline):
    """Coordinates up to a hundred thousand pixels, of which tiles hold too many to count from one place."""

    theta = ThinPlateSpline.theta * torch.tensor([[[1.0], [1.0]], [[3e3], [2e3]]], dtype=torch.float64)


# Near the horizon the composed coordinates have no digits left to be mirrored by.
@pytest.mark.parametrize(
    "kind, padding_mode",
    [
        (kind, padding_mode)
        for kind in (Projective, Steep, ThinPlateSpline, Grid, Wild)
        for padding_mode in PADDINGS
        if (kind, padding_mode) != (Steep, "reflection")
    ],
)
@pytest.mark.parametrize("channels", (1, 3, 20))
def test_planes_of_many_tiles(kind, channels, padding_mode, device):
    """Of more than one tile and bundle either way, in each way to divide the channels."""
    size = (70, 130)
    input = torch.randn(2, channels, 90, 140, device=device, dtype=torch.float64)
    theta = kind.theta.to(device)
    ours = gradients(kind.warp, input, theta, size, padding_mode=padding_mode)
    expected = gradients(kind.composed, input, theta, size, padding_mode=padding_mode)
    for a, b in zip(ours, expected, strict=True):
        # As for the small ones; a large coordinate has as many digits fewer behind the point.
        scale, factor = b.abs().max().item(), 1e3 if kind in (Steep, Wild) else 10
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11 * max(scale, 1) * factor)


@kinds
@pytest.mark.parametrize("padding_mode", PADDINGS)
def test_many_channels_are_as_one_by_one(kind, padding_mode, device):
    """Channels are worked on by vectors where there are enough, in float32 by other instructions."""
    input = torch.randn(2, 37, *kind.shape[2:], device=device)
    grad = torch.randn(2, 37, *kind.size, device=device)
    theta = kind.theta.to(device).float()

    def results(input, grad):
        x, t = input.clone().requires_grad_(), theta.clone().requires_grad_()
        y = kind.warp(x, t, kind.size, padding_mode=padding_mode)
        return y.detach(), *torch.autograd.grad(y, (x, t), grad)

    together = results(input, grad)
    alone = [results(*planes) for planes in zip(input.split(1, 1), grad.split(1, 1), strict=True)]
    outputs, images, thetas = zip(*alone, strict=True)
    # Some products and sums in another order: of four values; of those of a few pixels; of thousands.
    for a, b, digits in (
        (together[0], torch.cat(outputs, 1), 1e-6),
        (together[1], torch.cat(images, 1), 1e-6),
        (together[2], sum(thetas), 1e-5),
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=digits * max(1, b.abs().max().item()))


@pytest.mark.parametrize("kind", (ThinPlateSpline, Grid))
def test_splines_of_large_images_are_as_exact_as_the_composition(kind, device):
    """In float32 far control points are interpolated there; an image of its own coordinates shows them."""
    size = (400, 700)
    axes = (torch.arange(n, device=device, dtype=torch.float32) for n in size)
    input = torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]
    theta = kind.theta[:1].to(device).float()
    exact = gradients(kind.composed, input.double(), theta.double(), size, padding_mode="border")
    errors = [
        [(a - b).abs().max().item() for a, b in zip(results, exact, strict=True)]
        for results in (
            gradients(kind.warp, input, theta, size, padding_mode="border"),
            gradients(kind.composed, input, theta, size, padding_mode="border"),
        )
    ]
    assert errors[0][0] <= 2 * errors[1][0]  # roundings of another order may be unlucky
    # Sums of hundreds of terms in border pixels, and of 560 thousand for theta.
    assert errors[0][1] <= 3e-5 * exact[1].abs().max().item()
    assert errors[0][2] <= 1e-5 * exact[2].abs().max().item()


@kinds
def test_the_same_bits_for_any_number_of_threads(kind, device):
    # Several tiles and bundles, so that there is something to divide.
    shape = (3, 5, 90, 150) if len(kind.shape) == 4 else (3, 3, 20, 33, 41)
    input = torch.randn(shape, device=device)
    theta = kind.theta.to(device).repeat(2, 1, 1)[:3]
    threads = torch.get_num_threads()
    results = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        results.append(gradients(kind.warp, input, theta, shape[2:], padding_mode="reflection"))
    torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    expected = gradients(kind.composed, input.double(), theta, shape[2:], padding_mode="reflection")
    for a, b in zip(results[0], expected, strict=True):
        # Coordinates to some 150 pixels: 2^-24 * 150 of noise's slopes, and sums of thousands of such.
        torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=2e-3 * max(1.0, b.abs().max().item() / 10))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda x: stn_ext.affine_sample(x, Projective.theta),
            ValueError,
            "affine_sample: expected theta of shape (N, 2, 3), but got (2, 3, 3): projective_sample takes",
        ),
        (
            lambda x: stn_ext.projective_sample(x, Affine.theta),
            ValueError,
            "projective_sample: expected theta of shape (N, 3, 3), but got (2, 2, 3)",
        ),
        (
            lambda x: stn_ext.affine_sample(x, Volume.theta),
            ValueError,
            "affine_sample: expected theta of shape (N, 2, 3), or (N, 3, 3) for projective maps, but got",
        ),
        (
            lambda x: stn_ext.affine_sample(x[..., None], Affine.theta),
            ValueError,
            "affine_sample: expected theta of shape (N, 3, 4), for volumes, but got [2, 2, 3]",
        ),
        (
            lambda x: stn_ext.thin_plate_spline_sample(x, Affine.theta, ThinPlateSpline.points),
            ValueError,
            "thin_plate_spline_sample: expected theta of shape (N, 2, 8), three columns more than there are",
        ),
        (
            lambda x: stn_ext.thin_plate_spline_sample(x, ThinPlateSpline.theta, ThinPlateSpline.points[0]),
            ValueError,
            "thin_plate_spline_sample: expected points of shape (K, 2), but got [2]",
        ),
        (
            lambda x: stn_ext.affine_sample(x, Affine.theta, index=torch.tensor([1])),
            ValueError,
            "affine_sample: expected index of shape (2), an image for each theta, but got [1]",
        ),
        (
            lambda x: stn_ext.affine_sample(x, Affine.theta, index=torch.tensor([1.0, 0.0])),
            TypeError,
            "affine_sample: expected index of dtype torch.int64, but got torch.float32",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error) as caught:
        call(torch.zeros(2, 1, 6, 7))
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
