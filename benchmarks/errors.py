"""The largest errors against float64 of affine_sample and of PyTorch's two operators, in float32.

python benchmarks/errors.py [--json FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from cases import COMMON, Problem
from contenders import fused, pytorch
from tables import markdown
from timing import machine, write_json
from torch import Tensor

from stn_ext import reference

QUANTITIES = ("output", "input's gradient", "theta's gradient")


def run(warp: Callable[[Tensor, Tensor], Tensor], problem: Problem, dtype: torch.dtype) -> list[Tensor]:
    """The output and both gradients."""
    input, theta = problem.input.to(dtype).requires_grad_(), problem.theta.to(dtype).requires_grad_()
    output = warp(input, theta)
    return [output.detach(), *torch.autograd.grad(output, (input, theta), problem.grad.to(dtype))]


def measure(name: str) -> dict:
    problem = Problem.make(COMMON[name], torch.device("cpu"))
    exact = run(reference.affine_sample, problem, torch.float64)
    row: dict = {"case": name}
    for contender, warp in (("stn_ext", fused), ("pytorch", pytorch)):
        values = run(warp, problem, torch.float32)
        row[contender] = [(v - e).abs().max().item() for v, e in zip(values, exact, strict=True)]
    return row


def table(rows: list[dict]) -> str:
    """A Markdown table: stn_ext's error / PyTorch's."""
    lines = []
    for row in rows:
        pairs = zip(row["stn_ext"], row["pytorch"], strict=True)
        lines.append([row["case"], *(f"{ours:.1e} / {theirs:.1e}" for ours, theirs in pairs)])
    return markdown(["case", *QUANTITIES], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    options = parser.parse_args()
    rows = [measure(name) for name in COMMON]
    print(table(rows))
    if options.json:
        write_json(options.json, {"machine": machine(torch.device("cpu")), "rows": rows})


if __name__ == "__main__":
    main()
