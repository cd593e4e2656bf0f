"""Draws benchmarks/sampler.py's results: bars against its peers, and time by size.

python benchmarks/plots.py [FILE]     # writes FILE's name with .png, and -curves.png where it has curves
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from pathlib import Path

import matplotlib
from contenders import BASELINE, CONTENDERS, FLOOR, MAIN_PASSES, OURS

matplotlib.use("Agg")  # no display is needed

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

RECORDED = Path(__file__).parent / "results/sampler-cpu.json"
TITLES = {name: contender.title for name, contender in CONTENDERS.items()} | {FLOOR: "copy of the output"}
COLOURS = dict(zip(TITLES, ["C3", "C0", "C9", "C4", "C6", "C2", "C1", "C5", "0.6"], strict=True))


def draw_bars(rows: list[dict]) -> Figure:
    """Speeds over PyTorch's, on the fewest threads that were timed; a panel for each pass."""
    threads = min(row["threads"] for row in rows)
    times = {(r["pass"], r["case"], r["contender"]): r.get("median") for r in rows if r["threads"] == threads}
    passes, cases, timed = (list(dict.fromkeys(column)) for column in zip(*times, strict=True))
    passes = [name for name in passes if name in MAIN_PASSES] or passes
    names = [name for name in CONTENDERS if name in timed and name != BASELINE]

    def speed(pass_name: str, case: str, name: str) -> float:
        pytorch, own = (times.get((pass_name, case, key)) for key in (BASELINE, name))
        return pytorch / own if pytorch and own else 1  # which draws nothing

    shape = (10, 3 * len(passes))
    figure, panels = plt.subplots(len(passes), 1, figsize=shape, squeeze=False, sharex=True, sharey=True)
    for panel, pass_name in zip(panels.flat, passes, strict=True):
        for i, name in enumerate(names):
            x = [position + (i + 0.5) * 0.8 / len(names) - 0.4 for position in range(len(cases))]
            heights = [speed(pass_name, case, name) - 1 for case in cases]  # below 0: slower than PyTorch
            panel.bar(x, heights, 0.8 / len(names), bottom=1, label=TITLES[name], color=COLOURS[name])
        panel.axhline(1, color="black", linewidth=0.8)
        panel.set_yscale("log", base=2)
        panel.yaxis.set_major_formatter("{x:g}")
        panel.set(title=f"{pass_name}, {threads} thread(s)", ylabel="times PyTorch's speed")
    panels[-1, 0].set_xticks(range(len(cases)), cases, rotation=30, ha="right")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=len(names))
    return figure


def draw_curves(rows: list[dict]) -> Figure:
    """Time by size; a column for each curve, a row for each pass."""
    curves, passes = (list(dict.fromkeys(row[key] for row in rows)) for key in ("curve", "pass"))
    shape = (4 * len(curves), 3 * len(passes))
    figure, panels = plt.subplots(len(passes), len(curves), figsize=shape, squeeze=False, sharex="col")
    for panel, (pass_name, curve) in zip(panels.flat, itertools.product(passes, curves), strict=True):
        for name in (BASELINE, OURS, FLOOR):
            points = [r for r in rows if (r["pass"], r["curve"], r["contender"]) == (pass_name, curve, name)]
            sizes, times = (
                [row["size"] for row in points],
                [row.get("median", math.nan) * 1e3 for row in points],
            )
            panel.loglog(sizes, times, "o-", markersize=3, label=TITLES[name], color=COLOURS[name])
        panel.set(title=pass_name, ylabel="ms", xlabel=curve)
        panel.grid(alpha=0.3)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def write(content: dict, path: Path) -> list[Path]:
    """The figures of a result, next to each other; returns their paths."""
    figures = {path.with_suffix(".png"): (draw_bars, content["rows"])}
    if content.get("curves"):
        figures[path.with_name(f"{path.stem}-curves.png")] = (draw_curves, content["curves"])
    with plt.rc_context({"figure.constrained_layout.use": True, "savefig.dpi": 110}):
        for file, (draw, rows) in figures.items():
            figure = draw(rows)
            figure.savefig(file)
            plt.close(figure)
    return list(figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("file", nargs="?", type=Path, default=RECORDED, help=f"default: {RECORDED.name}")
    options = parser.parse_args()
    for path in write(json.loads(options.file.read_text()), options.file):
        print(path)


if __name__ == "__main__":
    main()
