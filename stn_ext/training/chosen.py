"""The trained network that the options of a test, a prediction or an export mean."""

from __future__ import annotations

import re
from argparse import Namespace
from pathlib import Path

from ..models import ImageClassifier, num_parameters
from . import checkpoints, config, weights
from .errors import UserError
from .run import ARCHITECTURE, check_architecture


def checkpoint(args: Namespace) -> tuple[Path, dict]:
    """(path, state) of --weights, or else of --epoch, or the latest.

    Of --weights the data set and the scope are the checkpoint's own and one named after it, unless they were
    given.

    Raises:
        UserError: there is none, it is damaged, or it is of another network than the options ask for.
    """
    path = find(args) if args.weights is None else weights.find(args.weights)
    state = checkpoints.load(path)
    if args.weights is not None:
        if "name_data" not in args.given:
            args.name_data = state["args"]["name_data"]
        if "scope" not in args.given:
            args.scope = "weights_" + re.sub(r"[^\w.-]", "_", path.stem)
            args.transformer = args.transformer if "transformer" in args.given else None
    check_architecture(args, state, path)
    return path, state


def find(args: Namespace) -> Path:
    """The checkpoint of --epoch, a number or best, or the latest."""
    directory = config.directory(args, "checkpoint")
    path = checkpoints.find(directory, args.epoch)
    if path is None and args.epoch == checkpoints.BEST:
        raise UserError(f"no model_best.pth in {directory}: train with --save_best")
    if path is None:
        which = "checkpoint" if args.epoch is None else f"checkpoint of epoch {args.epoch}"
        raise UserError(
            f"no {which} in {directory}: train first with --mode train --scope {args.scope}, or use --weights"
        )
    return path


def facts(args: Namespace, path: Path, state: dict, model: ImageClassifier) -> dict:
    """What a report says of the network."""
    return {
        "scope": args.scope,
        "name_data": args.name_data,
        "epoch": state["epoch"],
        "checkpoint": str(path),
        "num_parameters": num_parameters(model),
        "history": state["history"],
        "seed": state["args"]["seed"],
        **{name: state["args"][name] for name in ARCHITECTURE},
    }
