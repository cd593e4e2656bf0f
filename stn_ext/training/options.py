"""The options of main.py: their names, values, defaults and help."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from ..models import LOCALIZATIONS, NETS
from ..transforms import TRANSFORMS
from . import datasets, weights
from .distortions import DISTORTIONS
from .errors import UserError
from .options_training import checkpoint_options, policy_options, speed_options, training_options
from .values import COUNT, EPOCHS, SEED, SIDE, THREADS, WIDTH, color, number, whole

FORMATS = ("onnx", "pt2", "aoti", "state_dict", "weights")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Wide enough to be read."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=110)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose mistakes take one line."""

    def __init__(self, **options) -> None:
        super().__init__(formatter_class=HelpFormatter, **options)

    def parse_args(self, *words) -> argparse.Namespace:  # type: ignore[override]
        args = super().parse_args(*words)
        for name, value in vars(args).items():
            if value == []:  # what argparse makes of --seed=--
                self.error(f"argument --{name}: expected a value, but got '--'")
        return args

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"\S{100,}", lambda word: f"{word[0][:60]}...", message)
        raise UserError(f"{message} (see --help)")


def program() -> str:
    """By which name this program was started; python stands before main.py."""
    name = Path(sys.argv[0]).name
    return {"stn-ext": name, "__main__.py": "python -m stn_ext", "-m": "python -m stn_ext"}.get(
        name, "main.py"
    )


def build_parser() -> Parser:
    parser = Parser(
        prog=program(),
        description="Trains, tests, uses and exports image classifiers, with and without a spatial "
        "transformer in front.",
        allow_abbrev=False,
    )

    for title, add_options in (
        ("what to do", _task_options),
        ("data", _data_options),
        ("network", _network_options),
        ("training", training_options),
        ("learning-rate policy", policy_options),
        ("speed and memory", speed_options),
        ("checkpoints", checkpoint_options),
        ("output; each goes into [directory]/[scope]/[name_data]", _output_options),
    ):
        add_options(parser.add_argument_group(title).add_argument)
    return parser


def _task_options(option: Callable) -> None:
    option(
        "--mode",
        choices=["train", "test", "predict", "export"],
        default="train",
        help="train a network; test a trained one; predict the classes of your own pictures; "
        "export it for other programs",
    )
    option(
        "pictures",
        nargs="*",
        default=argparse.SUPPRESS,
        metavar="PICTURE",
        help="predict: pictures in any format that Pillow reads, and folders of them; - reads a list of "
        "names, one a line",
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
    option(
        "--config",
        default=argparse.SUPPRESS,
        metavar="FILE",
        help="options from a file: an earlier run's arg.txt, or YAML as in 'lr_cls: 0.001'; what stands on "
        "the command line wins (default: none)",
    )
    option(
        "--weights",
        default=argparse.SUPPRESS,
        metavar="NAME",
        help="test, predict, export: use, instead of a checkpoint of this scope, trained weights that come "
        f"with the program ({', '.join(weights.names())}) or any checkpoint's file (default: none)",
    )
    option(
        "--init",
        default=argparse.SUPPRESS,
        metavar="NAME",
        help="train: start from these weights, named as for --weights; where classes are others, the last "
        "layer starts afresh (default: random weights)",
    )
    option(
        "--format",
        choices=FORMATS,
        default=argparse.SUPPRESS,
        help="export: onnx; pt2 (torch.export); aoti (a compiled package of AOTInductor's); state_dict "
        "(PyTorch's, of any version); weights (a checkpoint without what only training needs) "
        "(default: none, it must be said)",
    )
    option(
        "--paper",
        choices=["auto", "off"],
        default="auto",
        help="predict: pictures whose edge is not of the training's background are taken for photographs of "
        "ink on paper, and their light and polarity made the training's; or nothing is",
    )
    option(
        "--tta",
        type=whole(1, 1000, "passes over the test images"),
        default=1,
        metavar="SAMPLES",
        help="test: average over so many maps of each image, jittered as in training",
    )
    option("--seed", type=SEED, default=0, help="fixes initial weights, order of images and dropout")


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
        type=SIDE,
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
        "--cache_dir",
        default=argparse.SUPPRESS,
        metavar="FOLDER",
        help="imagefolder: keep the decoded training pictures in a file there, which is read a batch at a "
        "time: for sets that take long to decode, or more memory than there is (default: in memory)",
    )
    option(
        "--name_class",
        default=argparse.SUPPRESS,
        metavar="CLASS",
        help="co-localisation (_coloc, _coloc_t): the one class whose images are used (default: the first)",
    )
    option(
        "--limit",
        type=COUNT,
        default=argparse.SUPPRESS,
        metavar="N",
        help="use only the first N training images and the first N test images (default: all)",
    )
    option(
        "--num_workers",
        type=THREADS,
        default=4,
        help=(
            "threads that decode imagefolder's files at the start and write test's PNG files; "
            "the training loop itself needs none, as its data is decoded already"
        ),
    )


def _network_options(option: Callable) -> None:
    option(
        "--net",
        choices=list(NETS),
        default="cnn",
        help="cnn: a modern network; small: the classic one; paper_fcn, paper_cnn: those of Jaderberg et al.",
    )
    option(
        "--width",
        type=WIDTH,
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
        "--localization",
        choices=list(LOCALIZATIONS),
        default="regression",
        help="the network that finds a map: regression, the net's own; or heatmap, which finds the place as "
        "the middle of a heatmap (for --transform attention, translation and similarity)",
    )
    option(
        "--start_scale",
        type=number(0.01, 100, "a window that shows less than a pixel, or next to nothing of the image"),
        default=1.0,
        metavar="SCALE",
        help="heatmap: the size of the window at the start, the image being 1",
    )
    option(
        "--iterations",
        type=whole(1, 16, "looks, each of which costs as much as the first"),
        default=1,
        help="looks of the localisation network, each at what the one before has found",
    )
    option(
        "--jitter",
        type=number(0, 10, "the image is 2 wide"),
        default=0.0,
        metavar="DEVIATION",
        help="training: standard deviation of the noise that is added to the map's parameters",
    )
    option(
        "--num_transformers",
        type=whole(1, 64, "networks of their own, each of which sees every image"),
        default=1,
        help="side by side, each with its own localisation network; the classifier sees all their outputs",
    )
    option(
        "--warp_size",
        type=SIDE,
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


def _output_options(option: Callable) -> None:
    option("--dir_log", default="./log", help="arg.txt and TensorBoard's events")
    option("--dir_checkpoint", default="./checkpoints", help="model_epoch00001.pth, ...")
    option(
        "--dir_result",
        default="./results",
        help="the test's images, metrics.json, predictions.csv, index.html",
    )
    option(
        "--report_limit",
        type=COUNT,
        default=10_000,
        metavar="N",
        help="test, predict: the page shows the first N images; the figures and predictions.csv are of all",
    )
    option(
        "--num_freq_disp",
        type=EPOCHS,
        default=1,
        metavar="EPOCHS",
        help="every how many epochs TensorBoard gets the same digits, input and warped",
    )
