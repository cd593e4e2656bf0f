"""Who is timed, and doing what; each contender gets a problem in its own units, outside of the timing."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from cases import POINTS, Problem
from torch import Tensor

import stn_ext

Size = tuple[int, ...]


class DoesNotApply(Exception):
    """The contender has no way to say this."""


@dataclass(frozen=True)
class Prepared:
    """warp(input, theta), in the contender's own types and units."""

    warp: Callable[[Any, Any], Any]
    input: Any
    theta: Any
    differentiable: tuple[str, ...] = ("input", "theta")
    to_tensor: Callable[[Any], Tensor] = lambda output: output


@dataclass(frozen=True)
class Contender:
    title: str
    prepare: Callable[[Problem], Prepared]
    module: str = "torch"  # that it needs

    def version(self) -> str:
        """Raises ImportError where the module is not installed."""
        return importlib.import_module(self.module).__version__


# --- PyTorch's operators -----------------------------------------------------------------------------


def is_affine(theta: Tensor) -> bool:
    """Of images or volumes. Theta's shape tells the kinds of map apart."""
    return theta.shape[1:] in ((2, 3), (3, 4))


def fused(input: Tensor, theta: Tensor, size: Size | None = None) -> Tensor:
    if is_affine(theta):
        return stn_ext.affine_sample(input, theta, size)
    if theta.shape[1:] == (3, 3):
        return stn_ext.projective_sample(input, theta, size)
    return stn_ext.thin_plate_spline_sample(input, theta, POINTS.to(theta.device), size)


def pytorch(input: Tensor, theta: Tensor, size: Size | None = None, basis: Tensor | None = None) -> Tensor:
    """basis: functions of the output's pixels (H W, B), of which theta makes coordinates; None if affine."""
    size = tuple(size or input.shape[2:])
    if basis is None:
        grid = F.affine_grid(theta, [*input.shape[:2], *size], align_corners=False)
    else:
        at = basis @ theta.transpose(1, 2)
        grid = (at if at.shape[-1] == 2 else at[..., :2] / at[..., 2:]).view(len(theta), *size, 2)
    return F.grid_sample(input, grid, align_corners=False)


def basis_of(problem: Problem) -> Tensor | None:
    """What a thrifty user computes once for a size: at each pixel (radial functions,) x, y and 1."""
    theta, size = problem.theta, problem.size
    if is_affine(theta):
        return None
    eye = torch.eye(2, 3, device=theta.device)[None]
    grid = F.affine_grid(eye, [1, 1, *size], align_corners=False).view(-1, 2)
    linear = torch.cat((grid, torch.ones_like(grid[:, :1])), 1)
    if theta.shape[1:] == (3, 3):
        return linear
    squares = (grid[:, None] - POINTS.to(grid)).square().sum(-1)
    return torch.cat((torch.xlogy(squares, squares), linear), 1)


def broadcast_grid(input: Tensor, theta: Tensor, size: Size | None = None) -> Tensor:
    """The grid as a sum of a row and a column: one addition a coordinate, where affine_grid multiplies."""
    height, width = size or input.shape[2:]
    x = (torch.arange(width, dtype=theta.dtype, device=theta.device) * 2 + 1) / width - 1
    y = (torch.arange(height, dtype=theta.dtype, device=theta.device) * 2 + 1) / height - 1
    x_slope, y_slope, shift = theta[:, None, None].unbind(-1)  # (N, 1, 1, 2) each
    grid = x_slope * x.view(-1, 1) + (y_slope * y.view(-1, 1, 1) + shift)  # (N, 1, W, 2) and (N, H, 1, 2)
    return F.grid_sample(input, grid, align_corners=False)


def of_tensors(warp: Callable[..., Tensor]) -> Callable[[Problem], Prepared]:
    return lambda problem: Prepared(partial(warp, size=problem.size), problem.input, problem.theta)


def prepare_broadcast(problem: Problem) -> Prepared:
    check_affine(problem)
    return of_tensors(broadcast_grid)(problem)


