"""Draws test images beside what the classifier saw of them, a row a class, from the results of a test run."""

from __future__ import annotations

import csv
import io
import json
import sys
import warnings
from argparse import SUPPRESS, Namespace
from pathlib import Path

import stn_ext_startup

with stn_ext_startup.importing(__name__):
    from stn_ext.training.decoding import decode, quietly
    from stn_ext.training.errors import UserError, guarded
    from stn_ext.training.files import make_directory, open_regular, write_atomically
    from stn_ext.training.options import Parser
    from stn_ext.training.report import csv_cell, image_name
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
    if output.is_dir() or not output.suffix:
        raise UserError(f"--output {output}: expected a file's name with an ending such as .png")
    accuracy, classes, labels = read_results(directory)
    chosen = {name: [i for i, label in enumerate(labels) if label == name] for name in classes}
    chosen = {name: indices[: args.num_columns] for name, indices in chosen.items() if indices}
    with quietly():
        inputs, outputs = (mosaic(directory / "images", chosen, kind) for kind in ("input", "output"))
    draw(inputs, outputs, list(chosen), f"{args.scope} on {args.name_data}: {accuracy:.2%}", output)
    print(f"see {output}")


def read_results(directory: Path) -> tuple[float, list[str], list[str]]:
    """(the accuracy, the classes, the label of each test image)

    Raises:
        UserError: files that are missing, or that are not as a test writes them.
    """
    try:
        with open_regular(directory / "metrics.json") as file:
            metrics = json.load(file)
        accuracy, classes = metrics["accuracy"], metrics["classes"]
        with open_regular(directory / "predictions.csv") as file:
            rows = csv.DictReader(io.TextIOWrapper(file, encoding="utf-8", newline=""), strict=True)
            names = {csv_cell(name): name for name in classes}
            labels = [names[row["label"]] for row in rows]
        if not (isinstance(classes, list) and labels and 0 <= accuracy <= 1):
            raise ValueError("expected a list of classes, images, and an accuracy from 0 to 1")
    except UserError as error:
        raise UserError(f"no test results in {directory}: run main.py --mode test first ({error})") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, csv.Error) as error:
        raise UserError(
            f"damaged test results in {directory}: run main.py --mode test again "
            f"({type(error).__name__}: {error})"
        ) from error
    return accuracy, classes, labels


def mosaic(directory: Path, chosen: dict[str, list[int]], kind: str):
    """One uint8 array (rows * H, columns * W, 3): a row a class, white where a class has too few images."""
    import numpy as np

    rows = [
        [decode(directory / image_name(index, kind), channels=3).pixels for index in indices]
        for indices in chosen.values()
    ]
    shapes = {pixels.shape for row in rows for pixels in row}
    if len(shapes) > 1:
        raise UserError(f"{directory}: the {kind}s differ in size: run main.py --mode test again")
    columns = max(map(len, rows))
    blank = np.full_like(rows[0][0], 255)
    return np.vstack([np.hstack(row + [blank] * (columns - len(row))) for row in rows])


def draw(inputs, outputs, classes: list[str], title: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")  # no display is needed
    import matplotlib.pyplot as plt

    height, width = inputs.shape[:2]
    figure, axes = plt.subplots(1, 2, figsize=(12, 0.8 + 6 * height / width), layout="constrained")
    figure.suptitle(title, parse_math=False)
    step = height / len(classes)
    for axis, image, name in zip(
        axes, (inputs, outputs), ("input", "output: what the classifier saw"), strict=True
    ):
        axis.imshow(image, interpolation="nearest")
        axis.set_title(name)
        axis.set_xticks([])
        places = [step * (row + 0.5) for row in range(len(classes))]
        # A class is called what it is called: "$x$" is no formula.
        names = [name if name.isprintable() else ascii(name) for name in classes]
        axis.set_yticks(places, names, parse_math=False)
        axis.tick_params(length=0)
    axes[1].set_yticks([])
    content = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of letters that the font lacks: boxes stand for them
            figure.savefig(content, format=path.suffix[1:], dpi=100)
    except ValueError as error:  # an unknown format, or too many classes for a picture
        raise UserError(f"cannot write {path}: {error}") from error
    make_directory(path.parent)
    write_atomically(path, content.getvalue())


if __name__ == "__main__":
    sys.exit(guarded(main))
