"""The experiments of Jaderberg et al. 2015 on distorted digits, each with its controls.

    python benchmarks/paper.py                                # all of them, over seeds
    python benchmarks/paper.py --only rts tc --budget 120     # these, for two hours in all
    python benchmarks/paper.py --only r -- --num_epoch 100    # what follows "--" goes to main.py

One control has as many parameters as the network with a transformer, and as many epochs; the other has as
many parameters, and so many epochs as take the same processor time. What was tried before these settings were
chosen, on validation images alone, is in PAPER.md.

Each run is main.py's own training and test, in a folder of its own. The test set is used once a run, on the
network after its last epoch. A run that is interrupted, or that the budget ends, goes on when the command is
repeated; until then it counts as what it is: its last whole epoch is tested, and the table says how many
images it has seen and that it has not ended.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock

import torch
from tables import markdown
from timing import machine, write_json

from stn_ext.training import config, data, datasets, engine
from stn_ext.training.objectives import OBJECTIVES
from stn_ext.training.run import About, build
from stn_ext.training.steps import Recipe

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
# With a transformer; the control of equal parameters and epochs; that of equal parameters and processor time.
SCOPES = {"stn": "on", "cls": "off", "time": "off"}


@dataclass(frozen=True)
class Experiment:
    """Errors in percent: the paper's CNN without a transformer, its best single network with, and since."""

    title: str
    without: float | None
    best: float | None
    published: float | None
    options: tuple[str, ...]
    test: tuple[str, ...] = ()  # options of the test with a transformer
    scopes: tuple[str, ...] = tuple(SCOPES)  # without a transformer nothing is located


ORDER = "cls", "time", "stn"  # of the table's columns
TITLES = {"cls": "control of equal parameters", "time": "control of equal time", "stn": "with a transformer"}

COLOCALISATION = ("--width", "16", "--control", "same", "--label_smoothing", "0")

# Published since: Esteves et al., Polar Transformer Networks, ICLR 2018, table 2, the STN that they trained.
EXPERIMENTS = {
    "r": Experiment("R", 1.2, 0.7, 0.61, ("--transform", "affine")),
    "rts": Experiment("RTS", 0.8, 0.5, 0.54, ("--transform", "affine", "--warp_size", "28")),
    "p": Experiment("P", 1.5, 0.8, None, ("--transform", "projective")),
    "e": Experiment("E", 1.4, 1.1, None, ("--transform", "thin_plate_spline")),
    "tc": Experiment(
        "TC",
        3.5,
        1.7,
        None,
        (
            *("--transform", "attention", "--localization", "heatmap", "--start_scale", "0.74"),
            *("--warp_size", "28", "--iterations", "2", "--lr_stn", "4e-3"),
        ),
    ),
    # Of 10,000 fixed training images; published: the CNN, the STN and the PTN of Esteves et al. 2018.
    "sim2": Experiment(
        "SIM2",
        11.73,
        12.35,
        5.03,
        (
            *("--transform", "similarity", "--localization", "heatmap", "--start_scale", "0.5"),
            *("--warp_size", "32", "--num_epoch", "120"),
        ),
    ),
    "add": Experiment(
        "addition",
        14.7,
        5.8,
        None,
        ("--transform", "affine", "--num_transformers", "2", "--warp_size", "28"),
    ),
    "seq": Experiment(
        "sequences, a stand-in for SVHN's",
        None,
        None,
        None,
        ("--transform", "affine", "--warp_size", "48", "96"),
    ),
    # Of one class, with no labels to smooth. In the paper all digits that are only translated are located.
    "coloc": Experiment("co-localisation, cluttered", None, None, None, COLOCALISATION, scopes=("stn",)),
    "coloc_t": Experiment("co-localisation", None, 0.0, None, COLOCALISATION, scopes=("stn",)),
}
# What a control does not depend on, but for its number of parameters.
OF_TRANSFORMERS = {"transform", "localization", "start_scale", "iterations", "jitter", "num_transformers"}
OF_TRANSFORMERS |= {"warp_size", "antialias", "lr_stn"}
# What all have in common: a network of less than 400 thousand parameters.
COMMON = (
    *("--net", "cnn", "--width", "24", "--control", "widened"),
    *("--num_epoch", "30", "--ema", "0.999", "--label_smoothing", "0.05", "--weight_decay", "0.02"),
)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--only", nargs="+", choices=list(EXPERIMENTS), default=list(EXPERIMENTS))
    parser.add_argument(
        "--scopes",
        nargs="+",
        choices=list(SCOPES),
        default=list(SCOPES),
        help="with a transformer (stn), the controls of equal parameters (cls) and of equal time (time)",
    )
    parser.add_argument("--budget", type=float, metavar="MINUTES", help="end after so long (default: never)")
    parser.add_argument("--seeds", type=int, default=3, help="with a transformer (default: 3)")
    parser.add_argument(
        "--control_seeds", type=int, default=2, help="of each control, at most as many (default: 2)"
    )
    parser.add_argument(
        "--at_once", type=int, default=1, help="runs side by side, sharing the cores (default: 1)"
    )
    parser.add_argument("--base", default="mnist", help="the set that is distorted (default: mnist)")
    parser.add_argument("--dir", type=Path, default=ROOT / "runs/paper", help="of the runs' files")
    parser.add_argument("--json", type=Path, default=RESULTS / "paper.json", metavar="FILE")
    parser.add_argument("--pictures", type=Path, default=ROOT / "docs", help="where the animations go")
    parser.add_argument("options", nargs="*", help="for main.py")
    return parser.parse_args(argv)


