"""One flipped bit in a checkpoint is found, or it changes nothing."""

import random
import zipfile

import pytest
import torch

from stn_ext.training import checkpoints
from stn_ext.training.errors import UserError

from .training import trained

pytestmark = pytest.mark.hostile


def leaves(value, prefix=""):
    """All that is in a state, by name."""
    if isinstance(value, (dict, list, tuple)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {name: leaf for key, inner in items for name, leaf in leaves(inner, f"{prefix}/{key}").items()}
    return {prefix: value}


def same(one, other):
    one, other = leaves(one), leaves(other)
    return one.keys() == other.keys() and all(
        torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]
        for name, value in one.items()
    )


def positions(path, chance):
    """100 bytes anywhere, which are nearly all in tensors, and 100 in what describes them."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    size, described = path.stat().st_size, bytearray(b"\1" * path.stat().st_size)
    for entry in entries:
        if "/data/" in entry.filename:
            end = entry.header_offset + entry.file_size
            described[entry.header_offset + 200 : end] = bytes(max(0, end - entry.header_offset - 200))
    rest = [place for place, is_rest in enumerate(described) if is_rest]
    return [*chance.choices(range(size), k=100), *chance.choices(rest, k=100)]


def test_of_200_flipped_bits_each_is_found_or_changes_nothing(tmp_path):
    path = trained(tmp_path, "--ema", 0.9)
    content, state, chance = path.read_bytes(), checkpoints.load(path), random.Random(0)
    found = by_checksum = 0
    for place in positions(path, chance):
        bit = chance.randrange(8)
        flipped = bytearray(content)
        flipped[place] ^= 1 << bit
        path.write_bytes(flipped)
        try:
            assert same(checkpoints.load(path), state), f"bit {bit} of byte {place} changed something"
        except UserError as error:
            found += 1
            by_checksum += "the checksum of" in str(error)
            assert str(error).startswith(str(path)) and "\n" not in str(error)
    print(f"{found} of 200 flips found, the rest without effect")
    assert by_checksum > 100  # all those in tensors, at the least
