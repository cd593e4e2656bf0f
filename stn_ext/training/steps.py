"""How training takes a step: what the images become before, how its gradient is found, what bounds it."""

from __future__ import annotations

import contextlib
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .. import functional
from .data import AnySet, Normalisation
from .objectives import Objective


@dataclass(frozen=True)
class Recipe:
    """How a step down the gradient is taken; the plain one, but for what is said otherwise."""

    objective: Objective
    accumulate: int = 1  # parts of a step's images, whose gradients are added up
    clip_grad: float = 0.0  # the longest that the gradient of all weights may be (0: any length)
    bfloat16: bool = False  # whether the layers compute in it, where autocast finds them fit
    maps: Tensor | None = None  # theta (N, 2, 3) for each training image, by which it is warped

    @classmethod
    def of(cls, args: Namespace, objective: Objective, maps: Tensor | None = None) -> Recipe:
        return cls(objective, args.accumulate, args.clip_grad, args.amp == "bf16", maps)

    def parts(self, batch: Tensor) -> list[Tensor]:
        """The images of a step (N,), cut into what goes through the network at a time."""
        return [part for part in batch.tensor_split(self.accumulate) if len(part)]

    def load(self, data: AnySet, index: Tensor, normalisation: Normalisation) -> tuple[Tensor, Tensor]:
        """The images of that index, as the network sees them in training, and their labels."""
        batch = data.batch(index)
        images = normalisation.apply(batch.images)
        if self.maps is not None:  # background is 0 by now, as is what they show from beyond the image
            images = functional.affine_sample(images, self.maps[index])
        return images, batch.labels

    def step(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        parts: Iterable[tuple[Tensor, Tensor]],
        count: int,
        scale: float,
    ) -> Tensor:
        """One step down the gradient of so many parts (images, labels): the sums that :func:`sums` makes.

        ``scale`` weights an image in the gradient.
        """
        optimizer.zero_grad(set_to_none=True)
        totals = []
        for number, (images, labels) in enumerate(parts, 1):
            # Processes have to wait for each other once a step only.
            alone = getattr(model, "no_sync", None) if number < count else None
            with alone() if alone else contextlib.nullcontext():
                with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bfloat16):
                    outputs = model(images)
                outputs = _in_float32(outputs) if self.bfloat16 else outputs
                loss = self.objective.loss(outputs, labels)
                (loss * scale).backward()
            totals.append(sums(self.objective, outputs, labels, loss))
        if self.clip_grad:
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            nn.utils.clip_grad_norm_(weights, self.clip_grad)
        optimizer.step()
        return torch.stack(totals).sum(0)


@torch.no_grad()
def sums(objective: Objective, outputs: Any, labels: Tensor, loss: Tensor) -> Tensor:
    """(loss, correct, images) in float64, on the device."""
    verdict = objective.judge(outputs, labels)
    correct = (verdict.predictions == verdict.labels).sum()
    return torch.stack((loss.double(), correct.double(), torch.full_like(loss, len(labels)).double()))


def _in_float32(outputs: Any) -> Any:
    """The logits, or each of several outputs."""
    if isinstance(outputs, Tensor):
        return outputs.float()
    return type(outputs)(*map(_in_float32, outputs))
