"""Where maps take points and boxes, and which pixels they read inside of an image."""

from __future__ import annotations

import torch
from torch import Tensor

from ..arguments import Size, lengths, short
from ..overrides import overridable
from ..units import axis, normalised_to_pixels
from .checks import AFFINE, MAPS, check, check_numbers, result_dtype, sizes

__all__ = ["inside", "warp_boxes", "warp_points"]

FORMATS = "xyxy", "xywh", "cxcywh"

Sizes = tuple[tuple[int, ...], tuple[int, ...]]  # the input's and the output's


@overridable
def warp_points(
    points: Tensor,
    theta: Tensor,
    *,
    in_size: Size | None = None,
    out_size: Size | None = None,
    align_corners: bool = False,
    control_points: Tensor | None = None,
) -> Tensor:
    """Where the output's points are read in the input.

    ``theta (x, y, 1)`` for affine maps (Jaderberg et al. 2015, equation 1), also of volumes; (u / w, v / w)
    with ``(u, v, w) = theta (x, y, 1)`` for projective ones, as :func:`stn_ext.projective_sample` reads it;
    the formula of :func:`stn_ext.thin_plate_spline_sample` for splines, which have no inverse in closed form.
    Where the input's points come to lie in the output, ``warp_points(points, invert(theta))`` says; in
    pixels, with the two sizes exchanged.

    Args:
        points: (N, P, 2), or of volumes (N, P, 3): x, y(, z) in the output.
        theta: (N, 2, 3), (N, 3, 3), or of volumes (N, 3, 4); with control_points (N, 2, K + 3).
        in_size, out_size, align_corners: with in_size, points are pixels while theta is normalised. Points
            and theta that both are in pixels need no sizes.
        control_points: (K, 2) of a thin plate spline, such as
            ``stn_ext.transforms.ThinPlateSpline().points``, normalised.

    Returns:
        (N, P, 2) or (N, P, 3), in the input. A point on or behind the horizon of a projective map is
        infinite, with a derivative of zero. At a control point, where a spline has a first derivative but no
        second one, the second is given without the point's own share.

    Raises:
        ValueError: an argument of the wrong shape, or numbers N that differ.
        TypeError: what is no tensor, or of an integer dtype.

    Example:
        The corners of what is shown, of the left half of a picture, 8 pixels wide:

        >>> import torch
        >>> from stn_ext.geometry import warp_points
        >>> left = torch.tensor([[[0.5, 0.0, -0.5], [0.0, 1.0, 0.0]]])
        >>> warp_points(torch.tensor([[[-1.0, -1.0], [1.0, 1.0]]]), left)
        tensor([[[-1., -1.],
                 [ 0.,  1.]]])
        >>> warp_points(torch.tensor([[[-0.5, -0.5], [7.5, 3.5]]]), left, in_size=(4, 8))
        tensor([[[-0.5000, -0.5000],
                 [ 3.5000,  3.5000]]])
    """
    dims = _check_theta("warp_points", theta, control_points)
    check("warp_points", "points", points, ("N", "P", dims))
    check_numbers("warp_points", points=points, theta=theta)
    both = sizes("warp_points", in_size, out_size, dims, align_corners)
    places = _places(points.double(), theta.double(), both, align_corners, control_points)
    return places.to(result_dtype(points, theta))


@overridable
def warp_boxes(
    boxes: Tensor,
    theta: Tensor,
    format: str = "xyxy",
    *,
    in_size: Size | None = None,
    out_size: Size | None = None,
    align_corners: bool = False,
) -> Tensor:
    """The upright boxes around the output's boxes where they are read in the input.

    Each is the bounding box of the four corners taken through theta, larger than what it encloses where the
    map turns. A detector's boxes are annotations of the input: they go along with a picture that is warped by
    theta as ``warp_boxes(boxes, invert(theta))``.

    Args:
        boxes: (N, P, 4). Theirs are outer edges: the whole image is -1, -1, 1, 1, or in pixels -0.5, -0.5,
            W - 0.5, H - 0.5. Half a pixel is to be taken off boxes that count from the image's corner, as
            COCO's and torchvision's do, and to be added to the result's places.
        theta: (N, 2, 3) or (N, 3, 3).
        format: what the four numbers are, of boxes and result: "xyxy", the left, upper, right and lower edge;
            "xywh", the left and upper edge, width and height; or "cxcywh", the centre, width and height.
        in_size, out_size, align_corners: as for :func:`warp_points`.

    Returns:
        (N, P, 4), in the input; where the map mirrors, too, from left to right. A box that reaches a
        projective map's horizon at one of its corners has no bounds: its edges are infinite, its centre NaN.

    Raises:
        ValueError: an argument of the wrong shape, numbers N that differ, or an unknown format.
        TypeError: what is no tensor, or of an integer dtype.

    Example:
        A box in a picture of 4 x 8 pixels, and where it is in the mirrored one:

        >>> import torch
        >>> from stn_ext.geometry import invert, warp_boxes
        >>> mirror = torch.tensor([[[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
        >>> box = torch.tensor([[[0.5, 0.5, 2.5, 1.5]]])
        >>> warp_boxes(box, invert(mirror), in_size=(4, 8))
        tensor([[[4.5000, 0.5000, 6.5000, 1.5000]]])
    """
    check("warp_boxes", "theta", theta, AFFINE, ("N", 3, 3))
    check("warp_boxes", "boxes", boxes, ("N", "P", 4))
    check_numbers("warp_boxes", boxes=boxes, theta=theta)
    if format not in FORMATS:
        raise ValueError(f"warp_boxes: expected format of {', '.join(FORMATS)}, but got {short(format)}")
    both = sizes("warp_boxes", in_size, out_size, 2, align_corners)
    first, second = boxes.double().split(2, 2)
    if format != "xyxy":  # second is an extent
        first = first - second / 2 if format == "cxcywh" else first
        second = first + second
    (x0, y0), (x1, y1) = first.unbind(2), second.unbind(2)
    corners = torch.stack((x0, y0, x1, y0, x1, y1, x0, y1), 2).flatten(1).unflatten(1, (-1, 2))
    places = _places(corners, theta.double(), both, align_corners, None).unflatten(1, (-1, 4))
    boundless = places.isinf().any(3).any(2)[..., None]
    first = torch.where(boundless, -torch.inf, places.amin(2))
    second = torch.where(boundless, torch.inf, places.amax(2))
    if format != "xyxy":
        first, second = (first + second) / 2 if format == "cxcywh" else first, second - first
    return torch.cat((first, second), 2).to(result_dtype(boxes, theta))


