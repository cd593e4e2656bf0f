"""Affine maps taken apart and put together, against SciPy, kornia, OpenCV and angles measured in pixels."""

import math

import numpy as np
import pytest
import torch

from stn_ext import affine_sample, geometry, normalised_to_pixels, transforms
from tests.test_geometry import maps

SIZES = (60, 120), (45, 31)


def test_parameters_are_those_of_the_formula():
    """A picture's own numbers, composed by matrix products."""
    angle, scale, shear = 0.7, (1.5, -0.4), 0.3
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    linear = turn @ np.diag(scale) @ np.array([[1, shear], [0, 1]])
    theta = torch.from_numpy(np.concatenate((linear, [[0.2], [-0.1]]), 1))[None]
    found = geometry.parameters(theta)
    expected = ([angle], [list(scale)], [shear], [[0.2, -0.1]])
    for ours, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, torch.tensor(wanted, dtype=torch.float64))
    torch.testing.assert_close(geometry.from_parameters(*found), theta)


def test_the_decomposition_is_scipys_qr():
    linalg = pytest.importorskip("scipy.linalg")
    theta = torch.cat((maps("affine"), maps("affine").flip(1)))  # mirrored too
    angle, scale, shear, _ = geometry.parameters(theta)
    for n, matrix in enumerate(theta[:, :, :2].numpy()):
        q, r = linalg.qr(matrix)
        # A turn with a positive scale along x: signs that QR leaves open.
        q, r = q * np.sign(r[0, 0]), r * np.sign(r[0, 0])
        if np.linalg.det(q) < 0:
            q[:, 1], r[1] = -q[:, 1], -r[1]
        np.testing.assert_allclose(math.atan2(q[1, 0], q[0, 0]), angle[n], atol=1e-12)
        np.testing.assert_allclose(np.diag(r), scale[n], atol=1e-12)
        np.testing.assert_allclose(r[0, 1] / r[0, 0], shear[n], atol=1e-12)


def test_composed_as_kornia_does():
    """Whose angles are in degrees, counterclockwise, and whose shears are tangents of the other sign."""
    kornia = pytest.importorskip("kornia.geometry.transform")
    zero = torch.zeros(4, dtype=torch.float64)
    angle, shear = (torch.randn(4, dtype=torch.float64) for _ in range(2))
    scale, shift = torch.rand(4, 2, dtype=torch.float64) + 0.5, torch.randn(4, 2, dtype=torch.float64)
    center = torch.zeros(4, 2, dtype=torch.float64)
    turn = kornia.get_rotation_matrix2d(center, -angle.rad2deg(), scale)
    shears = kornia.get_shear_matrix2d(center, -shear.atan(), zero)
    expected = geometry.compose(turn, shears[:, :2])
    expected[:, :, 2] += shift
    ours = geometry.from_parameters(angle, scale, shear, shift)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("sizes", [(), SIZES[:1], SIZES])
def test_there_and_back(sizes, align_corners):
    theta = torch.cat((maps("affine"), maps("affine").flip(1)))
    parts = geometry.parameters(theta, *sizes, align_corners=align_corners)
    back = geometry.from_parameters(*parts, *sizes, align_corners=align_corners)
    torch.testing.assert_close(back, theta, rtol=0, atol=1e-13)
    if not sizes:
        return
    # The same in pixels, whatever the corners are, but for where the translation counts from.
    pixels = normalised_to_pixels(theta, SIZES[0], sizes[-1], align_corners=align_corners)
    expected = geometry.parameters(pixels)
    for ours, wanted in zip(parts[:3], expected[:3], strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-11, atol=1e-12)
    middles = (torch.tensor([[(s[1] - 1) / 2, (s[0] - 1) / 2]]).double() for s in (SIZES[0], sizes[-1]))
    middle_in, middle_out = middles
    read = geometry.warp_points(middle_out[None], pixels)[:, 0]
    torch.testing.assert_close(parts.translation, read - middle_in, rtol=0, atol=1e-11)


