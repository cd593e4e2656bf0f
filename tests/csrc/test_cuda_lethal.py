"""No map makes a CUDA launch run much longer than another: the steps of kernels that run on the host.

Steps are the basic blocks that the busiest thread of each block enters, so that a loop counts each time
through it. They say nothing of how long lanes wait for each other at one address (scatter.cuh, Window).
"""

import shutil

import pytest
import torch

from tests.maps import MAPS, PADDINGS
from tests.warps import Affine, Projective, ThinPlateSpline, Volume

from .test_cuda_family import build, launch, make_case

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")

MOST = 4  # times the steps of a usual map
SIZE = (33, 33)


def affine(*rows):
    return torch.tensor([rows], dtype=torch.float64)


def identity_with(value, row, column):
    theta = torch.eye(2, 3, dtype=torch.float64)[None].clone()
    theta[0, row, column] = value
    return theta


ENTRIES = [(row, column) for row in range(2) for column in range(3)]
LETHAL = {
    "all nan": affine([torch.nan] * 3, [torch.nan] * 3),
    "all inf": affine([torch.inf] * 3, [torch.inf] * 3),
    "all 0": affine([0.0] * 3, [0.0] * 3),
    "rank 1": affine([0.5, 0.7, 0.1], [1.0, 1.4, 0.2]),
    "rank 1 along rows": affine([1.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
    "zoomed in by 16": affine([1 / 16, 0.01, 0.1], [-0.01, 1 / 16, 0.2]),
    "zoomed in by 3": affine([1 / 3, 0.0, 0.1], [0.0, 1 / 3, 0.2]),
    "zoomed out by 10": affine([10.0, 1, 0.1], [-1.0, 10, 0.2]),
    "zoomed out by 1e6": affine([1e6, 3, 0.1], [-7.0, 1e6, 0.2]),
    "sheared": affine([1.0, 40, 0.1], [0.0, 1.0, 0.2]),
    "beyond one corner": affine([1.0, 0, 5], [0.0, 1.0, 5]),
    "far beyond": affine([1.0, 0, 1e12], [0.0, 1.0, -1e30]),
    "huge": affine([1e30, -1e20, 3], [1e-30, 1e30, 5]),
}
LETHAL |= {f"nan at {at}": identity_with(torch.nan, *at) for at in ENTRIES}
LETHAL |= {f"inf at {at}": identity_with((-1) ** k * torch.inf, *at) for k, at in enumerate(ENTRIES)}


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return build(tmp_path_factory.mktemp("steps"), "-fsanitize-coverage=trace-pc")


def check(program, folder, usual, lethal):
    """lethal: by name."""
    usual, *steps = launch(program, [usual, *lethal.values()], folder)
    for name, counts in zip(lethal, steps, strict=True):
        for kernel, count in counts.items():
            assert count <= MOST * usual[kernel], (name, kernel, count, usual)


@pytest.mark.parametrize("padding_mode", PADDINGS)
def test_affine_maps(program, tmp_path, padding_mode):
    options = {"padding_mode": padding_mode}
    usual = make_case(Affine, torch.float32, (1, 1, *SIZE), SIZE, theta=MAPS["small turn"], **options)
    lethal = {name: usual._replace(theta=theta) for name, theta in LETHAL.items()}
    # The usual map is gathered, or as much work is scattered.
    check(program, tmp_path, usual, lethal)


def test_images_that_many_maps_read(program, tmp_path):
    """By an index, all of them one image or each its own."""
    theta = MAPS["small turn"].repeat(6, 1, 1)
    shape, size = (6, 1, 40, 50), (40, 50)
    usual = make_case(Affine, torch.float32, shape, size, theta=theta)
    index = {"one": torch.full((6,), 2), "each": torch.arange(6)}
    lethal = {name: usual._replace(index=i) for name, i in index.items()}
    check(program, tmp_path, usual, lethal)


@pytest.mark.parametrize("kind", (Projective, ThinPlateSpline, Volume))
def test_other_maps(program, tmp_path, kind):
    size = (9, 30, 40) if kind is Volume else SIZE
    lethal = {}
    for padding_mode in PADDINGS:
        case = make_case(kind, torch.float32, (1, 1, *size), size, padding_mode=padding_mode)
        theta = case.theta[:1]
        case = case._replace(theta=theta, grad=case.grad[:1])
        usual = case._replace(padding_mode="zeros")
        for value in (torch.nan, torch.inf, 0.0, 1e12, 1e-6):
            lethal[f"{padding_mode}, all {value}"] = case._replace(theta=torch.full_like(theta, value))
        beyond = theta.clone()
        beyond[..., 0, -1] += 9
        lethal[f"{padding_mode}, beyond a side"] = case._replace(theta=beyond)
    check(program, tmp_path, usual, lethal)
