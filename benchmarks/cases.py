"""The problems that the sampler is timed on, and the contenders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import stn_ext


@dataclass(frozen=True)
class Case:
    shape: tuple[int, int, int, int]
    about: str


CASES = {
    "digits": Case((64, 1, 28, 28), "a batch of MNIST"),
    "digits-1k": Case((1024, 1, 28, 28), "a large batch of MNIST"),
    "grey": Case((1, 1, 512, 512), "one grey image"),
    "photo": Case((1, 3, 1080, 1920), "one photograph"),
    "imagenet": Case((32, 3, 224, 224), "a batch of ImageNet"),
    "features": Case((8, 64, 56, 56), "feature maps"),
}


@dataclass
class Problem:
    """A case's tensors: images, maps that turn by up to 30 degrees and scale by 0.9 to 1.1, a gradient."""

    input: Tensor
    theta: Tensor
    grad: Tensor

    @classmethod
    def make(cls, case: Case, device: torch.device) -> Problem:
        generator = torch.Generator().manual_seed(0)
        n = case.shape[0]

        def uniform(low: float, high: float) -> Tensor:
            return torch.empty(n).uniform_(low, high, generator=generator)

        # Spread evenly; a single image turns by 20 degrees, for an upright one would flatter the caches.
        angle = torch.linspace(-torch.pi / 6, torch.pi / 6, n) if n > 1 else torch.tensor([torch.pi / 9])
        scale = uniform(0.9, 1.1)
        c, s = scale * angle.cos(), scale * angle.sin()
        theta = torch.stack((c, -s, uniform(-0.1, 0.1), s, c, uniform(-0.1, 0.1)), 1).view(n, 2, 3)
        input, grad = torch.randn(2, *case.shape, generator=generator)
        return cls(input.to(device), theta.to(device), grad.to(device))


Warp = Callable[[Tensor, Tensor], Tensor]


def fused(input: Tensor, theta: Tensor) -> Tensor:
    return stn_ext.affine_sample(input, theta)


def pytorch(input: Tensor, theta: Tensor) -> Tensor:
    grid = F.affine_grid(theta, list(input.shape), align_corners=False)
    return F.grid_sample(input, grid, align_corners=False)


CONTENDERS: dict[str, Warp] = {"stn_ext": fused, "pytorch": pytorch}
BASELINE = "pytorch"


def forward(warp: Warp, problem: Problem) -> Callable[[], object]:
    def run() -> Tensor:
        with torch.no_grad():
            return warp(problem.input, problem.theta)

    return run


def forward_backward(warp: Warp, problem: Problem) -> Callable[[], object]:
    """With the gradients of both the input and theta."""
    input, theta = problem.input.clone().requires_grad_(), problem.theta.clone().requires_grad_()

    def run() -> tuple[Tensor, ...]:
        return torch.autograd.grad(warp(input, theta), (input, theta), problem.grad)

    return run


PASSES = {"forward": forward, "forward + backward": forward_backward}
