"""What affine_sample and its peers can do: each cell is tried, and its values are checked.

    python benchmarks/capabilities.py                # all, some minutes, most of them compilation
    python benchmarks/capabilities.py --only fill --contender kornia
    python benchmarks/capabilities.py --json benchmarks/results/capabilities.json

A "yes" is the right result, against the reference in float64, finite differences or a result known in
advance; an error or another result is a "no", and its reason is recorded.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # its profiler is chatty; read on import

import torch
from tables import markdown
from timing import machine, peak_memory, write_json
from torch import Tensor, nn
from warpers import WARPERS, Warper

from stn_ext import normalised_to_pixels, reference

Warp = Callable[..., Tensor]
CPU = torch.device("cpu")
# Of images from 0 to 1, in float32: coordinates of some thirty pixels in few digits, as some peers have them.
TOLERANCE = 1e-3

CAPABILITIES: dict[str, Callable[[Warper], None]] = {}


def capability(title: str) -> Callable[[Callable[[Warper], None]], Callable[[Warper], None]]:
    def register(check: Callable[[Warper], None]) -> Callable[[Warper], None]:
        CAPABILITIES[title] = check
        return check

    return register


# --- problems and oracles ----------------------------------------------------------------------------


def images(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Noise from 0 to 1, the same whenever it is asked for."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def turns(count: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    """Maps that turn, shrink and shift, part of each outside the image; no pixel falls on a border."""
    angle = 0.3491 + 0.1733 * torch.arange(count, dtype=torch.float64)
    c, s = 0.9137 * angle.cos(), 0.9137 * angle.sin()
    x, y = torch.full_like(c, 0.3119), torch.full_like(c, -0.1273)
    return torch.stack((c, -s, x, s, c, y), 1).view(count, 2, 3).to(dtype)


def exact(x: Tensor, theta: Tensor, size: tuple[int, int] | None = None, **options: object) -> Tensor:
    return reference.affine_sample(x.double(), theta.double(), size, **options)


def coordinates(theta: Tensor, in_size: tuple[int, int], out_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Where each output pixel is read, in the input's pixels."""
    return reference.coordinates(reference.affine_map, theta.double(), in_size, out_size, False)


def check_close(result: Tensor, expected: Tensor, atol: float = TOLERANCE) -> None:
    assert result.shape == expected.shape, f"shape {tuple(result.shape)}, expected {tuple(expected.shape)}"
    difference = (result.detach().double() - expected.double()).abs().max().item()
    assert difference <= atol, f"values off by {difference:.2g}"


def differences(f: Callable[[Tensor], Tensor], at: Tensor, direction: Tensor, step: float = 1e-6) -> Tensor:
    """The derivative of f along a direction."""
    return (f(at + step * direction) - f(at - step * direction)) / (2 * step)


def weighted(warp: Warp) -> Callable[[Tensor, Tensor], Tensor]:
    """A loss that is curved in both arguments."""
    return lambda x, theta: warp(x, theta).square().mean()


def small() -> tuple[Tensor, Tensor]:
    """A problem small enough for finite differences, in float64."""
    return images(2, 2, 5, 6, dtype=torch.float64), turns(2, torch.float64)


# --- modes -------------------------------------------------------------------------------------------


@capability("a map for each image of a batch")
def _(w: Warper) -> None:
    x, theta = images(3, 3, 32, 32), turns(3)
    check_close(w.warp(x, theta), exact(x, theta))


@capability("output of any size")
def _(w: Warper) -> None:
    x, theta = images(1, 3, 32, 32), turns()
    check_close(w.warp(x, theta, (20, 41)), exact(x, theta, (20, 41)))


@capability("border padding")
def _(w: Warper) -> None:
    x, theta = images(1, 3, 32, 32), turns()
    check_close(w.warp(x, theta, padding_mode="border"), exact(x, theta, padding_mode="border"))


@capability("reflection, at pixels' centres or edges")
def _(w: Warper) -> None:
    x, theta = images(1, 3, 32, 32), turns()
    for align_corners in (False, True):
        options = {"padding_mode": "reflection", "align_corners": align_corners}
        check_close(w.warp(x, theta, **options), exact(x, theta, **options))