def test_an_angle_is_the_pictures_own():
    """45 degrees in a picture twice as wide as high, with distances kept."""
    theta = geometry.from_parameters(
        torch.tensor([math.pi / 4]), torch.ones(1, 2), torch.zeros(1), torch.zeros(1, 2), (60, 120)
    )
    square = torch.tensor([[[50.0, 20.0], [70.0, 20.0], [70.0, 40.0], [50.0, 40.0]]])
    there = geometry.warp_points(square, theta, in_size=(60, 120))[0]
    sides = there.roll(-1, 0) - there
    torch.testing.assert_close(sides.norm(dim=1), torch.full((4,), 20.0))
    torch.testing.assert_close(sides[0], torch.full((2,), 20 / math.sqrt(2)))


def test_no_extent_is_no_number():
    theta = torch.tensor([[[0.0, 1.0, 0.5], [0.0, 1.0, 0.0]]])
    found = geometry.parameters(theta)
    assert found.scale[0, 0] == 0 and found.scale[0, 1].isnan() and found.shear.isnan().all()
    assert found.translation.tolist() == [[0.5, 0.0]]
    flat = torch.tensor([[[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])  # across it there may be none
    assert geometry.parameters(flat).scale.tolist() == [[2.0, 0.0]]


BOX = torch.tensor([[33.25, 21.5]]), torch.tensor([[24.0, 16.0]]), torch.tensor([0.6])


@pytest.mark.parametrize("angle", [0.0, 0.6, -1.1, 2.5])
def test_a_box_is_read_as_opencv_turns_and_crops(angle):
    cv2 = pytest.importorskip("cv2", minversion="5")
    image = torch.rand(1, 1, 40, 70)
    (x, y), (width, height) = BOX[0][0].tolist(), (24, 16)
    matrix = cv2.getRotationMatrix2D((x, y), math.degrees(angle), 1)
    matrix[:, 2] += (width - 1) / 2 - x, (height - 1) / 2 - y
    expected = cv2.warpAffine(image[0, 0].numpy(), matrix, (width, height), flags=cv2.INTER_LINEAR)
    theta = geometry.from_box(BOX[0], BOX[1], torch.tensor([angle]), (40, 70))
    ours = affine_sample(image, theta, (height, width))[0, 0]
    # Coordinates of some fifty pixels in float32, times differences of at most 1.
    torch.testing.assert_close(ours, torch.from_numpy(expected), rtol=0, atol=1e-4)


@pytest.mark.parametrize("align_corners", [False, True])
def test_a_boxs_corners_are_opencvs(align_corners):
    cv2 = pytest.importorskip("cv2")
    theta = geometry.from_box(*BOX, (40, 70), align_corners=align_corners)
    corners = cv2.boxPoints((BOX[0][0].tolist(), BOX[1][0].tolist(), math.degrees(0.6)))
    # From the lower left one on, clockwise: of the box as its own angle has it.
    own = torch.tensor([[[-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [1.0, 1.0]]])
    there = geometry.warp_points(own, theta)[0]
    half = torch.tensor([70.0, 40.0]) / 2 - (0.5 if align_corners else 0)
    there = half * there + (torch.tensor([70.0, 40.0]) - 1) / 2
    torch.testing.assert_close(there, torch.from_numpy(corners), rtol=0, atol=1e-4)


def test_a_box_of_the_whole_image_is_the_identity():
    whole = torch.tensor([[59.5, 29.5]]), torch.tensor([[120.0, 60.0]]), torch.zeros(1)
    torch.testing.assert_close(geometry.from_box(*whole, (60, 120)), torch.eye(2, 3)[None])
    centres = whole[0], whole[1] - 1, whole[2]
    torch.testing.assert_close(
        geometry.from_box(*centres, (60, 120), align_corners=True), torch.eye(2, 3)[None]
    )
    one = geometry.from_box(torch.zeros(1, 2), torch.ones(1, 2), torch.zeros(1), 1, align_corners=True)
    assert torch.equal(one, torch.zeros(1, 2, 3))
    # Its angle, size and place are found again.
    parts = geometry.parameters(geometry.from_box(*BOX, (60, 120)), (60, 120), (32, 48))
    torch.testing.assert_close(parts.angle, BOX[2])
    torch.testing.assert_close(parts.scale, torch.full((1, 2), 0.5))
    torch.testing.assert_close(parts.translation, BOX[0] - whole[0])


def test_derivatives_and_batches():
    theta = maps("affine", 3).requires_grad_()
    for sizes in ((), SIZES):
        assert torch.autograd.gradcheck(lambda t: geometry.parameters(t, *sizes), (theta,))  # noqa: B023
        parts = [part.detach().requires_grad_() for part in geometry.parameters(theta, *sizes)]
        assert torch.autograd.gradcheck(lambda *p: geometry.from_parameters(*p, *sizes), parts)  # noqa: B023
        each = torch.func.vmap(lambda *p: geometry.from_parameters(*(x[None] for x in p), *sizes)[0])  # noqa: B023
        torch.testing.assert_close(each(*parts), theta, rtol=0, atol=1e-13)
    box = [part.double().repeat(3, *[1] * (part.ndim - 1)).requires_grad_() for part in BOX]
    assert torch.autograd.gradcheck(lambda *b: geometry.from_box(*b, (40, 70)), box, check_forward_ad=True)
    many = geometry.from_box(box[0], box[1][:1], box[2][:1], (40, 70))
    assert torch.equal(many, geometry.from_box(*box, (40, 70)))


def test_compilers_take_any_number_of_maps():
    def there_and_back(theta):
        return geometry.from_parameters(*geometry.parameters(theta, *SIZES), *SIZES)

    compiled = torch.compile(there_and_back, backend="aot_eager", fullgraph=True, dynamic=True)
    for count in (2, 5):
        theta = maps("affine", count)
        torch.testing.assert_close(compiled(theta), theta, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_dtype(dtype):
    theta = maps("affine", dtype=dtype)
    wide = torch.promote_types(dtype, torch.float32)
    parts = geometry.parameters(theta)
    assert {part.dtype for part in parts} == {wide}
    back = geometry.from_parameters(*parts)
    assert back.dtype == wide
    torch.testing.assert_close(back, theta.to(wide), rtol=0, atol=1e-6)
    assert geometry.from_box(*(part.to(dtype) for part in BOX), (40, 70)).dtype == wide


def test_mistakes_are_told():
    for arguments, error, message in (
        ((torch.eye(3)[None],), ValueError, r"theta of shape \(N, 2, 3\), but got \(1, 3, 3\)"),
        (("theta",), TypeError, "a tensor theta, but got str"),
        ((torch.eye(2, 3)[None], None, 4), ValueError, "in_size together with out_size"),
        ((torch.eye(2, 3)[None], (4, 4, 4)), ValueError, r"in_size of two positive integers"),
    ):
        with pytest.raises(error, match=f"^parameters: expected {message}"):
            geometry.parameters(*arguments)
    one, two = torch.ones(3), torch.ones(3, 2)
    with pytest.raises(
        ValueError, match=r"^from_parameters: expected shear of shape \(N,\), but got \(3, 2\)"
    ):
        geometry.from_parameters(one, two, two, two)
    with pytest.raises(
        ValueError, match=r"^from_parameters: .* many scale as angle, or one, but got 2 and 3"
    ):
        geometry.from_parameters(one, two[:2], one, two)
    with pytest.raises(ValueError, match=r"^from_box: expected center of shape \(N, 2\), but got \(3,\)"):
        geometry.from_box(one, two, one, 4)
    with pytest.raises(TypeError, match=r"^from_box: expected a tensor angle, but got float"):
        geometry.from_box(two, two, 0.5, 4)
    with pytest.raises(ValueError, match=r"^from_box: expected in_size of two positive integers"):
        geometry.from_box(two, two, one, 0)


def test_the_transforms_are_composed_of_the_same():
    angle, none = torch.tensor([0.4]), torch.zeros(1, 2)
    ours = geometry.from_parameters(angle, torch.ones(1, 2), none[:, 0], none)
    torch.testing.assert_close(ours, transforms.create("rotation")(angle[:, None]))
