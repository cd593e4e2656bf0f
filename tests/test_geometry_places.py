"""Points and boxes taken through maps, against loops, kornia, OpenCV and what the samplers show."""

import itertools

import numpy as np
import pytest
import torch

from stn_ext import affine_sample, geometry, normalised_to_pixels, reference
from stn_ext.transforms import ThinPlateSpline
from tests.test_geometry import maps, places

SIZES = (12, 20), (7, 31)  # in, out
VOLUMES = (5, 12, 20), (6, 7, 31)


def sizes(kind):
    in_size, out_size = VOLUMES if kind == "volume" else SIZES
    return {"in_size": in_size, "out_size": out_size}


def points(kind, count=7, numbers=5):
    generator = torch.Generator().manual_seed(1)
    axes = 3 if kind == "volume" else 2
    return torch.rand(numbers, count, axes, generator=generator, dtype=torch.float64) - 0.5


def spline(dtype=torch.float64):
    """Five bent thetas, and their control points."""
    transform = ThinPlateSpline((3, 4))
    noise = 0.1 * torch.randn(5, 24, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return transform(torch.tensor(transform.identity) + noise).to(dtype), transform.points


@pytest.mark.parametrize("kind", ["affine", "projective", "volume"])
def test_points_are_taken_as_the_definition_says(kind):
    theta, at = maps(kind), points(kind)
    expected = torch.cat([places(theta[n : n + 1], at[n]) for n in range(5)])
    torch.testing.assert_close(geometry.warp_points(at, theta), expected, rtol=1e-13, atol=1e-13)
    back = geometry.warp_points(geometry.warp_points(at, theta), geometry.invert(theta))
    torch.testing.assert_close(back, at, rtol=0, atol=1e-12)


def test_points_are_kornias():
    kornia = pytest.importorskip("kornia.geometry.linalg")
    theta, at = maps("projective"), points("projective")
    torch.testing.assert_close(geometry.warp_points(at, theta), kornia.transform_points(theta, at))


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("kind", ["affine", "projective", "volume"])
def test_points_in_pixels_go_by_the_map_in_pixels(kind, align_corners):
    theta, at = 0.3 * maps(kind), 10 * points(kind)
    if kind == "projective":
        theta[:, 2] = theta.new_tensor([0.1, 0.2, 1.0])
    there = geometry.warp_points(at, theta, **sizes(kind), align_corners=align_corners)
    pixels = normalised_to_pixels(theta, *sizes(kind).values(), align_corners=align_corners)
    torch.testing.assert_close(there, geometry.warp_points(at, pixels), rtol=1e-12, atol=1e-12)
    expected = torch.cat([places(pixels[n : n + 1], at[n]) for n in range(5)])
    torch.testing.assert_close(there, expected, rtol=1e-12, atol=1e-12)
    exchanged = {"in_size": sizes(kind)["out_size"], "out_size": sizes(kind)["in_size"]}
    back = geometry.warp_points(there, geometry.invert(theta), **exchanged, align_corners=align_corners)
    torch.testing.assert_close(back, at, rtol=0, atol=1e-10)


@pytest.mark.parametrize("align_corners", [False, True])
def test_a_splines_points_are_where_the_sampler_reads(align_corners):
    (theta, control), (in_size, out_size) = spline(), SIZES

    def mapping(theta, x, y):
        return reference.thin_plate_spline_map(theta, control, x, y)

    x, y = reference.coordinates(mapping, theta, in_size, out_size, align_corners)
    i, j = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in out_size), indexing="ij")
    pixels = torch.stack((j, i), 2).view(1, -1, 2)
    options = {"in_size": in_size, "out_size": out_size, "align_corners": align_corners}
    there = geometry.warp_points(pixels, theta, control_points=control, **options)
    expected = torch.stack((x, y), 3).flatten(1, 2)
    torch.testing.assert_close(there, expected, rtol=0, atol=1e-11)
    # One row or column between aligned corners is at 0, and is read in the middle.
    flat = geometry.warp_points(pixels[:, :1], theta, in_size=9, out_size=1, control_points=control)
    middle = geometry.warp_points(torch.zeros(1, 1, 2), theta, control_points=control)
    torch.testing.assert_close(flat, 4.5 * middle + 4, rtol=0, atol=1e-11)


