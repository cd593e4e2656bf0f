"""The spatial transformer as a module, for any network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import functional
from .transforms import TRANSFORMS

__all__ = ["SpatialTransformer"]


class SpatialTransformer(nn.Module):
    """Warps its input by the parameters that a localisation network reads from it (Jaderberg et al. 2015).

    It starts as the identity: the weight of the localisation network's last ``nn.Linear`` is set to zero
    and its bias to the identity's parameters.

    Args:
        localization: maps the input (N, C, H, W) to parameters (N, P); its last ``nn.Linear`` must have
            P = the transform's number of parameters outputs, and a bias.
        transform: a name in :data:`stn_ext.transforms.TRANSFORMS`.
        size: the output's (H_out, W_out); the input's when None.
        padding_mode, align_corners: as for :func:`stn_ext.affine_sample`.

    Raises:
        ValueError: an unknown transform, or a last layer that does not fit it.
    """

    def __init__(
        self,
        localization: nn.Module,
        transform: str = "affine",
        size: tuple[int, int] | None = None,
        *,
        padding_mode: str = "zeros",
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        if transform not in TRANSFORMS:
            known = ", ".join(TRANSFORMS)
            raise ValueError(f"SpatialTransformer: expected a transform of {known}, but got {transform!r}")
        self.localization = localization
        self.transform = TRANSFORMS[transform]
        self.size = size
        self.padding_mode = padding_mode
        self.align_corners = align_corners
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
        """Warps x (N, C, H, W) to (N, C, H_out, W_out); with return_theta also gives theta (N, 2, 3)."""
        theta = self.transform.theta(self.localization(x))
        warped = functional.affine_sample(
            x, theta, self.size, padding_mode=self.padding_mode, align_corners=self.align_corners
        )
        return (warped, theta) if return_theta else warped

    def extra_repr(self) -> str:
        return (
            f"transform={self.transform.name}, size={self.size}, "
            f"padding_mode={self.padding_mode}, align_corners={self.align_corners}"
        )
