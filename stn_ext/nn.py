"""The spatial transformer as a module, for any network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import transforms

__all__ = ["ParallelTransformers", "SpatialTransformer"]


class SpatialTransformer(nn.Module):
    """Warps its input by the parameters that a localisation network reads from it (Jaderberg et al. 2015).

    The input may be an image or a feature map, of any number of channels, at any depth of a network. It
    starts as the identity: the weight of the localisation network's last ``nn.Linear`` is set to zero and its
    bias to the identity's parameters.

    Args:
        localization: maps the input (N, C, H, W) to parameters (N, P); its last ``nn.Linear`` must have
            P = the transform's number of parameters outputs, and a bias.
        transform: a name in :data:`stn_ext.transforms.TRANSFORMS`.
        size: the output's (H_out, W_out); the input's when None.
        padding_mode, align_corners: as for :func:`stn_ext.affine_sample`.
        antialias: for an output smaller than the input, of whose pixels plain sampling would skip some: an
            output pixel is the mean of r_y x r_x samples spread evenly over its square, where r_y =
            ceil(H / H_out) and r_x = ceil(W / W_out), so that the identity skips none. What the map itself
            shrinks comes on top of that, and is not counted. It costs as much as an output larger by r_y
            and r_x.
        options: the transform's own, such as ``grid`` of a thin plate spline.

    Raises:
        ValueError: an unknown transform or option, a last layer that does not fit it, or antialias together
            with align_corners, under which pixels are no squares.
    """

    def __init__(
        self,
        localization: nn.Module,
        transform: str = "affine",
        size: tuple[int, int] | None = None,
        *,
        padding_mode: str = "zeros",
        align_corners: bool = False,
        antialias: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        if antialias and align_corners:
            raise ValueError("SpatialTransformer: expected align_corners=False with antialias=True")
        self.localization = localization
        self.transform = transforms.create(transform, **options)
        self.size = size
        self.padding_mode = padding_mode
        self.align_corners = align_corners
        self.antialias = antialias
        self.reset_to_identity()

    @torch.no_grad()
    def reset_to_identity(self) -> None:
        """Sets the localisation network's last layer so that the output is the input resampled in place."""
        name, expected = self.transform.name, self.transform.num_parameters
        layers = [module for module in self.localization.modules() if isinstance(module, nn.Linear)]
        last = layers[-1] if layers else None
        if last is None or last.bias is None:
            raise ValueError("SpatialTransformer: expected localization to end in an nn.Linear with a bias")
        if last.out_features != expected:
            raise ValueError(
                f"SpatialTransformer: expected localization's last nn.Linear to have out_features = "
                f"{expected} for transform {name!r}, but got {last.out_features}"
            )
        last.weight.zero_()
        last.bias.copy_(torch.tensor(self.transform.identity))

    def forward(self, x: Tensor, return_theta: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Warps x (N, C, H, W) to (N, C, H_out, W_out); with return_theta also gives theta.

        Theta is (N, 2, 3), (N, 3, 3) of a projective map, or (N, 2, K + 3) of a thin plate spline.
        """
        theta = self.transform(self.localization(x))
        warped = self.sample(x, theta)
        return (warped, theta) if return_theta else warped

    def sample(self, x: Tensor, theta: Tensor) -> Tensor:
        """Warps x by a theta that is given, to the size and with the options of this module."""
        options = {"padding_mode": self.padding_mode, "align_corners": self.align_corners}
        if not self.antialias or self.size is None:
            return self.transform.sample(x, theta, self.size, **options)
        (height, width), (out_height, out_width) = x.shape[-2:], self.size
        samples = -(-height // out_height), -(-width // out_width)
        fine = self.transform.sample(x, theta, (samples[0] * out_height, samples[1] * out_width), **options)
        return F.avg_pool2d(fine, samples) if samples != (1, 1) else fine

    def extra_repr(self) -> str:
        return (
            f"size={self.size}, padding_mode={self.padding_mode}, align_corners={self.align_corners}, "
            f"antialias={self.antialias}"
        )


class ParallelTransformers(nn.Module):
    """Several spatial transformers of one input, their outputs concatenated over channels.

    As in the two- and four-transformer networks of Jaderberg et al. 2015. The outputs must have one size.
    """

    def __init__(self, transformers: Iterable[SpatialTransformer]) -> None:
        super().__init__()
        self.transformers = nn.ModuleList(transformers)

    def forward(self, x: Tensor, return_theta: bool = False) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Warps x (N, C, H, W) to (N, T * C, H_out, W_out); with return_theta also gives the T thetas."""
        warped, thetas = zip(*(t(x, return_theta=True) for t in self.transformers), strict=True)
        return (torch.cat(warped, 1), list(thetas)) if return_theta else torch.cat(warped, 1)