def test_a_spline_takes_its_control_points_to_the_parameters_with_a_derivative():
    theta, control = spline()
    at = control[None].clone().requires_grad_()
    there = geometry.warp_points(at, theta, control_points=control)
    (slope,) = torch.autograd.grad(there.sum(), at)
    step = 1e-6 * torch.eye(2, dtype=torch.float64)
    for axis in range(2):
        higher, lower = (
            geometry.warp_points(control[None] + sign * step[axis], theta, control_points=control).sum((0, 2))
            for sign in (1, -1)
        )
        # U's second derivative grows as a logarithm: differences are good to some 1e-5.
        torch.testing.assert_close(slope[0, :, axis], (higher - lower) / 2e-6, rtol=0, atol=1e-4)


def test_behind_the_horizon_is_infinitely_far():
    theta = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.5]]], requires_grad=True)
    at = torch.tensor([[[0.5, 0.5], [-0.5, 0.0], [-1.0, 0.0]]], requires_grad=True)
    pixels = {"in_size": (1, 5), "align_corners": True}
    for given, options in ((at, {}), (2 * at + 2, pixels)):
        there = geometry.warp_points(given, theta, **options)
        assert there[0, 0].isfinite().all() and there[0, 1:].eq(torch.inf).all()
    geometry.warp_points(at, theta)[0, 1:].sum().backward()
    assert not theta.grad.any() and not at.grad.any()


BOXES = torch.tensor(
    [[[-0.3, -0.2, 0.4, 0.1], [0.1, -0.4, 0.2, 0.35], [0.0, 0.0, 0.0, 0.0]]], dtype=torch.float64
).expand(5, 3, 4)


def bounds(theta, box):
    """Of a box's corners, one by one."""
    corners = torch.stack([torch.stack(corner) for corner in itertools.product(box[0::2], box[1::2])])
    taken = places(theta[None], corners)[0]
    return torch.cat((taken.min(0).values, taken.max(0).values))


@pytest.mark.parametrize("kind", ["affine", "projective"])
def test_boxes_bound_their_corners(kind):
    theta = maps(kind)
    expected = torch.stack([torch.stack([bounds(t, box) for box in boxes]) for t, boxes in zip(theta, BOXES)])  # noqa: B905
    torch.testing.assert_close(geometry.warp_boxes(BOXES, theta), expected, rtol=0, atol=1e-13)
    corner, extent = BOXES[..., :2], BOXES[..., 2:] - BOXES[..., :2]
    x0y0, x1y1 = expected.split(2, 2)
    for format, given, wanted in (
        ("xywh", corner, x0y0),
        ("cxcywh", corner + extent / 2, (x0y0 + x1y1) / 2),
    ):
        result = geometry.warp_boxes(torch.cat((given, extent), 2), theta, format)
        torch.testing.assert_close(result, torch.cat((wanted, x1y1 - x0y0), 2), rtol=0, atol=1e-13)
    pixels = {"in_size": 10, "out_size": (4, 6)}
    matrix = normalised_to_pixels(theta, *pixels.values())
    torch.testing.assert_close(
        geometry.warp_boxes(BOXES, theta, **pixels), geometry.warp_boxes(BOXES, matrix), rtol=0, atol=1e-12
    )


def test_boxes_go_along_with_the_picture():
    """A bright rectangle of whole pixels is found again in the picture turned by 90 degrees, and larger."""
    image = torch.zeros(1, 1, 40, 60)
    image[..., 10:18, 20:25] = 1
    box = torch.tensor([[[19.5, 9.5, 24.5, 17.5]]])
    parts = torch.tensor([torch.pi / 2]), torch.full((1, 2), 0.5), torch.zeros(1), torch.tensor([[3.0, -2.0]])
    sizes = (40, 60), (100, 90)
    theta = geometry.from_parameters(*parts, *sizes)
    seen = affine_sample(image, theta, sizes[1])[0, 0] > 0.5
    rows, columns = seen.any(1).nonzero(), seen.any(0).nonzero()
    expected = torch.cat((columns.min()[None], rows.min()[None], columns.max()[None], rows.max()[None]))
    expected = expected + torch.tensor([-0.5, -0.5, 0.5, 0.5])
    result = geometry.warp_boxes(box, geometry.invert(theta), in_size=sizes[1], out_size=sizes[0])
    torch.testing.assert_close(result[0, 0], expected, rtol=0, atol=1e-3)
    assert expected[2] - expected[0] == 16 and expected[3] - expected[1] == 10


