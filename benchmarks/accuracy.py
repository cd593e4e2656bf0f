"""Trains and tests main.py's networks with and without a spatial transformer, over several seeds.

    python benchmarks/accuracy.py                     # the README's table: three seeds of each scope
    python benchmarks/accuracy.py --seeds 5 -- --net small

What follows "--" goes to main.py. Each run is main.py's own training and test, with its defaults, in a
folder of its own; runs whose test is done are not repeated. The test set is used once a run, after its last
epoch.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from tables import markdown
from timing import machine, write_json

ROOT = Path(__file__).resolve().parents[1]
SCOPES = ("stn", "cls")
MEASURED = ("accuracy", "cross_entropy", "epoch", "num_images")  # of what the test writes


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seeds", type=int, default=3, help="default: 3")
    parser.add_argument(
        "--at_once", type=int, default=1, help="runs side by side, sharing the cores (default: 1)"
    )
    parser.add_argument("--dir", type=Path, default=ROOT / "runs", help="of the runs' files (default: runs)")
    parser.add_argument(
        "--json", type=Path, default=ROOT / "benchmarks/results/accuracy.json", metavar="FILE"
    )
    parser.add_argument("options", nargs="*", help="for main.py")
    return parser.parse_args()


def run(scope: str, seed: int, options: argparse.Namespace) -> dict:
    """Trains and tests once; returns what the test measured, and the seconds that training took."""
    folder = options.dir / f"seed{seed}"
    directories = [f"--dir_{name}={folder / name}" for name in ("log", "checkpoint", "result")]
    command = [sys.executable, "main.py", "--scope", scope, *directories, *options.options]
    done = folder / f"{scope}.json"
    if not done.exists():
        threads = max(1, torch.get_num_threads() // options.at_once)
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        begin = time.perf_counter()
        for mode in (["--mode", "train", "--seed", str(seed)], ["--mode", "test"]):
            subprocess.run([*command, *mode], cwd=ROOT, env=environment, check=True, stdout=sys.stderr)
            if "train" in mode:
                seconds = time.perf_counter() - begin
        (metrics,) = (folder / "result" / scope).glob("*/metrics.json")
        result = {"scope": scope, "seed": seed, "train_seconds": seconds, "threads": threads}
        measured = json.loads(metrics.read_text())
        write_json(done, result | {name: measured[name] for name in MEASURED})
    return json.loads(done.read_text())


def table(results: list[dict]) -> str:
    """A Markdown table of means over seeds, with the standard deviation."""
    lines = []
    names = {"stn": "with a spatial transformer", "cls": "without, the control"}
    for scope in SCOPES:
        rows = [row for row in results if row["scope"] == scope]
        accuracy = _spread([100 * row["accuracy"] for row in rows], 3)
        loss = _spread([row["cross_entropy"] for row in rows], 4)
        lines.append([names[scope], accuracy, loss, str(len(rows))])
    return markdown(["", "test accuracy, %", "cross entropy", "seeds"], lines)


def _spread(values: list[float], digits: int) -> str:
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread}"


def main() -> None:
    options = parse()
    jobs = [(scope, seed) for seed in range(options.seeds) for scope in SCOPES]
    with ThreadPoolExecutor(options.at_once) as pool:
        results = list(pool.map(lambda job: run(*job, options), jobs))
    print(table(results))
    write_json(
        options.json, {"machine": machine(torch.device("cpu")), "options": options.options, "runs": results}
    )


if __name__ == "__main__":
    main()
