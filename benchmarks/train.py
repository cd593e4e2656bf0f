"""Times main.py's training step with affine_sample, with PyTorch's two operators, and without a transformer.

    python benchmarks/train.py [--json FILE]
    python benchmarks/train.py --threads 1 -- --net small --batch_size 256

What follows "--" goes to main.py. The three alternate in one run, each step on a batch of its own. Where a
step's time goes is read off a clock at the borders between its parts, backward's by the gradients that
cross them.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from tables import markdown, milliseconds
from timing import alternate, machine, write_json
from torch import Tensor, nn

from stn_ext.nn import SpatialTransformer
from stn_ext.training import config, data, engine
from stn_ext.training.distributed import Process
from stn_ext.training.errors import UserError, guarded
from stn_ext.training.run import About, Run

# In the order of a step.
PARTS = (
    "data",
    "localisation",
    "sampler",
    "classifier",
    "loss, classifier backward",
    "sampler backward",
    "localisation backward",
    "optimiser",
    "counts, learning rate",
)


class TwoOperators(nn.Module):
    """A spatial transformer with affine_grid and grid_sample in the place of affine_sample."""

    def __init__(self, transformer: SpatialTransformer) -> None:
        super().__init__()
        self.localization, self.transform = transformer.localization, transformer.transform

    def forward(self, x: Tensor, return_theta: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        theta = self.transform(self.localization(x))
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        warped = F.grid_sample(x, grid, align_corners=False)
        return (warped, theta) if return_theta else warped


class Clock:
    """The seconds of each part of every step, a part being what lies between two marks."""

    def __init__(self) -> None:
        self.parts: dict[str, list[float]] = defaultdict(list)
        self.last = 0.0

    def start(self) -> None:
        self.last = time.perf_counter()

    def mark(self, part: str) -> None:
        """Ends a part."""
        now = time.perf_counter()
        self.parts[part].append(now - self.last)
        self.last = now

    def watch(self, run: Run) -> None:
        """Sets marks at the borders of the run's parts."""
        transformer = run.model.transformer
        run.model.register_forward_pre_hook(lambda *_: self.mark("data"))
        run.model.classifier.register_forward_hook(lambda *_: self.mark("classifier"))
        backward = "loss, classifier backward"
        if transformer is not None:
            transformer.localization.register_forward_hook(self.border("localisation", "sampler backward"))
            transformer.register_forward_hook(self.border("sampler", backward))
            backward = "localisation backward"
        run.optimizer.register_step_pre_hook(lambda *_: self.mark(backward))
        run.optimizer.register_step_post_hook(lambda *_: self.mark("optimiser"))

    def border(self, part: str, backward: str) -> Callable:
        """A hook where one part ends in forward, and another when the gradient comes back."""

        def hook(module: nn.Module, inputs: tuple, output: Tensor | tuple[Tensor, Tensor]) -> None:
            self.mark(part)
            images = output[0] if isinstance(output, tuple) else output  # and theta
            images.register_hook(lambda grad: self.mark(backward))

        return hook


def make_step(
    scope: str, two_operators: bool, options: list[str], clock: Clock
) -> tuple[Callable[[], None], float]:
    """One step of main.py's training, and the mean number of its images."""
    args = config.parse([*options, "--scope", scope])
    training, _ = data.split(data.load(args.name_data, args.dir_data, train=True, limit=args.limit))
    process = Process(torch.device("cpu"))
    run = Run(args, About.of(training), len(training), process)
    if two_operators:
        run.model.transformer = TwoOperators(run.model.transformer)
    clock.watch(run)
    normalisation = data.Normalisation(run.about.background)
    batches = engine.epoch_order(len(training), args.batch_size, run.order)
    turns = itertools.cycle(batches)

    def step() -> None:
        clock.start()
        epoch = (next(turns),)  # the engine's own loop, over one batch
        engine.train_epoch(run.model, run.optimizer, run.scheduler, training, normalisation, epoch, process)
        clock.mark("counts, learning rate")

    return step, statistics.fmean(map(len, batches))


CONTENDERS = {"stn_ext": ("stn", False), "PyTorch": ("stn", True), "no transformer": ("cls", False)}


def measure(options: list[str], seconds: float) -> list[dict]:
    """A row for each contender."""
    clocks = {name: Clock() for name in CONTENDERS}
    steps = {name: make_step(*kind, options, clocks[name]) for name, kind in CONTENDERS.items()}
    timed = alternate({name: step for name, (step, _) in steps.items()}, seconds, torch.device("cpu"))
    rows = []
    for name, measurement in timed.items():
        if measurement.error:
            raise UserError(f"{name}: {measurement.error}")
        parts = {part: statistics.median(times) for part, times in clocks[name].parts.items()}
        speed = steps[name][1] / measurement.median
        rows.append({"contender": name, "images_per_second": speed, "parts": parts, **measurement.to_json()})
    return rows


def table(rows: list[dict]) -> str:
    """A Markdown table, a column for each contender: images a second, and the parts of a step."""
    lines = [
        ["images a second", *(f"{row['images_per_second']:.0f}" for row in rows)],
        ["a step, ms", *(milliseconds(row) for row in rows)],
    ]
    for part in PARTS:
        times = [row["parts"].get(part) for row in rows]
        lines.append([f"{part}, ms", *("-" if time is None else f"{time * 1e3:.3g}" for time in times)])
    return markdown(["", *(row["contender"] for row in rows)], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="default: 60")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: PyTorch's")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    parser.add_argument("options", nargs="*", help="for main.py")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = measure(options.options, options.seconds)
    print(f"median ± half the interquartile range\n\n{table(rows)}")
    if options.json:
        environment = machine(torch.device("cpu"))
        write_json(options.json, {"machine": environment, "options": options.options, "rows": rows})


if __name__ == "__main__":
    sys.exit(guarded(main))