@capability("fill value for each channel")
def _(w: Warper) -> None:
    x, theta, fill = images(1, 3, 32, 32), turns(), torch.tensor([0.2, 0.5, 0.9])
    covered = exact(torch.ones_like(x), theta)
    expected = exact(x, theta) + (1 - covered) * fill.double().view(3, 1, 1)
    output = w.warp(x, theta, fill=fill)
    assert output.shape == x.shape, f"shape {tuple(output.shape)}"
    sure = (covered < 1e-6) | (covered > 1 - 1e-6)  # across the edge, peers blend in different ways
    check_close(output[sure], expected[sure])


@capability("nearest pixel")
def _(w: Warper) -> None:
    x, theta = images(1, 3, 32, 32), turns()
    ix, iy = coordinates(theta, (32, 32), (32, 32))
    inside = (ix.round() >= 0) & (ix.round() <= 31) & (iy.round() >= 0) & (iy.round() <= 31)
    column, row = (i.round().clamp(0, 31).long()[0] for i in (ix, iy))
    check_close(w.warp(x, theta, mode="nearest"), x[:, :, row, column] * inside)


@capability("maps in pixels")
def _(w: Warper) -> None:
    x, theta = images(1, 3, 24, 32), turns()
    pixels = normalised_to_pixels(theta.double(), (24, 32), (24, 32)).float()
    check_close(w.warp(x, pixels, theta_units="pixel"), exact(x, theta))


@capability("volumes, with gradients")
def _(w: Warper) -> None:
    """A ramp stays a ramp within the volume: known in advance, and its derivatives too."""
    size, slope = (7, 8, 9), torch.tensor([0.5, -0.3, 0.2], dtype=torch.float64)  # (x, y, z)
    axes = [(2 * torch.arange(n, dtype=torch.float64) + 1) / n - 1 for n in size]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    points = torch.stack((x, y, z, torch.ones_like(x)))  # (4, D, H, W)
    ramp = torch.einsum("k,kdhw->dhw", slope, points[:3])[None, None]
    theta = 0.5 * torch.eye(3, 4, dtype=torch.float64)[None]
    theta[0, :, 3] = torch.tensor([0.03, -0.02, 0.01])
    theta[0, 0, 1] = 0.1
    theta.requires_grad_()
    output = w.warp(ramp, theta)
    check_close(output, torch.einsum("k,kp,pdhw->dhw", slope, theta[0].detach(), points)[None, None], 1e-9)
    (grad,) = torch.autograd.grad(output.sum(), theta)
    check_close(grad[0], slope[:, None] * points.flatten(1).sum(1), 1e-6)


# --- sharing -----------------------------------------------------------------------------------------


@capability("one image warped many ways, without copies in forward or backward")
def _(w: Warper) -> None:
    x, theta = images(1, 3, 128, 128).requires_grad_(), turns(32)
    copies = 32 * x.numel() * x.element_size()

    def run() -> tuple[Tensor, Tensor]:
        try:
            output = w.warp(x, theta, (4, 4))
        except (RuntimeError, ValueError):  # where it has to be said
            output = w.warp(x.expand(32, -1, -1, -1), theta, (4, 4))
        return output, torch.autograd.grad(output.sum(), x)[0]

    output, grad = run()
    check_close(output, exact(x.detach().expand(32, -1, -1, -1), theta, (4, 4)))
    covered = exact(torch.ones_like(x.detach()).expand(32, -1, -1, -1), theta, (4, 4))
    assert grad.shape == x.shape, f"gradient of shape {tuple(grad.shape)}"
    check_close(grad.sum(), covered.sum(), 1)
    peak = peak_memory(run, CPU)
    assert peak < copies / 2, f"{peak / 1e6:.1f} MB at its peak, for an image of {copies / 32e6:.1f} MB"


