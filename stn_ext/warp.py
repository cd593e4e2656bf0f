"""warp_affine and warp_perspective with the signatures and numbers of kornia's, over the operators."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from .arguments import Size, check_options, lengths
from .functional import affine_sample, projective_sample
from .overrides import overridable
from .units import to_normalised

__all__ = ["warp_affine", "warp_perspective"]


@overridable
def warp_affine(
    src: Tensor,
    M: Tensor,
    dsize: Size,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = True,
    fill_value: Tensor | None = None,
) -> Tensor:
    """Warps images by affine maps in pixels: ``kornia.geometry.transform.warp_affine``, with its numbers.

    The source's pixel (x, y) goes to M (x, y, 1) of the result, pixels being counted from the centre of the
    first: OpenCV's ``warpAffine`` without ``WARP_INVERSE_MAP``. M is inverted in float64; a singular M gives
    NaN.

    The numbers are those of kornia 0.9. Older ones differ where align_corners is False: they take M's pixels
    for corner-aligned ones whatever it says.

    Args:
        src: images, (B, C, H, W), as for :func:`stn_ext.affine_sample`. An array of (H, W, C), as OpenCV and
            Pillow have them, becomes one by ``torch.from_numpy(array).permute(2, 0, 1)[None]``; a batch of
            such, (B, H, W, C), cannot be told from images and is taken for them.
        M: maps from source to result in pixels, (B, 2, 3), or (1, 2, 3) for all images; of any
            floating-point dtype.
        dsize: the result's (height, width); one number is both. Where one is zero, the result is empty, with
            gradients of zero.
        mode: "bilinear" or "nearest".
        padding_mode: what lies outside the image: "zeros", "border", "reflection", as for
            :func:`stn_ext.affine_sample`, or "fill": fill_value.
        align_corners: which edges "reflection" mirrors at, the outer pixels' centres (True) or their outer
            edges (False). The pixels that are read do not depend on it; but an axis of one pixel has no
            extent between aligned corners: every coordinate along it is that pixel.
        fill_value: for padding_mode "fill" alone: a tensor of one value, of one a channel (C,), or of any
            shape that broadcasts to the result's. Default: zeros.

    Returns:
        (B, C, height, width), of src's dtype and device. Gradients flow to src, M and fill_value.

    Raises:
        ValueError: an argument of the wrong shape, device or value.
        TypeError: an argument of the wrong type or dtype.

    Example:
        >>> import torch
        >>> from stn_ext import warp_affine
        >>> photo = torch.arange(6.0).view(1, 1, 2, 3)
        >>> to_the_right = torch.tensor([[[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]])
        >>> warp_affine(photo, to_the_right, (2, 3))
        tensor([[[[0., 0., 1.],
                  [0., 3., 4.]]]])
    """
    return _warp("warp_affine", src, M, dsize, mode, padding_mode, align_corners, fill_value)


@overridable
def warp_perspective(
    src: Tensor,
    M: Tensor,
    dsize: Size,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = True,
    fill_value: Tensor | None = None,
) -> Tensor:
    """Warps images by homographies in pixels: kornia's ``warp_perspective``, with its numbers.

    The source's pixel (x, y) goes to (u / w, v / w) of the result, with (u, v, w) = M (x, y, 1): OpenCV's
    ``warpPerspective`` without ``WARP_INVERSE_MAP``. Any multiple of M is the same map. As there, what lies
    behind the horizon is shown too, mirrored through it, where the result reaches so far;
    :func:`stn_ext.projective_sample` leaves it out, and needs half the time.

    Args:
        M: maps from source to result in pixels, (B, 3, 3), or (1, 3, 3) for all images.
        src, dsize, mode, padding_mode, align_corners, fill_value: as for :func:`warp_affine`.

    Returns:
        (B, C, height, width), as :func:`warp_affine`.

    Raises:
        ValueError, TypeError: as :func:`warp_affine`.

    Example:
        >>> import torch
        >>> from stn_ext import warp_perspective
        >>> photo = torch.arange(6.0).view(1, 1, 2, 3)
        >>> half_as_near = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 2.0]]])
        >>> warp_perspective(photo, half_as_near, (1, 2))
        tensor([[[[0., 2.]]]])
    """
    return _warp("warp_perspective", src, M, dsize, mode, padding_mode, align_corners, fill_value)


def _warp(
    name: str,
    src: Tensor,
    M: Tensor,
    dsize: Size,
    mode: str,
    padding_mode: str,
    align_corners: bool,
    fill_value: Tensor | None,
) -> Tensor:
    rows = 2 if name == "warp_affine" else 3
    height, width = lengths(name, "dsize", dsize, 2, least=0)
    _check(name, src, M, rows, (height, width), mode, padding_mode, align_corners)
    batch, channels = src.shape[:2]
    out_shape = (batch, channels, height, width)
    empty = height == 0 or width == 0
    if empty:
        # One pixel stands in, so that all arguments are checked and the result has its place in the graph.
        src, height, width = src.sum((2, 3), keepdim=True, dtype=src.dtype), 1, 1
    fill = _fill(name, src, fill_value, out_shape) if padding_mode == "fill" else None
    padding_mode = "zeros" if padding_mode == "fill" else padding_mode
    pixels = _inverse_affine(M) if rows == 2 else _inverse(M)
    theta = to_normalised(name, pixels, src.shape[2:], (height, width), align_corners)
    if theta.shape[0] == 1:  # len() would fix the batch of an exported program
        theta = theta.expand(batch, rows, 3)

    function = affine_sample if rows == 2 else projective_sample
    sample = partial(
        function,
        src,
        size=(height, width),
        mode=mode,
        padding_mode=padding_mode,
        align_corners=align_corners,
        fill=fill,
    )
    result = sample(theta)
    if rows == 3:
        # What lies behind the horizon lies before it by the same map with other signs.
        result = torch.where(_depth(pixels, height, width) < 0, sample(-theta), result)
    return result[:, :, :0].reshape(out_shape) if empty else result


def _check(
    name: str,
    src: Tensor,
    M: Tensor,
    rows: int,
    dsize: tuple[int, int],
    mode: str,
    padding_mode: str,
    align_corners: bool,
) -> None:
    for argument, tensor in (("src", src), ("M", M)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: expected a tensor {argument}, but got {type(tensor).__name__}")
    if src.dim() != 4:
        raise ValueError(f"{name}: expected src of shape (B, C, H, W), but got {tuple(src.shape)}")
    if M.dim() != 3 or tuple(M.shape[1:]) != (rows, 3):
        raise ValueError(f"{name}: expected M of shape (B, {rows}, 3), but got {tuple(M.shape)}")
    if not M.is_floating_point():
        raise TypeError(f"{name}: expected M of a floating-point dtype, but got {M.dtype}")
    if 0 not in dsize and 0 in src.shape[2:]:
        raise ValueError(f"{name}: src's height and width must be positive, but got {tuple(src.shape[2:])}")
    check_options(name, align_corners, mode=mode, padding_mode=padding_mode)
    if mode not in ("bilinear", "nearest"):
        raise ValueError(f"{name}: expected mode 'bilinear' or 'nearest', but got {mode!r}")
    if padding_mode not in ("zeros", "border", "reflection", "fill"):
        raise ValueError(
            f"{name}: expected padding_mode 'zeros', 'border', 'reflection' or 'fill', but got "
            f"{padding_mode!r}"
        )


def _inverse_affine(M: Tensor) -> Tensor:
    """From result to source, in float64, by Cramer's rule."""
    (a, b, x), (c, d, y) = (row.unbind(-1) for row in M.double().unbind(-2))
    determinant = a * d - b * c
    adjugate = torch.stack((d, -b, b * y - d * x, -c, a, c * x - a * y), -1)
    return (adjugate / determinant[:, None]).view(-1, 2, 3)


