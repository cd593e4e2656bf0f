"""The options of main.py: what they are, their defaults, and which of them a checkpoint decides."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from ..models import NETS
from ..transforms import TRANSFORMS
from . import datasets
from .distortions import DISTORTIONS
from .errors import UserError

# Whether a spatial transformer stands in front of the classifier, for the scopes that imply it.
SCOPES = {"stn": "on", "cls": "off"}

# Where a run's files lie.
PLACES = ("scope", "name_data", "dir_data", "dir_log", "dir_checkpoint", "dir_result")

# What may differ when training goes on from a checkpoint: the rest makes the run what it is.
FREE_ON_CONTINUE = (
    *PLACES,
    *(
        "mode",
        "epoch",
        "num_epoch",
        "train_continue",
        "gpu_ids",
        "num_workers",
        "num_freq_disp",
        "num_freq_save",
    ),
)


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Wide enough to be read."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=110)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose mistakes take one line."""

    def __init__(self, **options) -> None:
        super().__init__(formatter_class=HelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see --help)")


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="main.py",
        description="Trains and tests image classifiers with and without a spatial transformer in front.",
        allow_abbrev=False,
    )

    for title, add_options in (
        ("what to do", _task_options),
        ("data", _data_options),
        ("network and training", _training_options),
        ("learning-rate policy", _policy_options),
        ("output; each goes into [directory]/[scope]/[name_data]", _output_options),
    ):
        add_options(parser.add_argument_group(title).add_argument)
    return parser


def _task_options(option: Callable) -> None:
    option(
        "--mode", choices=["train", "test"], default="train", help="train a network, or test a trained one"
    )
    option(
        "--scope",
        default="stn",
        help="name of the experiment: stn (with a spatial transformer), cls (without, the control), "
        "or a name of your own together with --transformer",
    )
    option(
        "--transformer",
        choices=["on", "off"],
        default=argparse.SUPPRESS,
        help="whether a spatial transformer stands in front of the classifier (default: as the scope says)",
    )
    option("--train_continue", choices=["on", "off"], default="off", help="go on from the latest checkpoint")
    option(
        "--epoch",
        type=positive_int,
        default=argparse.SUPPRESS,
        help="the epoch whose checkpoint is tested (default: the latest)",
    )
    option(
        "--gpu_ids",
        type=gpu_ids,
        default=argparse.SUPPRESS,
        metavar="ID[,ID...]",
        help=(
            "GPUs to use; several train together; -1 for the CPU "
            "(default: GPU 0 where there is one, else the CPU; under torchrun each process its own)"
        ),
    )
    option("--seed", type=natural_int, default=0, help="fixes initial weights, order of images and dropout")


def _data_options(option: Callable) -> None:
    option(
        "--name_data",
        choices=datasets.NAMES,
        default="mnist",
        metavar="NAME",
        help="the data set: mnist, fashion_mnist, kmnist or imagefolder (your own pictures); with one of "
        f"{', '.join('_' + name for name in DISTORTIONS)} after any but the last, distorted anew in each "
        "epoch: mnist_rts, fashion_mnist_tc, ...; coloc and coloc_t are co-localisation",
    )
    option(
        "--dir_data",
        default="./datasets",
        help="holds [MNIST|FashionMNIST|KMNIST]/raw/*-ubyte[.gz] as torchvision has them, "
        "or for imagefolder train/CLASS and test/CLASS, with pictures in any format that Pillow reads",
    )
    option(
        "--image_size",
        type=positive_int,
        nargs="+",
        default=argparse.SUPPRESS,
        metavar="PIXELS",
        help="imagefolder: resize to HEIGHT WIDTH, or to one number for both (default: the first image's)",
    )
    option(
        "--image_channels",
        type=int,
        choices=[1, 3],
        default=argparse.SUPPRESS,
        help="imagefolder: grey or colour (default: grey where all images are)",
    )
    option(
        "--image_background",
        type=color,
        default=argparse.SUPPRESS,
        metavar="COLOUR",
        help="imagefolder: what shows where images are transparent: a name, or #ff8000 and the like "
        "(default: white)",
    )
    option(
        "--name_class",
        default=argparse.SUPPRESS,
        metavar="CLASS",
        help="co-localisation (_coloc, _coloc_t): the one class whose images are used (default: the first)",
    )
    option(
        "--limit",
        type=positive_int,
        default=argparse.SUPPRESS,
        metavar="N",
        help="use only the first N training images and the first N test images (default: all)",
    )
    option(
        "--num_workers",
        type=natural_int,
        default=4,
        help=(
            "threads that decode imagefolder's files at the start and write test's PNG files; "
            "the training loop itself needs none, as its data lies in memory"
        ),
    )


