"""warp_affine with the signature and meaning of kornia's, over affine_sample."""

from __future__ import annotations

import torch
from torch import Tensor

from .arguments import Size, lengths
from .functional import affine_sample

__all__ = ["warp_affine"]


def warp_affine(
    src: Tensor,
    M: Tensor,
    dsize: Size,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = True,
    fill_value: Tensor | None = None,
) -> Tensor:
    """Warps images by affine maps in pixels, as ``kornia.geometry.transform.warp_affine`` does.

    The source's pixel (x, y) goes to M (x, y, 1) of the result, pixels being counted from the centre of the
    first: OpenCV's ``warpAffine`` without ``WARP_INVERSE_MAP``. M is inverted in float64, by Cramer's rule;
    a singular M gives NaN.

    Args:
        src: images, (B, C, H, W), as for :func:`stn_ext.affine_sample`.
        M: maps from source to result in pixels, (B, 2, 3), or (1, 2, 3) for all images; of any
            floating-point dtype.
        dsize: the result's (height, width); one number is both. Where one is zero, the result is empty, with
            gradients of zero.
        mode: as for :func:`stn_ext.affine_sample`.
        padding_mode: as for :func:`stn_ext.affine_sample`, or "fill": fill_value lies outside the image.
        align_corners: which edges "reflection" mirrors at, the outer pixels' centres (True) or their outer
            edges (False). The pixels that are read do not depend on it.
        fill_value: for padding_mode "fill" alone: a tensor of one value, of one a channel (C,), or of any
            shape that broadcasts to the result's. Default: zeros.

    Returns:
        (B, C, height, width), of src's dtype and device. Gradients flow to src, M and fill_value.

    Raises:
        ValueError: an argument of the wrong shape, device or value.
        TypeError: an argument of the wrong type or dtype.

    Example:
        >>> photo = torch.arange(6.0).view(1, 1, 2, 3)
        >>> to_the_right = torch.tensor([[[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]])
        >>> warp_affine(photo, to_the_right, (2, 3))
        tensor([[[[0., 0., 1.],
                  [0., 3., 4.]]]])
    """
    _check(src, M)
    dsize = lengths("warp_affine", "dsize", dsize, 2, least=0)
    if 0 not in dsize and 0 in src.shape[2:]:
        raise ValueError(
            f"warp_affine: src's height and width must be positive, but got {tuple(src.shape[2:])}"
        )
    batch, channels = src.shape[:2]
    out_shape = (batch, channels, *dsize)
    size = dsize
    if 0 in dsize:
        # One pixel stands in, so that all arguments are checked and the result has its place in the graph.
        src, size = src.sum((2, 3), keepdim=True, dtype=src.dtype), (1, 1)
    fill = None
    if padding_mode == "fill":
        padding_mode, fill = "zeros", _fill(src, fill_value, out_shape)
    theta = _inverse(M)
    if theta.shape[0] == 1:  # len() would fix the batch of an exported program
        theta = theta.expand(batch, 2, 3)
    result = affine_sample(
        src,
        theta,
        size,
        mode=mode,
        padding_mode=padding_mode,
        align_corners=align_corners,
        fill=fill,
        theta_units="pixel",
    )
    return result[:, :, :0].reshape(out_shape) if 0 in dsize else result


def _check(src: Tensor, M: Tensor) -> None:
    for name, tensor in (("src", src), ("M", M)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"warp_affine: expected a tensor {name}, but got {type(tensor).__name__}")
    if src.dim() != 4:
        raise ValueError(f"warp_affine: expected src of shape (B, C, H, W), but got {tuple(src.shape)}")
    if M.dim() != 3 or tuple(M.shape[1:]) != (2, 3):
        raise ValueError(f"warp_affine: expected M of shape (B, 2, 3), but got {tuple(M.shape)}")


def _inverse(M: Tensor) -> Tensor:
    """From result to source, in float64."""
    (a, b, x), (c, d, y) = (row.unbind(-1) for row in M.double().unbind(-2))
    determinant = a * d - b * c
    adjugate = torch.stack((d, -b, b * y - d * x, -c, a, c * x - a * y), -1)
    return (adjugate / determinant[:, None]).view(-1, 2, 3)


def _fill(src: Tensor, fill_value: Tensor | None, out_shape: tuple[int, ...]) -> Tensor:
    """Of four axes, which broadcasts to the result's."""
    given = src.new_zeros(1) if fill_value is None else fill_value
    fill = given[:, None, None] if given.dim() == 1 else given
    pairs = zip(reversed(fill.shape), reversed(out_shape), strict=False)
    if fill.dim() > 4 or any(n not in (1, wanted) for n, wanted in pairs):
        raise ValueError(
            f"warp_affine: expected fill_value of one value, of one for each of {out_shape[1]} channels, or "
            f"of a shape that broadcasts to the result's, {out_shape}, but got {tuple(given.shape)}"
        )
    fill = fill[(None,) * (4 - fill.dim())]
    # An empty result has one pixel that stands for it.
    return fill.sum((2, 3), keepdim=True, dtype=fill.dtype) if 0 in out_shape[2:] else fill
