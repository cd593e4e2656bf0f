"""The operators in plain PyTorch: slow, short and obviously right. The oracle of the tests.

Everything here is differentiable by PyTorch's own autograd, runs in the dtype of its arguments on
any device, and shares no code with the compiled kernels. Give it float64 tensors for an oracle.
"""

from __future__ import annotations

from collections.abc import Callable

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
    fill: float | Tensor = 0.0,
) -> Tensor:
    """What :func:`stn_ext.affine_sample` computes; see there for the arguments."""
    return _sample(affine_map, input, theta, size, mode, padding_mode, align_corners, fill)


def projective_sample(
    input: Tensor,
    theta: Tensor,
    size: tuple[int, int] | None = None,
    *,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    fill: float | Tensor = 0.0,
) -> Tensor:
    """What :func:`stn_ext.projective_sample` computes; see there for the arguments."""
    return _sample(projective_map, input, theta, size, mode, padding_mode, align_corners, fill)


def thin_plate_spline_sample(
    input: Tensor,
    theta: Tensor,
    points: Tensor,
    size: tuple[int, int] | None = None,
    *,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    fill: float | Tensor = 0.0,
) -> Tensor:
    """What :func:`stn_ext.thin_plate_spline_sample` computes; see there for the arguments."""

    def mapping(theta: Tensor, xt: Tensor, yt: Tensor) -> tuple[Tensor, Tensor]:
        return thin_plate_spline_map(theta, points.to(theta.dtype), xt, yt)

    return _sample(mapping, input, theta, size, mode, padding_mode, align_corners, fill)


# A map takes theta and the output's normalised coordinates, xt (1, W_out) and yt (H_out, 1), to the input's,
# xs and ys, each (N, H_out, W_out). They run from -1 to 1 over the image: over the edges of the outer pixels
# with align_corners=False, over their centres with align_corners=True.
Map = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def affine_map(theta: Tensor, xt: Tensor, yt: Tensor) -> tuple[Tensor, Tensor]:
    """(x_s, y_s) = theta (x_t, y_t, 1), theta (N, 2, 3): Jaderberg et al. 2015, equation 1."""
    t = theta[:, :, :, None, None]
    x, y = (t[:, row, 0] * xt + t[:, row, 1] * yt + t[:, row, 2] for row in range(2))
    return x, y


def projective_map(theta: Tensor, xt: Tensor, yt: Tensor) -> tuple[Tensor, Tensor]:
    """(x, y, w) = theta (x_t, y_t, 1), theta (N, 3, 3); (x_s, y_s) = (x, y) / w.

    Where w <= 0, on and behind the horizon, there is no image: the coordinates are infinite.
    """
    t = theta[:, :, :, None, None]
    x, y, w = (t[:, row, 0] * xt + t[:, row, 1] * yt + t[:, row, 2] for row in range(3))
    behind = w <= 0
    # Divided by 1 there: what is not selected has a derivative too, which must be finite.
    w = torch.where(behind, 1, w)
    return torch.where(behind, torch.inf, x / w), torch.where(behind, torch.inf, y / w)


def thin_plate_spline_map(theta: Tensor, points: Tensor, xt: Tensor, yt: Tensor) -> tuple[Tensor, Tensor]:
    """A weighted sum of the radial basis about the points (K, 2), and an affine map; theta (N, 2, K + 3).

    ``x_s = sum_k theta_k U(|p - points_k|^2) + theta_K x_t + theta_(K+1) y_t + theta_(K+2)``, with
    ``U(r^2) = r^2 log r^2``, and y_s likewise: Bookstein 1989.
    """
    count = len(points)
    squared = (xt[..., None] - points[:, 0]) ** 2 + (yt[..., None] - points[:, 1]) ** 2
    basis = torch.xlogy(squared, squared)  # (H_out, W_out, K); 0 at a point itself
    bent = torch.einsum("hwk,nrk->rnhw", basis, theta[:, :, :count])
    xs, ys = affine_map(theta[:, :, count:], xt, yt)
    return bent[0] + xs, bent[1] + ys


def _sample(
    mapping: Map,
    input: Tensor,
    theta: Tensor,
    size: tuple[int, int] | None,
    mode: str,
    padding_mode: str,
    align_corners: bool,
    fill: float | Tensor,
) -> Tensor:
    """The input read, for each of the output's pixels, where the map says."""
    if mode != "bilinear":
        raise ValueError(f"expected mode 'bilinear', but got {mode!r}")
    in_size = (input.shape[-2], input.shape[-1])
    dtype = torch.promote_types(input.dtype, theta.dtype)
    ix, iy = coordinates(mapping, theta.to(dtype), in_size, size or in_size, align_corners)
    return bilinear(input.to(dtype), ix, iy, padding_mode, align_corners, fill).to(input.dtype)


def coordinates(
    mapping: Map, theta: Tensor, in_size: tuple[int, int], out_size: tuple[int, int], align_corners: bool
) -> tuple[Tensor, Tensor]:
    """Where the map reads, in pixels of the input: ix and iy, each (N, H_out, W_out)."""
    (height, width), (out_height, out_width) = in_size, out_size
    xt = _normalised(out_width, align_corners, theta)[None, :]
    yt = _normalised(out_height, align_corners, theta)[:, None]
    xs, ys = mapping(theta, xt, yt)
    return _to_pixels(xs, width, align_corners), _to_pixels(ys, height, align_corners)


def bilinear(
    input: Tensor,
    ix: Tensor,
    iy: Tensor,
    padding_mode: str,
    align_corners: bool,
    fill: float | Tensor = 0.0,
) -> Tensor:
    """The input (N, C, H, W) at pixel coordinates ix, iy (N, H_out, W_out).

    With padding_mode "zeros", a finite fill, one number or one a channel, (C,), lies outside.
    """
    n, c, height, width = input.shape
    ix = _pad_coordinate(ix, width, padding_mode, align_corners)
    iy = _pad_coordinate(iy, height, padding_mode, align_corners)
    x0, y0 = ix.detach().floor(), iy.detach().floor()
    # A coordinate that is not a number has no pixel: its value is not a number either.
    undefined = torch.where(torch.isnan(ix) | torch.isnan(iy), torch.nan, 0.0)
    output = undefined[:, None].to(input.dtype).expand(n, c, *ix.shape[1:])
    covered = torch.zeros_like(ix)  # the part of each pixel that the image gives
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
            covered = covered + weight
    if padding_mode != "zeros":
        return output
    value = torch.as_tensor(fill, dtype=input.dtype, device=input.device).reshape(-1, 1, 1)
    return output + (1 - covered)[:, None] * value


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
        raise ValueError(f"expected padding_mode 'zeros', 'border' or 'reflection', but got {padding_mode!r}")
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