@overridable
def inside(
    theta: Tensor,
    in_size: Size,
    out_size: Size | None = None,
    align_corners: bool = False,
    *,
    control_points: Tensor | None = None,
) -> Tensor:
    """Which of the output's pixels are read inside of the image.

    Inside is the area of the image's pixels, edges included: -0.5 <= x <= W - 0.5, and as much along the
    other axes, in pixels counted from the centre of the first. A pixel that is read within half a pixel of
    the edge counts as inside, though bilinear sampling gives it a share of what lies outside.

    Args:
        theta: normalised maps, (N, 2, 3), (N, 3, 3), or of volumes (N, 3, 4); with control_points
            (N, 2, K + 3).
        in_size: the input's (H, W), or (D, H, W).
        out_size: the output's; the input's when None.
        align_corners: as the sampler's.
        control_points: (K, 2) of a thin plate spline, normalised.

    Returns:
        (N, H_out, W_out) or (N, D_out, H_out, W_out), of dtype bool. False where a place is not a number, or
        behind the horizon. Places are computed in float64.

    Raises:
        ValueError: theta or a size of the wrong shape.
        TypeError: what is no tensor, theta of an integer dtype, or align_corners of another type.

    Example:
        >>> import torch
        >>> from stn_ext.geometry import inside
        >>> to_the_left = torch.tensor([[[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]])  # by half of the picture
        >>> inside(to_the_left, (2, 4))
        tensor([[[ True,  True, False, False],
                 [ True,  True, False, False]]])
    """
    dims = _check_theta("inside", theta, control_points)
    in_size = lengths("inside", "in_size", in_size, dims)
    both = sizes("inside", in_size, out_size, dims, align_corners)
    assert both is not None
    in_size, out_size = both
    numbers = (torch.arange(length, dtype=torch.float64, device=theta.device) for length in out_size)
    pixels = torch.stack(torch.meshgrid(*numbers, indexing="ij")[::-1], -1).flatten(0, -2)
    places = _places(pixels[None], theta.detach().double(), both, align_corners, control_points)
    within = [
        (place >= -0.5) & (place <= length - 0.5)
        for place, length in zip(places.unbind(2), reversed(in_size), strict=True)
    ]
    return torch.stack(within).all(0).unflatten(1, out_size)


def _check_theta(op: str, theta: Tensor, control_points: Tensor | None) -> int:
    """The number of axes."""
    if control_points is None:
        check(op, "theta", theta, *MAPS)
        return theta.shape[2] - 1
    check(op, "control_points", control_points, ("K", 2))
    check(op, "theta", theta, ("N", 2, len(control_points) + 3))
    return 2


def _places(
    points: Tensor, theta: Tensor, both: Sizes | None, align_corners: bool, control_points: Tensor | None
) -> Tensor:
    """Of checked arguments, in float64."""
    if control_points is not None:
        if both is None:
            return _spline(points, theta, control_points.to(points))
        of_input, of_output = ([axis(n, align_corners) for n in reversed(size)] for size in both)
        # Between aligned corners an axis of one pixel has the coordinate 0 alone.
        at = [(p - b) * (1 / a if a else 0.0) for p, (a, b) in zip(points.unbind(2), of_output, strict=True)]
        places = _spline(torch.stack(at, 2), theta, control_points.to(points))
        return torch.stack([a * p + b for p, (a, b) in zip(places.unbind(2), of_input, strict=True)], 2)
    if both is not None:
        theta = normalised_to_pixels(theta, *both, align_corners=align_corners)
    if theta.shape[1] != theta.shape[2]:
        return _affine(points, theta)
    places, w = _affine(points, theta).tensor_split((2,), 2)
    behind = w <= 0
    # Divided by 1 there: what is not selected has a derivative too, which must be finite.
    return torch.where(behind, torch.inf, places / torch.where(behind, 1, w))


def _affine(points: Tensor, theta: Tensor) -> Tensor:
    return points @ theta[..., :-1].mT + theta[:, None, :, -1]


def _spline(points: Tensor, theta: Tensor, control_points: Tensor) -> Tensor:
    """A weighted sum of U(s) = s log s of the squared distances s, and an affine map: Bookstein 1989."""
    count = len(control_points)
    squared = (points[:, :, None] - control_points).square().sum(3)
    # At a control point itself U and its slope are 0, but the logarithm's are infinite.
    squared = torch.where(squared == 0, 1, squared)
    return (squared * squared.log()) @ theta[..., :count].mT + _affine(points, theta[..., count:])
