"""The general CUDA kernels without a GPU: compiled for the host, as in test_cuda_kernels.py."""

import shutil
import struct
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from tests.maps import PADDINGS
from tests.warps import WARPS, Affine, Projective, ThinPlateSpline, Volume

from .test_cuda_kernels import HERE, ROOT, SANITIZERS, build, layouts, run, span

ops = torch.ops.stn_ext
SOURCES = (ROOT / "csrc/cuda/warp_kernels.cu", HERE / "cuda_warp_main.cpp")

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


class Case(NamedTuple):
    input: Tensor
    grad: Tensor
    theta: Tensor  # float64, as the tangent and the points
    points: Tensor | None = None
    tangent: Tensor | None = None
    index: Tensor | None = None
    mode: str = "bilinear"
    padding_mode: str = "zeros"
    align_corners: bool = False


def make_case(kind, dtype=torch.float64, shape=None, size=None, tangent=False, **options):
    shape, size, theta = shape or kind.shape, size or kind.size, kind.theta.double()
    maps = len(options["index"]) if options.get("index") is not None else len(theta)
    theta = theta.repeat(-(-maps // len(theta)), 1, 1)[:maps]
    grad = torch.randn(maps, shape[1], *size, dtype=dtype)
    points = getattr(kind, "points", None)
    return Case(
        torch.randn(shape, dtype=dtype),
        grad,
        theta,
        None if points is None else points.double(),
        torch.randn_like(theta) if tangent else None,
        **options,
    )


def along_axes(numbers, missing):
    """Of (..., z, y, x), or (..., y, x): x, y, z."""
    return [*reversed(numbers), missing][:3]


def pack(case):
    x, g, theta = case.input, case.grad, case.theta
    dims, perspective = x.ndim - 2, case.points is None and theta.shape[1] == theta.shape[2]
    optional = case.points, case.tangent, case.index
    facts = [x.dtype == torch.float64, dims, perspective, case.mode == "nearest", case.align_corners]
    facts += [PADDINGS.index(case.padding_mode), len(theta), *x.shape[:2], theta.shape[2]]
    facts += [tensor is not None for tensor in optional]
    facts += along_axes(x.shape[2:], 1) + along_axes(g.shape[2:], 1)
    for images in (x, g):
        facts += [*images.stride()[:2], *along_axes(images.stride()[2:], 0)]
    tensors = [span(x), span(g), *(t.contiguous() for t in (theta, *optional) if t is not None)]
    data = b"".join(t.flatten().view(torch.uint8).numpy().tobytes() for t in tensors)
    return struct.pack(f"{len(facts)}q", *facts) + data


def on_the_cpu(case):
    """The same by the CPU's operators, in float64; test_warps.py compares these with compositions."""
    x, g = case.input.double(), case.grad.double()
    maps = case.theta, case.points, case.tangent, case.index
    options = case.mode, case.padding_mode, case.align_corners
    return (
        ops.sample(x, *maps, None, g.shape[2:], *options),
        ops.adjoint(g, *maps, len(x), x.shape[2:], *options),
        ops.moments(g, x, *maps, None, *options),
    )


def assert_close(ours, expected, dtype, what):
    # Both compute coordinates in float64 and round sums of some hundred terms; float32 splines add their
    # radial functions in float32, which moves coordinates by 2^-24 times the image's size.
    tolerance = 1e-11 if dtype == torch.float64 else 1e-4
    for name, a, b in zip(("output", "grad input", "grad theta"), ours, expected, strict=True):
        scale = max(b.abs().max().item(), 1)
        torch.testing.assert_close(
            a.double() / scale, b / scale, rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n} of {what}: {m}"
        )


def check(program, folder, cases):
    for case, ours in zip(cases, run(program, cases, folder, pack), strict=True):
        what = f"{tuple(case.input.shape)} by {tuple(case.theta.shape)}, {case[6:]}"
        expected = on_the_cpu(case)
        if case.mode == "nearest":
            ours[2] = expected[2]  # 0, which is the operators' to say
        assert_close(ours, expected, case.input.dtype, what)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return build(tmp_path_factory.mktemp("plain"), sources=SOURCES)


def varied(kind, dtype):
    """Every padding, weight and sharing, not in every combination."""
    index = torch.tensor([3, 0, 3])
    shared = (4, *kind.shape[1:])
    for k, padding_mode in enumerate(PADDINGS):
        options = {"padding_mode": padding_mode, "align_corners": k % 2 == 0}
        yield make_case(kind, dtype, **options)
        yield make_case(kind, dtype, tangent=True, **options)
        yield make_case(kind, dtype, mode="nearest", **options)
        yield make_case(kind, dtype, shape=shared, index=index, tangent=k == 1, **options)


@pytest.mark.parametrize("kind", WARPS.values(), ids=WARPS.keys())
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_what_the_cpu_gives(program, tmp_path, kind, dtype):
    check(program, tmp_path, list(varied(kind, dtype)))


def large():
    """Several tiles of the input, groups of channels, bundles and blocks of the output."""
    yield make_case(Projective, shape=(2, 5, 35, 40), size=(20, 70), padding_mode="border")
    yield make_case(ThinPlateSpline, shape=(2, 5, 35, 40), size=(20, 70), padding_mode="reflection")
    yield make_case(Volume, shape=(2, 5, 9, 10, 17), size=(4, 20, 6), padding_mode="reflection")


def test_several_tiles(program, tmp_path):
    check(program, tmp_path, list(large()))


def test_more_pixels_than_blocks_and_more_points_than_threads(program, tmp_path):
    zoom_out = Affine.theta[:1] * torch.tensor([37.0, 41, 1], dtype=torch.float64)
    few = make_case(Affine, shape=(1, 1, 3, 4), size=(2049 * 4, 64))
    points = torch.rand(300, 2, dtype=torch.float64) * 2 - 1
    theta = torch.cat([torch.randn(2, 2, 300).double() * 1e-3, Affine.theta], dim=2)
    many = make_case(ThinPlateSpline)._replace(points=points, theta=theta)
    check(program, tmp_path, [few._replace(theta=zoom_out, grad=few.grad[:1]), many])


def one_pixel():
    for kind in (Projective, Volume):
        for axis in range(2, len(kind.shape)):
            shape = [*kind.shape]
            shape[axis] = 1
            for k, padding_mode in enumerate(PADDINGS):
                options = {"padding_mode": padding_mode, "align_corners": k % 2 == 0}
                yield make_case(kind, torch.float32, shape=shape, **options)


def test_axes_of_one_pixel(program, tmp_path):
    check(program, tmp_path, list(one_pixel()))


def test_layouts(program, tmp_path):
    case = make_case(Projective, torch.float32)
    pairs = zip(layouts(case.input).values(), layouts(case.grad).values(), strict=True)
    others = [case._replace(input=x, grad=g) for x, g in pairs]
    expected, *results = run(program, [case, *others], tmp_path, pack)
    for ours in results:
        assert all(torch.equal(a, e) for a, e in zip(ours, expected, strict=True))


def hostile(kind):
    """Coordinates that are not numbers, infinite, or huge."""
    for k, value in enumerate((torch.nan, torch.inf, -torch.inf, 1e300, -1e30)):
        for column in (-1,) if abs(value) == torch.inf else (0, -1):
            case = make_case(kind, torch.float32, padding_mode=PADDINGS[k % 3], align_corners=k % 2 == 0)
            case.theta[0, k % 2, column] = value
            yield case
    if kind is Projective:
        yield case._replace(theta=torch.tensor([[1.0, 0, 0], [0, 1, 0], [2, 0, 0]]).double().repeat(2, 1, 1))


def test_hostile_maps(program, tmp_path):
    """What is not a number stays so; nothing else becomes so, and no gradient of an image."""
    for kind in (Projective, ThinPlateSpline, Volume):
        cases = list(hostile(kind))
        for case, ours in zip(cases, run(program, cases, tmp_path, pack), strict=True):
            expected = on_the_cpu(case)
            assert torch.equal(ours[0].isnan(), expected[0].isnan())
            assert ours[1].isfinite().all()
            # The CPU walks along a row by a slope, which has no digits left if it is huge.
            if case.theta[..., :-1].nan_to_num(0).abs().amax() < 1e9:
                torch.testing.assert_close(ours[1].double(), expected[1], rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", SANITIZERS)
def test_under_sanitizers(tmp_path, name):
    program = build(tmp_path, *SANITIZERS[name], sources=SOURCES)
    cases = []
    for kind in WARPS.values():
        cases += list(varied(kind, torch.float32))[: 4 if name == "address" else 2]
    if name == "address":
        cases += [*one_pixel()][::2]
        for kind in (Projective, ThinPlateSpline, Volume):
            cases += [*hostile(kind)][::3]
    cases.append(next(large()))
    run(program, cases, tmp_path, pack)
