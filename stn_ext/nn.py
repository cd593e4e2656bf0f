"""The spatial transformer as a module, for any network."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import geometry, transforms
from .arguments import Size, lengths, positive, short
from .fill import Fill
from .heatmap import HeatmapLocalization

__all__ = ["HeatmapLocalization", "ParallelTransformers", "SpatialTransformer"]


class SpatialTransformer(nn.Module):
    """Warps its input by the parameters that a localisation network reads from it (Jaderberg et al. 2015).

    The input may be an image or a feature map, of any number of channels, at any depth of a network. It
    starts as the identity: the weight of the localisation network's last ``nn.Linear`` is set to zero and its
    bias to the identity's parameters. The first call checks that this is what the localisation network
    returns, as long as nothing has been learned or loaded meanwhile; compilers, tracers and ``torch.func``
    leave the check to the next call without them.

    Args:
        localization: maps the input (N, C, H, W) to parameters (N, P); its last ``nn.Linear`` must have
            P = the transform's number of parameters outputs, and a bias, and nothing behind it. Or it
            has a method ``reset_to_identity`` of its own, as :class:`HeatmapLocalization` does.
        transform: a name in :data:`stn_ext.transforms.TRANSFORMS`.
        size: the output's (H_out, W_out), or one number for both; the input's when None.
        mode, padding_mode, align_corners, fill: as for :func:`stn_ext.affine_sample`. A tensor of fill moves
            with the module, and is no part of its state; an ``nn.Parameter`` is learned.
        antialias: for an output smaller than the input, of whose pixels plain sampling would skip some: an
            output pixel is the mean of r_y x r_x samples spread evenly over its square, where r_y =
            ceil(H / H_out) and r_x = ceil(W / W_out), so that the identity skips none. What the map itself
            shrinks comes on top of that, and is not counted. It costs as much as an output larger by r_y
            and r_x.
        iterations: how often the localisation network looks (Lin and Lucey 2017): the second time it sees
            the input warped by what it found the first time, in the input's size, and so on. The maps are
            composed, and it is always the input itself that is sampled. Not for thin plate splines.
        jitter: standard deviations of normal noise that is added to the parameters in training, at each
            look: one number for all, or one for each. In evaluation there is none. Training is told by the
            module's own ``training`` alone.
        identity: False leaves the localisation network as it is, for one that starts elsewhere or ends in
            something else than an ``nn.Linear``.
        options: the transform's own, such as ``grid`` or ``points`` of a thin plate spline. ``aspect=False``
            of rotation and similarity turns the normalised square, as the paper does, not the picture.

    Raises:
        ValueError: an unknown transform, or an option that is unknown or of a value that it cannot have; a
            last layer that does not fit the transform, or, in the first call, what is behind it; antialias
            together with align_corners, under which pixels are no squares; or iterations of maps that cannot
            be composed.
        TypeError: a localization that is no module, or an option of the wrong type.
    """

    def __init__(
        self,
        localization: nn.Module,
        transform: str = "affine",
        size: Size | None = None,
        *,
        mode: str = "bilinear",
        padding_mode: str = "zeros",
        align_corners: bool = False,
        fill: Fill | None = None,
        antialias: bool = False,
        iterations: int = 1,
        jitter: float | Sequence[float] = 0.0,
        identity: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        if not isinstance(localization, nn.Module):
            raise TypeError(
                "SpatialTransformer: expected localization of an nn.Module, whose parameters can be learned, "
                f"but got {type(localization).__name__}"
            )
        if antialias and align_corners:
            raise ValueError("SpatialTransformer: expected align_corners=False with antialias=True")
        self.localization = localization
        self.transform = transforms.create(transform, **options)
        self.iterations = positive("SpatialTransformer", "iterations", iterations)
        if iterations > 1 and not self.transform.composable:
            raise ValueError(
                f"SpatialTransformer: expected iterations=1 for transform {transform!r}, whose maps cannot "
                f"be composed, but got {iterations}"
            )
        self.jitter = _deviations(jitter, self.transform)
        self.size: tuple[int, int] | None = None
        if size is not None:
            height, width = lengths("SpatialTransformer", "size", size, 2)
            self.size = height, width
        self.mode = mode
        self.padding_mode = padding_mode
        self.align_corners = align_corners
        self.antialias = antialias
        if isinstance(fill, Tensor) and not isinstance(fill, nn.Parameter):
            self.register_buffer("fill", fill, persistent=False)
        else:
            self.fill = fill
        self._check_options()
        # Empty once there is nothing to check; a list, for replicas of DataParallel to have it in common.
        self._unchecked: list[str] = []
        if identity:
            self.reset_to_identity()

    def _check_options(self) -> None:
        """Has the operator itself refuse what it would refuse later, by a batch of no images.

        Whether a fill of many values fits depends on the images, which are not here yet.
        """
        fill = 0.0 if isinstance(self.fill, (Tensor, list, tuple)) else self.fill
        theta = self.transform(torch.zeros(0, self.transform.num_parameters))
        self.transform.sample(torch.zeros(0, 1, 1, 1), theta, self.size, **self._options() | {"fill": fill})

    @torch.no_grad()
    def reset_to_identity(self) -> None:
        """Sets the localisation network's last layer so that the output is the input resampled in place."""
        reset = getattr(self.localization, "reset_to_identity", None)
        if callable(reset):
            reset()
            return
        name, expected = self.transform.name, self.transform.num_parameters
        path, last = self._last_linear()
        if last is None or last.bias is None:
            raise ValueError("SpatialTransformer: expected localization to end in an nn.Linear with a bias")
        if last.out_features != expected:
            raise ValueError(
                f"SpatialTransformer: expected localization's last nn.Linear to have out_features = "
                f"{expected} for transform {name!r}, but got {last.out_features}"
            )
        own = dict(last.named_parameters(recurse=False))
        if not own.keys() >= {"weight", "bias"}:
            raise ValueError(
                f"SpatialTransformer: expected the weight and bias of {path}, localization's last nn.Linear, "
                "to be its parameters, which can be set to the identity, but they are computed from others "
                "(weight_norm, spectral_norm or the like)"
            )
        own["weight"].zero_()
        own["bias"].copy_(torch.tensor(self.transform.identity))
        self._unchecked.append(path)

    def forward(self, x: Tensor, return_theta: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Warps x (N, C, H, W) to (N, C, H_out, W_out); with return_theta also gives theta.

        Theta is (N, 2, 3), (N, 3, 3) of a projective map, or (N, 2, K + 3) of a thin plate spline.
        """
        if not isinstance(return_theta, bool):
            raise TypeError(
                "SpatialTransformer: expected return_theta of a bool, but got "
                f"{type(return_theta).__name__}; torch.fx.symbolic_trace takes it as one of its concrete_args"
            )
        theta = self.locate(x)
        warped = self.sample(x, theta)
        return (warped, theta) if return_theta else warped

    def locate(self, x: Tensor) -> Tensor:
        """The thetas by which x (N, C, H, W) is warped."""
        theta = self._look(x)
        for _ in range(1, self.iterations):
            seen = self.transform.sample(x, theta, **self._options())
            theta = geometry.compose(theta, self._look(seen))
        return theta

    def _look(self, x: Tensor) -> Tensor:
        """What the localisation network makes of an image."""
        parameters = self.localization(x)
        if _has_values(parameters) and self._unchecked:
            self._check_start(x, parameters)
        if self.training and any(self.jitter):
            parameters = parameters + torch.randn_like(parameters) * parameters.new_tensor(self.jitter)
        return self.transform(parameters, x.shape[-2:], self.align_corners)

    def sample(self, x: Tensor, theta: Tensor) -> Tensor:
        """Warps x by a theta that is given, to the size and with the options of this module."""
        options = self._options()
        if not self.antialias or self.size is None:
            return self.transform.sample(x, theta, self.size, **options)
        (height, width), (out_height, out_width) = x.shape[-2:], self.size
        # Rounded up without a negative number, which ONNX would round the other way.
        samples = (height + out_height - 1) // out_height, (width + out_width - 1) // out_width
        fine = self.transform.sample(x, theta, (samples[0] * out_height, samples[1] * out_width), **options)
        if all(type(number) is int for number in samples):
            return F.avg_pool2d(fine, samples) if samples != (1, 1) else fine
        # Sizes that vary, of an exported program, which avg_pool2d would fix.
        return fine.unflatten(3, (out_width, samples[1])).unflatten(2, (out_height, samples[0])).mean((3, 5))

    @torch.no_grad()
    def outside(self, x: Tensor, theta: Tensor) -> Tensor:
        """The shares (N,), from 0 to 1, of the output's pixels that theta reads outside of x (N, C, H, W)."""
        ones = x.new_ones(1, 1, *x.shape[-2:])
        size = self.size or tuple(x.shape[-2:])
        inside = self.transform.sample(ones, theta, size, mode="nearest", align_corners=self.align_corners)
        return (inside != 1).to(theta.dtype).mean((1, 2, 3))

    def _options(self) -> dict[str, Any]:
        return {
            "mode": self.mode,
            "padding_mode": self.padding_mode,
            "align_corners": self.align_corners,
            "fill": self.fill,
        }

    def extra_repr(self) -> str:
        return (
            f"{self.transform.name}, size={self.size}, mode={self.mode}, padding_mode={self.padding_mode}, "
            f"align_corners={self.align_corners}, fill={self.fill}, antialias={self.antialias}, "
            f"iterations={self.iterations}, jitter={self.jitter}"
        )

    def _last_linear(self) -> tuple[str, nn.Linear | None]:
        """The layer that the start as the identity depends on, and its name."""
        layers = [
            (f"localization.{name}".rstrip("."), module)
            for name, module in self.localization.named_modules()
            if isinstance(module, nn.Linear)
        ]
        return layers[-1] if layers else ("", None)

    @torch.no_grad()
    def _check_start(self, x: Tensor, parameters: Tensor) -> None:
        """Raises a ValueError where the localisation network does not return what its last layer was set to.

        The first call says all that there is to know, unless its features are no numbers, which no weight of
        0 makes numbers.
        """
        if not parameters.isfinite().all():
            return
        self._unchecked.clear()
        path, last = self._last_linear()
        expected = torch.tensor(self.transform.identity)
        if last is None or last.weight.any() or not torch.equal(last.bias, expected.to(last.bias)):
            return  # learned or loaded since
        # Far more than a rounding to half precision, far less than what an activation does to a 1.
        if ((parameters - expected.to(parameters)).abs() < 0.01).all():
            return
        raise ValueError(
            "SpatialTransformer: expected localization to start as the identity, but it returns "
            f"{[round(value, 4) for value in parameters[0].tolist()]}: {path}, its last nn.Linear, is set to "
            f"the identity, but {self._after(x, last)}; let it come last, or pass identity=False"
        )

    def _after(self, x: Tensor, last: nn.Module) -> str:
        """What happens in the localisation network behind a layer of it, for a message."""
        names = {
            module: f"localization.{name}"
            for name, module in self.localization.named_modules()
            if not any(True for _ in module.children())
        }
        ran: list[nn.Module] = []
        hooks = [
            module.register_forward_hook(lambda module, args, output: ran.append(module)) for module in names
        ]
        try:
            self.localization(x)
        finally:
            for hook in hooks:
                hook.remove()
        if last not in ran:
            return "does not run"
        behind = ran[len(ran) - ran[::-1].index(last) :]
        if not behind:
            return f"{type(self.localization).__name__}.forward changes what it returns"
        return "behind it runs " + ", ".join(
            f"{names[module]} ({type(module).__name__})" for module in behind
        )


def _deviations(jitter: object, transform: transforms.Transform) -> tuple[float, ...]:
    """One for each parameter."""
    count = transform.num_parameters
    given = jitter if isinstance(jitter, Sequence) and not isinstance(jitter, str) else [jitter] * count
    numbers = tuple(float(number) for number in given if isinstance(number, (int, float)))
    if len(given) != count or len(numbers) != count or not all(0 <= n < math.inf for n in numbers):
        raise ValueError(
            "SpatialTransformer: expected jitter of one finite number >= 0, or one for each of the "
            f"{count} parameters of {transform.name!r}, but got {short(jitter)}"
        )
    return numbers


def _has_values(tensor: Tensor) -> bool:
    """Whether its numbers are there to be read: not under compilers, tracers, torch.func or on "meta"."""
    return not (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or type(tensor) is not Tensor
        or tensor.is_meta
        or tensor.numel() == 0
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
