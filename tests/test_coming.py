"""The old and the new calls that docs/coming.rst sets side by side give equal numbers."""

import re

import numpy as np
import pytest
import torch

from .command_line import ROOT
from .examples import of

PAGE = ROOT / "docs/coming.rst"
PAIR = re.compile(r"^   \* - ``(?P<old>.+)``\n     - ``(?P<new>.+)``$", re.MULTILINE)
CALLS = [(match["old"], match["new"]) for match in PAIR.finditer(PAGE.read_text())]

# OpenCV's and kornia's coordinates are float32 in places, over 30 pixels; a picture's values go up to 255.
TOLERANCES = {"cv2": 0.05, "kornia": 1e-4, "F": 1e-4}


@pytest.fixture(scope="module")
def names():
    pytest.importorskip("cv2")
    pytest.importorskip("kornia")
    torch.manual_seed(0)
    (setting,) = [example for example in of(PAGE) if example.language == "python"]
    namespace = {}
    exec(setting.code, namespace)
    return namespace


def test_every_row_is_tried():
    assert len(CALLS) == PAGE.read_text().count("\n   * - ") - 3  # less the headers
    assert {old.partition(".")[0] for old, _ in CALLS} == set(TOLERANCES)


@pytest.mark.parametrize(("old", "new"), CALLS)
def test_new_calls_give_the_old_ones_numbers(old, new, names):
    expected, result = eval(old, names), eval(new, names)
    if isinstance(expected, np.ndarray):
        expected = names["as_images"](expected)
        result = result[:1]
    tolerance = TOLERANCES[old.partition(".")[0]]
    if expected.dtype == torch.float16:
        tolerance = 1e-3  # a rounding of numbers up to 1
    torch.testing.assert_close(result, expected, rtol=0, atol=tolerance)
    assert expected.std() > 0.1  # it is not the equality of nothing
