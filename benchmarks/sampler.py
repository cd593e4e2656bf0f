"""Times affine_sample against PyTorch's affine_grid + grid_sample, in one run, alternating.

    python benchmarks/sampler.py                      # all cases, one thread
    python benchmarks/sampler.py --threads 2 --case photo --case digits --json out.json

For an honest figure the machine must be idle. "copy" is a plain copy of the output: the floor.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
from pathlib import Path

os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # its profiler is chatty; read on import

import torch
from cases import BASELINE, CASES, CONTENDERS, PASSES, Problem
from timing import Measurement, alternate, machine, peak_memory, write_json


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--case", action="append", choices=list(CASES), help="default: all; may be repeated")
    parser.add_argument("--threads", type=int, default=1, help="default: 1")
    parser.add_argument("--device", default="cpu", help="default: cpu")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each case and pass (default: 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    options = parser.parse_args(arguments)
    if torch.device(options.device).type == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device {options.device}: no GPU here")
    return options


def measure(name: str, device: torch.device, seconds: float) -> list[dict]:
    """One row for each pass and contender of a case."""
    rows = []
    for pass_name, make in PASSES.items():
        problem = Problem.make(CASES[name], device)
        contenders = {contender: make(warp, problem) for contender, warp in CONTENDERS.items()}
        target = torch.empty_like(problem.grad)
        timed = alternate({**contenders, "copy": lambda: target.copy_(problem.grad)}, seconds, device)  # noqa: B023
        for contender, measurement in timed.items():
            failed = contender == "copy" or measurement.error
            memory = None if failed else peak_memory(contenders[contender], device)
            rows.append(
                {
                    "case": name,
                    "pass": pass_name,
                    "contender": contender,
                    "values": problem.grad.numel(),
                    "peak_bytes": memory,
                    **measurement.to_json(),
                }
            )
    return rows


def table(rows: list[dict]) -> str:
    """A Markdown table: a line for each case and pass."""
    lines = [
        "| case | pass | stn_ext, ms | ns a value | PyTorch, ms | times faster | copy, ms "
        "| peak MB, stn_ext / PyTorch |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for pass_name in PASSES:
        ratios = []
        for case in dict.fromkeys(row["case"] for row in rows):
            cells = {
                row["contender"]: row for row in rows if row["case"] == case and row["pass"] == pass_name
            }
            ours, theirs = cells["stn_ext"], cells[BASELINE]
            if "median" not in ours or "median" not in theirs:
                lines.append(f"| {case} | {pass_name} | {ours['error'] or theirs['error']} | | | | | |")
                continue
            ratios.append(theirs["median"] / ours["median"])
            lines.append(
                f"| {case} {'x'.join(map(str, CASES[case].shape))} | {pass_name} | {_spread(ours)} "
                f"| {ours['median'] / ours['values'] * 1e9:.2f} | {_spread(theirs)} | {ratios[-1]:.1f} "
                f"| {cells['copy']['median'] * 1e3:.3g} "
                f"| {ours['peak_bytes'] / 1e6:.3g} / {theirs['peak_bytes'] / 1e6:.3g} |"
            )
        if len(ratios) > 1:
            mean = math.exp(statistics.fmean(map(math.log, ratios)))
            lines.append(f"| *geometric mean* | {pass_name} | | | | {mean:.1f} | | |")
    return "\n".join(lines)


def _spread(row: dict) -> str:
    measurement = Measurement(row["median"], row["low"], row["high"])
    half = (measurement.high - measurement.low) / 2 / measurement.median
    return f"{measurement.median * 1e3:.3g} ± {half:.0%}"


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    rows = []
    for name in options.case or CASES:
        rows += measure(name, device, options.seconds)
        print(".", end="", flush=True, file=sys.stderr)
    print(file=sys.stderr)
    environment = machine(device)
    print(", ".join(f"{key}: {value}" for key, value in environment.items()))
    print("median ± half the interquartile range\n")
    print(table(rows))
    if options.json:
        write_json(options.json, {"machine": environment, "rows": rows})


if __name__ == "__main__":
    main()
