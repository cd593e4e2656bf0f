"""Writes the recorded results' tables into the README, between its markers.

python benchmarks/readme.py            # after the benchmarks that write into benchmarks/results
python benchmarks/readme.py --check    # fails where the README says otherwise than the results
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import accuracy
import capabilities
import double_backward
import errors
import paper
import sampler
from cases import COMMON
from contenders import MAIN_PASSES

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks/results"


def tables(results: Path = RESULTS) -> dict[str, str]:
    """The text for each marker, from the recorded results."""
    trained, timed, warped, exact, tried, twice, distorted = (
        json.loads((results / f"{name}.json").read_text())
        for name in (
            "accuracy",
            "sampler-cpu",
            "warps-cpu",
            "errors",
            "capabilities",
            "double_backward",
            "paper",
        )
    )
    return {
        "accuracy": f"{accuracy.table(trained['runs'])}\n\n{on(trained['machine'])}",
        "capabilities": f"{capabilities.table(tried['rows'])}\n\n{on(tried['machine'])}",
        "double backward": f"{double_backward.table(twice['rows'])}\n\n{on(twice['machine'])}",
        "errors": f"{errors.table(exact['rows'])}\n\n{on(exact['machine'])}",
        "paper": paper.table(distorted["runs"]),
        "warps": f"{sampler.table(warped['rows'], 1)}\n\n{on(warped['machine'])}",
        "sampler": f"{speed(timed['rows'])}\n\n{plot(results / 'sampler-cpu.png')}{on(timed['machine'])}",
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
