"""The CUDA kernels without a GPU: their own source, compiled for the host against cuda_on_host/."""

import shutil
import struct
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from stn_ext import reference
from tests.maps import MAPS, PADDINGS

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# What rounding a sum to half changes, relative to it.
HALF_ROUNDING = {torch.float16: 2**-11, torch.bfloat16: 2**-8}

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")

# (channels, height, width), output's size: small, for every thread of a GPU is a thread of the host.
SHAPES = {
    "digit": ((1, 6, 7), (6, 7)),
    "two by two tiles": ((1, 17, 33), (9, 65)),
    "two groups of channels": ((5, 5, 6), (6, 5)),
    "one pixel in": ((2, 1, 1), (5, 4)),
    "one row in": ((2, 1, 9), (5, 11)),
    "one column in": ((2, 9, 1), (5, 11)),
    "one pixel out": ((3, 6, 5), (1, 1)),
    "one pixel": ((1, 1, 1), (1, 1)),
}
TALL = ((1, 2, 3), (2049 * 8, 1))  # more tiles than blocks that add up theta's gradient
# Without an inverse: a whole block searches for each pixel, which takes the host long.
SINGULAR = ("to a line", "singular", "to a point")
# Reflected coordinates have no digits left to compare.
UNCOMPARED = "far outside"


def maps_for(shape):
    if shape == "two by two tiles":
        skipped = (UNCOMPARED, *SINGULAR)
    elif shape.startswith("one"):
        skipped = (UNCOMPARED, "small turn", "zoom out", "mirror", "shear", "singular", "all outside")
    else:
        skipped = (UNCOMPARED,)
    return {name: theta for name, theta in MAPS.items() if name not in skipped}


def hostile_maps():
    """The identity with an entry that is not a number, infinite or huge; coordinates without bounds."""
    values = (torch.nan, torch.inf, -torch.inf, -1e30)
    thetas = []
    for value in values:
        for row, column in ((0, 0), (0, 2), (1, 1), (1, 2)):
            theta = torch.eye(2, 3, dtype=torch.float64)[None].clone()
            theta[0, row, column] = value
            thetas.append(theta)
    return [*thetas, torch.full((1, 2, 3), 1e12, dtype=torch.float64), MAPS[UNCOMPARED]]


class Case(NamedTuple):
    input: Tensor
    theta: Tensor
    grad: Tensor
    padding_mode: str
    align_corners: bool
    stretch: int = 1  # how many times as far apart as their strides say the images' elements lie
    shared: bool = False  # the last image is read by all maps, through an index; not for grad_input


def make_case(shape, dtype, padding_mode, align_corners, thetas):
    (channels, *size), out_size = SHAPES.get(shape, TALL)
    theta = torch.cat(thetas).to(torch.float32 if dtype in HALF_ROUNDING else dtype)
    x = torch.randn(len(theta), channels, *size, dtype=dtype)
    grad = torch.randn(len(theta), channels, *out_size, dtype=dtype)
    return Case(x, theta, grad, padding_mode, align_corners)


def span(tensor):
    """The elements from a tensor's first to its last, as they lie in memory."""
    length = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.as_strided((length,), (1,))


def pack(case):
    x, grad = case.input, case.grad
    facts = [DTYPES.index(x.dtype), case.theta.dtype == torch.float64, PADDINGS.index(case.padding_mode)]
    sizes = [*x.shape, *grad.shape[2:], *x.stride(), *grad.stride()]
    header = [*facts, case.align_corners, *sizes, case.stretch, case.shared]
    tensors = (span(x), span(grad), case.theta.contiguous())
    return struct.pack("20q", *header) + b"".join(t.view(torch.uint8).numpy().tobytes() for t in tensors)