def _training_options(option: Callable) -> None:
    option(
        "--net",
        choices=list(NETS),
        default="cnn",
        help="cnn: a modern network; small: the classic one; paper_fcn, paper_cnn: those of Jaderberg et al.",
    )
    option(
        "--width",
        type=positive_int,
        default=argparse.SUPPRESS,
        help="channels or units of the classifier's first layer, on which the others' depend "
        "(default: the net's own)",
    )
    option(
        "--transform",
        choices=list(TRANSFORMS),
        default="affine",
        help="the maps among which the transformer finds one for each image",
    )
    option(
        "--num_transformers",
        type=positive_int,
        default=1,
        help="side by side, each with its own localisation network; the classifier sees all their outputs",
    )
    option(
        "--warp_size",
        type=positive_int,
        nargs="+",
        default=argparse.SUPPRESS,
        metavar="PIXELS",
        help="HEIGHT WIDTH of a transformer's output, or one number for both (default: the images')",
    )
    option(
        "--antialias",
        choices=["on", "off"],
        default="off",
        help="average over each pixel of a --warp_size that is much smaller than the images",
    )
    option(
        "--control",
        choices=["same", "widened"],
        default="same",
        help="without a transformer: the same classifier; or one so much wider that it has as many "
        "parameters as with the transformer that the options above describe",
    )
    option("--num_epoch", type=positive_int, default=10, help="passes over the training images")
    option("--batch_size", type=positive_int, default=128, help="images a step, over all processes together")
    option(
        "--lr_stn",
        "--lr_STN",
        dest="lr_stn",
        type=natural_float,
        default=1e-3,
        metavar="LR",
        help="learning rate of the localisation network",
    )
    option(
        "--lr_cls",
        "--lr_CLS",
        dest="lr_cls",
        type=natural_float,
        default=4e-3,
        metavar="LR",
        help="learning rate of the classifier",
    )
    option("--label_smoothing", type=fraction, default=0.0, help="share of a label spread over all classes")
    option(
        "--ema",
        type=fraction,
        default=0.0,
        metavar="DECAY",
        help="validate and test the weights' exponential moving average over steps, such as 0.999 (0: off)",
    )
    option("--optim", choices=["adam", "sgd", "rmsprop"], default="adam", help="optimiser (adam is AdamW)")
    option(
        "--beta1", type=fraction, default=0.9, help="Adam's first coefficient; momentum for sgd and rmsprop"
    )
    option(
        "--weight_decay",
        type=natural_float,
        default=argparse.SUPPRESS,
        help="decay of the weights, decoupled from the gradient for adam "
        "(default: 0.05 for adam, 0.0001 for sgd and rmsprop)",
    )


def _policy_options(option: Callable) -> None:
    option(
        "--lr_policy",
        choices=["linear", "step", "plateau", "cosine"],
        default="cosine",
        help=(
            "linear and cosine: fall smoothly until the last step; "
            "step: times --lr_decay every --lr_step epochs; "
            "plateau: times --lr_decay when the validation loss has not fallen for --lr_patience epochs"
        ),
    )
    option(
        "--lr_warmup",
        type=natural_float,
        default=1.0,
        metavar="EPOCHS",
        help="rise linearly from 0 over the first epochs (all but plateau)",
    )
    option(
        "--lr_final", type=fraction, default=0.0, help="linear, cosine: what remains of the rate at the end"
    )
    option("--lr_step", type=positive_int, default=3, metavar="EPOCHS", help="step: epochs between two falls")
    option("--lr_decay", type=fraction, default=0.3, help="step, plateau: factor of a fall")
    option("--lr_patience", type=natural_int, default=1, metavar="EPOCHS", help="plateau: epochs to wait")


def _output_options(option: Callable) -> None:
    option("--dir_log", default="./log", help="arg.txt and TensorBoard's events")
    option("--dir_checkpoint", default="./checkpoints", help="model_epoch00001.pth, ...")
    option(
        "--dir_result",
        default="./results",
        help="the test's images, metrics.json, predictions.csv, index.html",
    )
    option(
        "--num_freq_disp",
        type=positive_int,
        default=1,
        metavar="EPOCHS",
        help="every how many epochs TensorBoard gets the same digits, input and warped",
    )
    option(
        "--num_freq_save",
        type=positive_int,
        default=1,
        metavar="EPOCHS",
        help="every how many epochs a checkpoint is written; the last epoch's always is",
    )


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options in force; ``args.given`` is the set of those that stood on the command line.

    Raises:
        UserError: an unknown option, a value out of range, or options that contradict each other.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = build_parser()
    args = parser.parse_args(argv)
    # argparse sets no default where the name is taken: what is still None afterwards was not given.
    marked = parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(vars(args))))
    args.given = {name for name, value in vars(marked).items() if value is not None}
    for name in (
        "transformer",
        "epoch",
        "gpu_ids",
        "image_size",
        "image_channels",
        "image_background",
        "name_class",
        "limit",
        "width",
        "warp_size",
    ):
        vars(args).setdefault(name, None)
    if datasets.objective_of(args.name_data) == "colocalisation":
        for name, value in {"transform": "attention", "warp_size": [28]}.items():
            if name not in args.given:
                setattr(args, name, value)
    vars(args).setdefault("weight_decay", 0.05 if args.optim == "adam" else 1e-4)
    _check(args)
    return args