def test_no_boxes_and_boxes_without_bounds():
    theta = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.5]]])
    assert geometry.warp_boxes(torch.zeros(1, 0, 4), theta).shape == (1, 0, 4)
    boxes = geometry.warp_boxes(torch.tensor([[[-0.7, 0.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.5]]]), theta)
    assert boxes[0, 0].tolist() == [-torch.inf, -torch.inf, torch.inf, torch.inf]
    assert boxes[0, 1].isfinite().all()


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("kind", ["affine", "projective", "volume", "spline"])
def test_inside_counts_pixel_by_pixel(kind, align_corners):
    theta, control = spline() if kind == "spline" else (maps(kind), None)
    in_size, out_size = sizes(kind).values()
    mask = geometry.inside(theta, in_size, out_size, align_corners, control_points=control)
    assert mask.shape == (5, *out_size) and mask.dtype == torch.bool
    assert 0.2 < mask.double().mean() < 0.98
    for n, index in itertools.product(range(2), itertools.product(*map(range, out_size))):
        at = torch.tensor([[index[::-1]]], dtype=torch.float64)
        options = {"in_size": in_size, "out_size": out_size, "align_corners": align_corners}
        (place,) = geometry.warp_points(at, theta[n : n + 1], control_points=control, **options)[0].tolist()
        within = all(-0.5 <= p <= length - 0.5 for p, length in zip(place, in_size[::-1], strict=True))
        assert mask[(n, *index)] == within


@pytest.mark.parametrize("align_corners", [False, True])
def test_inside_is_where_nearest_sampling_reads(align_corners):
    """But on the very edge, which these maps do not meet."""
    theta, (in_size, out_size) = maps("affine").float(), SIZES
    ones = torch.ones(1, 1, *in_size)
    seen = affine_sample(ones, theta, out_size, mode="nearest", align_corners=align_corners)[:, 0]
    assert torch.equal(geometry.inside(theta, in_size, out_size, align_corners), seen == 1)


def test_inside_has_its_edges_and_no_place_that_is_no_number():
    to_the_edge = torch.tensor([[[1.0, 0.0, 0.25], [0.0, 1.0, 0.0]]])  # by half a pixel of four
    assert geometry.inside(to_the_edge, (1, 4)).all()
    assert not geometry.inside(to_the_edge * 1.0001, (1, 4))[..., -1].any()
    assert not geometry.inside(to_the_edge * torch.nan, (1, 4)).any()
    assert not geometry.inside(to_the_edge * torch.inf, (1, 4)).any()
    behind = -torch.eye(3)[None]
    assert not geometry.inside(behind, 5).any() and geometry.inside(-behind, 5).all()


