"""The training loop: steps, epochs, evaluation, optimisers and learning rates."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, update_bn

from ..models import ImageClassifier
from ..nn import SpatialTransformer
from .data import AnySet, ImageSet, Normalisation
from .distributed import Process
from .errors import UserError
from .objectives import OBJECTIVES
from .steps import Recipe, sums

# Fixed, so that the same network gives the same bits whatever --batch_size: images, and fewer of large ones.
EVALUATION_BATCH = 500
EVALUATION_PIXELS = EVALUATION_BATCH * 84 * 84
STATISTICS_IMAGES = 1000  # of which batch normalisation's statistics are taken, at most


@dataclass(frozen=True)
class Metrics:
    """Means over images, not over batches."""

    loss: float  # the objective's, such as the cross entropy in nats
    accuracy: float  # from 0 to 1

    @classmethod
    def of(cls, totals: Tensor) -> Metrics:
        """From the sums (loss, correct, images). This waits for the device."""
        loss, correct, images = totals.tolist()
        return cls(loss / max(images, 1), correct / max(images, 1))


def make_optimizer(model: ImageClassifier, args: Namespace) -> Optimizer:
    """The optimiser of --optim; the classifier and the localisation network, if any, are a group each."""
    trained = [parameter for parameter in model.classifier.parameters() if parameter.requires_grad]
    groups = [{"params": trained, "lr": args.lr_cls, "name": "cls"}] if trained else []
    if model.transformer is not None:
        groups.append({"params": list(model.transformer.parameters()), "lr": args.lr_stn, "name": "stn"})
    decay = args.weight_decay
    if args.optim == "adam":
        return torch.optim.AdamW(groups, betas=(args.beta1, 0.999), weight_decay=decay, fused=True)
    if args.optim == "sgd":
        return torch.optim.SGD(
            groups, momentum=args.beta1, nesterov=args.beta1 > 0, weight_decay=decay, fused=True
        )
    return torch.optim.RMSprop(groups, momentum=args.beta1, weight_decay=decay)


def make_scheduler(
    optimizer: Optimizer, args: Namespace, steps_per_epoch: int
) -> LambdaLR | ReduceLROnPlateau:
    """The policy of --lr_policy; all but plateau act at every step."""
    if args.lr_policy == "plateau":
        return ReduceLROnPlateau(optimizer, factor=args.lr_decay, patience=args.lr_patience)
    return LambdaLR(optimizer, lambda step: lr_factor(args, step / steps_per_epoch, 1 / steps_per_epoch))


def lr_factor(args: Namespace, epoch: float, step: float) -> float:
    """What the learning rate is multiplied by, after so many epochs (a fraction), a step being so long."""
    if epoch < args.lr_warmup:
        return min(1.0, (epoch + step) / args.lr_warmup)
    if args.lr_policy == "step":
        return args.lr_decay ** (int(epoch) // args.lr_step)
    rest = (args.num_epoch - epoch) / max(args.num_epoch - args.lr_warmup, step)
    rest = min(max(rest, 0.0), 1.0)
    shape = rest if args.lr_policy == "linear" else (1 - math.cos(math.pi * rest)) / 2
    return args.lr_final + (1 - args.lr_final) * shape


def steps_per_epoch(num_images: int, batch_size: int) -> int:
    return math.ceil(num_images / batch_size)


def epoch_order(num_images: int, batch_size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """A new random order of all images, cut into an epoch's batches, all nearly of one size."""
    order = torch.randperm(num_images, generator=generator)
    return order.tensor_split(steps_per_epoch(num_images, batch_size))


def train_epoch(
    model: nn.Module,
    optimizer: Optimizer,
    scheduler: LambdaLR | ReduceLROnPlateau,
    data: AnySet,
    normalisation: Normalisation,
    order: tuple[Tensor, ...],
    process: Process,
    on_step: Callable[[int, Tensor], None] = lambda images, totals: None,
    *,
    recipe: Recipe | None = None,
    averaged: AveragedModel | None = None,
) -> Metrics:
    """Trains once over the images in the given order; each process takes its share of every batch.

    Nothing here waits for the device before the end. ``on_step`` gets the number of images in a step and the
    sums so far; ``recipe`` says how a step is taken, the plain one of the data's objective when None;
    ``averaged`` takes in the weights after each step.
    """
    recipe = recipe or Recipe(OBJECTIVES[data.objective]())
    steps = [recipe.parts(batch) for batch in order]
    if min(len(part) for parts in steps for part in parts) < process.world:
        raise UserError(f"too few images in a batch for {process.world} processes: raise --batch_size")
    model.train()
    totals = torch.zeros(3, dtype=torch.float64, device=process.device)
    shares = [[process.share(part).to(data.index_device) for part in parts] for parts in steps]
    for batch, parts in zip(order, shares, strict=True):
        # DistributedDataParallel averages over processes, whose shares differ: weight images, not shares.
        scale = process.world / len(batch)
        loaded = (recipe.load(data, part, normalisation) for part in parts)
        totals += recipe.step(model, optimizer, loaded, len(parts), scale)
        if averaged:
            averaged.update_parameters(model)
        if isinstance(scheduler, LambdaLR):
            scheduler.step()
        on_step(len(batch), totals)
    return Metrics.of(process.sum(totals))


