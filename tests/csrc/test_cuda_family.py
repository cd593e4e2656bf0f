"""The CUDA kernels without a GPU: their own source, compiled for the host against cuda_on_host/."""

import shutil
import struct
import subprocess
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from tests.maps import MAPS, PADDINGS
from tests.warps import WARPS, Affine, Projective, ThinPlateSpline, Volume

from .host_kernels import HALF_ROUNDING, HERE, ROOT, SANITIZERS, build_program, layouts, span

ops = torch.ops.stn_ext
SOURCES = ("sample", "nearest", "grad_theta", "grad_input", "grad_input_gather", "grad_input_scatter")
KINDS = ("affine", "projective", "thin plate spline", "volume")
# As csrc/cuda/problem.h numbers them, and what of a coordinate that is not a number nearest makes.
STORAGES = {
    torch.float32: 0x7FC00000,
    torch.float64: 0x7FF8000000000000,
    torch.float16: 0x7E00,
    torch.bfloat16: 0x7FC0,
    torch.uint8: 0,
    torch.int16: 0,
    torch.uint16: 0,
}
LABELS = (torch.int32, torch.int64, torch.bool)

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


class Case(NamedTuple):
    input: Tensor
    grad: Tensor
    theta: Tensor
    points: Tensor | None = None
    tangent: Tensor | None = None
    index: Tensor | None = None
    fill: Tensor | None = None  # (channels,)
    mode: str = "bilinear"
    padding_mode: str = "zeros"
    align_corners: bool = False
    stretch: int = 1  # how many times as far apart as their strides say the images' elements lie


def random_images(shape, dtype):
    if dtype.is_floating_point:
        return torch.randn(shape).to(dtype)
    most = 2 if dtype == torch.bool else min(torch.iinfo(dtype).max, 1 << 20)
    least = 0 if dtype in (torch.bool, torch.uint8, torch.uint16) else -most
    return torch.randint(least, most, shape).to(dtype)