@capability("which image each map warps (index)")
def _(w: Warper) -> None:
    x, theta, index = images(2, 2, 16, 16), turns(4), torch.tensor([1, 0, 1, 1])
    check_close(w.warp(x, theta, index=index), exact(x[index], theta))


# --- dtypes ------------------------------------------------------------------------------------------


def check_half(w: Warper, image: torch.dtype, map: torch.dtype) -> None:
    """On an image of 512 pixels a side: half a grid is not enough there."""
    x, theta = images(1, 1, 512, 512).to(image), turns().to(map)
    output = w.warp(x, theta)
    assert output.dtype == image, f"output of {output.dtype}"
    # One rounding of the result, which is below 1, and single precision before.
    check_close(output, exact(x, theta), torch.finfo(image).eps + 1e-4)


@capability("float64")
def _(w: Warper) -> None:
    x, theta = images(1, 2, 32, 32, dtype=torch.float64), turns(dtype=torch.float64)
    check_close(w.warp(x, theta), exact(x, theta), 1e-9)


@capability("float16 images, float32 theta")
def _(w: Warper) -> None:
    check_half(w, torch.float16, torch.float32)


@capability("bfloat16 images, float32 theta")
def _(w: Warper) -> None:
    check_half(w, torch.bfloat16, torch.float32)


@capability("float16 images and theta, exact coordinates")
def _(w: Warper) -> None:
    check_half(w, torch.float16, torch.float16)


@capability("uint8 images, rounded")
def _(w: Warper) -> None:
    x, theta = (images(1, 3, 32, 32) * 256).floor().to(torch.uint8), turns()
    output = w.warp(x, theta)
    assert output.dtype == torch.uint8, f"output of {output.dtype}"
    check_close(output, exact(x.double(), theta), 0.5 + 256 * TOLERANCE)


# --- calculus ----------------------------------------------------------------------------------------


@capability("gradient by images")
def _(w: Warper) -> None:
    x, theta = images(1, 2, 6, 6, dtype=torch.float64).requires_grad_(), turns(dtype=torch.float64)
    torch.autograd.gradcheck(lambda a: w.warp(a, theta), x)


@capability("gradient by theta")
def _(w: Warper) -> None:
    x, theta = small()
    torch.autograd.gradcheck(lambda t: w.warp(x, t), theta.requires_grad_())


@capability("double backward, by both")
def _(w: Warper) -> None:
    x, theta = small()
    torch.autograd.gradgradcheck(
        lambda a, t: w.warp(a, t).square(), (x.requires_grad_(), theta.requires_grad_())
    )


@capability("forward mode (jvp), by both")
def _(w: Warper) -> None:
    x, theta = small()
    dx, dt = torch.randn_like(x), torch.randn_like(theta)
    _, tangent = torch.func.jvp(w.warp, (x, theta), (dx, dt))
    start = torch.zeros((), dtype=torch.float64)
    expected = differences(lambda t: exact(x + t * dx, theta + t * dt), start, torch.ones(()))
    check_close(tangent, expected, 1e-5)


@capability("hessian (forward over reverse)")
def _(w: Warper) -> None:
    x, theta = small()
    hessian = torch.func.hessian(lambda t: weighted(w.warp)(x, t))(theta)
    direction = torch.randn_like(theta)
    gradient = torch.func.grad(lambda t: weighted(exact)(x, t))
    expected = differences(gradient, theta, direction)
    check_close(torch.einsum("nijmkl,mkl->nij", hessian, direction), expected, 1e-5)


@capability("vmap over images and theta")
def _(w: Warper) -> None:
    x, theta = images(3, 2, 2, 8, 9), turns(6).view(3, 2, 2, 3)
    output = torch.func.vmap(w.warp)(x, theta)
    check_close(output, torch.stack([exact(a, t) for a, t in zip(x, theta, strict=True)]))