def _check(args: argparse.Namespace) -> None:
    if not re.fullmatch(r"\w[\w.-]*", args.scope):
        raise UserError(f"--scope {args.scope!r}: expected letters, digits, '_', '-' and '.' only")
    implied = SCOPES.get(args.scope)
    if implied and args.transformer not in (None, implied):
        raise UserError(f"--scope {args.scope} means --transformer {implied}: choose another name")
    args.transformer = args.transformer or implied
    if args.transformer is None and args.mode == "train" and args.train_continue == "off":
        raise UserError(f"--scope {args.scope} is a name of your own: say --transformer on or off")
    if args.epoch is not None and args.mode == "train":
        raise UserError("--epoch is for --mode test only: training goes on from the latest checkpoint")
    of_folders = sorted(args.given & {"image_size", "image_channels", "image_background"})
    if args.name_data != "imagefolder" and of_folders:
        raise UserError(f"--{of_folders[0]} is for --name_data imagefolder only")
    if datasets.objective_of(args.name_data) == "classification":
        if args.name_class is not None:
            raise UserError("--name_class is for co-localisation only (--name_data mnist_coloc, ...)")
    elif args.label_smoothing:
        raise UserError("--label_smoothing is for classes, which co-localisation does not learn")
    for name in ("image_size", "warp_size"):
        size = getattr(args, name)
        if size is not None:
            if len(size) > 2:
                raise UserError(f"--{name}: expected HEIGHT WIDTH, or one number for both")
            setattr(args, name, [size[0], size[-1]])


def adopt(args: argparse.Namespace, saved: dict) -> None:
    """Takes a checkpoint's options, which make the run what it is, for training to go on.

    Raises:
        UserError: the command line asks for something else.
    """
    for name, value in saved.items():
        if name in FREE_ON_CONTINUE:
            continue
        if name in args.given and getattr(args, name) != value:
            raise UserError(
                f"--{name} {show(getattr(args, name))} differs from the checkpoint's {show(value)}: "
                "leave it out to go on, or train afresh with --train_continue off"
            )
        setattr(args, name, value)
    if "num_epoch" not in args.given:
        args.num_epoch = saved["num_epoch"]


def directory(args: argparse.Namespace, kind: str) -> Path:
    """[dir_log], [dir_checkpoint] or [dir_result] of this run; kind: "log", "checkpoint" or "result"."""
    return Path(getattr(args, f"dir_{kind}")) / args.scope / args.name_data


def options(args: argparse.Namespace) -> dict:
    """The options as plain values, without the note of which were given."""
    return {name: value for name, value in vars(args).items() if name != "given"}


def show(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def positive_int(text: str) -> int:
    return _number(int, text, lambda x: x > 0, "a whole number above 0")


def natural_int(text: str) -> int:
    return _number(int, text, lambda x: 0 <= x < 2**63, "a whole number, 0 or more")


def natural_float(text: str) -> float:
    return _number(float, text, lambda x: 0 <= x < float("inf"), "a number, 0 or more")


def fraction(text: str) -> float:
    return _number(float, text, lambda x: 0 <= x < 1, "a number from 0 to below 1")


def color(text: str) -> str:
    """The text, where it is a color that has no transparency of its own."""
    from PIL import ImageColor  # here, as few need it

    try:
        if len(ImageColor.getrgb(text)) == 3:
            return text
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"expected a colour such as white or #ff8000, but got {text!r}")


def gpu_ids(text: str) -> list[int]:
    ids = [int(part) if re.fullmatch(r"-?\d+", part) else -2 for part in text.split(",")]
    if ids == [-1] or (min(ids) >= 0 and len(set(ids)) == len(ids)):
        return ids
    raise argparse.ArgumentTypeError(
        f"expected -1 for the CPU, or different GPU ids (0, or 0,1), but got {text!r}"
    )


def _number(kind: type, text: str, accept, expected: str):
    try:
        value = kind(text)
        if accept(value):
            return value
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"expected {expected}, but got {text!r}")
