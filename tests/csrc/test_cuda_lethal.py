"""No map makes a CUDA launch run much longer than another: the steps of kernels that run on the host."""

import shutil
import subprocess

import pytest
import torch

from stn_ext import reference
from tests.maps import MAPS, PADDINGS

from .test_cuda_kernels import HERE, Case, build, launch, run
from .test_cuda_warps import SOURCES, Affine, make_case
from .test_cuda_warps import pack as pack_warp

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")

NUMBERS = (torch.nan, torch.inf, -torch.inf)


def identity_with(value, row, column):
    theta = torch.eye(2, 3)[None].clone()
    theta[0, row, column] = value
    return theta


SIZE = (40, 70)
ENTRIES = [(row, column) for row in range(2) for column in range(3)]
LETHAL = {f"all {value}": torch.full((1, 2, 3), value) for value in NUMBERS[:2]}
LETHAL |= {f"nan at {at}": identity_with(torch.nan, *at) for at in ENTRIES}
LETHAL |= {f"inf at {at}": identity_with(NUMBERS[1 + k % 2], *at) for k, at in enumerate(ENTRIES)}


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return build(tmp_path_factory.mktemp("steps"), "-fsanitize-coverage=trace-pc")


@pytest.fixture(scope="module")
def general_program(tmp_path_factory):
    return build(tmp_path_factory.mktemp("general"), "-fsanitize-coverage=trace-pc", sources=SOURCES)


@pytest.mark.parametrize("padding_mode", PADDINGS)
def test_maps_that_are_not_finite(program, tmp_path, padding_mode):
    """What no coordinate touches is not searched for, and what is touched is the outer pixels alone."""
    images = torch.randn(1, 1, *SIZE)
    thetas = {"finite": MAPS["small turn"].float()} | LETHAL
    cases = [Case(images, theta, images, padding_mode, False) for theta in thetas.values()]
    steps = dict(zip(thetas, launch(program, cases, tmp_path), strict=True))
    usual = steps.pop("finite")
    for name, counts in steps.items():
        # Searched for, maps that are no numbers took up to 400 times the usual steps at this size. Where
        # reflection takes infinite coordinates to an edge, its pixels are searched for by whole blocks.
        most = 1.25 if "nan" in name else 12
        for kernel, count in counts.items():
            assert count <= most * usual[kernel], (name, kernel, count, usual)


@pytest.mark.parametrize("padding_mode", PADDINGS)
def test_maps_that_are_no_numbers_in_the_general_kernels(general_program, tmp_path, padding_mode):
    case = make_case(Affine, torch.float32, (1, 1, *SIZE), SIZE, padding_mode=padding_mode)
    case = case._replace(theta=MAPS["small turn"], grad=case.grad[:1])
    thetas = [LETHAL[name].double() for name in ("all nan", "nan at (0, 1)", "nan at (1, 2)")]
    cases = [case, *(case._replace(theta=theta) for theta in thetas)]
    usual, *steps = launch(general_program, cases, tmp_path, pack_warp)
    for counts in steps:
        assert all(count <= 1.25 * usual[kernel] for kernel, count in counts.items()), (counts, usual)


def test_what_a_block_leaves_in_shared_memory_is_lost(tmp_path):
    program = build(tmp_path, sources=[HERE / "stale_kernel.cpp"])
    done = subprocess.run([program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


LONGEST = 2**23  # kernels.h, longest_input


@pytest.mark.parametrize("padding_mode", PADDINGS)
def test_the_longest_axis_of_float32_images(tmp_path, padding_mode):
    """The last pixels of the longest rows that are let in, and the ones beyond, are told apart."""
    program = build(tmp_path)
    row = (torch.arange(LONGEST, dtype=torch.int64) * 7919 % 1009).to(torch.float32).view(1, 1, 1, -1)
    # From 24.5 pixels before the last one's edge to as many behind it, a third of a pixel off.
    theta = torch.tensor([[[49 / LONGEST, 0, 1 + 2 / 3 / LONGEST], [0, 1, 0]]], dtype=torch.float64)
    grad = torch.zeros(1, 1, 1, 49)
    ((y, _, _),) = run(program, [Case(row, theta, grad, padding_mode, False, shared=True)], tmp_path)
    expected = reference.affine_sample(row.double(), theta, (1, 49), padding_mode=padding_mode)
    # A fraction to 2^-24, times differences of at most 1009, and roundings of such values.
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=3e-4)
