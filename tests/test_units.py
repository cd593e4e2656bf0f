"""Maps in pixel units: OpenCV's matrices, and the same map whatever align_corners."""

import pytest
import torch

from stn_ext import (
    affine_sample,
    normalised_to_pixels,
    pixels_to_normalised,
    projective_sample,
    reference,
    thin_plate_spline_sample,
)
from tests.maps import MAPS, PADDINGS
from tests.warps import Affine, Projective, ThinPlateSpline, Volume

SIZES = [((12, 17), (12, 17)), ((9, 30), (21, 5)), ((1, 8), (6, 1)), ((7, 1), (1, 4))]


def pixel_coordinates(matrix, out_size):
    """Where each output pixel is read: the definition of pixel units, in float64."""
    i, j = torch.meshgrid(*(torch.arange(float(n), dtype=torch.float64) for n in out_size), indexing="ij")
    return (matrix.double() @ torch.stack((j, i, torch.ones_like(i))).flatten(1)).unflatten(-1, out_size)


@pytest.mark.parametrize("align_corners", (False, True))
@pytest.mark.parametrize("in_size, out_size", SIZES[:2])
def test_pixels_are_read_where_the_matrix_says(in_size, out_size, align_corners):
    matrix = torch.tensor([[[0.83, -0.21, 2.3], [0.31, 1.17, -1.9]]], dtype=torch.float64)
    theta = pixels_to_normalised(matrix, in_size, out_size, align_corners=align_corners)
    ix, iy = reference.coordinates(reference.affine_map, theta, in_size, out_size, align_corners)
    expected = pixel_coordinates(matrix, out_size)
    torch.testing.assert_close(torch.stack((ix, iy), 1), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("align_corners", (False, True))
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-13)])
@pytest.mark.parametrize("in_size, out_size", SIZES[:2])
def test_there_and_back(in_size, out_size, dtype, tolerance, align_corners):
    theta = torch.cat([MAPS[name] for name in ("small turn", "mirror", "shear", "singular")]).to(dtype)
    pixels = normalised_to_pixels(theta, in_size, out_size, align_corners=align_corners)
    assert pixels.dtype == dtype
    back = pixels_to_normalised(pixels, in_size, out_size, align_corners=align_corners)
    # A shift of up to 30 pixels is a difference of numbers good to its last digit.
    torch.testing.assert_close(back, theta, rtol=0, atol=tolerance)


OPENCVS_PADDINGS = {"zeros": "BORDER_CONSTANT", "border": "BORDER_REPLICATE", "reflection": "BORDER_REFLECT"}
AFFINE = torch.tensor([[[0.8313, -0.2117, 1.2371], [0.3119, 1.1713, -0.9371]]], dtype=torch.float64)
HOMOGRAPHY = torch.cat([AFFINE, torch.tensor([[[0.0071, -0.0113, 1.0317]]], dtype=torch.float64)], 1)


@pytest.mark.parametrize("mode", ("bilinear", "nearest"))
@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize("in_size, out_size", SIZES)
@pytest.mark.parametrize("sample", (affine_sample, projective_sample))
def test_values_are_opencvs(device, sample, in_size, out_size, padding_mode, mode):
    cv2 = pytest.importorskip("cv2", minversion="5")  # before, coordinates had five bits after the point
    matrix, warp = {
        affine_sample: (AFFINE, cv2.warpAffine),
        projective_sample: (HOMOGRAPHY, cv2.warpPerspective),
    }[sample]
    x = torch.rand(1, 1, *in_size)
    expected = warp(
        x[0, 0].numpy(),
        matrix[0].numpy(),
        out_size[::-1],
        flags={"bilinear": cv2.INTER_LINEAR, "nearest": cv2.INTER_NEAREST}[mode] | cv2.WARP_INVERSE_MAP,
        borderMode=getattr(cv2, OPENCVS_PADDINGS[padding_mode]),
    )
    options = {"mode": mode, "padding_mode": padding_mode, "theta_units": "pixel"}
    y = sample(x.to(device), matrix.to(device), out_size, **options).cpu()
    # Coordinates of some forty pixels in float32, 2^-19, times differences of at most 1; OpenCV's own too.
    torch.testing.assert_close(y, torch.from_numpy(expected).view(1, 1, *out_size), rtol=0, atol=1e-5)