def evaluate(
    model: ImageClassifier,
    data: AnySet,
    normalisation: Normalisation,
    process: Process,
    *,
    samples: int = 1,
) -> Metrics:
    """The mean loss and the accuracy over all images, each seen by one process; samples: see predictions."""
    objective = OBJECTIVES[data.objective]()
    share = data[process.share(torch.arange(len(data))).to(data.index_device)]
    totals = torch.zeros(3, dtype=torch.float64, device=process.device)
    for batch, _, _, outputs in predictions(model, share, normalisation, samples=samples):
        totals += sums(objective, outputs, batch.labels, objective.loss(outputs, batch.labels))
    return Metrics.of(process.sum(totals))


@torch.no_grad()
def predictions(
    model: ImageClassifier, data: AnySet, normalisation: Normalisation, *, samples: int = 1
) -> Iterator[tuple[ImageSet, Tensor, list[Tensor], Any]]:
    """Batch by batch in the data's order: (the batch, what the classifier saw, the thetas, the outputs).

    With several samples the outputs are means over as many thetas, jittered as in training.
    """
    model.eval()
    size = evaluation_batch(model, data.shape)
    for start in range(0, len(data), size):
        batch = data.batch(slice(start, start + size))
        images = normalisation.apply(batch.images)
        warped, thetas, outputs = model.look(images)
        yield batch, warped, thetas, outputs if samples == 1 else sampled(model, images, samples, seed=start)


def sampled(model: ImageClassifier, images: Tensor, samples: int, seed: int) -> Tensor:
    """The logarithms of the classes' mean probabilities, over jittered thetas, the same for the same seed."""
    transformers = transformers_of(model)
    total = images.new_tensor(-math.inf)
    with torch.random.fork_rng([images.device] if images.is_cuda else []):
        torch.manual_seed(seed)
        for transformer in transformers:
            transformer.training = True  # it alone: what is in it, normalisation say, stays as it is
        try:
            for _ in range(samples):
                total = torch.logaddexp(total, model(images).log_softmax(-1))
        finally:
            for transformer in transformers:
                transformer.training = False
    return total - math.log(samples)


def transformers_of(model: nn.Module) -> list[SpatialTransformer]:
    return [module for module in model.modules() if isinstance(module, SpatialTransformer)]


@torch.no_grad()
def outside(model: ImageClassifier, data: AnySet, normalisation: Normalisation) -> float | None:
    """The share, from 0 to 1, of what transformers put out that is read outside of the images.

    Of the first images, an evaluation's batch of them; None without a transformer.
    """
    transformers = transformers_of(model)
    if not transformers:
        return None
    model.eval()
    images = normalisation.apply(data.batch(slice(0, evaluation_batch(model, data.shape))).images)
    shares = [transformer.outside(images, transformer.locate(images)) for transformer in transformers]
    return torch.stack(shares).mean().item()


def evaluation_batch(model: nn.Module, shape: tuple[int, int, int]) -> int:
    """How many images a batch has that needs no gradients: memory for what the layers put out is bounded."""
    sizes = [transformer.size for transformer in transformers_of(model)]
    pixels = max(math.prod(size) for size in (shape[1:], *filter(None, sizes)))
    return max(1, min(EVALUATION_BATCH, EVALUATION_PIXELS // pixels))


def settle(model: nn.Module, data: AnySet, normalisation: Normalisation) -> None:
    """Takes batch normalisation's statistics anew, with the present weights, of the first images.

    The running averages are those of weights gone by: where training has few steps, the network that is
    validated would not be the one that was trained. Every process comes to the same statistics.
    """
    count = min(len(data), STATISTICS_IMAGES)
    parts = torch.arange(count).tensor_split(
        -(-count // evaluation_batch(model, data.shape))
    )  # nearly of one size
    batches = (data.batch(slice(int(part[0]), int(part[-1]) + 1)).images for part in parts)
    device = next(model.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):  # dropout's draws stay the same
        update_bn(map(normalisation.apply, batches), model)