def make_case(kind, dtype=torch.float32, shape=None, size=None, tangent=False, theta=None, **options):
    shape, size = shape or kind.shape, size or kind.size
    theta = kind.theta.double() if theta is None else theta.double()
    maps = len(options["index"]) if options.get("index") is not None else len(theta)
    theta = theta.repeat(-(-maps // len(theta)), 1, 1)[:maps]
    points = getattr(kind, "points", None)
    return Case(
        random_images(shape, dtype),
        random_images((maps, shape[1], *size), dtype),
        theta,
        None if points is None else points.double(),
        torch.randn_like(theta) if tangent else None,
        **options,
    )


def along_axes(numbers, missing):
    """Of (..., z, y, x), or (..., y, x): x, y, z."""
    return [*reversed(numbers), missing][:3]


def kind_number(case):
    if case.points is not None:
        return 2
    return {(2, 3): 0, (3, 3): 1, (3, 4): 3}[tuple(case.theta.shape[1:])]


def raw(tensor):
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def pack(case):
    x, g, theta = case.input, case.grad, case.theta
    storages = list(STORAGES)
    storage = storages.index(x.dtype) if x.dtype in storages else 0
    fill = case.fill
    if fill is not None:
        computed = torch.float64 if x.dtype == torch.float64 else torch.float32
        fill = fill.to(x.dtype if case.mode == "nearest" else computed)
    facts = [kind_number(case), storage, x.element_size(), storages.index(theta.dtype)]
    facts += [case.mode == "nearest", case.align_corners, PADDINGS.index(case.padding_mode), case.stretch]
    facts += [len(theta), *x.shape[:2], theta.shape[2], STORAGES.get(x.dtype, 0)]
    optional = case.points, case.tangent, case.index, fill
    facts += [*(tensor is not None for tensor in optional), x.dtype.is_floating_point]
    facts += along_axes(x.shape[2:], 1) + along_axes(g.shape[2:], 1)
    for images in (x, g):
        facts += [*images.stride()[:2], *along_axes(images.stride()[2:], 0)]
    tensors = [span(x), span(g), theta, *(t for t in optional if t is not None)]
    return struct.pack(f"{len(facts)}q", *facts) + b"".join(map(raw, tensors))


def launch(program, cases, folder):
    """Writes folder / "results"; the steps of each launch by its name, for each case."""
    problems, results = folder / "problems", folder / "results"
    problems.write_bytes(b"".join(map(pack, cases)))
    done = subprocess.run([program, problems, results], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    steps = [(name, int(count)) for name, count in map(str.split, done.stdout.splitlines())]
    each = len(steps) // len(cases)
    return [dict(steps[k * each : (k + 1) * each]) for k in range(len(cases))]


class Result(NamedTuple):
    output: Tensor
    grad_input: Tensor | None = None
    grad_theta: Tensor | None = None


def run(program, cases, folder):
    """The Result of each case."""
    launch(program, cases, folder)
    data, answers = bytearray((folder / "results").read_bytes()), []

    def take(like):
        nonlocal data
        flat = span(like)
        size = flat.numel() * flat.element_size()
        flat = torch.frombuffer(data[:size], dtype=like.dtype)
        data = data[size:]
        return flat.as_strided(like.shape, like.stride())

    for case in cases:
        result = Result(take(case.grad))
        if not case.grad.dtype.is_floating_point:
            answers.append(result)
            continue
        result = result._replace(grad_input=take(case.input))
        if case.mode != "nearest":
            result = result._replace(grad_theta=take(case.theta))
        answers.append(result)
    assert not data
    return answers


def build(folder, *flags):
    """The program of all kernels."""
    sources = [ROOT / f"csrc/cuda/{source}.cu" for source in SOURCES]
    return build_program(folder, sources, HERE / "cuda_family_main.cpp", *flags)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return build(tmp_path_factory.mktemp("plain"))


def on_the_cpu(case):
    """The same by the CPU's operators, in float64; test_warps.py compares these with compositions."""
    x, g = case.input.double(), case.grad
    maps = [None if t is None else t.double() for t in (case.theta, case.points, case.tangent)]
    fill = None if case.fill is None else case.fill.double()
    options = case.index, fill, case.mode, case.padding_mode, case.align_corners
    y = ops.sample(x, *maps, case.index, fill, g.shape[2:], *options[2:])
    if not g.dtype.is_floating_point:
        return Result(y)
    grad_input = ops.adjoint(g.double(), *maps, case.index, len(x), x.shape[2:], *options[2:])
    if case.mode == "nearest":
        return Result(y, grad_input)
    grad_theta = ops.moments(g.double(), x, *maps, *options)
    return Result(y, grad_input, grad_theta)


def tolerance_of(case, expected):
    """(relative, absolute)"""
    dtype = case.input.dtype
    scale = max(case.input.double().abs().max().item(), 1)
    if case.tangent is not None:
        scale *= max(expected.abs().max().item(), 1)
    if case.mode == "nearest":
        return 0, 0
    if not dtype.is_floating_point:
        return 0, 0.5 + 1e-4 * scale  # rounded to whole numbers
    # Weights are good to some 2^-23, of coordinates likewise; radial functions added in float32 move them by
    # 2^-24 times the image's size. A half type is rounded to once, on writing.
    return HALF_ROUNDING.get(dtype, 0), scale * (
        1e-11 if dtype == torch.float64 else 2e-5 if case.points is not None else 4e-6
    )


def check_grad_input(case, ours, expected, what):
    # As for values; a pixel's sum is of a few products.
    dtype, scale = case.grad.dtype, max(expected.abs().max().item(), 1)
    tolerance = 1e-11 if dtype == torch.float64 else 4e-5 if case.points is not None else 1e-5
    torch.testing.assert_close(
        ours.double() / scale,
        expected / scale,
        rtol=HALF_ROUNDING.get(dtype, 0),
        atol=tolerance,
        msg=lambda m: f"grad input of {what}: {m}",
    )


def check(program, folder, cases):
    for case, ours in zip(cases, run(program, cases, folder), strict=True):
        dtype, theta = case.input.dtype, case.theta.dtype
        what = f"{dtype} {tuple(case.input.shape)} by {tuple(case.theta.shape)} {theta}, {case[7:]}"
        expected, grad_input, grad_theta = on_the_cpu(case)
        if not dtype.is_floating_point:
            expected = expected.nan_to_num(0)
            if dtype != torch.bool and case.mode != "nearest":
                expected = expected.clamp(torch.iinfo(dtype).min, torch.iinfo(dtype).max)
        rtol, atol = tolerance_of(case, expected)
        torch.testing.assert_close(
            ours.output.double(),
            expected,
            rtol=rtol,
            atol=atol,
            equal_nan=True,
            msg=lambda m, w=what: f"{w}: {m}",
        )
        if grad_input is not None:
            check_grad_input(case, ours.grad_input, grad_input, what)
        if grad_theta is None:
            continue
        # Sums of thousands of products in float32; a half theta's gradient is rounded on writing.
        scale = max(grad_theta.abs().max().item(), 1)
        tolerance = 1e-11 if dtype == torch.float64 else 1e-4 if case.points is not None else 2e-5
        torch.testing.assert_close(
            ours.grad_theta.double() / scale,
            grad_theta / scale,
            rtol=HALF_ROUNDING.get(theta, 0),
            atol=tolerance,
            msg=lambda m, w=what: f"grad theta of {w}: {m}",
        )


def varied(kind, dtype):
    """Every padding, weight and sharing, not in every combination."""
    index = torch.tensor([3, 0, 3])
    shared = (4, *kind.shape[1:])
    for k, padding_mode in enumerate(PADDINGS):
        options = {"padding_mode": padding_mode, "align_corners": k % 2 == 0}
        yield make_case(kind, dtype, **options)
        yield make_case(kind, dtype, tangent=dtype.is_floating_point, **options)
        yield make_case(kind, dtype, mode="nearest", **options)
        yield make_case(kind, dtype, shape=shared, index=index, **options)
    fill = random_images((kind.shape[1],), dtype)
    yield make_case(kind, dtype, fill=fill)
    yield make_case(kind, dtype, fill=fill, mode="nearest")


@pytest.mark.parametrize("kind", WARPS.values(), ids=WARPS.keys())
@pytest.mark.parametrize("dtype", STORAGES)
def test_what_the_cpu_gives(program, tmp_path, kind, dtype):
    check(program, tmp_path, list(varied(kind, dtype)))


@pytest.mark.parametrize("dtype", LABELS)
def test_labels_are_moved_as_they_are(program, tmp_path, dtype):
    fill = random_images((3,), dtype)
    options = {"mode": "nearest", "align_corners": True}
    cases = [make_case(Affine, dtype, padding_mode=padding, **options) for padding in PADDINGS]
    check(program, tmp_path, [*cases, make_case(Projective, dtype, fill=fill, **options)])


def large():
    """Several tiles, with warps whose pixels all lie inside, and groups of channels."""
    inside = MAPS["turn by 130"] * 0.4
    for dtype in (torch.float32, torch.float64, torch.float16, torch.uint8):
        yield make_case(Affine, dtype, (1, 3, 90, 80), (70, 75), theta=inside)
        yield make_case(Affine, dtype, (1, 35, 20, 30), (20, 40), theta=inside)
    for k, theta in enumerate(MAPS.values()):
        far = theta.abs().max() > 1e6
        if not far:
            padding = PADDINGS[k % 3]
            yield make_case(
                Affine, torch.float32, (1, 2, 45, 40), (37, 41), theta=theta, padding_mode=padding
            )
    bent = Projective.theta * torch.tensor([0.4, 0.4, 1.0], dtype=torch.float64)[:, None]
    yield make_case(Projective, torch.float32, (2, 3, 90, 80), (70, 75), theta=bent)
    yield make_case(
        ThinPlateSpline, torch.float32, (2, 3, 90, 80), (70, 75), theta=ThinPlateSpline.theta * 0.4
    )
    yield make_case(Volume, torch.float32, (2, 3, 9, 30, 27), (4, 20, 36), theta=Volume.theta * 0.5)


def test_several_tiles(program, tmp_path):
    check(program, tmp_path, list(large()))


def test_more_control_points_than_are_staged(program, tmp_path):
    points = torch.rand(150, 2, dtype=torch.float64) * 2 - 1
    theta = torch.cat([torch.randn(2, 2, 150).double() * 1e-3, Affine.theta], dim=2)
    cases = [
        make_case(ThinPlateSpline, dtype)._replace(points=points, theta=theta)
        for dtype in (torch.float32, torch.float64)
    ]
    check(program, tmp_path, cases)


def one_pixel():
    for kind in (Affine, Projective, Volume):
        for axis in range(2, len(kind.shape)):
            shape = [*kind.shape]
            shape[axis] = 1
            for k, padding_mode in enumerate(PADDINGS):
                options = {"padding_mode": padding_mode, "align_corners": k % 2 == 0}
                yield make_case(kind, torch.float32, shape=shape, **options)
        yield make_case(kind, torch.float32, size=[1] * (len(kind.shape) - 2), align_corners=True)


def test_axes_of_one_pixel(program, tmp_path):
    check(program, tmp_path, list(one_pixel()))


@pytest.mark.parametrize("dtype", (torch.float32, torch.float16))
@pytest.mark.parametrize("kind", (Affine, Projective), ids=("affine", "projective"))
@pytest.mark.parametrize("channels", (18, 24))  # of 24, lanes take vectors where they lie side by side
@pytest.mark.parametrize("padding_mode", ("zeros", "reflection"))
def test_layouts_give_the_same_bits(program, tmp_path, kind, dtype, channels, padding_mode):
    case = make_case(kind, dtype, shape=(2, channels, 11, 13), padding_mode=padding_mode)
    pairs = zip(layouts(case.input).values(), layouts(case.grad).values(), strict=True)
    others = [case._replace(input=x.to(dtype), grad=g.to(dtype)) for x, g in pairs]
    expected, *results = run(program, [case, *others], tmp_path)
    for ours in results:
        assert torch.equal(ours.output, expected.output)
        assert torch.equal(ours.grad_input, expected.grad_input)
        # Channels that lie side by side are added up by several threads.
        torch.testing.assert_close(ours.grad_theta, expected.grad_theta, rtol=0, atol=1e-3)


@pytest.mark.parametrize("dtype", (torch.float64, torch.float16, torch.bfloat16))
def test_coefficients_of_any_dtype(program, tmp_path, dtype):
    for kind in WARPS.values():
        case = make_case(kind, torch.float32, tangent=True)
        case = case._replace(
            **{
                n: t if (t := getattr(case, n)) is None else t.to(dtype)
                for n in ("theta", "points", "tangent")
            }
        )
        check(program, tmp_path, [case, case._replace(tangent=None)])


def hostile(kind):
    """Coordinates that are not numbers, infinite, or huge."""
    for k, value in enumerate((torch.nan, torch.inf, -torch.inf, 1e300, -1e30, 1e12)):
        for column in (-1,) if abs(value) == torch.inf else (0, -1):
            for mode in ("bilinear", "nearest"):
                options = {"padding_mode": PADDINGS[k % 3], "align_corners": k % 2 == 0, "mode": mode}
                case = make_case(kind, torch.float32, **options)
                case.theta[0, k % 2, column] = value
                yield case
    if kind is Projective:
        yield case._replace(theta=torch.tensor([[1.0, 0, 0], [0, 1, 0], [2, 0, 0]]).double().repeat(2, 1, 1))


def test_hostile_maps(program, tmp_path):
    """What is not a number stays so; nothing else becomes so."""
    for kind in WARPS.values():
        cases = list(hostile(kind))
        for case, ours in zip(cases, run(program, cases, tmp_path), strict=True):
            expected, grad_input, *_ = on_the_cpu(case)
            assert ours.grad_input.isfinite().all()
            # The CPU walks along a row by a slope, which has no digits left if it is huge; and reflection
            # folds digits that are lost.
            if case.padding_mode != "reflection" and case.theta[..., :-1].nan_to_num(0).abs().amax() < 1e9:
                check_grad_input(case, ours.grad_input, grad_input, f"{case.theta}")
            ours = ours.output
            assert torch.equal(ours.isnan(), expected.isnan())
            # Reflection folds digits that are lost.
            if case.padding_mode != "reflection":
                torch.testing.assert_close(ours.double(), expected, rtol=0, atol=2e-5, equal_nan=True)


def test_pixels_that_are_not_finite_reach_no_others(program, tmp_path):
    """A tap of weight 0 takes no part, nor does a fill where all taps lie inside."""
    identity = torch.eye(2, 3, dtype=torch.float64)[None]
    case = make_case(Affine, torch.float32, (1, 3, 40, 40), (40, 40), theta=identity)
    case.input[..., ::3, 1::4] = torch.inf
    case.input[..., 1::5, ::7] = torch.nan
    fill = torch.tensor([torch.inf, torch.nan, -torch.inf])
    for ours in run(program, [case, case._replace(fill=fill)], tmp_path):
        torch.testing.assert_close(ours.output, case.input, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float16))
def test_tensors_of_more_than_2_31_elements(program, tmp_path, dtype):
    """Elements far apart, in memory of whose pages few exist."""
    for kind in (Affine, Volume):
        near = [
            make_case(kind, dtype, padding_mode=padding, mode=mode)
            for padding in PADDINGS
            for mode in ("bilinear", "nearest")
        ]
        far = [case._replace(stretch=2**33 // case.input.numel()) for case in near]
        for case, ours, expected in zip(
            near, run(program, far, tmp_path), run(program, near, tmp_path), strict=True
        ):
            assert torch.equal(ours.output, expected.output)
            assert torch.equal(ours.grad_input, expected.grad_input)
            assert case.mode == "nearest" or torch.equal(ours.grad_theta, expected.grad_theta)


LONGEST = 2**28  # problem.h, kLongest


@pytest.mark.parametrize("padding_mode", PADDINGS)
def test_the_longest_axis(program, tmp_path, padding_mode):
    """The last pixels of the longest rows that are let in, and the ones beyond, are told apart."""
    row = (torch.arange(LONGEST, dtype=torch.int32) * 7919 % 251).to(torch.uint8).view(1, 1, 1, -1)
    # From 24.5 pixels before the last one's edge to as many behind it, a third of a pixel off.
    theta = torch.tensor([[[49 / LONGEST, 0, 1 + 2 / 3 / LONGEST], [0, 1, 0]]], dtype=torch.float64)
    grad = torch.zeros(1, 1, 1, 49, dtype=torch.uint8)
    (y,) = run(program, [Case(row, grad, theta, padding_mode=padding_mode)], tmp_path)
    expected = ops.sample(row, theta, None, None, None, None, (1, 49), "bilinear", padding_mode, False)
    torch.testing.assert_close(y.output.double(), expected.double(), rtol=0, atol=1)  # roundings of halves


@pytest.mark.parametrize("name", SANITIZERS)
def test_under_sanitizers(tmp_path, name):
    """No access outside the tensors, no conversion that has no value; no two threads at odds over memory."""
    program = build(tmp_path, *SANITIZERS[name])
    cases = []
    for kind in WARPS.values():
        cases += list(varied(kind, torch.float32))[: 14 if name == "address" else 3]
    if name == "address":
        cases += [*one_pixel()][::2]
        cases += [c for kind in WARPS.values() for c in [*hostile(kind)][::2]]
        cases += [make_case(Affine, dtype) for dtype in STORAGES]
    last = [make_case(Affine, torch.float32, (1, 18, 11, 13))]
    last = [
        case._replace(input=layouts(case.input)["channels_last"], grad=layouts(case.grad)["channels_last"])
        for case in last
    ]
    run(program, [*cases, *last, *[*large()][:1]], tmp_path)
