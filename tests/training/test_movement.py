"""What a transformer did, in words and as an outline, against pictures that are really warped."""

import math
import re

import pytest
import torch

from stn_ext.nn import SpatialTransformer
from stn_ext.training import movement

SIZE = (40, 60)  # height, width: an image that is not square


def transformer(transform="affine", size=None):
    parameters = {"affine": 6, "projective": 8, "thin_plate_spline": 32}[transform]
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(SIZE[0] * SIZE[1], parameters))
    return SpatialTransformer(network, transform, size)


def theta_in_pixels(way, shift, in_size=SIZE, out_size=SIZE):
    """Theta of a way: output = way (input - its centre) + its own centre + shift, in pixels."""
    back = torch.linalg.inv(torch.tensor(way, dtype=torch.float64))
    scale_in, scale_out = (torch.tensor([w, h], dtype=torch.float64) / 2 for h, w in (in_size, out_size))
    matrix = back * scale_out / scale_in[:, None]
    return torch.cat((matrix, (-back @ torch.tensor(shift).double() / scale_in)[:, None]), 1)[None]


def turned(degrees, scale=1.0):
    """Clockwise as one looks at a picture, whose y runs down."""
    angle = math.radians(degrees)
    return [
        [scale * math.cos(angle), -scale * math.sin(angle)],
        [scale * math.sin(angle), scale * math.cos(angle)],
    ]


@pytest.mark.parametrize(
    "way, shift, said",
    [
        (turned(0), (0, 0), "as it was"),
        (turned(12), (0, 0), "turned by 12 degrees clockwise"),
        (turned(-30, 0.9), (0, 0), "turned by 30 degrees counterclockwise, scaled 0.90"),
        (turned(0), (3, 0), "moved 3.0 pixels right"),
        (turned(0), (-3, 1.5), "moved 3.0 pixels left and 1.5 down"),
        (turned(0, 2.0), (0, -4), "scaled 2.00, moved 4.0 pixels up"),
        ([[2.0, 0.0], [0.0, 0.5]], (0, 0), "stretched 4.00"),
        ([[-1.0, 0.0], [0.0, 1.0]], (0, 0), "mirrored"),
    ],
)
def test_the_words_tell_the_pictures_way(way, shift, said):
    theta = theta_in_pixels(way, shift)
    assert movement.words(transformer(), theta, SIZE) == [said]


def spot(x, y):
    """A smooth spot at a place in pixels, (1, 1, H, W)."""
    rows, columns = (torch.arange(length, dtype=torch.float64) for length in SIZE)
    return torch.exp(-((rows[:, None] - y) ** 2 + (columns - x) ** 2) / 8)[None, None]


def middle(image):
    """Of an image's values: (x, y)."""
    image = image[0, 0] / image.sum()
    rows, columns = (torch.arange(length, dtype=torch.float64) for length in image.shape)
    return float((image.sum(0) * columns).sum()), float((image.sum(1) * rows).sum())


@pytest.mark.parametrize("size", [None, (30, 50)])
def test_a_picture_that_is_warped_moves_as_the_words_say(size):
    """The operator itself is the oracle: two spots, of which one turns about the other."""
    out = size or SIZE
    theta = theta_in_pixels(turned(25, 0.8), (2.0, -1.0), SIZE, out)
    module = transformer(size=size)
    centre_in, centre_out = ((29.5, 19.5), ((out[1] - 1) / 2, (out[0] - 1) / 2))
    x0, y0 = middle(module.sample(spot(*centre_in), theta))
    x1, y1 = middle(module.sample(spot(centre_in[0] + 10, centre_in[1]), theta))
    (part,) = movement.affine_parts(module, theta, SIZE)
    # A spot's middle is known to some hundredths of a pixel once it has been interpolated.
    assert part.right == pytest.approx(x0 - centre_out[0], abs=0.05) == pytest.approx(2.0, abs=0.05)
    assert part.down == pytest.approx(y0 - centre_out[1], abs=0.05) == pytest.approx(-1.0, abs=0.05)
    assert part.degrees == pytest.approx(math.degrees(math.atan2(y1 - y0, x1 - x0)), abs=0.5)
    assert part.scale == pytest.approx(math.hypot(x1 - x0, y1 - y0) / 10, abs=0.01)


def test_perspective_and_bending_are_said_with_their_size():
    theta = torch.eye(3)[None].clone()
    assert movement.words(transformer("projective"), theta, SIZE) == ["as it was"]
    theta[0, 2, 0] = 0.2
    (said,) = movement.words(transformer("projective"), theta, SIZE)
    assert re.search(r"in perspective by up to \d+\.\d pixels", said)
    theta[0, 2, 0] = 1.5  # a horizon through the picture
    assert movement.words(transformer("projective"), theta, SIZE) == ["beyond its horizon"]
    module = transformer("thin_plate_spline")
    places = torch.tensor(module.transform.identity)[None].clone()
    assert movement.words(module, module.transform(places), SIZE) == ["as it was"]
    places[0, 10] += 0.2
    assert "bent by up to" in movement.words(module, module.transform(places), SIZE)[0]


def test_what_shrinks_to_a_line_is_said():
    theta = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    assert movement.words(transformer(), theta, SIZE) == ["all of one line"]


def test_outlines_are_the_corners_in_pixels_of_the_input():
    theta = torch.tensor([[[0.5, 0.0, 0.5], [0.0, 0.5, 0.0]]])  # of the right half, the middle
    assert movement.outlines(transformer(), theta, SIZE) == [[[30, 10], [60, 10], [60, 30], [30, 30]]]
    module = transformer("thin_plate_spline")
    identity = module.transform(torch.tensor(module.transform.identity)[None])
    (points,) = movement.outlines(module, identity, SIZE)
    assert len(points) == 32 and [0.0, 0.0] in points and [60.0, 40.0] in points
    beyond = torch.eye(3)[None].clone()
    beyond[0, 2, 0] = 1.5
    assert movement.outlines(transformer("projective"), beyond, SIZE) == [[]]


def test_transformers_side_by_side_are_told_one_after_the_other():
    thetas = [theta_in_pixels(turned(10), (0, 0)), theta_in_pixels(turned(0, 1.5), (0, 0))]
    said, drawn = movement.of_images([transformer(), transformer()], thetas, SIZE)
    assert said == ["turned by 10 degrees clockwise; scaled 1.50"]
    assert len(drawn) == 1 and len(drawn[0]) == 2
    assert movement.of_images([], [], SIZE) == ([], [])
