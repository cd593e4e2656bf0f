"""Maps in pixel units: OpenCV's matrices, and the same map whatever align_corners."""

import pytest
import torch

from stn_ext import affine_sample, normalised_to_pixels, pixels_to_normalised, reference
from tests.maps import MAPS, PADDINGS

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


@pytest.mark.parametrize("in_size, out_size", SIZES)
def test_values_are_opencvs(device, in_size, out_size):
    cv2 = pytest.importorskip("cv2", minversion="5")  # before, coordinates had five bits after the point
    matrix = torch.tensor([[[0.8313, -0.2117, 1.2371], [0.3119, 1.1713, -0.9371]]], dtype=torch.float64)
    x = torch.rand(1, 1, *in_size)
    expected = cv2.warpAffine(
        x[0, 0].numpy(), matrix[0].numpy(), out_size[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )
    theta = pixels_to_normalised(matrix, in_size, out_size)
    y = affine_sample(x.to(device), theta.to(device), out_size).cpu()
    # Coordinates of some ten pixels in float32, 2^-20, times differences of at most 1.
    expected = torch.from_numpy(expected).view(1, 1, *out_size)
    torch.testing.assert_close(y, expected, rtol=0, atol=4e-6)


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


@pytest.mark.parametrize("convert", (pixels_to_normalised, normalised_to_pixels))
def test_conversions_are_differentiable(convert):
    theta = torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True)
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
            r"theta of shape \(N, 2, 3\) or \(N, 3, 4\), but got",
        ),
        (
            (torch.eye(2, 3)[None], (4,), (4, 5)),
            ValueError,
            r"in_size of 2 positive integers, but got \(4,\)",
        ),
        (
            (torch.eye(2, 3)[None], (4, 5), (0, 5)),
            ValueError,
            r"out_size of 2 positive integers, but got \(0",
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
