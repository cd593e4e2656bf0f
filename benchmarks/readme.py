"""Writes the recorded results' tables into the README, between its markers.

python benchmarks/readme.py            # after benchmarks/sampler.py --json and benchmarks/accuracy.py
python benchmarks/readme.py --check    # fails where the README says otherwise than the results
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import accuracy
import errors
import sampler

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"


def tables() -> dict[str, str]:
    """The text for each marker, from the recorded results."""
    results = ROOT / "benchmarks/results"
    trained = json.loads((results / "accuracy.json").read_text())
    timed = json.loads((results / "sampler-cpu.json").read_text())
    exact = json.loads((results / "errors.json").read_text())
    return {
        "accuracy": f"{accuracy.table(trained['runs'])}\n\n{on(trained['machine'])}",
        "errors": f"{errors.table(exact['rows'])}\n\n{on(exact['machine'])}",
        "sampler": f"{sampler.table(timed['rows'])}\n\n{on(timed['machine'])}",
    }


def on(machine: dict) -> str:
    where = machine.get("gpu", machine["cpu"])
    built = machine["stn_ext"]
    return (
        f"Measured on: {where}, {built['simd']} kernels, {machine['threads']} thread(s), "
        f"PyTorch {machine['torch']}, Python {machine['python']}, commit {machine['commit']}."
    )


def main() -> None:
    text = before = README.read_text()
    for name, content in tables().items():
        marker = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not marker.search(text):
            sys.exit(f"README.md: expected a marker <!-- {name} -->")
        text = marker.sub(lambda match, content=content: f"{match[1]}{content}\n{match[2]}", text)
    if "--check" in sys.argv and text != before:
        sys.exit("README.md differs from benchmarks/results: run python benchmarks/readme.py")
    README.write_text(text)


if __name__ == "__main__":
    main()