def _inverse(M: Tensor) -> Tensor:
    """From result to source, in float64: M's cofactors, of a multiple that neither overflows nor vanishes."""
    M = M.double()
    rows = (M / M.detach().abs().amax((1, 2), keepdim=True)).unbind(-2)
    crosses = [torch.linalg.cross(rows[k - 2], rows[k - 1]) for k in range(3)]
    determinant = (rows[0] * crosses[0]).sum(-1)
    return torch.stack(crosses, -1) / determinant[:, None, None]


def _depth(pixels: Tensor, height: int, width: int) -> Tensor:
    """What each of the result's pixels has its homogeneous coordinates divided by, (B, 1, height, width)."""
    x, y = (torch.arange(n, dtype=pixels.dtype, device=pixels.device) for n in (width, height))
    a, b, c = pixels[:, 2, :, None, None].unbind(1)
    return (a * x + b * y[:, None] + c)[:, None]


def _fill(name: str, src: Tensor, fill_value: Tensor | None, out_shape: tuple[int, ...]) -> Tensor:
    """Of four axes, which broadcasts to the result's."""
    given = src.new_zeros(1) if fill_value is None else fill_value
    if not isinstance(given, Tensor):
        raise TypeError(f"{name}: expected a tensor fill_value, but got {type(given).__name__}")
    fill = given[:, None, None] if given.dim() == 1 else given
    pairs = zip(reversed(fill.shape), reversed(out_shape), strict=False)
    if fill.dim() > 4 or any(n not in (1, wanted) for n, wanted in pairs):
        raise ValueError(
            f"{name}: expected fill_value of one value, of one for each of {out_shape[1]} channels, or "
            f"of a shape that broadcasts to the result's, {out_shape}, but got {tuple(given.shape)}"
        )
    fill = fill[(None,) * (4 - fill.dim())]
    # An empty result has one pixel that stands for it.
    return fill.sum((2, 3), keepdim=True, dtype=fill.dtype) if 0 in out_shape[2:] else fill