def check_affine(problem: Problem) -> None:
    """For who knows affine maps of images alone."""
    if problem.theta.shape[1:] != (2, 3):
        raise DoesNotApply


def prepare_pytorch(problem: Problem, warp: Callable[..., Tensor] = pytorch) -> Prepared:
    warp = partial(warp, size=problem.size, basis=basis_of(problem))
    return Prepared(warp, problem.input, problem.theta)


def prepare_compiled(problem: Problem) -> Prepared:
    torch._dynamo.reset()  # else the number of recompilations is limited over all cases together
    return prepare_pytorch(problem, torch.compile(pytorch, dynamic=False))


def prepare_cudnn(problem: Problem) -> Prepared:
    check_affine(problem)
    if problem.input.device.type != "cuda":
        raise DoesNotApply

    def warp(input: Tensor, theta: Tensor, size: Size) -> Tensor:
        grid = torch.cudnn_affine_grid_generator(theta, *input.shape[:2], *size)
        return torch.cudnn_grid_sampler(input, grid)

    return Prepared(partial(warp, size=problem.size), problem.input, aligned_theta(problem))


def aligned_theta(problem: Problem) -> Tensor:
    """The same maps where -1 and 1 are the centres of the outer pixels, as in cuDNN: (N, 2, 3)."""

    def pixels(size: Size) -> Tensor:
        height, width = ((length - 1) / 2 for length in size)
        return torch.tensor([[width, 0, width], [0, height, height], [0, 0, 1]], dtype=torch.float64)

    aligned = pixels(problem.input.shape[2:]).inverse() @ pixel_maps(problem) @ pixels(problem.size)
    return aligned[:, :2].to(problem.theta).contiguous()


# --- other libraries, whose maps are in pixels -------------------------------------------------------


def pixel_maps(problem: Problem, *, centred: bool = False) -> Tensor:
    """From output to input pixels, (N, 3, 3) in float64; counted from the first pixel, or from the centre."""

    def pixels(size: Size) -> Tensor:
        """From normalised coordinates to pixels."""
        height, width = size
        x, y = (0.0, 0.0) if centred else ((width - 1) / 2, (height - 1) / 2)
        return torch.tensor([[width / 2, 0, x], [0, height / 2, y], [0, 0, 1]], dtype=torch.float64)

    theta = problem.theta.double().cpu()
    last_row = torch.tensor([0.0, 0.0, 1.0]).expand(len(theta), 1, 3)
    return pixels(problem.input.shape[2:]) @ torch.cat((theta, last_row), 1) @ pixels(problem.size).inverse()


def prepare_kornia(problem: Problem) -> Prepared:
    from kornia.geometry.transform import warp_affine

    check_affine(problem)
    maps = pixel_maps(problem).inverse()[:, :2].to(problem.theta)
    return Prepared(partial(warp_affine, dsize=problem.size), problem.input, maps)


def prepare_torchvision(problem: Problem) -> Prepared:
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2.functional import affine

    check_affine(problem)
    if len(problem.theta) > 1 or problem.size != problem.input.shape[2:]:
        raise DoesNotApply  # one map for the whole batch, and the input's size
    options = torchvision_map(pixel_maps(problem, centred=True)[0].inverse())

    def warp(input: Tensor, theta: dict) -> Tensor:
        return affine(input, interpolation=InterpolationMode.BILINEAR, **theta)

    return Prepared(warp, problem.input, options, differentiable=("input",))


def torchvision_map(matrix: Tensor) -> dict[str, Any]:
    """A map as scale * turn(angle) @ [[1, -tan x], [-tan y, 1 + tan x tan y]], (x, y) being the shear."""
    determinant = torch.linalg.det(matrix[:2, :2]).item()
    if determinant <= 0:
        raise DoesNotApply
    scale = math.sqrt(determinant)
    (a, b), (c, d) = (matrix[:2, :2] / scale).tolist()
    tan_y_squared = a * a + c * c - 1  # the first column is no shorter than 1
    if tan_y_squared < -1e-5:
        raise DoesNotApply
    shear_y = math.atan(math.sqrt(max(tan_y_squared, 0)))
    angle = math.atan2(c, a) + shear_y
    shear_x = -math.atan(b * math.cos(angle) + d * math.sin(angle))
    return {
        "angle": math.degrees(angle),
        "translate": matrix[:2, 2].tolist(),
        "scale": scale,
        "shear": [math.degrees(shear_x), math.degrees(shear_y)],
    }