@pytest.mark.parametrize("align_corners", (False, True))
@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize("kind", (Affine, Projective, Volume))
def test_pixel_units_are_the_converters(device, kind, padding_mode, align_corners):
    """Values and gradients; and for the sampler's default, the input's size."""
    x = torch.randn(kind.shape, dtype=torch.float64, device=device, requires_grad=True)
    in_size = kind.shape[2:]
    for size in (kind.size, None):
        theta = kind.theta.to(device, copy=True).requires_grad_()
        pixels = normalised_to_pixels(theta, in_size, size or in_size, align_corners=align_corners)
        options = {"padding_mode": padding_mode, "align_corners": align_corners}
        results = []
        for y in (
            kind.warp(x, theta, size, **options),
            kind.warp(x, pixels, size, theta_units="pixel", **options),
        ):
            weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=device).view_as(y)
            results.append((y, *torch.autograd.grad(y, (x, theta), weights, retain_graph=True)))
        for ours, expected in zip(*results, strict=True):
            # Coordinates of some ten pixels in float64; sums of hundreds.
            torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-11)


def test_pixels_of_large_images_keep_their_digits(device):
    """Theta in float32 is converted in float64: places far from the middle are as good as near it."""
    x = torch.rand(1, 1, 4, 30011, device=device)
    theta = torch.tensor([[[1.0, 0.0, 0.25], [0.0, 1.0, 0.0]]], device=device)
    y = affine_sample(x, theta, theta_units="pixel")
    expected = 0.75 * x[..., :-1] + 0.25 * x[..., 1:]
    # A quarter is a float; what remains are the roundings of two products and a sum.
    torch.testing.assert_close(y[..., :-1], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize("align_corners", (False, True))
def test_one_pixel_keeps_its_place_in_pixel_units(device, padding_mode, align_corners):
    """A column moved by two thirds of a pixel, whatever align_corners."""
    x = torch.tensor([[[[3.0], [6.0]]]], device=device)
    theta = torch.tensor([[[1.0, 0.0, -1 / 3], [0.0, 1.0, 0.0]]], device=device)
    options = {"padding_mode": padding_mode, "align_corners": align_corners, "theta_units": "pixel"}
    y = affine_sample(x, theta, **options)
    inside = 2 / 3 if padding_mode == "zeros" else 1
    torch.testing.assert_close(y, x * inside, rtol=1e-6, atol=0)


def test_other_units_are_refused():
    x = torch.zeros(2, 3, 4, 5)
    for kind, name in ((Affine, "affine_sample"), (Projective, "projective_sample")):
        message = f"^{name}: expected theta_units 'normalised' or 'pixel', but got 'inches'"
        with pytest.raises(ValueError, match=message):
            kind.warp(x, kind.theta, theta_units="inches", size=None)
    with pytest.raises(TypeError, match="theta_units"):
        thin_plate_spline_sample(x, ThinPlateSpline.theta, ThinPlateSpline.points, theta_units="pixel")
    with pytest.raises(ValueError, match=r"affine_sample: expected theta of shape \(N, 3, 4\), for volumes"):
        affine_sample(x[..., None], Affine.theta, theta_units="pixel")


@pytest.mark.parametrize("padding_mode", ("zeros", "border"))
def test_both_conventions_read_the_same_pixels(device, padding_mode):
    """Reflection is left out: its mirrors are the corners that are aligned or not."""
    x = torch.randn(1, 2, 13, 18, dtype=torch.float64, device=device)
    matrix = torch.tensor([[[0.8313, -0.2117, 1.2371], [0.3119, 1.1713, -0.9371]]], device=device).double()
    ours = [
        affine_sample(
            x,
            pixels_to_normalised(matrix, (13, 18), (20, 9), align_corners=align_corners),
            (20, 9),
            padding_mode=padding_mode,
            align_corners=align_corners,
        )
        for align_corners in (False, True)
    ]
    torch.testing.assert_close(*ours, rtol=0, atol=1e-12)


@pytest.mark.parametrize("padding_mode", PADDINGS)
def test_one_pixel_between_aligned_corners(padding_mode):
    """An axis of one pixel is read at that pixel, and finite numbers come of it both ways."""
    x = torch.rand(1, 1, 1, 6, dtype=torch.float64)
    matrix = torch.tensor([[[1.0, 0.0, 0.25], [0.0, 1.0, 0.0]]], dtype=torch.float64)
    theta = pixels_to_normalised(matrix, (1, 6), (1, 5), align_corners=True)
    y = affine_sample(x, theta, (1, 5), padding_mode=padding_mode, align_corners=True)
    torch.testing.assert_close(y, 0.75 * x[..., :5] + 0.25 * x[..., 1:])
    back = normalised_to_pixels(theta, (1, 6), (1, 5), align_corners=True)
    torch.testing.assert_close(back, torch.tensor([[[1, 0, 0.25], [0, 0, 0]]], dtype=torch.float64))


@pytest.mark.parametrize("align_corners", (False, True))
def test_volumes(align_corners):
    """Axis by axis, against coordinates counted in float64; the rows are x, y, z and the sizes z, y, x."""
    matrix = torch.randn(2, 3, 4, dtype=torch.float64)
    in_size, out_size = (5, 6, 7), (9, 3, 4)
    theta = pixels_to_normalised(matrix, in_size, out_size, align_corners=align_corners)
    pixel = torch.tensor([3.0, 1.0, 8.0], dtype=torch.float64)  # (x, y, z) of the output

    def normalised(pixel, size):
        length = torch.tensor(size[::-1], dtype=torch.float64)
        return 2 * pixel / (length - 1) - 1 if align_corners else (2 * pixel + 1) / length - 1

    one = torch.ones(1, dtype=torch.float64)
    target = matrix @ torch.cat((pixel, one))
    torch.testing.assert_close(
        theta @ torch.cat((normalised(pixel, out_size), one)), normalised(target, in_size)
    )
    back = normalised_to_pixels(theta, in_size, out_size, align_corners=align_corners)
    torch.testing.assert_close(back, matrix)


@pytest.mark.parametrize("align_corners", (False, True))
def test_projective_maps_there_and_back(align_corners):
    sizes = (12, 17), (9, 30)
    pixels = normalised_to_pixels(Projective.theta, *sizes, align_corners=align_corners)
    back = pixels_to_normalised(pixels, *sizes, align_corners=align_corners)
    torch.testing.assert_close(back, Projective.theta, rtol=0, atol=1e-13)
    places = reference.coordinates(reference.projective_map, Projective.theta, *sizes, align_corners)
    u, v, w = (pixel_coordinates(pixels[:, row : row + 1], sizes[1])[:, 0] for row in range(3))
    torch.testing.assert_close((u / w, v / w), places, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("shape", ((2, 2, 3), (2, 3, 3)))
@pytest.mark.parametrize("convert", (pixels_to_normalised, normalised_to_pixels))
def test_conversions_are_differentiable(convert, shape):
    theta = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: convert(t, (4, 5), (6, 7), align_corners=True), theta)


def test_half_precision_is_converted_in_single():
    matrix = torch.tensor([[[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]]], dtype=torch.bfloat16)
    theta = pixels_to_normalised(matrix, (1080, 1920), (1080, 1920))
    assert theta.dtype == torch.float32
    assert theta[0, 0, 2].item() == pytest.approx(1 / 1920, rel=1e-3)  # a bfloat16 sum would be 0


@pytest.mark.parametrize("convert", (pixels_to_normalised, normalised_to_pixels))
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            (torch.eye(2, 3), (4, 5), (4, 5)),
            ValueError,
            r"theta of shape \(N, 2, 3\), \(N, 3, 3\) or \(N, 3, 4\), but got",
        ),
        (
            (torch.eye(2, 3)[None], (4,), (4, 5)),
            ValueError,
            r"in_size of two positive integers \(height, width\), but got \(4,\)",
        ),
        (
            (torch.eye(2, 3)[None], (4, 5), (0, 5)),
            ValueError,
            r"out_size of two positive integers \(height, width\), but got \(0",
        ),
        (
            (torch.eye(2, 3)[None].long(), (4, 5), (4, 5)),
            TypeError,
            "a floating-point dtype, but got torch.int",
        ),
        (([[1, 0, 0], [0, 1, 0]], (4, 5), (4, 5)), TypeError, "a tensor theta, but got list"),
    ],
)
def test_errors(convert, arguments, error, message):
    with pytest.raises(error, match=f"^{convert.__name__}: expected .*{message}"):
        convert(*arguments)


@pytest.mark.parametrize("convert", (pixels_to_normalised, normalised_to_pixels))
def test_a_convention_is_a_truth_value(convert):
    with pytest.raises(TypeError, match=f"^{convert.__name__}: expected align_corners of type bool, but got"):
        convert(torch.eye(2, 3)[None], (4, 5), (4, 5), align_corners="no")
