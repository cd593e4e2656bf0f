"""The examples of the README and of the documentation's pages, as a reader copies them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .command_line import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.rst"))]

# A fence of Markdown, or a directive with what is indented below it.
FENCE = re.compile(r"^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
DIRECTIVE = re.compile(
    r"^\.\. (?:code-block:: (?P<language>\w+)|pictured::.*)\n(?P<code>(?:\n|[ ]+.*\n)+)", re.MULTILINE
)
# Up to an empty line, as docutils has it.
SESSION = re.compile(r"^>>> .*\n(?:.+\n)*", re.MULTILINE)


@dataclass(frozen=True)
class Example:
    page: Path
    line: int
    language: str  # python, bash, or session: Python with its prompts and what it prints
    code: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def examples(*languages: str) -> list[Example]:
    return [example for page in PAGES for example in of(page) if example.language in languages]


def of(page: Path) -> Iterator[Example]:
    text = page.read_text()
    for pattern in (FENCE,) if page.suffix == ".md" else (DIRECTIVE, SESSION):
        for match in pattern.finditer(text):
            groups = match.groupdict()
            language = "session" if pattern is SESSION else groups["language"] or "python"
            code = textwrap.dedent(re.sub(r"^\s+:.*\n", "", groups.get("code") or match[0]))
            line = text.count("\n", 0, match.start()) + 1
            yield Example(page, line, language, code.strip("\n") + "\n")


def commands(example: Example) -> list[str]:
    """The lines of a shell's example, without comments."""
    lines = example.code.replace("\\\n", " ").splitlines()
    return [line for line in (re.sub(r"\s+#.*|^#.*", "", line).strip() for line in lines) if line]