def prepare_opencv(problem: Problem) -> Prepared:
    import cv2

    check_affine(problem)
    if len(problem.input) > 1 or problem.input.device.type != "cpu":
        raise DoesNotApply
    cv2.setNumThreads(torch.get_num_threads())
    height, width = problem.size
    image = problem.input[0].permute(1, 2, 0).contiguous().numpy()

    def warp(input: Any, theta: Any) -> Any:
        return cv2.warpAffine(input, theta, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)

    def to_tensor(output: Any) -> Tensor:
        return torch.from_numpy(output).view(height, width, -1).permute(2, 0, 1)[None]

    return Prepared(warp, image, pixel_maps(problem)[0, :2].numpy(), (), to_tensor)


OURS, BASELINE, FLOOR = "stn_ext", "pytorch", "copy"
CONTENDERS = {
    OURS: Contender("stn_ext", of_tensors(fused)),
    BASELINE: Contender("PyTorch", prepare_pytorch),
    "broadcast": Contender("broadcast grid", prepare_broadcast),
    "compile": Contender("torch.compile", prepare_compiled),
    "cudnn": Contender("cuDNN", prepare_cudnn),
    "kornia": Contender("kornia", prepare_kornia, "kornia"),
    "torchvision": Contender("torchvision", prepare_torchvision, "torchvision"),
    "opencv": Contender("OpenCV", prepare_opencv, "cv2"),
}

# --- what is timed -----------------------------------------------------------------------------------

# The gradients that each pass computes.
PASSES = {
    "forward": (),
    "forward+backward": ("input", "theta"),
    "forward+theta": ("theta",),
    "forward+input": ("input",),
}
MAIN_PASSES = ("forward", "forward+backward")


def call(prepared: Prepared, pass_name: str, grad: Tensor) -> Callable[[], object]:
    """What is timed: the warp, and its gradients where the pass computes any."""
    arguments = {"input": prepared.input, "theta": prepared.theta}
    wanted = PASSES[pass_name]
    if not set(wanted) <= set(prepared.differentiable):
        raise DoesNotApply
    for name in wanted:
        arguments[name] = arguments[name].clone().requires_grad_()
    input, theta = arguments.values()
    leaves = [arguments[name] for name in wanted]

    def forward() -> object:
        with torch.no_grad():
            return prepared.warp(input, theta)

    def forward_backward() -> tuple[Tensor, ...]:
        return torch.autograd.grad(prepared.warp(input, theta), leaves, grad)

    return forward_backward if wanted else forward


def calls(prepared: Prepared, pass_name: str, grads: list[Tensor]) -> list[Callable[[], object]]:
    """A call for each gradient of the output, each with images of its own."""
    first = call(prepared, pass_name, grads[0])
    if not isinstance(prepared.input, Tensor):
        return [first]
    others = (replace(prepared, input=prepared.input.clone()) for _ in grads[1:])
    return [first, *(call(own, pass_name, grad) for own, grad in zip(others, grads[1:], strict=True))]


def check(prepared: Prepared, expected: Tensor) -> None:
    """Raises ValueError where it computes another warp.

    Images of noise tell a shift by a tenth of a pixel. The mean leaves room for coordinates of few digits
    (OpenCV's had five bits after the point for long) and for borders.
    """
    with torch.no_grad():
        output = prepared.to_tensor(prepared.warp(prepared.input, prepared.theta))
    if output.shape != expected.shape:
        raise ValueError(f"its output has shape {tuple(output.shape)}, expected {tuple(expected.shape)}")
    difference, size = (output - expected).abs().mean().item(), expected.abs().mean().item()
    if not difference <= 0.05 * size + 1e-6:
        raise ValueError(f"its output differs from stn_ext's by {difference:.2g} on average, of {size:.2g}")
