"""Writes the recorded results' tables into the README, between its markers.

python benchmarks/readme.py            # after the benchmarks that write into benchmarks/results
python benchmarks/readme.py --check    # fails where the README says otherwise than the results
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import accuracy
import capabilities
import double_backward
import errors
import matrix
import paper
import sampler
from cases import COMMON
from contenders import MAIN_PASSES

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks/results"


def tables(results: Path = RESULTS) -> dict[str, str]:
    """The text for each marker, from the recorded results."""

    def recorded(name: str) -> dict:
        return json.loads((results / f"{name}.json").read_text())

    def table_of(name: str, table: Callable[[list[dict]], str], rows: str = "rows") -> str:
        content = recorded(name)
        return f"{table(content[rows])}\n\n{on(content['machine'])}"

    drawn = plot(results / "sampler-cpu.png")
    return {
        "accuracy": table_of("accuracy", accuracy.table, "runs"),
        "capabilities": table_of("capabilities", capabilities.table),
        "double backward": table_of("double_backward", double_backward.table),
        "errors": table_of("errors", errors.table),
        "matrix": table_of("matrix-cpu", matrix.table, "matrix"),
        "paper": paper.table(recorded("paper")["runs"]),
        "warps": table_of("warps-cpu", lambda rows: sampler.table(rows, 1)),
        "sampler": table_of("sampler-cpu", lambda rows: f"{speed(rows)}\n\n{drawn}".rstrip()),
    }


def speed(rows: list[dict]) -> str:
    """The common cases and passes, on the fewest threads."""
    rows = [row for row in rows if row["case"] in COMMON and row["pass"] in MAIN_PASSES]
    return sampler.table(rows, min(row["threads"] for row in rows))


def plot(path: Path) -> str:
    """Where it has been drawn."""
    return f"![Speeds over PyTorch's]({path.relative_to(ROOT)})\n\n" if path.exists() else ""


def on(machine: dict) -> str:
    where = machine.get("gpu", machine["cpu"])
    built = machine["stn_ext"]
    peers = "".join(f", {name} {version}" for name, version in machine.get("peers", {}).items())
    return (
        f"Measured on: {where}, {built['simd']} kernels, {machine['threads']} thread(s), "
        f"PyTorch {machine['torch']}{peers}, Python {machine['python']}, commit {machine['commit']}."
    )


def fill(text: str, contents: dict[str, str]) -> str:
    """The text with other contents between its markers."""
    for name, content in contents.items():
        marker = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not marker.search(text):
            sys.exit(f"README.md: expected a marker <!-- {name} -->")
        text = marker.sub(lambda match, content=content: f"{match[1]}{content}\n{match[2]}", text)
    return text


def main() -> None:
    before = README.read_text()
    after = fill(before, tables())
    if "--check" in sys.argv and after != before:
        sys.exit("README.md differs from benchmarks/results: run python benchmarks/readme.py")
    README.write_text(after)


if __name__ == "__main__":
    main()
