"""All that training changes, and what a checkpoint therefore holds."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..models import ImageClassifier, create_localiser, create_model
from . import config, engine
from .data import AnySet, background_of
from .distributed import Process
from .errors import UserError
from .objectives import LENGTH, SYMBOLS

Tensors = tuple[torch.Tensor, ...] | list[torch.Tensor]

# The options that make the network what it is, with their usual values.
ARCHITECTURE = {
    "net": "cnn",
    "width": None,
    "transformer": "on",
    "transform": "affine",
    "localization": "regression",
    "start_scale": 1.0,
    "iterations": 1,
    "jitter": 0.0,
    "num_transformers": 1,
    "warp_size": None,
    "antialias": "off",
    "control": "same",
}


@dataclass(frozen=True)
class About:
    """What a network has to know of its data."""

    shape: tuple[int, int, int]  # (C, H, W)
    classes: tuple[str, ...]
    background: tuple[int, ...]  # a uint8 value for each channel
    objective: str = "classification"  # a name in OBJECTIVES

    @classmethod
    def of(cls, training: AnySet) -> About:
        background = tuple(background_of(training))
        return cls(training.shape, training.classes, background, training.objective)

    def check(self, images: AnySet) -> None:
        """Raises UserError where the images are others than those the network was made for."""
        if images.shape != self.shape or images.classes != self.classes:
            raise UserError(
                f"the checkpoint is for images of shape {self.shape} in {len(self.classes)} classes, "
                f"but the data has shape {images.shape} and {len(images.classes)} classes"
                + ("" if images.classes == self.classes else " of other names")
            )


class Run:
    """A network in training: weights, optimiser, learning rates, random numbers, epochs done.

    ``history`` holds a dict of figures for each epoch.
    """

    def __init__(
        self,
        args: Namespace,
        about: About,
        num_images: int,
        process: Process,
        initial: Mapping[str, Any] | None = None,
    ) -> None:
        """initial: the state of a checkpoint whose weights training starts with, if any."""
        self.args, self.about, self.process = args, about, process
        self.epoch = 0
        self.history: list[dict[str, Any]] = []
        torch.manual_seed(args.seed)
        model = build(vars(args), about)
        if initial:
            start_from(model, about, initial)
        self.model = model.to(memory_format=torch.channels_last).to(process.device)
        self.averaged = average(self.model, args.ema) if args.ema else None
        self.optimizer = engine.make_optimizer(self.model, args)
        steps = engine.steps_per_epoch(num_images, args.batch_size * args.accumulate)
        self.scheduler = engine.make_scheduler(self.optimizer, args, steps)
        self.order = torch.Generator().manual_seed(args.seed)  # the images' order: the same in each process
        torch.manual_seed(args.seed + process.rank)  # dropout: different in each process

    @property
    def network(self) -> ImageClassifier:
        """What is validated and tested: the averaged weights, where they are averaged."""
        return cast(ImageClassifier, self.averaged.module) if self.averaged else self.model

    def state(self) -> dict:
        """A checkpoint's content. Every process must call this, at the end of an epoch."""
        device = self.process.device
        random = {"cpu": torch.get_rng_state()}
        if device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(device)
        return {
            "epoch": self.epoch,
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict() if self.averaged else None,
            "history": self.history,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "random": {"order": self.order.get_state(), "processes": self.process.gather(random)},
            "args": config.options(self.args),
            "data": {
                "shape": list(self.about.shape),
                "classes": list(self.about.classes),
                "background": list(self.about.background),
                "objective": self.about.objective,
            },
        }

    def restore(self, state: dict) -> None:
        """Goes back to where :meth:`state` was called.

        The state is one of this network's, as :func:`schema.check` has found it right.
        """
        self.model.load_state_dict(state["model"])
        if self.averaged:
            self.averaged.load_state_dict(state["averaged"])
        self.history = list(state["history"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.order.set_state(state["random"]["order"])
        self.epoch = state["epoch"]
        processes = state["random"]["processes"]
        if len(processes) == self.process.world:  # with another number of processes the draws differ anyway
            random = processes[self.process.rank]
            torch.set_rng_state(random["cpu"])
            if self.process.device.type == "cuda" and "cuda" in random:
                torch.cuda.set_rng_state(random["cuda"], self.process.device)


def build(options: Mapping, about: About) -> ImageClassifier:
    """The network that the options describe, of whom only those in ARCHITECTURE matter, for this data."""
    chosen = {name: options.get(name, default) for name, default in ARCHITECTURE.items()}
    size = chosen["warp_size"]
    if about.objective == "colocalisation":
        usual = {**ARCHITECTURE, "transform": "attention"}
        for name in usual.keys() - {"net", "width", "warp_size"}:
            if chosen[name] != usual[name]:
                raise UserError(f"co-localisation needs --{name} {usual[name]}, but got {chosen[name]}")
        if not size:
            raise UserError("co-localisation needs a --warp_size")
        try:
            return create_localiser(chosen["net"], about.shape, size=tuple(size), width=chosen["width"])
        except ValueError as error:
            raise UserError(str(error)) from error
    try:
        model = create_model(**model_options(options, about))
    except ValueError as error:
        raise UserError(str(error)) from error
    if about.objective == "sequence":
        cast(nn.Sequential, model.classifier).append(nn.Unflatten(1, (LENGTH, SYMBOLS)))
    return model


def model_options(options: Mapping, about: About) -> dict[str, Any]:
    """The arguments of :func:`stn_ext.models.create_model` for these options and this data."""
    chosen = {name: options.get(name, default) for name, default in ARCHITECTURE.items()}
    size = chosen["warp_size"]
    return {
        "net": chosen["net"],
        "shape": about.shape,
        "num_classes": LENGTH * SYMBOLS if about.objective == "sequence" else len(about.classes),
        "transformer": chosen["transformer"] == "on",
        "transform": chosen["transform"],
        "localization": chosen["localization"],
        "start_scale": chosen["start_scale"],
        "iterations": chosen["iterations"],
        "jitter": chosen["jitter"],
        "num_transformers": chosen["num_transformers"],
        "warp_size": tuple(size) if size else None,
        "antialias": chosen["antialias"] == "on",
        "width": chosen["width"],
        "widened": chosen["control"] == "widened",
    }


def average(model: ImageClassifier, decay: float) -> AveragedModel:
    """The exponential moving average of the weights and of the running statistics.

    At first the decay is less, (1 + n) / (10 + n) after n steps, so that it soon forgets the beginning.
    """

    def update(averages: Tensors, weights: Tensors, steps: torch.Tensor | int) -> None:
        n = int(steps)
        get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(averages, weights, steps)

    return AveragedModel(model, multi_avg_fn=update, use_buffers=True)


def about_of(state: Mapping[str, Any]) -> About:
    """What a checkpoint says of its data."""
    data = state["data"]
    shape, classes, background = (tuple(data[name]) for name in ("shape", "classes", "background"))
    return About(shape, classes, background, data["objective"])


def rebuild(state: Mapping[str, Any]) -> ImageClassifier:
    """The trained network, from a checkpoint alone."""
    model, decay = build(state["args"], about_of(state)), state["args"]["ema"]
    if decay:
        averaged = average(model, decay)
        averaged.load_state_dict(state["averaged"])
        model = cast(ImageClassifier, averaged.module)
    else:
        model.load_state_dict(state["model"])
    return model.to(memory_format=torch.channels_last)


def start_from(model: ImageClassifier, about: About, state: Mapping[str, Any]) -> None:
    """Gives the network a checkpoint's weights; where the classes are others, the last layer stays fresh.

    Raises:
        UserError: they are those of another network, or of images of another shape.
    """
    own, given = model.state_dict(), rebuild(state).state_dict()
    fresh: set[str] = set()
    if about.classes != about_of(state).classes:
        layers = [name for name, layer in model.classifier.named_modules() if isinstance(layer, nn.Linear)]
        fresh = {f"classifier.{layers[-1]}.{part}" for part in ("weight", "bias")} if layers else set()
    taken = own.keys() - fresh
    if own.keys() != given.keys() or any(own[name].shape != given[name].shape for name in taken):
        raise UserError(f"--init: the weights do not fit this network and images of shape {about.shape}")
    model.load_state_dict({name: (given if name in taken else own)[name] for name in own})


def check_architecture(args: Namespace, state: dict, path: Path) -> None:
    """Raises UserError where the command line asks for another network than the checkpoint's."""
    for name in ARCHITECTURE:
        asked, saved = getattr(args, name), state["args"][name]
        implied = name == "transformer" and asked is not None
        if (name in args.given or implied) and asked != saved:
            raise UserError(
                f"{path} is of another architecture: --{name} {config.show(saved)}, not {config.show(asked)}"
            )
