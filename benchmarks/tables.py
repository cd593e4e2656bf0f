"""Markdown tables that can be read unrendered as well."""

from __future__ import annotations

from collections.abc import Sequence


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]], left: int = 1) -> str:
    """The first `left` columns are text, the others are numbers and stand at the right."""
    widths = [max(3, *map(len, column)) for column in zip(header, *lines, strict=True)]

    def line(cells: Sequence[str]) -> str:
        sides = ["<"] * left + [">"] * (len(cells) - left)
        padded = (f"{cell:{side}{width}}" for cell, side, width in zip(cells, sides, widths, strict=True))
        return f"| {' | '.join(padded)} |"

    rule = ["-" * width if i < left else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return "\n".join(line(cells) for cells in (header, rule, *lines))


def milliseconds(row: dict) -> str:
    """A measurement's median and half its interquartile range."""
    if row["error"]:
        return "failed"
    return f"{row['median'] * 1e3:.3g} ± {(row['high'] - row['low']) / 2 / row['median']:.0%}"