@capability("gradients for each sample: vmap(grad)")
def _(w: Warper) -> None:
    x, theta = small()

    def loss(warp: Warp) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda a, t: weighted(warp)(a[None], t[None])

    gradients = torch.func.vmap(torch.func.grad(loss(w.warp), argnums=(0, 1)))(x, theta)
    for k in range(len(x)):
        expected = torch.func.grad(loss(exact), argnums=(0, 1))(x[k], theta[k])
        for ours, e in zip(gradients, expected, strict=True):
            check_close(ours[k], e, 1e-8)


# --- compilers and exporters -------------------------------------------------------------------------


class Module(nn.Module):
    def __init__(self, warp: Warp) -> None:
        super().__init__()
        self.warp = warp

    def forward(self, x: Tensor, theta: Tensor) -> Tensor:
        return self.warp(x, theta)


def export(w: Warper) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch")
    dynamic = ({0: batch}, {0: batch})
    return torch.export.export(Module(w.warp), (images(5, 4, 8, 9), turns(5)), dynamic_shapes=dynamic)


def check_batches(warp: Warp) -> None:
    for count in (5, 7):
        x, theta = images(count, 4, 8, 9), turns(count)
        check_close(warp(x, theta), exact(x, theta))


@capability("torch.compile of a training step, whole, once for all batches")
def _(w: Warper) -> None:
    graphs = 0

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        nonlocal graphs
        graphs += 1
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    warp = WARPERS["pytorch"].warp if w is WARPERS["compile"] else w.warp
    step = torch.compile(weighted(warp), fullgraph=True, dynamic=True, backend=backend)
    for count in (5, 7, 11):
        arguments = images(count, 4, 8, 9).requires_grad_(), turns(count).requires_grad_()
        gradients = torch.autograd.grad(step(*arguments), arguments)
        doubles = [a.detach().double().requires_grad_() for a in arguments]
        expected = torch.autograd.grad(weighted(exact)(*doubles), doubles)
        for ours, e in zip(gradients, expected, strict=True):
            check_close(ours, e)
    assert graphs == 1, f"{graphs} compilations"


@capability("torch.export, any batch")
def _(w: Warper) -> None:
    check_batches(export(w).module())


@capability("AOTInductor package")
def _(w: Warper) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = torch._inductor.aoti_compile_and_package(export(w), package_path=f"{folder}/warp.pt2")
        check_batches(torch._inductor.aoti_load_package(path))


@capability("ONNX, run by onnxruntime, any batch")
def _(w: Warper) -> None:
    import onnxruntime

    batch = torch.export.Dim("batch")
    arguments = images(5, 4, 8, 9), turns(5)
    dynamic = ({0: batch}, {0: batch})
    program = w.export(Module(w.warp).eval(), arguments, dynamic_shapes=dynamic, verbose=False)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    names = [value.name for value in session.get_inputs()]

    def warp(*inputs: Tensor) -> Tensor:
        feeds = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, feeds)[0])

    check_batches(warp)


# --- layout and extremes -----------------------------------------------------------------------------


@capability("channels last in, channels last out")
def _(w: Warper) -> None:
    x, theta = images(1, 3, 32, 32), turns()
    output = w.warp(x.to(memory_format=torch.channels_last), theta)
    check_close(output, exact(x, theta))
    assert output.is_contiguous(memory_format=torch.channels_last), f"strides {output.stride()}"


@capability("empty batches, no channels")
def _(w: Warper) -> None:
    for batch, channels in ((0, 2), (2, 0)):
        x, theta = torch.zeros(batch, channels, 8, 9).requires_grad_(), turns(batch).requires_grad_()
        output = w.warp(x, theta)
        assert output.shape == (batch, channels, 8, 9), f"shape {tuple(output.shape)}"
        output.sum().backward()
        assert theta.grad is not None and not theta.grad.any()


@capability("coordinates that are not numbers show")
def _(w: Warper) -> None:
    theta = turns()
    theta[0, 0, 2] = math.nan
    for padding_mode in ("zeros", "border"):
        output = w.warp(images(1, 1, 8, 8), theta, padding_mode=padding_mode)
        assert output.isnan().all(), f"values, {padding_mode} padding"


