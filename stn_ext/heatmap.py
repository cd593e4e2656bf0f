"""A localisation network that finds a place as the middle of a heatmap."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from . import transforms
from .arguments import positive, short

__all__ = ["HeatmapLocalization"]

# Where the parameters tx, ty stand; scale and angle come before them.
FIRST = {"attention": ("scale",), "translation": (), "similarity": ("scale", "angle")}


class HeatmapLocalization(nn.Module):
    """Finds a place as the centroid of a heatmap, and scale and angle, where the transform has them, by a
    head.

    The feature map's places stand evenly over the image. A convolution makes one number of each, a softmax
    over all of them makes weights of those, and the mean of the places' coordinates by these weights is
    (tx, ty): a soft argmax, as the origin of Polar Transformer Networks (Esteves et al. 2018) is found. What
    it finds moves along with what it looks for, and it need not learn anew for each place what something
    looks like, which a regression by fully connected layers must. Scale and angle are read from the same
    feature map by a small regression.

    It starts in the middle of the image, at ``scale`` and unturned, as long as its features are finite:
    :meth:`reset_to_identity`, which :class:`SpatialTransformer` calls, sees to that.

    Args:
        features: maps what is seen, (N, C, H, W), to a feature map (N, channels, h, w); finer ones place more
            exactly.
        channels: the feature map's.
        transform: "attention", "translation" or "similarity", whose parameters it puts out, (N, P).
        scale: at which it starts, and by which what the head finds is multiplied: that of what is looked for
            in the image, where it is known. With iterations it is found anew in each, so that they multiply.
        shared: layers that features follow, such as a classifier's first: the same module may be part of
            the classifier too, and learns from both. Their batch normalisation sees both kinds of input.
        hidden: units of the head.

    Raises:
        ValueError: another transform, or numbers that are not above 0.
        TypeError: features or shared that are no modules.
    """

    def __init__(
        self,
        features: nn.Module,
        channels: int,
        transform: str = "attention",
        *,
        scale: float = 1.0,
        shared: nn.Module | None = None,
        hidden: int = 32,
    ) -> None:
        super().__init__()
        for name, module in (("features", features), ("shared", shared)):
            if not isinstance(module, nn.Module) and (module is not None or name == "features"):
                raise TypeError(
                    f"HeatmapLocalization: expected {name} of an nn.Module, but got {type(module).__name__}"
                )
        if transform not in FIRST:
            raise ValueError(
                f"HeatmapLocalization: expected a transform of {', '.join(FIRST)}, but got {transform!r}"
            )
        if type(scale) not in (int, float) or not 0 < scale < math.inf:
            raise ValueError(f"HeatmapLocalization: expected a finite scale above 0, but got {short(scale)}")
        if transform == "translation" and scale != 1:
            raise ValueError(
                f"HeatmapLocalization: expected scale=1 for transform 'translation', but got {short(scale)}"
            )
        channels = positive("HeatmapLocalization", "channels", channels)
        hidden = positive("HeatmapLocalization", "hidden", hidden)
        self.transform, self.scale = transform, float(scale)
        self.shared = shared
        self.features = features
        self.heatmap = nn.Conv2d(channels, 1, 1, bias=False)
        self.head: nn.Sequential | None = None
        if FIRST[transform]:
            # The few hidden units are normalised: otherwise all of them may die.
            self.head = nn.Sequential(
                nn.AdaptiveAvgPool2d(4),
                nn.Flatten(),
                nn.Linear(16 * channels, hidden),
                nn.LayerNorm(hidden),
                nn.ReLU(),
                nn.Linear(hidden, len(FIRST[transform])),
            )
        self.reset_to_identity()

    @torch.no_grad()
    def reset_to_identity(self) -> None:
        """Sets the last layers so that the middle of the image is found."""
        nn.init.zeros_(self.heatmap.weight)
        if self.head is not None:
            last = self.head[-1]
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)
            identity = transforms.create(self.transform).identity
            last.bias.copy_(torch.tensor(identity[: last.out_features]))

    def forward(self, x: Tensor) -> Tensor:
        """The transform's parameters (N, P) for x (N, C, H, W)."""
        seen = x if self.shared is None else self.shared(x)
        features = self.features(seen)
        place = self.place(features)
        if self.head is None:
            return place
        first = self.head(features).to(place.dtype)
        scale = first[:, :1] * self.scale
        return torch.cat((scale, first[:, 1:], place), 1)

    def place(self, features: Tensor) -> Tensor:
        """The heatmap's centroid (N, 2), x and y, in the image's normalised coordinates."""
        logits = self.heatmap(features)[:, 0]
        height, width = logits.shape[1:]
        # In float32 at least: a place is as exact as these sums.
        weights = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(1).softmax(1)
        weights = weights.unflatten(1, (height, width))
        axes = []
        for length, along in ((width, weights.sum(1)), (height, weights.sum(2))):
            centres = (2 * torch.arange(length, device=along.device, dtype=along.dtype) + 1) / length - 1
            axes.append((along * centres).sum(1))
        return torch.stack(axes, 1)

    def extra_repr(self) -> str:
        return f"{self.transform}, scale={self.scale:g}"
