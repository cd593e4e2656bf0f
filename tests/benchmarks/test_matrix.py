"""Both sides of every corner compute the same, and so do those who warp pictures."""

import matrix
import pytest
import torch
from cases import Case

SMALL = {"digits": Case((4, 1, 28, 28)), "features": Case((2, 5, 20, 24)), "photo": Case((1, 3, 40, 50))}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(matrix, "COMMON", SMALL)


def test_corners_agree():
    corners = list(matrix.corners())
    assert len(corners) == len(set(corners)) > 400
    for corner in corners:
        if corner.what not in ("forward", "both"):
            continue
        calls = matrix.calls(corner)
        ours, theirs = calls[matrix.OURS](), calls[matrix.PYTORCH]()
        for a, b in zip(*((x if isinstance(x, tuple) else (x,)) for x in (ours, theirs)), strict=True):
            assert a.dtype == b.dtype
            # Nearest may fall on the other one of two pixels; narrow dtypes may round to a neighbor; PyTorch
            # rounds the gradient that it hands on to half precision too.
            off = ~torch.isclose(a.float(), b.float(), atol=2e-2 * float(b.float().abs().max()), rtol=2e-2)
            assert off.float().mean() < 0.02, corner


@pytest.mark.parametrize("fill", (False, True))
@pytest.mark.parametrize("mode", matrix.MODES)
@pytest.mark.parametrize("dtype", ("uint8", "float32"))
def test_pictures_agree(dtype, mode, fill):
    pytest.importorskip("cv2")
    results = {}
    for name, call in matrix.picture_calls(dtype, mode, fill).items():
        result = call()
        image = result[0].permute(1, 2, 0) if isinstance(result, torch.Tensor) else torch.as_tensor(result)
        results[name] = image.float()
    size = 255.0 if dtype == "uint8" else 4.0
    for name, image in results.items():
        # Others round coordinates, and what lies half outside they fill by rules of their own.
        off = (image - results["planes"]).abs() > 0.1 * size
        assert off[4:-4, 4:-4].float().mean() < 0.05, name


def test_table_tells_the_mean_the_worst_and_the_losses():
    corner = {name: "x" for name in matrix.Corner.__dataclass_fields__}
    rows = [corner | {"mode": "bilinear", "ratio": 4.0}, corner | {"mode": "nearest", "ratio": 0.25}]
    line = next(line for line in matrix.table(rows).splitlines() if "*all*" in line)
    assert [cell.strip() for cell in line.split("|")][2:5] == ["2", "1.00", "0.25 (x, x, nearest, x, x, x)"]
    assert line.rstrip(" |").endswith("1")
