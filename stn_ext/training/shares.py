"""What share of a training step's time the sampler takes."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ..models import ImageClassifier
from .data import AnySet, Normalisation
from .engine import evaluation_batch
from .objectives import OBJECTIVES


class SamplerClock(TorchDispatchMode):
    """Adds up the seconds of this package's operators."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.seconds = 0.0
        self._device = device

    def now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace != "stn_ext":
            return func(*args, **(kwargs or {}))
        began = self.now()
        result = func(*args, **(kwargs or {}))
        self.seconds += self.now() - began
        return result


def sampler_share(
    model: ImageClassifier, data: AnySet, normalisation: Normalisation, batch_size: int
) -> float | None:
    """The sampler's share, from 0 to 1, of a pass forth and back over the first images of the data.

    None without a transformer. The network is as in evaluation, and stays as it is: no gradient is kept, no
    random number drawn.
    """
    if model.transformer is None:
        return None
    model.eval()
    batch = data.batch(slice(0, min(batch_size, evaluation_batch(model, data.shape))))
    images, weights = normalisation.apply(batch.images), [w for w in model.parameters() if w.requires_grad]
    objective, clock = OBJECTIVES[data.objective](), SamplerClock(images.device)
    began = clock.now()
    with clock:
        loss = objective.loss(model(images), batch.labels)
        torch.autograd.grad(loss, weights, allow_unused=True)
    return clock.seconds / (clock.now() - began)