@capability("images of more than 2^31 pixels")
def _(w: Warper) -> None:
    """A ramp over the columns, whose rows are one row in memory."""
    side = 50_000
    x = torch.linspace(0, 1, side).expand(1, 1, side, side)
    theta = torch.tensor([[[0.7, 0.1, 0.05], [-0.1, 0.7, 0.1]]])
    columns, _ = coordinates(theta, (side, side), (5, 6))
    output = w.warp(x, theta, (5, 6))
    check_close(output, columns[:, None] / (side - 1), 1e-5)


@capability("the same bits for any number of threads, backward too")
def _(w: Warper) -> None:
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            x, theta = images(3, 3, 90, 90).requires_grad_(), turns(3).requires_grad_()
            output = w.warp(x, theta)
            results.append((output, *torch.autograd.grad(output.square().sum(), (x, theta))))
    finally:
        torch.set_num_threads(before)
    check_close(results[0][0], exact(x.detach(), theta.detach()))
    names = ("output", "images' gradient", "theta's gradient")
    for name, *values in zip(names, *results, strict=True):
        assert all(torch.equal(value, values[0]) for value in values), f"other bits in the {name}"


@capability("called from several Python threads")
def _(w: Warper) -> None:
    theta = turns()

    def work(k: int) -> None:
        x = images(1, 3, 32, 32) + k
        for _ in range(20):
            check_close(w.warp(x, theta), exact(x, theta), (1 + k) * TOLERANCE)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


# --- the table ---------------------------------------------------------------------------------------


def attempt(check: Callable[[Warper], None], warper: Warper) -> str:
    """Nothing for a yes, else the reason."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check(warper)
    except Exception as error:  # the result of the trial
        return reason(error)
    return ""


def reason(error: BaseException) -> str:
    """One line, of what it came from: compilers and exporters explain themselves at length."""
    while error.__cause__:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = " ".join(lines[:2] if lines and lines[0].endswith(":") else lines[:1])
    return f"{type(error).__name__}: {first}"[:200]


def run(titles: Iterable[str], contenders: Iterable[str]) -> list[dict]:
    """A row for each capability: what each contender is found to do."""
    rows = []
    for title in titles:
        tried = {name: attempt(CAPABILITIES[title], WARPERS[name]) for name in contenders}
        rows.append({"capability": title, "reasons": tried})
        print(f"{title}: {', '.join(name for name, reason in tried.items() if not reason)}", flush=True)
    return rows


def table(rows: list[dict]) -> str:
    """A Markdown table: a line for each capability, a column for each contender."""
    names = list(rows[0]["reasons"])
    lines = [
        [row["capability"], *("no" if row["reasons"][name] else "yes" for name in names)] for row in rows
    ]
    return markdown(["", *(WARPERS[name].title for name in names)], lines)


def reasons(rows: list[dict]) -> str:
    """A line for each no."""
    return "\n".join(
        f"- {row['capability']}: {WARPERS[name].title}: {reason}"
        for row in rows
        for name, reason in row["reasons"].items()
        if reason
    )


def installed(names: Iterable[str]) -> dict[str, str]:
    versions = {}
    for name in names:
        try:
            versions[name] = WARPERS[name].version()
        except ImportError as error:
            print(f"missing: {WARPERS[name].title}, for {error}: pip install -e '.[bench]'")
    return versions


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument(
        "--only", metavar="TEXT", default="", help="the capabilities whose name has this in it"
    )
    parser.add_argument("--contender", action="append", choices=list(WARPERS), help="may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    options = parser.parse_args(arguments)
    titles = [title for title in CAPABILITIES if options.only in title]
    if not titles:
        parser.error(f"--only {options.only}: no capability has this in its name")
    versions = installed(options.contender or WARPERS)
    peers = {WARPERS[name].title: v for name, v in versions.items() if WARPERS[name].module != "torch"}
    rows = run(titles, versions)
    print(f"\n{table(rows)}\n\n{reasons(rows)}")
    if options.json:
        write_json(options.json, {"machine": machine(CPU) | {"peers": peers}, "rows": rows})


if __name__ == "__main__":
    main()
