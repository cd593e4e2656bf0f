"""What a run takes of memory at the least, told from the network's shapes before anything of it is made."""

from __future__ import annotations

from argparse import Namespace

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

from ..models import num_parameters
from . import memory
from .distributed import Process
from .run import About, build

FLOAT = 4  # bytes
STATES = {"adam": 2, "sgd": 1, "rmsprop": 2}  # numbers that an optimiser keeps for each weight


def check_training(args: Namespace, about: About, num_images: int, process: Process) -> None:
    """Raises UserError, which names the options to lower, where a training step cannot fit into memory.

    It counts the weights with what is kept for each, and what the forward pass keeps for the backward pass.
    """
    with torch.device("meta"):  # shapes without memory
        network = build(vars(args), about)
    weights = num_parameters(network) * FLOAT * (2 + STATES[args.optim] + bool(args.ema))
    images = -(-min(args.batch_size, num_images) // process.world)
    activations = images * activations_of(network, about.shape) // (2 if args.amp == "bf16" else 1)
    options = "--width or --num_transformers"
    if activations > weights:
        options = "--batch_size" + ("" if args.warp_size is None else " or --warp_size")
        if args.name_data == "imagefolder":
            options += " or --image_size"
    memory.check(weights + activations, f"a step of {images} images", f"lower {options}", process.device)


def activations_of(network: nn.Module, shape: tuple[int, int, int]) -> int:
    """The bytes that a network on the meta device keeps for the backward pass, for each image."""
    two, four = (_kept(network, torch.empty(count, *shape, device="meta")) for count in (2, 4))
    return (four - two) // 2  # the weights are kept too, whatever the number of images


def _kept(network: nn.Module, images: Tensor) -> int:
    sizes: dict[StorageWeakRef, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[StorageWeakRef(storage)] = storage.nbytes()  # once, however many operators keep it
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        network(images)
    return sum(sizes.values())