@pytest.mark.parametrize("kind", ["affine", "projective", "volume", "spline"])
def test_derivatives(kind):
    theta, control = spline() if kind == "spline" else (maps(kind), None)
    theta, at = theta[:2].requires_grad_(), points(kind, 3, 2).requires_grad_()

    def warped(at, theta):
        options = sizes(kind) | {"control_points": control}
        return geometry.warp_points(at, theta, **options) + geometry.warp_points(
            at, theta, control_points=control
        )

    assert torch.autograd.gradcheck(warped, (at, theta), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(warped, (at, theta))
    if kind in ("affine", "projective"):
        boxes = BOXES[:2, :2].clone().requires_grad_()
        for format in ("xyxy", "xywh", "cxcywh"):
            assert torch.autograd.gradcheck(
                lambda boxes, theta: geometry.warp_boxes(boxes, theta, format),  # noqa: B023
                (boxes, theta),
                check_forward_ad=True,
            )


@pytest.mark.parametrize("kind", ["affine", "projective", "volume"])
def test_one_stands_for_many(kind):
    theta, at = maps(kind), points(kind)
    each = [geometry.warp_points(at[:1], theta[n : n + 1]) for n in range(5)]
    torch.testing.assert_close(geometry.warp_points(at[:1], theta), torch.cat(each), rtol=0, atol=1e-14)
    each = [geometry.warp_points(at[n : n + 1], theta[:1]) for n in range(5)]
    torch.testing.assert_close(geometry.warp_points(at, theta[:1]), torch.cat(each), rtol=0, atol=1e-14)
    mapped = torch.func.vmap(lambda at, theta: geometry.warp_points(at[None], theta[None])[0])(at, theta)
    torch.testing.assert_close(mapped, geometry.warp_points(at, theta), rtol=0, atol=1e-14)
    if kind != "volume":
        boxes = geometry.warp_boxes(BOXES[:1], theta)
        torch.testing.assert_close(boxes, geometry.warp_boxes(BOXES, theta), rtol=0, atol=1e-14)
    masks = torch.func.vmap(lambda theta: geometry.inside(theta[None], 4)[0])(theta)
    assert torch.equal(masks, geometry.inside(theta, 4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_dtype_and_the_wider_of_two(dtype):
    theta, at = maps("affine", dtype=dtype), points("affine").to(dtype)
    wide = torch.promote_types(dtype, torch.float32)
    there = geometry.warp_points(at, theta)
    assert there.dtype == geometry.warp_boxes(BOXES.to(dtype), theta).dtype == wide
    expected = geometry.warp_points(at.double(), theta.double())
    torch.testing.assert_close(there, expected.to(wide), rtol=0, atol=0)
    assert geometry.warp_points(at.double(), theta).dtype == torch.float64


def test_compilers_take_any_number_of_points():
    def both(at, boxes, theta):
        there = geometry.warp_points(at, theta, in_size=(4, 5))
        return there, geometry.warp_boxes(boxes, theta), geometry.inside(theta, (4, 5), (3, 2))

    compiled = torch.compile(both, backend="aot_eager", fullgraph=True, dynamic=True)
    for count in (2, 4):
        given = points("affine", count + 1, count), BOXES[:count], maps("affine", count)
        for ours, expected in zip(compiled(*given), both(*given), strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-13, atol=1e-13)


POINTS, THETA = torch.zeros(2, 4, 2), torch.eye(2, 3).expand(2, 2, 3)


@pytest.mark.parametrize(
    "arguments, options, error, message",
    [
        (([[0.0]], THETA), {}, TypeError, "a tensor points, but got list"),
        ((POINTS, None), {}, TypeError, "a tensor theta, but got NoneType"),
        ((POINTS.int(), THETA), {}, TypeError, r"points of a floating-point dtype, but got torch\.int32"),
        ((POINTS[0], THETA), {}, ValueError, r"points of shape \(N, P, 2\), but got \(4, 2\)"),
        (
            (POINTS, torch.eye(3, 4)[None]),
            {},
            ValueError,
            r"points of shape \(N, P, 3\), but got \(2, 4, 2\)",
        ),
        ((POINTS, torch.eye(4)[None]), {}, ValueError, r"\(N, 3, 3\) or \(N, 3, 4\), but got \(1, 4, 4\)"),
        ((torch.zeros(3, 4, 2), THETA), {}, ValueError, "as many theta as points, or one, but got 2 and 3"),
        ((POINTS, THETA), {"out_size": 4}, ValueError, "in_size together with out_size"),
        ((POINTS, THETA), {"in_size": (4, 0)}, ValueError, r"in_size of two positive integers .* \(4, 0\)"),
        ((POINTS, THETA), {"in_size": 4, "align_corners": 1}, TypeError, "align_corners of type bool"),
        ((POINTS, THETA), {"control_points": torch.zeros(9, 2)}, ValueError, r"theta of shape \(N, 2, 12\)"),
        (
            (POINTS, THETA),
            {"control_points": torch.zeros(2)},
            ValueError,
            r"control_points of shape \(K, 2\)",
        ),
    ],
)
def test_mistakes_are_told(arguments, options, error, message):
    with pytest.raises(error, match=f"^warp_points: expected .*{message}"):
        geometry.warp_points(*arguments, **options)


def test_mistakes_of_boxes_and_inside_are_told():
    boxes = torch.zeros(2, 3, 4)
    for format in ("yxyx", None, 3):
        with pytest.raises(ValueError, match=f"^warp_boxes: expected format of xyxy, .* but got {format!r}"):
            geometry.warp_boxes(boxes, THETA, format)
    with pytest.raises(
        ValueError, match=r"^warp_boxes: expected boxes of shape \(N, P, 4\), but got \(3, 4\)"
    ):
        geometry.warp_boxes(boxes[0], THETA)
    with pytest.raises(
        ValueError, match=r"^warp_boxes: expected theta of shape \(N, 2, 3\) or \(N, 3, 3\), "
    ):
        geometry.warp_boxes(boxes, torch.eye(3, 4)[None])
    with pytest.raises(
        ValueError, match=r"^inside: expected in_size of two positive integers .* but got None"
    ):
        geometry.inside(THETA, None)
    with pytest.raises(ValueError, match=r"^inside: expected theta of shape .* but got \(2, 3\)"):
        geometry.inside(THETA[0], 4)


def test_opencv_takes_points_to_the_same_places():
    cv2 = pytest.importorskip("cv2")
    theta, at = maps("projective"), points("projective")
    for n in range(5):
        expected = cv2.perspectiveTransform(at[n].numpy()[None], theta[n].numpy())
        np.testing.assert_allclose(geometry.warp_points(at, theta)[n], expected[0], rtol=1e-12)