class Budget:
    """So many minutes from now, or as many as it takes."""

    def __init__(self, minutes: float | None) -> None:
        self._end = math.inf if minutes is None else time.monotonic() + 60 * minutes

    def stop(self) -> None:
        self._end = -math.inf

    @property
    def spent(self) -> bool:
        return time.monotonic() >= self._end


@dataclass(frozen=True)
class Run:
    """One network: an experiment, with or without the transformer, by one seed."""

    experiment: str
    scope: str
    seed: int
    options: argparse.Namespace

    @property
    def name_data(self) -> str:
        return f"{self.options.base}_{self.experiment}"

    @property
    def is_shown(self) -> bool:
        """Whether an animation is made of it."""
        return self.scope == "stn" and self.seed == 0

    def directory(self, kind: str) -> Path:
        return self.options.dir / f"seed{self.seed}" / kind

    def checkpoints(self) -> list[Path]:
        return sorted((self.directory("checkpoint") / self.scope / self.name_data).glob("model_epoch*.pth"))

    def command(self, mode: str, *more: str) -> list[str]:
        folders = [f"--dir_{kind}={self.directory(kind)}" for kind in ("log", "checkpoint", "result")]
        return [sys.executable, "main.py", "--mode", mode, *self.where(), *folders, *more]

    def where(self) -> list[str]:
        implied = self.scope in config.SCOPES
        words = [] if implied else ["--transformer", SCOPES[self.scope]]
        return ["--scope", self.scope, *words, "--name_data", self.name_data]

    def what(self) -> list[str]:
        """What is trained, in options of main.py."""
        words = [*options_of(self.experiment, self.options), "--seed", str(self.seed)]
        if self.scope == "time":
            words += ["--num_epoch", str(epochs_of_equal_time(self))]
        return words

    def threads(self) -> int:
        return max(1, torch.get_num_threads() // self.options.at_once)

    def environment(self) -> dict[str, str]:
        return os.environ | {"OMP_NUM_THREADS": str(self.threads())}

    def train(self, budget: Budget) -> float:
        """Trains, or goes on; at the end of the budget the last whole epoch is saved, if there is one.

        Returns the seconds of processor time that it took.
        """
        # Every epoch of the run that is shown in pictures.
        save = ["--num_freq_save", "1" if self.is_shown else "10"]
        process = subprocess.Popen(
            self.command("train", *self.what(), *save, "--train_continue", "on"),
            cwd=ROOT,
            env=self.environment(),
            stdout=sys.stderr,
        )
        ended = stopped = False
        while not ended:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            ended = pid != 0
            if not ended and budget.spent and not stopped:
                process.terminate()
                stopped = True
            time.sleep(0 if ended else 0.2)
        process.returncode = code = os.waitstatus_to_exitcode(status)
        # 130 where it has saved what there is, the signal where it had not begun.
        if code and not (stopped and code in (130, -signal.SIGTERM)):
            raise SystemExit(f"{self.name_data}, {self.scope}, seed {self.seed}: training failed")
        return usage.ru_utime + usage.ru_stime

    def test(self) -> dict:
        """What the last epoch's network makes of the test set, and what it has seen of the training set."""
        averaged = EXPERIMENTS[self.experiment].test if self.scope == "stn" else ()
        subprocess.run(
            self.command("test", *averaged), cwd=ROOT, env=self.environment(), check=True, stdout=sys.stderr
        )
        path = self.directory("result") / self.scope / self.name_data / "metrics.json"
        metrics = json.loads(path.read_text())
        history = metrics["history"]
        return {
            "experiment": self.experiment,
            "name_data": self.name_data,
            "scope": self.scope,
            "seed": self.seed,
            "error_percent": 100 * (1 - metrics["accuracy"]),
            **{name: metrics[name] for name in ("cross_entropy", "triplet_loss") if name in metrics},
            "test_images": metrics["num_images"],
            "num_parameters": metrics["num_parameters"],
            "epoch": metrics["epoch"],
            "num_epoch": torch.load(self.checkpoints()[-1], weights_only=True)["args"]["num_epoch"],
            "images_seen": sum(epoch["images"] for epoch in history),
            "seconds": sum(epoch["seconds"] for epoch in history),
            "curve": [
                {"train": epoch["train"]["accuracy"], "validation": epoch["validation"]["accuracy"]}
                for epoch in history
            ],
            "machine": machine(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
            | {"threads": self.threads()},
            "command": shlex.join(["python", "main.py", *self.where(), *self.what()]),
            "tested": list(averaged),
        }


def options_of(experiment: str, options: argparse.Namespace) -> list[str]:
    """Of main.py; the user's own come last, and count."""
    return [*COMMON, *EXPERIMENTS[experiment].options, *options.options]


def epochs_of_equal_time(run: Run) -> int:
    """As many epochs without a transformer as take the processor time of those with.

    A step of either is timed once for all seeds, and kept: a run that goes on has the epochs it began with.
    """
    path = run.options.dir / f"{run.name_data}_step.json"
    if not path.exists():
        write_json(path, step_seconds(run))
    seconds = json.loads(path.read_text())
    epochs = config.parse(options_of(run.experiment, run.options)).num_epoch
    return max(1, round(epochs * seconds["stn"] / seconds["cls"]))


def step_seconds(run: Run, rounds: int = 12) -> dict[str, float]:
    """Of a training step with a transformer and of one without: the least of several, taken in turn."""
    words = ["--name_data", run.name_data, *options_of(run.experiment, run.options)]
    args = config.parse(words)
    training, _ = datasets.load_training(run.name_data, ROOT / "datasets", seed=0, limit=2 * args.batch_size)
    images = training.epoch(1)[: args.batch_size]
    about, recipe = About.of(images), Recipe.of(args, OBJECTIVES[images.objective]())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    normalised = data.Normalisation(about.background).apply(images.images)
    part = normalised.to(device), images.labels.to(device)
    steps = {}
    for scope in ("stn", "cls"):
        args.transformer = SCOPES[scope]
        model = build(vars(args), about).to(memory_format=torch.channels_last).to(device).train()
        optimizer = engine.make_optimizer(model, args)
        steps[scope] = partial(recipe.step, model, optimizer, [part], 1, 1 / len(images))
    best = dict.fromkeys(steps, math.inf)
    for _ in range(rounds):
        for scope, step in steps.items():
            # Processor time: what else runs beside it, on a CPU, lengthens no step.
            clock = time.perf_counter if device.type == "cuda" else time.process_time
            began = clock()
            step().sum().item()
            best[scope] = min(best[scope], clock() - began)
    return best


def key(result: dict) -> tuple:
    return result["name_data"], result["scope"], result["seed"]


def ended(result: dict) -> bool:
    return result["epoch"] >= result["num_epoch"]


def is_made(run: Run, result: dict | None) -> bool:
    """Whether the run has ended, with the settings that are now in force."""
    if not result or not ended(result):
        return False
    # Before commands were recorded, options were.
    words = shlex.split(result["command"])[2:] if "command" in result else [*run.where(), *result["options"]]
    recorded, now = (vars(config.parse(w)) for w in (words, [*run.where(), *run.what()]))
    ignored = {"given", "seed"} | (set() if run.scope == "stn" else OF_TRANSFORMERS)
    return all(value == now.get(name) for name, value in recorded.items() if name not in ignored)


def measure(options: argparse.Namespace) -> list[dict]:
    """Makes the runs that are left, as far as the budget goes; returns all results, old and new."""
    recorded = json.loads(options.json.read_text())["runs"] if options.json.exists() else []
    results = {key(result): result for result in recorded}
    budget, lock = Budget(options.budget), Lock()

    def make(run: Run) -> None:
        if budget.spent or is_made(run, results.get((run.name_data, run.scope, run.seed))):
            return
        seconds = run.train(budget)
        if run.checkpoints():
            result = run.test()
            with lock:
                before = results.get(key(result), {}).get("processor_seconds", 0)
                result["processor_seconds"] = before + seconds
                results[key(result)] = result
                write_json(options.json, {"runs": list(results.values())})
                if run.is_shown:
                    animate(run)

    # Seed by seed: a budget that is too short leaves each experiment with its control, and fewer seeds.
    controls = min(options.seeds, options.control_seeds)
    seeds = {scope: options.seeds if scope == "stn" else controls for scope in SCOPES}
    runs = [
        Run(name, scope, seed, options)
        for seed in range(max(seeds.values()))
        for name in options.only
        for scope in EXPERIMENTS[name].scopes
        if scope in options.scopes and seed < seeds[scope]
    ]
    with ThreadPoolExecutor(options.at_once) as pool:
        try:
            list(pool.map(make, runs))
        finally:
            budget.stop()  # after Ctrl-C or a failure the other runs save what they have
    return list(results.values())


def table(results: list[dict], base: str = "mnist") -> str:
    """Errors in percent on the test sets, a row an experiment: means over seeds and standard deviations."""
    header = ["error, %", "paper, without", "paper, with", "since"]
    header += [TITLES[scope] for scope in ORDER]
    header += ["seeds", "parameters", "images seen", "minutes a run", "hardware"]
    lines = []
    for name, experiment in EXPERIMENTS.items():
        rows = {
            scope: [r for r in results if (r["name_data"], r["scope"]) == (f"{base}_{name}", scope)]
            for scope in ORDER
        }
        if not any(rows.values()):
            continue
        published = (experiment.without, experiment.best, experiment.published)
        lines.append(
            [
                experiment.title,
                *("" if figure is None or base != "mnist" else f"{figure:g}" for figure in published),
                *(spread(rows[scope]) for scope in ORDER),
                " / ".join(str(len(rows[scope])) for scope in ORDER),
                " / ".join(span(rows[scope], "num_parameters", 1000, "k") for scope in ORDER),
                " / ".join(span(rows[scope], "images_seen", 1e6, "M") for scope in ORDER),
                " / ".join(span(rows[scope], "seconds", 60, "") for scope in ORDER),
                ", ".join(sorted({hardware(row["machine"]) for scope in ORDER for row in rows[scope]})),
            ]
        )
    note = "\n\n\\* not at its end: as after the images it has seen." if "*" in str(lines) else ""
    return markdown(header, lines) + note


def spread(rows: list[dict]) -> str:
    if not rows:
        return "-"
    errors = [row["error_percent"] for row in rows]
    deviation = f" ± {statistics.stdev(errors):.2f}" if len(errors) > 1 else ""
    return f"{statistics.fmean(errors):.2f}{deviation}{'' if all(map(ended, rows)) else ' *'}"


def span(rows: list[dict], name: str, unit: float, symbol: str) -> str:
    """The least and the greatest, where they differ."""
    if not rows:
        return "-"
    ends = {f"{f(row[name] for row in rows) / unit:.3g}{symbol}": None for f in (min, max)}
    return " to ".join(ends)


def hardware(machine: dict) -> str:
    return machine.get("gpu") or f"{machine['threads']} thread(s) of {machine['cpu']}"


def animate(run: Run, per_class: int = 1, milliseconds: int = 400) -> None:
    """A GIF of the same test digits, raw and as the transformer warps them, a frame an epoch at most."""
    from PIL import Image

    from stn_ext.training import checkpoints, monitor
    from stn_ext.training.run import about_of, rebuild

    states = [checkpoints.load(path) for path in spaced(run.checkpoints())]
    images = datasets.load_test(run.name_data, ROOT / "datasets", limit=500)
    shown = monitor.examples(images, per_class, at_most=20)
    normalisation = data.Normalisation(about_of(states[-1]).background)
    torch.manual_seed(run.seed)
    untrained = build(states[-1]["args"], about_of(states[-1]))  # its transformers are the identity
    frames = []
    for model in (untrained, *map(rebuild, states)):
        pairs = monitor.grid(monitor.side_by_side(model, shown, normalisation), columns=5)
        frame = pairs.permute(1, 2, 0).squeeze(2).numpy()
        picture = Image.fromarray(frame)
        frames.append(picture.resize((2 * picture.width, 2 * picture.height), Image.NEAREST))
    run.options.pictures.mkdir(parents=True, exist_ok=True)
    durations = [milliseconds] * (len(frames) - 1) + [5 * milliseconds]
    path = run.options.pictures / f"{run.name_data}.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=True)


def spaced(items: list, at_most: int = 30) -> list:
    """The first, the last, and of the others the fewer the later: a transformer learns most at first."""
    last = len(items) - 1
    chosen = {round(last * (i / (at_most - 1)) ** 2) for i in range(at_most)}
    return [items[i] for i in sorted(chosen)]


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(argv)
    results = measure(options)
    text = table(results, options.base)
    options.json.with_suffix(".md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main()
