"""The first questions to a GPU, each beside a copy of the same images in the same run; part of gpu_check.sh.

One channel turned by 0, 45 and 90 degrees says how many lines of memory a clock the first-level cache gives;
the input's gradient is timed by its gather (affine maps) and its scatter (maps in perspective); and a theta
that is 0, of rank 1 or not a number must cost no more than a few times what others do.

    python benchmarks/gpu_first.py --device cuda
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import tables
import torch
from timing import alternate
from torch import Tensor

import stn_ext

COPY = "a copy"


def turned(degrees: float) -> Tensor:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[[cos, -sin, 0.1], [sin, cos, -0.1]]])


def questions(side: int, device: torch.device) -> dict[str, Callable[[], object]]:
    image = torch.rand(1, 1, side, side, device=device)
    grad = torch.rand_like(image)

    def backward(warp: Callable, theta: Tensor) -> Callable[[], object]:
        wanted = [image.clone().requires_grad_(), theta.to(device).requires_grad_()]
        output = warp(*wanted)
        return lambda: torch.autograd.grad(output, wanted, grad, retain_graph=True)

    tilted = torch.cat((turned(10), torch.tensor([[[0.05, -0.08, 1.0]]])), 1)
    lethal = {
        "of 0": torch.zeros(1, 2, 3),
        "of rank 1": torch.tensor([[[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]]]),
        "not a number": torch.full((1, 2, 3), torch.nan),
        "far outside": torch.tensor([[[1.0, 0.0, 50.0], [0.0, 1.0, 50.0]]]),
    }
    calls = {COPY: lambda: image.clone()}
    for degrees in (0, 10, 45, 90):
        theta = turned(degrees).to(device)
        calls[f"forward, {degrees} degrees"] = lambda theta=theta: stn_ext.affine_sample(image, theta)
    calls["backward, affine, 10 degrees"] = backward(stn_ext.affine_sample, turned(10))
    calls["backward, in perspective"] = backward(stn_ext.projective_sample, tilted)
    for name, theta in lethal.items():
        calls[f"backward, theta {name}"] = backward(stn_ext.affine_sample, theta)
    return calls


def measure(device: torch.device, seconds: float, sides: tuple[int, ...]) -> list[dict]:
    rows = []
    for side in sides:
        timed = alternate(questions(side, device), seconds, device)
        for name, measurement in timed.items():
            times = math.nan if measurement.error else measurement.median / timed[COPY].median
            rows.append({"side": side, "question": name, "times a copy": times, **measurement.to_json()})
    return rows


def table(rows: list[dict]) -> str:
    lines = [
        [
            f"{row['side']} x {row['side']}",
            row["question"],
            tables.milliseconds(row),
            f"{row['times a copy']:.1f}",
        ]
        for row in rows
    ]
    return tables.markdown(["image", "", "ms", "times a copy"], lines, left=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda", help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.3, help="of each question (default: %(default)s)")
    parser.add_argument("--sides", type=int, nargs="+", default=[1080, 4096], help="(default: %(default)s)")
    options = parser.parse_args()
    print(table(measure(torch.device(options.device), options.seconds, tuple(options.sides))))


if __name__ == "__main__":
    main()
