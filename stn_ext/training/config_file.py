"""Options in a file, as YAML that is flat: an earlier run's arg.txt, or one's own.

Every scalar is taken as the text that it is, and means what it would on the command line: ``amp: off`` is no
truth value, ``lr_cls: 1e-3`` no word. ``null``, or nothing, leaves an option at its default.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import UserError
from .files import open_regular

_LARGEST = 1_000_000  # bytes; what this program writes has some thousands
_NULL = ("", "~", "null", "Null", "NULL", "None")
_PLAIN = re.compile(r"-?[A-Za-z0-9_./+][A-Za-z0-9_./+-]*")  # means itself without quotes


def read(path: Path, parser: argparse.ArgumentParser) -> list[str]:
    """The words of a command line that says what the file does.

    Raises:
        UserError: there is no such file, or it is no YAML of names and values.
    """
    with open_regular(path) as file:
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise UserError(f"{path} is no file of options: it has more than {_LARGEST:,} bytes")
    actions = {string[2:]: action for action in parser._actions for string in action.option_strings}
    words: list[str] = []
    for line, name, value in _entries(path, content):
        if name in ("config", "help") or not re.fullmatch(r"\w+", name):
            raise UserError(f"{path}, line {line}: {_short(name)} is no option for a file")
        if value is None:
            continue
        many = name in actions and actions[name].nargs == "+"
        if isinstance(value, str):
            values = value.split() if many else [value]
        else:
            values = value if many else [",".join(value)]  # as --gpu_ids has it
        words += [f"--{name}", *values] if many else [f"--{name}={values[0]}"]
    return words


def write(options: Mapping[str, Any], facts: Mapping[str, str]) -> str:
    """A file that :func:`read` takes, with all options, and facts for people to know."""
    lines = [f"{name}: {_quoted(value)}\n" for name, value in options.items()]
    return "".join((*lines, *(f"# {name}: {text}\n" for name, text in facts.items())))


def _quoted(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_quoted, value))}]"
    text = str(value)
    if _PLAIN.fullmatch(text) and text not in _NULL:
        return text
    return '"' + "".join(_escaped(letter) for letter in text) + '"'


def _escaped(letter: str) -> str:
    """As it stands between YAML's double quotes."""
    if letter.isprintable():
        return f"\\{letter}" if letter in '"\\' else letter
    code = ord(letter)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _entries(path: Path, content: bytes) -> Iterator[tuple[int, str, str | list[str] | None]]:
    """(line, name, value) of each, the value being text, a list of texts, or none."""
    try:
        import yaml  # here, as nothing else needs it
    except ImportError as error:
        raise UserError("--config needs PyYAML: pip install pyyaml") from error
    try:
        top = yaml.compose(content.decode(), yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}, line {line}: this is no YAML: {error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is no YAML: {_short(str(error))}") from error
    if top is None:
        return
    if not isinstance(top, yaml.MappingNode):
        raise UserError(f"{path}: expected lines of an option's name and its value, as in 'lr_cls: 0.001'")
    seen: set[str] = set()
    for key, value in top.value:
        line = key.start_mark.line + 1
        parts = value.value if isinstance(value, yaml.SequenceNode) else [value]
        if not all(isinstance(node, yaml.ScalarNode) for node in (key, *parts)):
            raise UserError(f"{path}, line {line}: expected a name and a value, or a list of values")
        if key.value in seen:
            raise UserError(f"{path}, line {line}: {_short(key.value)} stands there twice")
        seen.add(key.value)
        if isinstance(value, yaml.SequenceNode):
            yield line, key.value, [node.value for node in parts]
        else:
            is_null = value.style is None and value.value in _NULL
            yield line, key.value, None if is_null else value.value


def _short(text: str) -> str:
    """Enough of it to know it by, in one line."""
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= 80 else f"{text[:77]}..."
