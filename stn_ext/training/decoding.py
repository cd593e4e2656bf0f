"""One picture file as grey or coloured uint8 pixels, upright and opaque, from whatever Pillow can read.

How values that are no bytes become bytes: 16 bits divided by 257; floating point times 255 where the picture
lies within 0 and 1, as it is where it lies within 0 and 255; Pillow's conversions for the rest. Of a file
with several pictures, as animations are, it is the first.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import UserError
from .files import open_regular

if TYPE_CHECKING:
    from PIL import Image

# Formats that Pillow recognizes, but cannot decode by itself: EPS would run another program.
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}

MODES = {1: "L", 3: "RGB"}  # Pillow's name for pictures of so many channels

# What decoding takes for each pixel, at the most, in bytes: Pillow keeps 4 for RGB as for RGBA, and there are
# up to six such copies while a transparent picture is laid over the background and then resized.
BYTES_PER_PIXEL = 24

# EXIF's orientations, and what brings each of them upright: members of PIL.Image.Transpose.
_UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


@dataclass(frozen=True)
class Header:
    """What a file says of its picture before it is decoded."""

    pixels: int
    grey: bool


@dataclass(frozen=True)
class Picture:
    """uint8 pixels (H, W, C), and what was done to have them, in words that follow "12 pictures were"."""

    pixels: np.ndarray
    changes: tuple[str, ...]


@functools.cache
def formats() -> dict[str, str]:
    """Pillow's name of the format that a file's ending, such as ".png", stands for."""
    from PIL import Image  # here, as nothing else needs it

    Image.init()
    known = Image.registered_extensions()
    return {ending: name for ending, name in known.items() if name in Image.OPEN.keys() - _NOT_DECODED}


@contextmanager
def quietly() -> Iterator[None]:
    """Within, Pillow does not print warnings, and one of a decompression bomb is an error.

    It holds for all threads: to be entered by the one that starts them.
    """
    from PIL import Image

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def read_header(path: Path) -> Header:
    """Raises UserError where the file is no picture, or one too large to be decoded."""
    with _opened(path) as picture:
        return Header(picture.width * picture.height, _is_grey(picture))


def decode(
    path: Path,
    channels: int,
    size: tuple[int, int] | None = None,
    background: str = "white",
) -> Picture:
    """The picture in so many channels, 1 or 3, resized to (height, width) where it has another size.

    ``background`` is the colour that shows where it is transparent, by a name or as "#ff8000".

    Raises:
        UserError: a file that is no picture, is damaged, or is too large.
    """
    with _opened(path) as opened:
        opened.load()
        picture = _upright(_in_bytes(opened, background), opened).convert(MODES[channels])
        original = picture.size
        if size:
            picture = picture.resize((size[1], size[0]))  # itself where it has that size
        changes = {
            "resized": picture.size != original,
            "turned grey": channels == 1 and not _is_grey(opened),
            "transparent, and laid over the background": opened.has_transparency_data,
            "in floating point, and rounded to bytes": opened.mode == "F",
            "the first of several in a file, whose others are left out": _has_another(opened),
        }
        pixels = np.array(picture).reshape(picture.height, picture.width, channels)
    return Picture(pixels, tuple(change for change, holds in changes.items() if holds))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file's picture, before its pixels are read. Whatever goes wrong within is the file's fault."""
    from PIL import Image, UnidentifiedImageError

    with open_regular(path) as file:
        try:
            with Image.open(file, formats=[*dict.fromkeys(formats().values())]) as picture:
                yield picture
        except UnidentifiedImageError as error:
            raise UserError(f"{path}: cannot read the picture: it is damaged, or none") from error
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise UserError(
                f"{path}: the picture has more than {Image.MAX_IMAGE_PIXELS} pixels: make it smaller"
            ) from error
        except MemoryError as error:
            raise UserError(f"{path}: there is not enough memory to read the picture") from error
        except Exception as error:  # Pillow has no error of its own: damaged files raise nearly all there are
            raise UserError(f"{path}: cannot read the picture: {error or type(error).__name__}") from error


def _is_grey(picture: Image.Image) -> bool:
    return picture.mode.split(";")[0] in ("1", "L", "LA", "La", "I", "F")


def _has_another(picture: Image.Image) -> bool:
    """Whether the file holds more than this picture. The picture is of no use afterwards."""
    try:
        picture.seek(1)
        return True
    except Exception:  # EOFError where there is none; any other where what follows is damaged
        return False


def _upright(pixels: Image.Image, picture: Image.Image) -> Image.Image:
    """The pixels as the picture's EXIF data says that the camera was held."""
    from PIL import Image

    try:
        orientation = picture.getexif().get(0x0112)
    except Exception:  # EXIF data that nobody can read says nothing, as in all viewers
        return pixels
    return pixels.transpose(Image.Transpose[_UPRIGHT[orientation]]) if orientation in _UPRIGHT else pixels


def _in_bytes(picture: Image.Image, background: str) -> Image.Image:
    """The opaque picture, in a mode whose values Pillow turns into L and RGB as they are meant."""
    from PIL import Image

    if picture.mode == "F":
        return Image.fromarray(_bytes_of_floats(np.asarray(picture)))
    if picture.mode.startswith("I"):
        if picture.mode == "I" and picture.format not in ("PNG", "PPM"):  # whose values have 16 bits
            raise ValueError("32-bit integers have no known range: save it in 8 or 16 bits")
        values = np.asarray(picture).astype(np.uint32)
        grey = ((values + 128) // 257).astype(np.uint8)  # 65535 / 255, to the nearest
        if "transparency" in picture.info:
            grey[values == picture.info["transparency"]] = _tone(background)
        return Image.fromarray(grey)
    if picture.has_transparency_data:
        below = Image.new("RGBA", picture.size, background)
        below.alpha_composite(picture.convert("RGBA"))
        return below.convert("RGB")
    return picture


def _tone(color: str) -> int:
    """The color in grey, as Pillow sees it."""
    from PIL import Image

    return Image.new("RGB", (1, 1), color).convert("L").tobytes()[0]


def _bytes_of_floats(values: np.ndarray) -> np.ndarray:
    least, most = values.min(), values.max()
    if not (least >= 0 and most <= 255):  # as where there is a NaN
        raise ValueError(
            f"expected floating-point values from 0 to 1 or from 0 to 255, but got {least} to {most}"
        )
    return np.rint(values * 255 if most <= 1 else values).astype(np.uint8)
