"""Photographs of ink on paper (drawn ones), and pictures that are none and stay as they are."""

import numpy as np
import pytest
import torch
from PIL import Image

from stn_ext.training import data
from stn_ext.training.photographs import Reader, ink_of, paper_of
from tests.photographs import PHOTOGRAPHS, photograph

DIGITS = Reader((1, 28, 28), (0,), framed=20 / 28)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_photograph_becomes_light_ink_on_black(tmp_path, name):
    photograph(name)[0].save(tmp_path / name)
    image, taken = DIGITS.read(tmp_path / name)
    assert taken and image.shape == (1, 28, 28) and image.dtype == torch.uint8
    edge = torch.cat([image[0, 0], image[0, -1], image[0, :, 0], image[0, :, -1]])
    assert edge.float().mean() < 20 and image.max() == 255
    rows, columns = ((image[0] > 80).any(axis).nonzero()[:, 0] for axis in (1, 0))
    longer = max(int(rows[-1] - rows[0]), int(columns[-1] - columns[0])) + 1
    assert 18 <= longer <= 22  # of a share of 20, and the ink's soft edges
    mass = image[0].float() / image.sum()
    centre = (mass.sum(1) * (torch.arange(28) + 0.5)).sum()
    assert abs(float(centre) - 14) < 1.5  # whole pixels, and what would not fit


def test_digits_of_the_set_itself_stay_as_they_are(tmp_path):
    images = data.load("mnist", tmp_path, train=False, limit=30).images
    for index, image in enumerate(images):
        path = tmp_path / f"{index}.png"
        Image.fromarray(image[0].numpy()).save(path)
        read, taken = DIGITS.read(path)
        assert torch.equal(read, image) and not taken


def test_black_digits_on_white_become_nearly_those_of_the_set(tmp_path):
    images = data.load("mnist", tmp_path, train=False, limit=10).images
    for index, image in enumerate(images):
        path = tmp_path / f"{index}.png"
        Image.fromarray(255 - image[0].numpy()).resize((280, 280)).save(path)
        read, taken = DIGITS.read(path)
        assert taken
        # Framed again, from ten times the size: its middle may be rounded to the pixel beside.
        moved = [read[0].roll((down, right), (0, 1)) for down in (-1, 0, 1) for right in (-1, 0, 1)]
        assert max(np.corrcoef(each.flatten(), image.flatten())[0, 1] for each in moved) > 0.8


def test_a_network_of_black_on_white_gets_black_on_white(tmp_path):
    name = "chalk on a green board.jpg"
    photograph(name)[0].save(tmp_path / name)
    image, taken = Reader((1, 28, 28), (255,), framed=20 / 28).read(tmp_path / name)
    assert taken and image[0, 0].float().mean() > 235 and image.min() == 0


@pytest.mark.parametrize(
    "reader",
    [
        Reader((1, 28, 28), (0,), paper=False),
        Reader((1, 28, 28), (120,)),  # of photographs, whose background has no opposite
        Reader((3, 28, 28), (255, 255, 255)),
    ],
)
def test_without_paper_a_picture_is_only_resized(tmp_path, reader):
    name = "marker on a yellow note.jpg"
    picture, _ = photograph(name)
    picture.save(tmp_path / "picture.png")
    image, taken = reader.read(tmp_path / "picture.png")
    expected = picture.convert("L" if reader.shape[0] == 1 else "RGB").resize((28, 28))
    assert not taken
    assert np.array_equal(image.permute(1, 2, 0).squeeze().numpy(), np.asarray(expected))


def test_the_paper_is_found_beneath_the_ink():
    y, x = torch.meshgrid(torch.linspace(0, 1, 90), torch.linspace(0, 1, 120), indexing="ij")
    light = 200 - 60 * x - 40 * y + 20 * x * y
    photo = light.clone()
    photo[30:60, 40:60] = 30  # a tenth of it is ink
    torch.testing.assert_close(paper_of(photo), light, rtol=0, atol=1.0)  # a level of 255
    ink = ink_of(photo)
    assert ink[35:55, 45:55].min() > 0.8 and ink[:25].max() == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 2), (5000, 3)])
@pytest.mark.parametrize("value", [200, 255])
def test_blank_and_tiny_pictures_are_read_too(tmp_path, size, value):
    Image.new("L", size, value).save(tmp_path / "blank.png")
    image, taken = DIGITS.read(tmp_path / "blank.png")
    assert taken and image.shape == (1, 28, 28)
