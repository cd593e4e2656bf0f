"""Writes the recorded results into the README and the pages of docs/, between their markers.

python benchmarks/readme.py            # after the benchmarks that write into benchmarks/results
python benchmarks/readme.py --check    # fails where a page says otherwise than the results
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import accuracy
import capabilities
import double_backward
import errors
import gpu_bounds
import install
import matrix
import paper
import sampler
import tables
from cases import COMMON
from contenders import CONTENDERS, MAIN_PASSES, OURS

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
README = ROOT / "README.md"
PAGES = README, ROOT / "docs/results.rst", ROOT / "docs/paper.rst", ROOT / "benchmarks/README.md"
DISTINCT = 8  # of the capabilities that the README shows


def contents(results: Path = RESULTS) -> dict[Path, dict[str, str]]:
    """The text for each page and marker, from the recorded results."""

    def recorded(name: str) -> dict:
        return json.loads((results / f"{name}.json").read_text())

    def table_of(name: str, table: Callable[[list[dict]], str], rows: str = "rows") -> str:
        content = recorded(name)
        return f"{table(content[rows])}\n\n{on(content['machine'])}"

    runs = recorded("accuracy")["runs"]
    full = {
        "accuracy": table_of("accuracy", accuracy.table, "runs"),
        "sampler": table_of("sampler-cpu", speed),
        "matrix": table_of("matrix-cpu", matrix.table, "matrix"),
        "pictures": table_of("matrix-cpu", matrix.picture_table, "pictures"),
        "warps": table_of("warps-cpu", lambda rows: sampler.table(rows, 1)),
        "capabilities": table_of("capabilities", capabilities.table),
        "double backward": table_of("double_backward", double_backward.table),
        "errors": table_of("errors", errors.table),
    }
    plot = "![Speeds over PyTorch's, bars for each case](benchmarks/results/sampler-cpu.png)"
    lost = slower(recorded("matrix-cpu")["matrix"])
    short = {
        "install": install.sentence(recorded("install"), runs),
        "accuracy": accuracy.table(runs),
        "speed": f"{summary(recorded('sampler-cpu')['rows'])}\n\n{lost}\n\n{plot}",
        "peers": capabilities.table(distinct(recorded("capabilities")["rows"])),
    }
    published = {"paper": paper.table(recorded("paper")["runs"])}
    bounds = recorded("gpu_bounds")
    counted = {
        "gpu bounds": f"{gpu_bounds.table(bounds['rows'])}\n\nCompiled by nvcc {bounds['nvcc']} for sm_90."
    }
    pages = [
        short,
        *({name: tables.rst(text) for name, text in page.items()} for page in (full, published)),
        counted,
    ]
    return dict(zip(PAGES, pages, strict=True))


def speed(rows: list[dict]) -> str:
    """The common cases and passes, on the fewest threads."""
    return sampler.table(common(rows), min(row["threads"] for row in rows))


def common(rows: list[dict]) -> list[dict]:
    return [row for row in rows if row["case"] in COMMON and row["pass"] in MAIN_PASSES]


def summary(rows: list[dict]) -> str:
    """A line for each pass: the geometric means over the common cases, on the fewest threads."""
    threads = min(row["threads"] for row in rows)
    rows = [row for row in common(rows) if row["threads"] == threads]
    names = [name for name in CONTENDERS if name != OURS and any(row["contender"] == name for row in rows)]
    lines = []
    for pass_name in dict.fromkeys(row["pass"] for row in rows):
        group = [row for row in rows if row["pass"] == pass_name]
        ratios = {
            case: sampler.times_faster([row for row in group if row["case"] == case], threads)
            for case in dict.fromkeys(row["case"] for row in group)
        }
        lines.append([pass_name, *sampler.geometric_means(ratios, names)])
    return tables.markdown(["", *(f"vs {CONTENDERS[name].title}" for name in names)], lines)


def slower(rows: list[dict]) -> str:
    """What is lost against PyTorch's pair, over all dtypes, interpolations, paddings, layouts and passes."""
    lost = [row for row in rows if row["ratio"] < 1]
    worst = min(rows, key=lambda row: row["ratio"])
    where = ", ".join(worst[key] for key in matrix.Corner.__dataclass_fields__)
    return (
        f"Of {len(rows)} corners (shape, dtype, interpolation, padding, layout, pass) {len(lost)} are slower "
        f"than PyTorch's pair;\nthe worst has {worst['ratio']:.2f} of its speed ({where})."
    )


def distinct(rows: list[dict]) -> list[dict]:
    """Those that affine_sample has and the fewest others, in the order of the table."""

    def peers(row: dict) -> int:
        return sum(not reason for name, reason in row["reasons"].items() if name != OURS)

    had = [row for row in rows if not row["reasons"][OURS]]
    chosen = sorted(had, key=peers)[:DISTINCT]
    return [row for row in rows if row in chosen]


def on(machine: dict) -> str:
    where = machine.get("gpu", machine["cpu"])
    built = machine["stn_ext"]
    peers = "".join(f", {name} {version}" for name, version in machine.get("peers", {}).items())
    return (
        f"Measured on: {where}, {built['simd']} kernels, {machine['threads']} thread(s), "
        f"PyTorch {machine['torch']}{peers}, Python {machine['python']}, commit {machine['commit']}."
    )


def fill(page: Path, text: str, contents: dict[str, str]) -> str:
    """The page's text with other contents between its markers: comments, of Markdown or reStructuredText."""
    begin, end = ("<!-- {} -->", "<!-- /{} -->") if page.suffix == ".md" else (".. {}:\n", ".. end of {}")
    space = "" if page.suffix == ".md" else "\n"
    for name, content in contents.items():
        first, last = (mark.format(name) for mark in (begin, end))
        marker = re.compile(rf"^{re.escape(first)}\n.*?^{re.escape(last)}$", re.DOTALL | re.MULTILINE)
        if not marker.search(text):
            sys.exit(f"{page.name}: expected a marker {first.strip()}")
        filled = f"{first}\n{content}\n{space}{last}"
        text = marker.sub(lambda _, filled=filled: filled, text)
    return text


def main() -> None:
    changed = []
    for page, content in contents().items():
        before = page.read_text()
        after = fill(page, before, content)
        if after != before:
            changed.append(os.path.relpath(page, ROOT))
            if "--check" not in sys.argv:
                page.write_text(after)
    if "--check" in sys.argv and changed:
        sys.exit(f"{', '.join(changed)}: other than benchmarks/results: run python benchmarks/readme.py")


if __name__ == "__main__":
    main()
