"""The operators in plain PyTorch: slow, short and obviously right. The oracle of the tests.

Everything here is differentiable by PyTorch's own autograd, runs in the dtype of its arguments on
any device, and shares no code with the compiled kernels. Give it float64 tensors for an oracle.
"""

from __future__ import annotations

import torch
from torch import Tensor


def affine_sample(
    input: Tensor,
    theta: Tensor,
    size: tuple[int, int] | None = None,
    *,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
) -> Tensor:
    """What :func:`stn_ext.affine_sample` computes; see there for the arguments."""
    if mode != "bilinear":
        raise ValueError(f"affine_sample: expected mode 'bilinear', but got {mode!r}")
    height, width = input.shape[-2:]
    out_height, out_width = (height, width) if size is None else size
    dtype = torch.promote_types(input.dtype, theta.dtype)
    ix, iy = affine_coordinates(
        theta.to(dtype), (height, width), (out_height, out_width), align_corners=align_corners
    )
    return bilinear(input.to(dtype), ix, iy, padding_mode, align_corners).to(input.dtype)


def affine_coordinates(
    theta: Tensor, in_size: tuple[int, int], out_size: tuple[int, int], *, align_corners: bool
) -> tuple[Tensor, Tensor]:
    """Pixel coordinates (ix, iy), each (N, H_out, W_out), at which the input is read.

    Jaderberg et al. 2015, equation 1: (x_s, y_s) = theta (x_t, y_t, 1), in coordinates that run
    from -1 to 1 over the image; the edges of the outer pixels with align_corners=False, their
    centres with align_corners=True.
    """
    xt = _normalised(out_size[1], align_corners, theta)
    yt = _normalised(out_size[0], align_corners, theta)
    t = theta[:, :, :, None, None]
    xs = t[:, 0, 0] * xt[None, None, :] + t[:, 0, 1] * yt[None, :, None] + t[:, 0, 2]
    ys = t[:, 1, 0] * xt[None, None, :] + t[:, 1, 1] * yt[None, :, None] + t[:, 1, 2]
    return _to_pixels(xs, in_size[1], align_corners), _to_pixels(ys, in_size[0], align_corners)


def bilinear(input: Tensor, ix: Tensor, iy: Tensor, padding_mode: str, align_corners: bool) -> Tensor:
    """The input (N, C, H, W) at pixel coordinates ix, iy (N, H_out, W_out)."""
    n, c, height, width = input.shape
    ix = _pad_coordinate(ix, width, padding_mode, align_corners)
    iy = _pad_coordinate(iy, height, padding_mode, align_corners)
    x0, y0 = ix.detach().floor(), iy.detach().floor()
    # A coordinate that is not a number has no pixel: its value is not a number either.
    undefined = torch.where(torch.isnan(ix) | torch.isnan(iy), torch.nan, 0.0)
    output = undefined[:, None].to(input.dtype).expand(n, c, *ix.shape[1:])
    for dy, wy in ((0, 1 - (iy - y0)), (1, iy - y0)):
        for dx, wx in ((0, 1 - (ix - x0)), (1, ix - x0)):
            x, y = x0 + dx, y0 + dy
            inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
            if height * width == 0:
                continue
            # Select before converting: no integer stands for a huge coordinate.
            column = torch.where(inside, x, 0).long()
            row = torch.where(inside, y, 0).long()
            index = (row * width + column).reshape(n, 1, -1).expand(n, c, -1)
            value = input.reshape(n, c, -1).gather(2, index).reshape(n, c, *ix.shape[1:])
            weight = torch.where(inside, wy * wx, 0)
            output = output + weight[:, None] * torch.where(inside[:, None], value, 0)
    return output


def _normalised(length: int, align_corners: bool, like: Tensor) -> Tensor:
    """The output's pixel centres in [-1, 1], as affine_grid has them; 0 for a single pixel."""
    index = torch.arange(length, dtype=like.dtype, device=like.device)
    if align_corners:
        return 2 * index / max(length - 1, 1) - (1 if length > 1 else 0)
    return (2 * index + 1) / length - 1


def _to_pixels(normalised: Tensor, length: int, align_corners: bool) -> Tensor:
    if align_corners:
        return (normalised + 1) / 2 * (length - 1)
    return ((normalised + 1) * length - 1) / 2


def _pad_coordinate(x: Tensor, length: int, padding_mode: str, align_corners: bool) -> Tensor:
    """The coordinate at which the infinite, padded image repeats the input's own pixels."""
    if padding_mode == "zeros":
        return x
    if padding_mode == "reflection":
        low, span = (0.0, length - 1) if align_corners else (-0.5, length)
        x = _reflect(x, low, span)
    elif padding_mode != "border":
        raise ValueError(
            "affine_sample: expected padding_mode 'zeros', 'border' or 'reflection', "
            f"but got {padding_mode!r}"
        )
    # As in grid_sample, a coordinate on or beyond the outer pixels' centres has no gradient.
    within = (x > 0) & (x < length - 1)
    return torch.where(within, x, x.detach().clamp(0, max(length - 1, 0)))


def _reflect(x: Tensor, low: float, span: float) -> Tensor:
    """Folds x into [low, low + span] by reflections at both ends."""
    if span <= 0:
        return torch.where(torch.isnan(x), x, torch.zeros_like(x))
    # Infinity cannot be folded; it is left for the clamp to take to the border.
    distance = (x - low).abs()
    turns = (distance.detach() / span).floor()
    inside = distance - turns * span
    folded = torch.where(turns % 2 == 0, inside, span - inside) + low
    return torch.where(torch.isinf(x), x, folded)
