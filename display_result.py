"""Draws test images beside what the classifier saw of them, a row a class, from the results of a test run."""

from __future__ import annotations

import csv
import json
import sys
from argparse import SUPPRESS, Namespace
from pathlib import Path

import startup

with startup.importing(__name__):
    from stn_ext.training.errors import UserError, guarded
    from stn_ext.training.options import Parser
    from stn_ext.training.report import image_name
    from stn_ext.training.values import whole


def parse() -> Namespace:
    parser = Parser(prog="display_result.py", description=__doc__)
    parser.add_argument(
        "--dir_result", default="./results", help="where main.py --mode test wrote its results"
    )
    parser.add_argument("--scope", default="stn", help="name of the experiment")
    parser.add_argument("--name_data", default="mnist", help="the data set")
    parser.add_argument(
        "--num_columns",
        type=whole(1, 1000, "pictures side by side"),
        default=10,
        help="images of each class, on either side",
    )
    parser.add_argument(
        "--output",
        default=SUPPRESS,
        help="the picture's file; its ending chooses the format (default: display.png among the results)",
    )
    return parser.parse_args()


def main() -> None:
    args = parse()
    directory = Path(args.dir_result) / args.scope / args.name_data
    output = Path(args.output) if "output" in args else directory / "display.png"
    metrics, labels = read_results(directory)
    chosen = {name: [i for i, label in enumerate(labels) if label == name] for name in metrics["classes"]}
    chosen = {name: indices[: args.num_columns] for name, indices in chosen.items() if indices}
    inputs, outputs = (
        mosaic(directory / "images", chosen, kind, args.num_columns) for kind in ("input", "output")
    )
    draw(
        inputs, outputs, list(chosen), f"{args.scope} on {args.name_data}: {metrics['accuracy']:.2%}", output
    )
    print(f"see {output}")


def read_results(directory: Path) -> tuple[dict, list[str]]:
    """(metrics.json, the label of each test image)"""
    try:
        metrics = json.loads((directory / "metrics.json").read_text())
        with open(directory / "predictions.csv", newline="") as file:
            return metrics, [row["label"] for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"no test results in {directory}: run main.py --mode test first ({error})") from error


def mosaic(directory: Path, chosen: dict[str, list[int]], kind: str, num_columns: int):
    """One uint8 array (rows * H, columns * W, 3): a row a class, white where a class has too few images."""
    import numpy as np
    from PIL import Image

    def read(index: int) -> np.ndarray:
        path = directory / image_name(index, kind)
        try:
            with Image.open(path) as image:
                return np.asarray(image.convert("RGB"))
        except OSError as error:
            raise UserError(f"cannot read {path}: run main.py --mode test again ({error})") from error

    rows = [[read(index) for index in indices] for indices in chosen.values()]
    blank = np.full_like(rows[0][0], 255)
    return np.vstack([np.hstack(row + [blank] * (num_columns - len(row))) for row in rows])


def draw(inputs, outputs, classes: list[str], title: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")  # no display is needed
    import matplotlib.pyplot as plt

    height, width = inputs.shape[:2]
    figure, axes = plt.subplots(1, 2, figsize=(12, 0.8 + 6 * height / width), layout="constrained")
    figure.suptitle(title)
    step = height / len(classes)
    for axis, image, name in zip(
        axes, (inputs, outputs), ("input", "output: what the classifier saw"), strict=True
    ):
        axis.imshow(image, interpolation="nearest")
        axis.set_title(name)
        axis.set_xticks([])
        axis.set_yticks([step * (row + 0.5) for row in range(len(classes))], classes)
        axis.tick_params(length=0)
    axes[1].set_yticks([])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=100)
    except (OSError, ValueError) as error:  # ValueError: an unknown format
        raise UserError(f"cannot write {path}: {error}") from error


if __name__ == "__main__":
    sys.exit(guarded(main))
