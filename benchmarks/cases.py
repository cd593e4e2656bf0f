"""The problems that the sampler is timed on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Case:
    shape: tuple[int, ...]  # of the input
    size: tuple[int, int] | None = None  # of the output; the input's when None
    kind: str = "affine"  # or "projective", "spline", "volume"
    scale: float = 1.0  # of the maps: below 1 they zoom in
    shift: float = 0.0  # in x; 1 is half an image
    channels_last: bool = False

    def __str__(self) -> str:
        shape = "x".join(map(str, self.shape))
        return shape if self.size is None else f"{shape} to {self.size[0]}x{self.size[1]}"


# What people do; geometric means are over these.
COMMON = {
    "digits": Case((64, 1, 28, 28)),  # a batch of MNIST
    "digits-1k": Case((1024, 1, 28, 28)),
    "grey": Case((1, 1, 512, 512)),
    "photo": Case((1, 3, 1080, 1920)),
    "imagenet": Case((32, 3, 224, 224)),  # a batch of ImageNet
    "features": Case((8, 64, 56, 56)),
}
# Other layouts, sizes and maps.
SPECIAL = {
    "features-nhwc": Case((8, 64, 56, 56), channels_last=True),
    "crop": Case((32, 3, 512, 512), size=(64, 64), scale=1 / 8),  # at its own resolution
    "zoom-in": Case((32, 3, 224, 224), scale=1 / 4),
    "zoom-out": Case((32, 3, 224, 224), scale=4),
    "outside": Case((32, 3, 224, 224), shift=10),
    "tiny": Case((1, 1, 8, 8)),  # what a call costs by itself
}
# Other maps.
WARPS = {
    f"{kind}-{name}": Case(COMMON[name].shape, kind=kind)
    for kind in ("projective", "spline")
    for name in ("digits", "features", "photo")
} | {"volume": Case((2, 1, 96, 96, 96), kind="volume")}
# What fills a GPU: one image, a batch of ImageNet, feature maps.
LARGE = {
    "large": Case((1, 3, 4096, 4096)),
    "imagenet-256": Case((256, 3, 224, 224)),
    "features-64": Case((64, 64, 112, 112)),
}
CASES = COMMON | SPECIAL | WARPS | LARGE
DEFAULT_CASES = {"cpu": COMMON | SPECIAL | WARPS, "cuda": LARGE | {"digits": COMMON["digits"]}}

# The control points of the spline: a grid of 4 x 4, (16, 2).
_LINE = torch.linspace(-1, 1, 4)
POINTS = torch.cartesian_prod(_LINE, _LINE).flip(1).contiguous()

# Time by size: each curve's cases, by what grows.
CURVES = {
    "images of 1x28x28": {n: Case((n, 1, 28, 28)) for n in (1, 4, 16, 64, 256, 1024)},
    "side of one grey image": {s: Case((1, 1, s, s)) for s in (16, 32, 64, 128, 256, 512, 1024, 2048)},
    "channels of 4 maps of 56x56": {c: Case((4, c, 56, 56)) for c in (1, 2, 3, 4, 8, 16, 32, 64, 128, 256)},
}


@dataclass
class Problem:
    """A case's tensors: images, maps that turn by up to 30 degrees and scale by 0.9 to 1.1, a gradient.

    Other kinds of map bend these a little.
    """

    input: Tensor
    theta: Tensor
    grad: Tensor

    @property
    def size(self) -> tuple[int, ...]:
        """The output's."""
        return tuple(self.grad.shape[2:])

    @classmethod
    def make(cls, case: Case, device: torch.device) -> Problem:
        generator = torch.Generator().manual_seed(0)
        n, channels, *size = case.shape
        layout = torch.channels_last if case.channels_last else torch.contiguous_format

        def uniform(low: float, high: float) -> Tensor:
            return torch.empty(n).uniform_(low, high, generator=generator)

        def noise(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(device, memory_format=layout)

        # Spread evenly; a single image turns by 20 degrees, for an upright one would flatter the caches.
        angle = torch.linspace(-torch.pi / 6, torch.pi / 6, n) if n > 1 else torch.tensor([torch.pi / 9])
        scale = case.scale * uniform(0.9, 1.1)
        c, s = scale * angle.cos(), scale * angle.sin()
        x, y = case.shift + uniform(-0.1, 0.1), uniform(-0.1, 0.1)
        theta = torch.stack((c, -s, x, s, c, y), 1).view(n, 2, 3)
        if case.kind == "projective":
            theta = torch.cat((theta, torch.tensor([0.1, -0.15, 1.0]).expand(n, 1, 3)), 1)
        elif case.kind == "spline":
            theta = torch.cat((0.02 * torch.randn(n, 2, len(POINTS), generator=generator), theta), 2)
        elif case.kind == "volume":
            tilt = torch.tensor([[0.1], [-0.1]]).expand(n, 2, 1)
            third = torch.tensor([0.1, -0.1, 1.0, 0.05]).expand(n, 1, 4)
            theta = torch.cat((torch.cat((theta[..., :2], tilt, theta[..., 2:]), 2), third), 1)
        return cls(noise(*case.shape), theta.to(device), noise(n, channels, *(case.size or size)))
