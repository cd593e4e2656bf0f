"""The share of a copy's bandwidth that the operators reach on images that fill a GPU; for sampler.py."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from cases import LARGE, Case, Problem
from contenders import FLOOR
from tables import markdown, milliseconds
from timing import alternate, in_turn, sets

import stn_ext  # noqa: F401  loads the operators

DTYPES = {"float32": torch.float32, "float16": torch.float16}


def problems(case: Case, dtype: torch.dtype, device: torch.device) -> list[Problem]:
    """The same problem in as many sets of tensors as no cache holds."""
    made = Problem.make(case, device)
    first = replace(made, input=made.input.to(dtype), grad=made.grad.to(dtype))
    copies = (
        replace(first, input=first.input.clone(), grad=first.grad.clone())
        for _ in range(sets(moved_bytes(first), device) - 1)
    )
    return [first, *copies]


def moved_bytes(problem: Problem) -> int:
    """The input and the output, or their gradients, once each: the least that each operator can move."""
    return problem.input.nbytes + problem.grad.nbytes


def operators(problem: Problem) -> dict[str, Callable[[], object]]:
    """Each reads or writes both of the images that moved_bytes counts; so does the copy, of one size here."""
    ops, maps, options = torch.ops.stn_ext, (problem.theta, None, None, None), ("bilinear", "zeros", False)
    input, grad = problem.input, problem.grad
    return {
        "forward": lambda: ops.sample(input, *maps, None, problem.size, *options),
        "moments": lambda: ops.moments(grad, input, *maps, None, *options),
        "adjoint": lambda: ops.adjoint(grad, *maps, len(input), input.shape[2:], *options),
        FLOOR: partial(torch.empty_like(input).copy_, input),
    }


def measure(device: torch.device, seconds: float, cases: dict[str, Case] = LARGE) -> list[dict]:
    """A row for each case, dtype and operator: its time, and its share of the copy's bandwidth."""
    rows = []
    for case_name, case in cases.items():
        for dtype_name, dtype in DTYPES.items():
            sets_of_tensors = problems(case, dtype, device)
            each = [operators(problem) for problem in sets_of_tensors]
            timed = alternate(
                {name: in_turn([calls[name] for calls in each]) for name in each[0]}, seconds, device
            )
            moved = moved_bytes(sets_of_tensors[0])
            for name, measurement in timed.items():
                row = {
                    "case": case_name,
                    "shape": str(case),
                    "dtype": dtype_name,
                    "operator": name,
                    "bytes": moved,
                }
                row |= measurement.to_json()
                if not measurement.error:
                    row["share"] = timed[FLOOR].median / measurement.median
                rows.append(row)
            print(".", end="", flush=True, file=sys.stderr)
    return rows


def table(rows: list[dict]) -> str:
    """A Markdown table, a line for each row."""
    lines = []
    for row in rows:
        names = [f"{row['case']} {row['shape']}", row["dtype"], row["operator"]]
        if row["error"]:
            lines.append([*names, "failed", "", ""])
            continue
        speed = f"{row['bytes'] / row['median'] / 1e9:.0f}"
        lines.append([*names, milliseconds(row), speed, f"{row['share']:.0%}"])
    return markdown(["case", "dtype", "operator", "ms", "GB/s", "of the copy's"], lines, left=3)
