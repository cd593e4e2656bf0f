"""What a checkpoint may hold: every field is held against the options, the network and the optimiser."""

from __future__ import annotations

import math
import re
from argparse import Namespace
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..models import ImageClassifier
from . import config, engine
from .errors import UserError
from .objectives import OBJECTIVES
from .run import about_of, average, build

KEYS = {"epoch", "model", "averaged", "history", "optimizer", "scheduler", "random", "args", "data"}

# What only training needs: in a checkpoint of the weights alone, which is a third as large, each is None.
OF_TRAINING = ("optimizer", "scheduler", "random")

LARGEST_IMAGE = 2**28  # values: 1 GB as float32, of which a network needs several times as much

# What training changes in the states of the optimiser and of the learning rates; the options say the rest.
_CHANGING = {
    *("lr", "last_epoch", "_step_count", "_last_lr", "_get_lr_called_within_step", "_is_initial"),
    *("best", "num_bad_epochs", "cooldown_counter"),
}


def check(state: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's state, of which every field has been found right, as :meth:`Run.state` made it.

    What older checkpoints did not have yet is filled in. Tensors come back as copies that are laid out in
    memory as those of a new network and a new optimiser: fused optimisers go by that, not by their strides.

    Raises:
        UserError: a field that is missing, unknown, or not as the options, the network and the optimiser that
            the checkpoint describes have it; a weight that is not finite.
    """
    state = {"averaged": None, "history": [], **state}
    state.pop("format", None)
    _expect(state.keys() == KEYS, f"it {_difference(state, KEYS)}")
    _expect(_is_count(state["epoch"]) and state["epoch"] > 0, "its epoch is no whole number above 0")
    args, data = _options(state["args"]), _data(state["data"])
    about = about_of({"data": data})
    try:
        with torch.device("meta"):  # whatever size the options ask for, this takes no memory
            model = build(args, about).to(memory_format=torch.channels_last)
    except Exception as error:  # PyTorch has a kind of error for each size that it cannot do
        reason = _short(str(error).partition("\n")[0])
        raise UserError(f"its options and data describe no network ({reason})") from error
    averaged = average(model, args["ema"]).state_dict() if args["ema"] else None
    checked = {
        "epoch": state["epoch"],
        "model": _like(state["model"], model.state_dict(), "model"),
        "averaged": _like(state["averaged"], averaged, "averaged"),
        "history": _history(state["history"], state["epoch"]),
        **_of_training(state, model, args),
        "args": args,
        "data": data,
    }
    weights = [*checked["model"].values(), *(checked["averaged"] or {}).values()]
    _expect(is_finite(weights), "its weights are not finite: training had failed")
    counts = [tensor for tensor in weights if not tensor.is_floating_point()]
    _expect(all(bool((count >= 0).all()) for count in counts), "its counts of steps are below 0")
    return checked


def weights_alone(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state without what only training needs: enough to rebuild the network, not to go on with it."""
    return {**state, **dict.fromkeys(OF_TRAINING)}


def is_weights_alone(state: Mapping[str, Any]) -> bool:
    return all(state[name] is None for name in OF_TRAINING)


def _of_training(state: Mapping[str, Any], model: ImageClassifier, args: dict[str, Any]) -> dict[str, Any]:
    """The states of the optimiser, of the learning rates and of random numbers; or none of them."""
    if is_weights_alone(state):
        return dict.fromkeys(OF_TRAINING)
    optimizer, scheduler = _fresh_states(model, args)
    checked = {
        "optimizer": _like(state["optimizer"], optimizer, "optimizer"),
        "scheduler": _like(state["scheduler"], scheduler, "scheduler"),
        "random": _random(state["random"]),
    }
    rates = [group["lr"] for group in checked["optimizer"]["param_groups"]]
    _expect(min(rates) >= 0, "its learning rates are below 0")
    return checked


def is_finite(weights: Iterable[Tensor]) -> bool:
    """Whether a network of these weights is of any use; :func:`check` lets no other pass."""
    return all(bool(tensor.isfinite().all()) for tensor in weights)


def _options(saved: Any) -> dict[str, Any]:
    """The options, each of which the command line would have taken."""
    known = config.options(config.parse([]))
    _expect(isinstance(saved, dict), "its args are no options")
    _expect(saved.keys() <= known.keys(), f"it has unknown options, {_names(saved.keys() - known.keys())}")
    argv = []
    for name, value in saved.items():
        if value is None:
            continue
        many = isinstance(value, list) and len(value) > 0 and all(type(item) is int for item in value)
        _expect(many or type(value) in (str, int, float), f"its option {name} is {_short(value)}")
        if name == "gpu_ids" and many:
            value = ",".join(map(str, value))
        argv += [f"--{name}", *map(str, value)] if isinstance(value, list) else [f"--{name}={value}"]
    try:
        options = config.options(config.parse(argv))
    except (UserError, ValueError) as error:  # ValueError: a number of thousands of digits
        raise UserError(f"its options are no such as this program takes ({error})") from error
    for name, value in saved.items():
        same = type(value) is type(options[name]) and value == options[name]
        _expect(same, f"its option {name} is {_short(value)}")
    return options


def _data(data: Any) -> dict[str, Any]:
    """What a network has to know of its data."""
    _expect(isinstance(data, dict), "its data is no description")
    data = {"objective": "classification", **data}
    fields = {"shape", "classes", "background", "objective"}
    _expect(data.keys() == fields, f"its data {_difference(data, fields)}")
    for name in fields - {"objective"}:
        _expect(isinstance(data[name], list), f"its data's {name} is no list")
    shape, classes, background = data["shape"], data["classes"], data["background"]
    _expect(
        len(shape) == 3 and all(_is_count(n) and n > 0 for n in shape) and math.prod(shape) <= LARGEST_IMAGE,
        f"its images' shape is {_short(shape)}",
    )
    _expect(
        len(classes) > 0
        and all(isinstance(name, str) and _is_file_name(name) for name in classes)
        and len(set(classes)) == len(classes),
        f"its classes are {_short(classes)}",
    )
    _expect(
        len(background) == shape[0] and all(_is_count(value) and value <= 255 for value in background),
        f"its background is {_short(background)}",
    )
    objective = data["objective"]
    _expect(isinstance(objective, str) and objective in OBJECTIVES, f"its objective is {_short(objective)}")
    return data


def _history(history: Any, epoch: int) -> list[dict[str, Any]]:
    """The figures of the epochs done, of which old checkpoints lack the first."""
    _expect(isinstance(history, list) and len(history) <= epoch, "its history is none of its epochs")
    means = {"loss": 0.0, "accuracy": 0.0}
    like = {"train": means, "validation": means, "images": 0, "seconds": 0.0}
    return [_like(entry, like, f"history[{number}]", changing=True) for number, entry in enumerate(history)]


def _random(random: Any) -> dict[str, Any]:
    """The states of the generators of random numbers, of each process."""
    _expect(isinstance(random, dict) and random.keys() == {"order", "processes"}, "its random is incomplete")
    _expect(
        isinstance(random["processes"], list) and len(random["processes"]) > 0, "its random has no processes"
    )
    like = torch.Generator().get_state()
    for state in random["processes"]:
        _expect(isinstance(state, dict) and {"cpu"} <= state.keys() <= {"cpu", "cuda"}, "its random is none")
    states = [random["order"], *(state["cpu"] for state in random["processes"])]
    order, *cpu = (_like(state, like, "random") for state in states)
    try:
        for state in (order, *cpu):
            torch.Generator().set_state(state)
    except RuntimeError as error:
        raise UserError("its random is no state of a generator") from error
    processes: list[dict[str, Tensor]] = [{"cpu": state} for state in cpu]
    seed_and_offset = torch.empty(16, dtype=torch.uint8)
    for process, saved in zip(processes, random["processes"], strict=True):
        if "cuda" in saved:
            process["cuda"] = _like(saved["cuda"], seed_and_offset, "random")
            offset = int(process["cuda"][8:].view(torch.int64))
            _expect(offset >= 0 and offset % 4 == 0, "its random is no state of a generator")
    return {"order": order, "processes": processes}


def _fresh_states(model: ImageClassifier, args: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the states of the model's optimiser and of its learning rates look like after a step."""
    options = Namespace(**args)
    optimizer = engine.make_optimizer(model, options)
    scheduler = engine.make_scheduler(optimizer, options, steps_per_epoch=1)
    state = optimizer.state_dict()
    # What an optimiser keeps of a parameter shows in a step with a small one: tensors of its shape, counts.
    with torch.random.fork_rng(devices=[]):  # to look at a checkpoint draws no random number
        small = ImageClassifier(nn.Linear(2, 3))
    stepped = engine.make_optimizer(small, options)
    for parameter in small.parameters():
        parameter.grad = torch.zeros_like(parameter)
    stepped.step()
    kept = stepped.state_dict()["state"].get(0, {})
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, parameter in enumerate(parameters if kept else []):
        state["state"][number] = {
            name: torch.empty_like(parameter) if value.shape == (3, 2) else value
            for name, value in kept.items()
        }
    return state, scheduler.state_dict()


def _like(value: Any, like: Any, where: str, *, changing: bool = False) -> Any:
    """A copy of the value, which must be made as ``like`` is: down to each tensor's dtype and shape.

    What is no tensor must be equal, or, where training changes it, of that type and finite.
    """
    if isinstance(like, Tensor):
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.device.type != "cpu":
            raise UserError(f"{where} is {_short(value)}, not a tensor of all its values")
        if value.dtype != like.dtype or value.shape != like.shape:
            raise UserError(
                f"{where} is {value.dtype} {tuple(value.shape)}, not {like.dtype} {tuple(like.shape)}"
            )
        return torch.empty_like(like, device="cpu").copy_(value.detach())
    if isinstance(like, dict):
        if not isinstance(value, dict):
            raise UserError(f"{where} is {_short(value)}, not a dict")
        if value.keys() != like.keys():
            raise UserError(f"{where} {_difference(value, like)}")
        return {
            name: _like(value[name], inner, f"{where}.{name}", changing=changing or name in _CHANGING)
            for name, inner in like.items()
        }
    if type(value) is not type(like):
        raise UserError(f"{where} is {_short(value)}, not as {_short(like)}")
    if isinstance(like, (list, tuple)):
        if len(value) != len(like):
            raise UserError(f"{where} has {len(value)} entries, not {len(like)}")
        items = enumerate(zip(value, like, strict=True))
        return type(like)(_like(*pair, f"{where}[{n}]", changing=changing) for n, pair in items)
    if not changing:
        if value != like:
            raise UserError(f"{where} is {_short(value)}, but the options make it {_short(like)}")
    # The best loss is infinite before the first.
    elif isinstance(value, float) and not (math.isfinite(value) or value == like):
        raise UserError(f"{where} is {value}, not finite")
    elif isinstance(value, int) and not 0 <= value < 2**63:
        raise UserError(f"{where} is {_short(value)}, not a count")
    return value


def _expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise UserError(otherwise)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_file_name(name: str) -> bool:
    """Whether a class of that name can be a folder's: never a path that leads elsewhere."""
    return re.fullmatch(r"[^/\0]+", name) is not None and name not in (".", "..")


def _difference(value: Any, expected: Any) -> str:
    """Which names a dict lacks, or has beyond those expected."""
    missing, unknown = (_names(names) for names in (set(expected) - set(value), set(value) - set(expected)))
    return " and ".join(
        text for text in (missing and f"lacks {missing}", unknown and f"has the unknown {unknown}") if text
    )


def _names(names: Any) -> str:
    words = sorted(map(_short, names))
    return ", ".join(words[:4]) + (f" and {len(words) - 4} more" if len(words) > 4 else "")


def _short(value: Any) -> str:
    """Enough of a value to know it by."""
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} of {value.dtype}"
    if isinstance(value, (dict, list, tuple)) and len(value) > 10:
        return f"a {type(value).__name__} of {len(value)}"
    try:
        text = value if isinstance(value, str) else repr(value)
    except ValueError:  # a number of thousands of digits
        text = "a very long number"
    return text if len(text) <= 80 else f"{text[:77]}..."
