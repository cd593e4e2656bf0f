"""The options in force, and which of them a checkpoint decides."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from . import config_file, datasets
from .errors import UserError
from .options import FORMATS, Parser, build_parser
from .values import gpu_ids_of

# Whether a spatial transformer stands in front of the classifier, for the scopes that imply it.
SCOPES = {"stn": "on", "cls": "off"}

# Where a run's files lie.
PLACES = ("scope", "name_data", "dir_data", "cache_dir", "dir_log", "dir_checkpoint", "dir_result")

# What concerns the use of a trained network alone: no part of a run.
OF_USE = ("given", "pictures", "weights", "format", "paper", "report_limit")

# The options of one purpose, and the modes that have it.
PURPOSES = {
    "pictures": ("predict",),
    "paper": ("predict",),
    "format": ("export",),
    "weights": ("test", "predict", "export"),
    "epoch": ("test", "predict", "export"),
    "report_limit": ("test", "predict"),
    "init": ("train",),
}

# What may differ when training goes on from a checkpoint: the rest makes the run what it is.
FREE_ON_CONTINUE = (
    *PLACES,
    *("mode", "epoch", "train_continue", "resume_from", "gpu_ids", "num_workers"),
    *("num_freq_disp", "num_freq_save", "tta"),
)

# What may differ too, and stays as it was where nothing is said.
KEPT_ON_CONTINUE = ("num_epoch", "patience", "save_best", "compile")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options in force; ``args.given`` is the set of those that stood on the command line.

    Raises:
        UserError: an unknown option, a value out of range, or options that contradict each other.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = build_parser()
    path = _file_of(argv)
    args, given = argparse.Namespace(), set()
    if path is not None:
        try:
            given |= _take(parser, config_file.read(Path(path), parser), args)
        except UserError as error:
            raise UserError(str(error) if path in str(error) else f"{path}: {error}") from error
    given |= _take(parser, argv, args)
    args.given = given
    for name in (
        "transformer",
        "epoch",
        "weights",
        "init",
        "format",
        "pictures",
        "gpu_ids",
        "image_size",
        "image_channels",
        "image_background",
        "name_class",
        "limit",
        "width",
        "warp_size",
        "resume_from",
        "cache_dir",
    ):
        vars(args).setdefault(name, None)
    if datasets.objective_of(args.name_data) == "colocalisation":
        for name, value in {"transform": "attention", "warp_size": [28]}.items():
            if name not in args.given:
                setattr(args, name, value)
    vars(args).setdefault("weight_decay", 0.05 if args.optim == "adam" else 1e-4)
    _check(args)
    return args


def _file_of(argv: Sequence[str]) -> str | None:
    """What --config names, before all else is looked at."""
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    return parser.parse_known_args(argv)[0].config


def _take(parser: Parser, words: Sequence[str], args: argparse.Namespace) -> set[str]:
    """Sets the options that the words give, and defaults of those that args lacks; returns what they give."""
    parser.parse_args(words, args)
    # argparse sets no default where the name is taken: what is still None afterwards was not given.
    marked = parser.parse_args(words, argparse.Namespace(**dict.fromkeys(vars(args))))
    given = {name for name, value in vars(marked).items() if value is not None} - {"config"}
    vars(args).pop("config", None)
    if "device" in vars(args):
        if "gpu_ids" in given:
            raise UserError("--device and --gpu_ids say the same: leave one out")
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun's
        args.gpu_ids = gpu_ids_of(args.device, processes)
        del args.device
        given = given - {"device"} | {"gpu_ids"}
    return given


def _check(args: argparse.Namespace) -> None:
    if not re.fullmatch(r"\w[\w.-]*", args.scope):
        raise UserError(f"--scope {args.scope!r}: expected letters, digits, '_', '-' and '.' only")
    implied = SCOPES.get(args.scope)
    if implied and args.transformer not in (None, implied):
        raise UserError(f"--scope {args.scope} means --transformer {implied}: choose another name")
    args.transformer = args.transformer or implied
    afresh = args.train_continue == "off" and args.resume_from is None
    if args.transformer is None and args.mode == "train" and afresh:
        raise UserError(f"--scope {args.scope} is a name of your own: say --transformer on or off")
    _check_purpose(args)
    if args.resume_from is not None and args.train_continue == "on":
        raise UserError("--train_continue on and --resume_from both say where to go on from: leave one out")
    of_folders = sorted(args.given & {"image_size", "image_channels", "image_background", "cache_dir"})
    if args.name_data != "imagefolder" and of_folders:
        raise UserError(f"--{of_folders[0]} is for --name_data imagefolder only")
    if datasets.objective_of(args.name_data) != "colocalisation":
        if args.name_class is not None:
            raise UserError("--name_class is for co-localisation only (--name_data mnist_coloc, ...)")
    elif args.label_smoothing:
        raise UserError("--label_smoothing is for classes, which co-localisation does not learn")
    elif args.augment:
        raise UserError("--augment would move what co-localisation is to find away from where its labels say")
    for name in ("image_size", "warp_size"):
        size = getattr(args, name)
        if size is not None:
            if len(size) > 2:
                raise UserError(f"--{name}: expected HEIGHT WIDTH, or one number for both")
            setattr(args, name, [size[0], size[-1]])


def _check_purpose(args: argparse.Namespace) -> None:
    """Nothing is asked for that the mode does not do."""
    for name, modes in PURPOSES.items():
        if name in args.given and args.mode not in modes:
            option = f"{args.pictures[0]!r}: a picture" if name == "pictures" else f"--{name}"
            raise UserError(f"{option} is for --mode {', '.join(modes)} only, not for {args.mode}")
    if args.tta > 1 and args.mode != "test":
        raise UserError("--tta is for --mode test only: elsewhere an image has one theta")
    if args.mode == "export" and args.format is None:
        raise UserError(f"--mode export needs a --format: {', '.join(FORMATS)}")
    if args.mode == "predict" and not args.pictures:
        raise UserError("--mode predict needs pictures: name files or folders, or - for a list of names")
    if args.weights is not None and args.epoch is not None:
        raise UserError("--weights is one checkpoint: --epoch chooses among those of a scope")
    for name in ("train_continue", "resume_from"):
        if args.init is not None and getattr(args, name) not in (None, "off"):
            raise UserError(f"--init starts afresh, --{name} goes on: choose one")


def adopt(args: argparse.Namespace, saved: dict) -> None:
    """Takes a checkpoint's options, which make the run what it is, for training to go on.

    Raises:
        UserError: the command line asks for something else.
    """
    for name, value in saved.items():
        if name in FREE_ON_CONTINUE or (name in KEPT_ON_CONTINUE and name in args.given):
            continue
        if name in args.given and getattr(args, name) != value:
            raise UserError(
                f"--{name} {show(getattr(args, name))} differs from the checkpoint's {show(value)}: "
                "leave it out to go on, or train afresh"
            )
        setattr(args, name, value)


def directory(args: argparse.Namespace, kind: str) -> Path:
    """[dir_log], [dir_checkpoint] or [dir_result] of this run; kind: "log", "checkpoint" or "result"."""
    return Path(getattr(args, f"dir_{kind}")) / args.scope / args.name_data


def options(args: argparse.Namespace) -> dict:
    """The options that make a run, as plain values."""
    return {name: value for name, value in vars(args).items() if name not in OF_USE}


def of_the_run(args: argparse.Namespace) -> dict:
    """Those options of which one run differs from another, wherever its files lie."""
    return {name: value for name, value in options(args).items() if name not in FREE_ON_CONTINUE}


def show(value: object) -> str:
    """A value in one line: a list's words side by side, those in quotes that would not be told apart."""
    if isinstance(value, (list, tuple)):
        words = (str(word) for word in value)
        return " ".join(
            word if word and word.isprintable() and not set(word) & set(" '\"") else repr(word)
            for word in words
        )
    text = str(value)
    return text if text.isprintable() else repr(text)
