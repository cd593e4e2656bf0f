"""The contenders of capabilities.py: each one's way to say affine_sample(input, theta, size, ...)."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from contenders import torchvision_map
from torch import Tensor

import stn_ext


class Lacks(Exception):
    """The contender has no way to say this."""


@dataclass(frozen=True)
class Warper:
    """warp(input, theta, size=None, **options), of Options.

    theta is normalised, as PyTorch's, but where theta_units="pixel"; an option that the contender does not
    know raises. ``export`` is what its users call for torch.onnx.export.
    """

    title: str
    warp: Callable[..., Any]
    module: str = "torch"  # that it needs
    export: Callable[..., Any] = field(
        default=lambda *args, **options: torch.onnx.export(*args, dynamo=True, opset_version=20, **options)
    )

    def version(self) -> str:
        """Raises ImportError where the module is not installed."""
        return importlib.import_module(self.module).__version__


@dataclass(frozen=True)
class Options:
    """The warps' own, with their defaults."""

    mode: str = "bilinear"
    padding_mode: str = "zeros"
    align_corners: bool = False
    theta_units: str = "normalised"
    fill: Tensor | None = None
    index: Tensor | None = None


def refuse(what: str, **options: object) -> None:
    for name, value in options.items():
        if value is not None:
            raise Lacks(f"{what} has no {name}")


def pair(
    input: Tensor,
    theta: Tensor,
    size: tuple[int, ...] | None = None,
    *,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    **others: object,
) -> Tensor:
    refuse("grid_sample", **others)
    grid = F.affine_grid(theta, [*input.shape[:2], *(size or input.shape[2:])], align_corners=align_corners)
    return F.grid_sample(input, grid, mode=mode, padding_mode=padding_mode, align_corners=align_corners)


def compiled_pair(
    *args: Any,
    fill: Tensor | None = None,
    index: Tensor | None = None,
    theta_units: str | None = None,
    **options: Any,
) -> Tensor:
    refuse("grid_sample", fill=fill, index=index, theta_units=theta_units)
    return torch.compile(pair, fullgraph=True)(*args, **options)


def export_onnx(*args: Any, **options: Any) -> Any:
    import stn_ext.onnx

    return stn_ext.onnx.export(*args, **options)


def in_pixels(
    theta: Tensor, input: Tensor, size: tuple[int, ...], theta_units: str, align_corners: bool
) -> Tensor:
    """From output to input pixels, (N, 3, 3)."""
    if theta_units == "normalised":
        theta = stn_ext.normalised_to_pixels(theta, input.shape[2:], size, align_corners=align_corners)
    last_row = torch.tensor([0.0, 0.0, 1.0]).to(theta).expand(theta.shape[0], 1, 3)
    return torch.cat((theta, last_row), 1)


def inverse(matrix: Tensor) -> Tensor:
    """(N, 2, 3), by operations that every compiler, exporter and transform has."""
    a, b, x, c, d, y = matrix[:, :2].flatten(1).unbind(1)
    adjugate = torch.stack((d, -b, b * y - d * x, -c, a, c * x - a * y), 1)
    return (adjugate / (a * d - b * c)[:, None]).view(-1, 2, 3)


def kornia_warp(input: Tensor, theta: Tensor, size: tuple[int, ...] | None = None, **options: Any) -> Tensor:
    from kornia.geometry.transform import warp_affine

    o = Options(**options)
    refuse("warp_affine", index=o.index)
    if input.dim() == 5:
        raise Lacks("warp_affine takes images alone; warp_affine3d has its own maps")
    size = size or input.shape[2:]
    M = inverse(in_pixels(theta, input, size, o.theta_units, o.align_corners)).to(theta.dtype)
    padding_mode = o.padding_mode if o.fill is None else "fill"
    return warp_affine(input, M, tuple(size), o.mode, padding_mode, o.align_corners, o.fill)


def torchvision_warp(
    input: Tensor, theta: Tensor, size: tuple[int, ...] | None = None, **options: Any
) -> Tensor:
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2.functional import affine

    o = Options(**options)
    refuse("affine", index=o.index)
    if theta.requires_grad or torch._C._are_functorch_transforms_active():
        raise Lacks("affine's map is Python numbers, not a tensor")
    if input.dim() != 4 or len(theta) != 1:
        raise Lacks("affine takes one map a call, of images")
    if size not in (None, input.shape[2:]) or o.padding_mode != "zeros" or o.align_corners:
        raise Lacks("affine has no size, padding_mode or align_corners")
    if o.theta_units == "pixel":
        raise Lacks("affine takes an angle, scale and shears, no matrix")
    height, width = input.shape[2:]
    centred = torch.tensor([[1, 0, -(width - 1) / 2], [0, 1, -(height - 1) / 2], [0, 0, 1]]).double()
    matrix = (
        centred
        @ in_pixels(theta.double(), input, (height, width), "normalised", False)[0]
        @ centred.inverse()
    )
    parameters = torchvision_map(matrix.inverse())
    fills = None if o.fill is None else o.fill.tolist()
    return affine(input, interpolation=InterpolationMode(o.mode), fill=fills, **parameters)


def opencv_warp(input: Tensor, theta: Tensor, size: tuple[int, ...] | None = None, **options: Any) -> Tensor:
    import cv2

    o = Options(**options)
    refuse("warpAffine", index=o.index)
    if input.requires_grad or theta.requires_grad or torch._C._are_functorch_transforms_active():
        raise Lacks("warpAffine is not differentiable")
    if torch.compiler.is_compiling() or input.dim() != 4 or len(theta) != 1 or len(input) != 1:
        raise Lacks("warpAffine takes one image and one map a call")
    if max(input.shape) > 2**15:
        raise Lacks("warpAffine's images have sides below 2^15")
    mirrors = cv2.BORDER_REFLECT_101 if o.align_corners else cv2.BORDER_REFLECT
    borders = {"zeros": cv2.BORDER_CONSTANT, "border": cv2.BORDER_REPLICATE, "reflection": mirrors}
    height, width = size or input.shape[2:]
    matrix = in_pixels(theta.double(), input, (height, width), o.theta_units, o.align_corners)[0, :2]
    output = cv2.warpAffine(
        np.ascontiguousarray(input[0].permute(1, 2, 0).numpy()),
        matrix.numpy(),
        (width, height),
        flags={"bilinear": cv2.INTER_LINEAR, "nearest": cv2.INTER_NEAREST}[o.mode] | cv2.WARP_INVERSE_MAP,
        borderMode=borders[o.padding_mode],
        borderValue=() if o.fill is None else tuple(o.fill.tolist()),
    )
    return torch.from_numpy(output).view(height, width, -1).permute(2, 0, 1)[None]


WARPERS = {
    "stn_ext": Warper("stn_ext", stn_ext.affine_sample, export=export_onnx),
    "pytorch": Warper("PyTorch", pair),
    "compile": Warper("torch.compile", compiled_pair),
    "kornia": Warper("kornia", kornia_warp, "kornia"),
    "torchvision": Warper("torchvision", torchvision_warp, "torchvision"),
    "opencv": Warper("OpenCV", opencv_warp, "cv2"),
}