def launch(program, cases, folder, pack=pack):
    """Writes folder / "results"; the steps of each launch by its name, for each case."""
    problems, results = folder / "problems", folder / "results"
    problems.write_bytes(b"".join(map(pack, cases)))
    done = subprocess.run([program, problems, results], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = iter(done.stdout.splitlines())
    steps = [(name, int(count)) for name, count in map(str.split, lines)]
    each = len(steps) // len(cases)
    return [dict(steps[k * each : (k + 1) * each]) for k in range(len(cases))]


def run(program, cases, folder, pack=pack):
    """(output, grad_input, grad_theta) of each case."""
    launch(program, cases, folder, pack)
    results = folder / "results"
    data, answers = bytearray(results.read_bytes()), []
    for case in cases:
        answer = []
        for like in (case.grad, case.input, case.theta):
            flat = span(like)
            size = flat.numel() * like.element_size()
            flat = torch.frombuffer(data[:size], dtype=like.dtype)
            answer.append(flat.as_strided(like.shape, like.stride()))
            data = data[size:]
        answers.append(answer)
    assert not data
    return answers


def oracle(case):
    x, theta = case.input.double().requires_grad_(), case.theta.double().requires_grad_()
    options = {"padding_mode": case.padding_mode, "align_corners": case.align_corners}
    y = reference.affine_sample(x, theta, case.grad.shape[-2:], **options)
    return y.detach(), *torch.autograd.grad(y, (x, theta), case.grad.double())


def build(folder, *flags, sources=(ROOT / "csrc/cuda/affine_kernels.cu", HERE / "cuda_kernels_main.cpp")):
    """The program of a source of kernels and of others; it poisons the kernels' shared memory."""
    kernels, *others = sources
    program, compiled = folder / "program", folder / "kernels.o"
    includes = ["-I", HERE / "cuda_on_host", "-I", ROOT / "csrc"]
    warnings = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
    compiler = ["g++", "-std=c++17", "-O1", "-g", "-pthread", *warnings, *flags, *includes]
    subprocess.run([*compiler, "-x", "c++", "-c", kernels, "-o", compiled], check=True)
    # All that a source of kernels has of static variables is their shared memory.
    rename = ["objcopy", "--rename-section", ".bss=cuda_shared,alloc,data,contents", compiled]
    subprocess.run(rename, check=True)
    subprocess.run([*compiler, *others, compiled, "-o", program], check=True)
    return program


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return build(tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize(
    ("dtype", "align_corners"),
    (
        (torch.float32, False),
        (torch.float32, True),
        (torch.float64, True),
        (torch.float16, True),
        (torch.bfloat16, False),
    ),
)
def test_values_and_gradients_are_the_references(program, tmp_path, dtype, padding_mode, align_corners):
    options = dtype, padding_mode, align_corners
    cases = [make_case(shape, *options, list(maps_for(shape).values())) for shape in SHAPES]
    for shape, case, ours in zip(SHAPES, cases, run(program, cases, tmp_path), strict=True):
        # As in test_functional.py for values and in test_autograd.py for gradients.
        tolerances = (4e-12, 1e-11, 1e-11) if dtype == torch.float64 else (8e-6, 1e-5, 1e-5)
        for k, (a, e, atol) in enumerate(zip(ours, oracle(case), tolerances, strict=True)):
            for n, name in enumerate(maps_for(shape)):
                what = f"{('output', 'grad input', 'grad theta')[k]} of {shape}, {name}"
                scale = 1 if k == 0 else max(e[n].abs().max().item(), 1)
                rtol = HALF_ROUNDING.get(a.dtype, 0)  # once, on writing: sums are in float32
                torch.testing.assert_close(
                    a[n].double() / scale,
                    e[n] / scale,
                    rtol=rtol,
                    atol=atol,
                    msg=lambda m, w=what: f"{w}: {m}",
                )


@pytest.mark.parametrize("dtype", HALF_ROUNDING)
def test_half_images_are_computed_with_in_float32(program, tmp_path, dtype):
    """Rounded once, on writing; theta's gradient not at all."""
    thetas = [MAPS[name] for name in ("small turn", "zoom out", "singular")]
    halves = [make_case("two groups of channels", dtype, padding, True, thetas) for padding in PADDINGS]
    floats = [case._replace(input=case.input.float(), grad=case.grad.float()) for case in halves]
    for ours, expected in zip(run(program, halves, tmp_path), run(program, floats, tmp_path), strict=True):
        assert all(torch.equal(a, e.to(a.dtype)) for a, e in zip(ours, expected, strict=True))


@pytest.mark.parametrize("padding_mode", PADDINGS)
def test_hostile_maps(program, tmp_path, padding_mode):
    """NaN where the coordinate is NaN, else the padding; and the search for a pixel's gradient ends."""
    thetas = hostile_maps()
    case = make_case("two groups of channels", torch.float32, padding_mode, False, thetas)
    ((y, grad_input, _),) = run(program, [case], tmp_path)
    expected, expected_grad, _ = oracle(case)
    finite = case.theta.abs().amax((1, 2)) < 1e9  # beyond, reflection folds digits that are lost
    compared = finite | torch.tensor(padding_mode != "reflection")
    assert torch.equal(y.isnan(), expected.isnan())
    torch.testing.assert_close(y.double()[compared], expected[compared], rtol=0, atol=8e-6, equal_nan=True)
    assert grad_input.isfinite().all()
    torch.testing.assert_close(grad_input.double()[compared], expected_grad[compared], rtol=0, atol=1e-4)


def layouts(x):
    """The same images, laid out in memory in other ways."""
    wide = torch.full((*x.shape[:2], x.shape[2] + 2, x.shape[3] + 3), torch.nan)
    wide[:, :, 1:-1, 2:-1] = x
    return {
        "channels_last": x.to(memory_format=torch.channels_last),
        "transposed": x.transpose(2, 3).contiguous().transpose(2, 3),
        "cropped": wide[:, :, 1:-1, 2:-1],
        "every second": torch.stack((x, x), -1).flatten(-2)[..., ::2],
    }


@pytest.mark.parametrize("padding_mode", PADDINGS)
def test_layouts(program, tmp_path, padding_mode):
    thetas = [MAPS[name] for name in ("turn by 130", "half outside", "singular")]
    case = make_case("two groups of channels", torch.float32, padding_mode, False, thetas)
    others = [
        case._replace(input=x, grad=g)
        for x, g in zip(layouts(case.input).values(), layouts(case.grad).values(), strict=True)
    ]
    expected, *results = run(program, [case, *others], tmp_path)
    for name, ours in zip(layouts(case.input), results, strict=True):
        for a, e, like in zip(ours, expected, (case.grad, case.input, case.theta), strict=True):
            # The sums over channels have another order in channels_last.
            torch.testing.assert_close(a, e, rtol=0, atol=1e-4 if like is case.theta else 0, msg=name)


@pytest.mark.parametrize("padding_mode", PADDINGS)
def test_an_image_that_several_maps_read(program, tmp_path, padding_mode):
    thetas = [MAPS[name] for name in ("turn by 130", "half outside", "small turn")]
    case = make_case("two groups of channels", torch.float32, padding_mode, False, thetas)
    copied = case._replace(input=case.input[-1:].repeat(3, 1, 1, 1))
    ours, expected = run(program, [case._replace(shared=True), copied], tmp_path)
    assert torch.equal(ours[0], expected[0]) and torch.equal(ours[2], expected[2])


def test_more_tiles_than_blocks(program, tmp_path):
    """Blocks of moments work through several tiles each, and the last of them reaches beyond the image."""
    case = make_case("tall", torch.float32, "border", False, [MAPS["small turn"]])
    ((_, _, ours),) = run(program, [case], tmp_path)
    expected = oracle(case)[2]
    torch.testing.assert_close(ours.double(), expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("dtype", (torch.float32, torch.float16))
def test_tensors_of_more_than_2_31_elements(program, tmp_path, dtype):
    """Elements far apart, in memory of whose pages few exist."""
    thetas = [MAPS[name] for name in ("turn by 130", "singular")]
    near = [make_case("two groups of channels", dtype, padding, False, thetas) for padding in PADDINGS]
    far = [case._replace(stretch=2**33 // case.input.numel()) for case in near]
    for ours, expected in zip(run(program, far, tmp_path), run(program, near, tmp_path), strict=True):
        assert all(torch.equal(a, e) for a, e in zip(ours, expected, strict=True))


def test_same_bits_in_every_run(program, tmp_path):
    thetas = [MAPS[name] for name in ("small turn", "zoom out", "singular")]
    cases = [
        make_case("two groups of channels", torch.float32, padding, True, thetas) for padding in PADDINGS
    ]
    for first, second in zip(run(program, cases, tmp_path), run(program, cases, tmp_path), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


SANITIZERS = {
    "address": ("-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"),
    "thread": ("-fsanitize=thread",),
}


@pytest.mark.parametrize("name", SANITIZERS)
def test_under_sanitizers(tmp_path, name):
    """No access outside the tensors, no conversion that has no value; no two threads at odds over memory."""
    program = build(tmp_path, *SANITIZERS[name])
    cases = []
    for k, padding_mode in enumerate(PADDINGS):
        options = padding_mode, k % 2 == 0
        thetas = [MAPS["turn by 130"], MAPS["singular"]]
        for dtype in DTYPES if name == "address" else (torch.float32,):
            cases.append(make_case("two groups of channels", dtype, *options, thetas))
            cases.append(
                make_case("one row in", dtype, *options, hostile_maps() if name == "address" else thetas)
            )
        cases.append(make_case("two by two tiles", torch.float32, *options, [MAPS["turn by 130"]]))
        cases.append(make_case("one pixel", torch.float32, *options, thetas))
    case = cases[0]
    cases.append(
        case._replace(input=layouts(case.input)["channels_last"], grad=layouts(case.grad)["channels_last"])
    )
    run(program, cases, tmp_path)


def test_a_missing_barrier_is_seen(tmp_path):
    """What the thread sanitizer would say of a kernel that races."""
    sources = [HERE / "racy_kernel.cpp"]
    for synchronised in (True, False):
        program = build(tmp_path, "-fsanitize=thread", f"-DSYNCHRONISED={synchronised:d}", sources=sources)
        done = subprocess.run([program], capture_output=True, text=True, timeout=60)
        assert ("data race" in done.stderr) != synchronised, done.stderr
        assert (done.returncode == 0) == synchronised
