"""Tables of Markdown and reStructuredText that can be read unrendered as well."""

from __future__ import annotations

import itertools
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


def rst(text: str) -> str:
    """Paragraphs and tables of Markdown as reStructuredText."""
    parts = itertools.groupby(text.split("\n"), key=lambda line: line.startswith("| "))
    return "\n".join(_simple_table(list(part)) if is_table else "\n".join(part) for is_table, part in parts)


def _simple_table(lines: list[str]) -> str:
    header, rule, *rows = ([cell.strip() for cell in line[2:-2].split(" | ")] for line in lines)
    table = [[_escaped(cell) for cell in row] for row in (header, *rows)]
    # A row that begins with an empty cell would continue the one above.
    table = [[row[0] or "..", *row[1:]] for row in table]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    numbers = [mark.endswith(":") for mark in rule]
    edge = "  ".join("=" * width for width in widths)
    sides = [">" if is_number else "<" for is_number in numbers]
    body = [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True))
        for row in table
    ]
    drawn = [edge, body[0], edge, *body[1:], edge]
    text = sum(not is_number for is_number in numbers)  # columns that the style sheet leaves at the left
    directive = [".. table::", f"   :class: figures text{text}", "", *(f"   {line}" for line in drawn)]
    return "\n".join(line.rstrip() for line in directive)


def _escaped(cell: str) -> str:
    """A dash at the beginning is no list."""
    return f"\\{cell}" if cell.startswith("-") else cell


def milliseconds(row: dict) -> str:
    """A measurement's median and half its interquartile range."""
    if row["error"]:
        return "failed"
    return f"{row['median'] * 1e3:.3g} ± {(row['high'] - row['low']) / 2 / row['median']:.0%}"
