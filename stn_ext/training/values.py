"""From a word of the command line to a value, within bounds that have a reason."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable


def whole(least: int, most: int, reason: str) -> Callable[[str], int]:
    """A whole number from least to most; the reason says what it is and why there are no more."""
    expected = f"a whole number from {least:,} to {most:,} ({reason})"

    def convert(text: str) -> int:
        # Numbers of more than twenty digits are out of every bound, and int() refuses those of thousands.
        value = int(text) if re.fullmatch(r"[+-]?\d{1,20}", text) else None
        return _checked(value, least, most, expected, text)

    return convert


def number(least: float, most: float, reason: str) -> Callable[[str], float]:
    """A number from least to most."""
    expected = f"a number from {least:g} to {most:g} ({reason})"
    return lambda text: _checked(_float(text), least, most, expected, text)


def fraction(text: str) -> float:
    """A number from 0 to below 1."""
    expected = "a number from 0 to below 1"
    return _checked(_float(text), 0, math.nextafter(1, 0), expected, text)


def color(text: str) -> str:
    """The text, where it is a color that has no transparency of its own."""
    from PIL import ImageColor  # here, as few need it

    try:
        if len(ImageColor.getrgb(text)) == 3:
            return text
    except ValueError:
        pass
    raise _refusal("a colour such as white or #ff8000", text)


def gpu_ids(text: str) -> list[int]:
    ids = [int(part) if re.fullmatch(r"-1|\d{1,4}", part) else -2 for part in text.split(",")]
    if ids == [-1] or (min(ids) >= 0 and len(set(ids)) == len(ids)):
        return ids
    raise _refusal("-1 for the CPU, or different GPU ids (0, or 0,1)", text)


def device(text: str) -> str:
    if re.fullmatch(r"cpu|cuda(:\d{1,4})?", text):
        return text
    raise _refusal("cpu, cuda, or one GPU as in cuda:1", text)


def gpu_ids_of(device: str, processes: int) -> list[int]:
    """The ids that --gpu_ids has for a device, of so many processes on this machine."""
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return [-1]
    return [int(number)] if number else list(range(processes))


def epoch(text: str) -> int | str:
    """An epoch's number, or best."""
    return text if text == "best" else _EPOCH(text)


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _checked(value, least, most, expected: str, text: str):
    if value is None or not least <= value <= most:
        raise _refusal(expected, text)
    return value


def _refusal(expected: str, text: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(f"expected {expected}, but got {text!r}")


# What the numbers are. Their sizes together are checked against the memory that there is (footprint.py).
COUNT = whole(1, 2**31 - 1, "images, which are counted in 32 bits")
EPOCHS = whole(1, 10**6, "epochs, whose figures every checkpoint holds")
_EPOCH = whole(1, 10**6, "epochs; or the word best")
RATE = number(0, 1e6, "weights that take larger steps are no numbers soon")
SEED = whole(0, 2**32 - 1, "32 bits, which every random generator takes")
SIDE = whole(1, 65_535, "pixels; no JPEG has a longer side")
THREADS = whole(0, 256, "threads of one process")
WIDTH = whole(1, 65_536, "channels or units of one layer")
