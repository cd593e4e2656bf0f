"""Counts the CUDA kernels' instructions, and what follows of them: no GPU is needed, nothing is timed.

Writes results/gpu_bounds.json, from which readme.py makes the table of benchmarks/README.md. Needs nvcc and
nvdisasm (pip install nvidia-cuda-nvdisasm):

    python benchmarks/gpu_bounds.py
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import tables
import torch
from timing import write_json

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("sample.cu", "grad_theta.cu", "grad_input_gather.cu", "grad_input_scatter.cu")


class GPU(NamedTuple):
    """As its maker says."""

    multiprocessors: int
    clock: float  # Hz, the highest
    bandwidth: float  # bytes a second

    def share_of_copy(self, size: float, instructions: float) -> float:
        """Of the speed of a copy that moves as many bytes: what 128 instructions a clock allow at most."""
        busy = instructions / (self.multiprocessors * 128 * self.clock)
        return min(1.0, size / self.bandwidth / busy)


GPUS = {
    "H100": GPU(132, 1.98e9, 3.35e12),
    "RTX 4090": GPU(128, 2.52e9, 1.008e12),
    "RTX 3060": GPU(28, 1.78e9, 0.36e12),
}
CHANNELS = (1, 3)
# What the kernels were meant to cost, a pixel and a channel.
TARGETS = {"sample": (50, 30), "grad_theta": (100, 30), "gather": (210, 45), "scatter": (60, 65)}


def measure() -> list[dict]:
    from tests.csrc.kernel_costs import costs_of

    with tempfile.TemporaryDirectory() as folder:
        return [cost._asdict() for source in SOURCES for cost in costs_of(source, Path(folder))]


def table(rows: list[dict]) -> str:
    """A row for each kernel and kind of map; shares only where the window's places, which depend on the map,
    have no part."""
    heads = ["kernel", "a pixel (meant)", "a channel (meant)", "registers"]
    heads += [f"{name}, C = {' / '.join(map(str, CHANNELS))}" for name in GPUS]
    lines = []
    for row in rows:
        pixel, channel = TARGETS[row["kernel"]]
        is_plane = row["kind"] == "affine"
        more = f" + {row['place']:.0f} a place" if row["place"] else ""
        line = [
            f"`{row['kernel']}`, {row['kind']}",
            f"{row['pixel']:.0f}" + (f" ({pixel})" if is_plane else ""),
            f"{row['channel']:.0f}{more}" + (f" ({channel})" if is_plane else ""),
            str(row["registers"]),
        ]
        for gpu in GPUS.values():
            shares = (gpu.share_of_copy(8 * c, row["pixel"] + c * row["channel"]) for c in CHANNELS)
            line.append("" if row["place"] else " / ".join(f"{share:.0%}" for share in shares))
        lines.append(line)
    return tables.markdown(heads, lines)


def main() -> None:
    sys.path.insert(0, str(ROOT))
    from build_support.cuda_toolkit import find_toolkit

    toolkit, reason = find_toolkit(torch.version.cuda or "", os.environ)
    if toolkit is None:
        sys.exit(f"no nvcc: {reason}")
    said = subprocess.check_output([toolkit.root / "bin/nvcc", "--version"], text=True)
    compiler = re.search(r"release (\S+),", said)[1]
    rows = measure()
    write_json(ROOT / "benchmarks/results/gpu_bounds.json", {"nvcc": compiler, "rows": rows})
    print(table(rows))


if __name__ == "__main__":
    main()
