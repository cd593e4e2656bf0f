"""Peak memory and time of double backward, by affine_sample and by PyTorch's two operators.

    python benchmarks/double_backward.py [--device cuda] [--json FILE]

Each contender runs in a process of its own, in turns: its peak is what the process grew by, so that nothing
that an operator allocates by itself goes unseen. On a GPU it is PyTorch's own count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from cases import Case, Problem
from contenders import BASELINE, OURS, fused, pytorch
from tables import markdown
from timing import machine, write_json

CASE = Case((4, 3, 512, 512))
WARPS = {OURS: fused, BASELINE: pytorch}
ROUNDS, CALLS = 5, 3


def double_backward(warp, problem: Problem) -> tuple[torch.Tensor, ...]:
    """The gradient of the gradients' norm, by images and theta."""
    leaves = problem.input.detach().requires_grad_(), problem.theta.detach().requires_grad_()
    output = warp(*leaves)
    gradients = torch.autograd.grad(output, leaves, problem.grad, create_graph=True)
    return torch.autograd.grad(sum(g.square().sum() for g in gradients), leaves)


def peak_of_process() -> int:
    """Bytes, since the peak was last reset."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def measure(name: str, device: torch.device) -> dict:
    """One process's peak, in bytes, and seconds a call."""
    torch.set_num_threads(1)
    double_backward(WARPS[name], Problem.make(Case((1, 1, 8, 8)), device))  # what is loaded on first use
    problem = Problem.make(CASE, device)
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = peak_of_process()
    double_backward(WARPS[name], problem)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else peak_of_process()
    times = []
    for _ in range(CALLS):
        began = time.perf_counter()
        double_backward(WARPS[name], problem)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return {"contender": name, "peak_bytes": peak - before, "seconds": statistics.median(times), "error": ""}


def in_its_own_process(name: str, device: str) -> dict:
    command = [sys.executable, __file__, f"--device={device}", f"--measure={name}"]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        return {"contender": name, "error": run.stderr.strip().splitlines()[-1]}
    return json.loads(run.stdout.splitlines()[-1])


def table(rows: list[dict]) -> str:
    """A Markdown table, a line for each contender: medians over the processes."""
    lines = []
    for name in WARPS:
        runs = [row for row in rows if row["contender"] == name]
        errors = [row["error"] for row in runs if row["error"]]
        if errors:
            lines.append([name, errors[0], ""])
            continue
        memory, seconds = (statistics.median(row[key] for row in runs) for key in ("peak_bytes", "seconds"))
        lines.append([name, f"{memory / 1e6:.1f}", f"{seconds * 1e3:.1f}"])
    return markdown([f"double backward, {CASE}", "peak MB", "ms"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--device", default="cpu", help="default: cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    parser.add_argument("--measure", choices=list(WARPS), help="only this one, in this process")
    options = parser.parse_args()
    device = torch.device(options.device)
    if options.measure:
        print(json.dumps(measure(options.measure, device)))
        return
    rows = [in_its_own_process(name, options.device) for _ in range(ROUNDS) for name in WARPS]
    print(table(rows))
    if options.json:
        write_json(options.json, {"machine": machine(device) | {"threads": 1}, "rows": rows})


if __name__ == "__main__":
    main()
