"""Builds hostile pictures and files in MNIST's format."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

SETS = ("train", "test")


def pictures(root: Path, names: tuple[str, ...] = ("cat", "dog"), count: int = 8) -> Path:
    """A folder that is as it should be; returns that of the first class, to add something hostile to."""
    for part in SETS:
        for value, name in enumerate(names):
            folder = root / "datasets" / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                picture(value * 100 + index).save(folder / f"picture {index}.png")
    return root / "datasets" / "train" / names[0]


def picture(seed: int, size: int = 28) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size), dtype=np.uint8))


def content(ending: str, seed: int = 0, **options: object) -> bytes:
    """A small picture's file."""
    buffer = io.BytesIO()
    picture(seed).convert("RGB").save(buffer, format=Image.registered_extensions()[f".{ending}"], **options)
    return buffer.getvalue()


def png(
    width: int, height: int, pixels: bytes = b"", *chunks: tuple[bytes, bytes], depth: int = 1, kind: int = 0
) -> bytes:
    """A PNG file of those numbers in its header and that content, compressed already; of 1 bit by default."""
    header = struct.pack(">2I5B", width, height, depth, kind, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    )


def black_png(side: int) -> bytes:
    """A whole square picture, a thousandth the size of its pixels."""
    return png(side, side, zlib.compress(bytes((side + 7) // 8 + 1) * side))


def idx(*shape: int, values: bytes | None = None, kind: int = 8) -> bytes:
    """A file in MNIST's format, of zeros where no values are given."""
    values = bytes(np.prod(shape, dtype=int)) if values is None else values
    return struct.pack(f">4B{len(shape)}I", 0, 0, kind, len(shape), *shape) + values


def mnist(root: Path, images: bytes = idx(20, 28, 28), labels: bytes = idx(20), *, ending: str = "") -> Path:
    """Training files under --dir_data; returns their folder."""
    raw = root / "datasets" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, data in (("images-idx3", images), ("labels-idx1", labels)):
        path = raw / f"train-{name}-ubyte{ending}"
        path.write_bytes(gzip.compress(data) if ending else data)
    return raw
