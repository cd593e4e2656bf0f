"""Every corner of affine_sample against PyTorch's pair, and pictures against those who warp pictures.

What `sampler.py --matrix` times: dtype x interpolation x padding x layout x pass, on three shapes. PyTorch
gets what a user of it would write, conversions included where its operators lack a dtype.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from cases import COMMON, Problem
from tables import markdown
from timing import alternate
from torch import Tensor

import stn_ext

SHAPES = ("digits", "features", "photo")
DTYPES = ("float32", "float64", "float16", "bfloat16", "uint8")
MODES = ("bilinear", "nearest")
PADDINGS = ("zeros", "border", "reflection", "fill")
LAYOUTS = ("planes", "channels last")
PASSES = ("forward", "both", "input", "theta")  # gradients, the forward pass included
FILL = 0.5

OURS, PYTORCH = "stn_ext", "pytorch"


@dataclass(frozen=True)
class Corner:
    shape: str
    dtype: str
    mode: str
    padding: str
    layout: str
    what: str  # of PASSES

    @property
    def groups(self) -> list[str]:
        """Those that are reported on."""
        return [self.mode, self.padding, self.dtype, self.layout, self.what]


def corners() -> Iterator[Corner]:
    for values in itertools.product(SHAPES, DTYPES, MODES, PADDINGS, LAYOUTS, PASSES):
        corner = Corner(*values)
        channels = COMMON[corner.shape].shape[1]
        impossible = (
            (corner.layout == "channels last" and channels == 1)
            or (corner.what != "forward" and corner.dtype == "uint8")  # it has no gradient
            or (corner.what in ("both", "theta") and corner.mode == "nearest")  # theta has none
        )
        if not impossible:
            yield corner


def pytorch(input: Tensor, theta: Tensor, size: tuple[int, ...], mode: str, padding: str) -> Tensor:
    """As a user would write it: conversions where an operator lacks the dtype, and a fill as an offset."""
    images = input if input.dtype in (torch.float32, torch.float64) else input.float()
    grid = F.affine_grid(theta.to(images.dtype), [*images.shape[:2], *size], align_corners=False)
    if padding == "fill":
        output = F.grid_sample(images - FILL, grid, mode=mode, align_corners=False) + FILL
    else:
        output = F.grid_sample(images, grid, mode=mode, padding_mode=padding, align_corners=False)
    if input.dtype == torch.uint8:
        output = output.round().clamp(0, 255)
    return output.to(input.dtype)


def ours(input: Tensor, theta: Tensor, size: tuple[int, ...], mode: str, padding: str) -> Tensor:
    if padding == "fill":
        return stn_ext.affine_sample(input, theta, size, mode=mode, fill=FILL)
    return stn_ext.affine_sample(input, theta, size, mode=mode, padding_mode=padding)


def calls(corner: Corner) -> dict[str, Callable[[], object]]:
    problem = Problem.make(COMMON[corner.shape], torch.device("cpu"))
    dtype = getattr(torch, corner.dtype)
    images = (problem.input.abs() * 60).clamp(0, 255) if dtype == torch.uint8 else problem.input
    layout = torch.channels_last if corner.layout == "channels last" else torch.contiguous_format
    input = images.to(dtype).contiguous(memory_format=layout)
    grad = problem.grad.to(dtype).contiguous(memory_format=layout)
    input.requires_grad_(corner.what in ("both", "input"))
    theta = problem.theta.clone().requires_grad_(corner.what in ("both", "theta"))
    wanted = [tensor for tensor in (input, theta) if tensor.requires_grad]

    def call(warp: Callable[..., Tensor]) -> Callable[[], object]:
        def f() -> object:
            output = warp(input, theta, problem.size, corner.mode, corner.padding)
            return torch.autograd.grad(output, wanted, grad) if wanted else output

        return f

    return {OURS: call(ours), PYTORCH: call(pytorch)}


def measure(seconds: float) -> list[dict]:
    """A row a corner: both medians, and how many times faster affine_sample is."""
    rows = []
    for corner in corners():
        timed = alternate(calls(corner), seconds, torch.device("cpu"))
        medians = {name: measurement.median for name, measurement in timed.items()}
        rows.append(asdict(corner) | medians | {"ratio": medians[PYTORCH] / medians[OURS]})
    return rows


def table(rows: list[dict]) -> str:
    """A line a group of corners: the geometric mean, the worst, and how many lose."""
    groups: dict[str, list[dict]] = {"*all*": rows}
    for row in rows:
        corner = Corner(**{name: row[name] for name in Corner.__dataclass_fields__})
        for group in corner.groups:
            groups.setdefault(group, []).append(row)
    lines = []
    for name, members in groups.items():
        known = [row for row in members if not math.isnan(row["ratio"])]
        worst = min(known, key=lambda row: row["ratio"])
        where = ", ".join(worst[key] for key in Corner.__dataclass_fields__)
        lines.append(
            [
                name,
                str(len(known)),
                f"{statistics.geometric_mean(row['ratio'] for row in known):.2f}",
                f"{worst['ratio']:.2f} ({where})",
                str(sum(row["ratio"] < 1 for row in known)),
            ]
        )
    return markdown(["corners", "number", "vs PyTorch", "worst", "slower"], lines)


# --- pictures ----------------------------------------------------------------------------------------


def picture_calls(dtype: str, mode: str, fill: bool) -> dict[str, Callable[[], object]]:
    """A 1080 x 1920 picture as decoders give it, (H, W, 3), turned by 20 degrees; results may be reused."""
    import cv2
    import numpy as np

    problem = Problem.make(COMMON["photo"], torch.device("cpu"))
    height, width = problem.size
    images = problem.input
    if dtype == "uint8":
        images = (images.abs() * 60).clamp(0, 255).to(torch.uint8)
    last = images.contiguous(memory_format=torch.channels_last)
    pixels = stn_ext.normalised_to_pixels(problem.theta, problem.size, problem.size)
    matrix = pixels[0].double().numpy()
    array = np.ascontiguousarray(last[0].permute(1, 2, 0).numpy())
    reused = np.empty_like(array)
    flags = cv2.WARP_INVERSE_MAP | (cv2.INTER_LINEAR if mode == "bilinear" else cv2.INTER_NEAREST)
    border = (7.0, 7.0, 7.0) if fill else (0.0, 0.0, 0.0)
    options = {"mode": mode, "fill": 7.0} if fill else {"mode": mode}

    def opencv() -> object:
        return cv2.warpAffine(array, matrix, (width, height), dst=reused, flags=flags, borderValue=border)

    calls = {
        "planes": lambda: stn_ext.affine_sample(images, problem.theta, **options),
        "channels last": lambda: stn_ext.affine_sample(last, problem.theta, **options),
        "OpenCV": opencv,
    }
    # It has no fill, and its nearest pixel is another.
    if dtype == "uint8" and mode == "bilinear" and not fill:
        with contextlib.suppress(ImportError):
            from kornia_rs import imgproc

            inverse = np.linalg.inv(np.vstack((matrix, [0, 0, 1])))[:2]
            forward = tuple(float(x) for x in inverse.flatten())
            calls["kornia_rs"] = lambda: imgproc.warp_affine(array, forward, (height, width), mode)
    return calls


def measure_pictures(seconds: float) -> list[dict]:
    rows = []
    for dtype, mode, fill in itertools.product(("uint8", "float32"), MODES, (False, True)):
        cv = picture_calls(dtype, mode, fill)
        for name, timed in alternate(cv, seconds, torch.device("cpu")).items():
            what = {"dtype": dtype, "mode": mode, "fill": fill, "contender": name}
            rows.append(what | timed.to_json())
    return rows


def picture_table(rows: list[dict]) -> str:
    names = list(dict.fromkeys(row["contender"] for row in rows))
    lines = []
    for key in dict.fromkeys((row["dtype"], row["mode"], row["fill"]) for row in rows):
        times = {r["contender"]: r for r in rows if (r["dtype"], r["mode"], r["fill"]) == key}
        cells = []
        for name in names:
            row = times.get(name, {})
            cells.append(f"{row['median'] * 1e3:.2f}" if "median" in row else row.get("error") or "-")
        lines.append([*key[:2], "7" if key[2] else "0", *cells])
    return markdown(
        ["picture", "interpolation", "outside", *(f"{name}, ms" for name in names)], lines, left=3
    )
