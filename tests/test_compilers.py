"""torch.compile, torch.export and AOTInductor: whole graphs, sizes that vary, the same numbers."""

import pytest
import torch
from torch import nn

from stn_ext import affine_sample, warp_affine
from stn_ext.models import create_model
from tests.maps import rotation
from tests.warps import WARPS, Affine, ThinPlateSpline, recent_torch

kinds = pytest.mark.parametrize("kind", WARPS.values(), ids=WARPS.keys())

# All but the sampler, which stays the operator it is, may be fused and reordered: a few roundings.
TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()


def maps(count, device):
    return torch.cat([rotation(17.7 * k + 3, 0.9 + 0.01 * k) for k in range(count)]).float().to(device)


class Counter:
    """A compiler's backend that counts the graphs it is given."""

    def __init__(self, backend="aot_eager"):
        self.graphs = 0
        self.compile = torch._dynamo.lookup_backend(backend)

    def __call__(self, graph, inputs):
        self.graphs += 1
        return self.compile(graph, inputs)


def loss(x, theta):
    return affine_sample(x, theta, padding_mode="border").square().mean()


def check_steps(compiled, shapes, device):
    """The loss and both gradients are those without a compiler."""
    for shape in shapes:
        x, theta = torch.randn(shape, device=device), maps(shape[0], device)
        results = []
        for f in (compiled, loss):
            a, t = x.clone().requires_grad_(), theta.clone().requires_grad_()
            value = f(a, t)
            results.append((value.detach(), *torch.autograd.grad(value, (a, t))))
        for ours, expected in zip(*results, strict=True):
            torch.testing.assert_close(ours, expected, rtol=TOLERANCE, atol=TOLERANCE)


@recent_torch
def test_other_batches_do_not_recompile(device):
    """One graph, forward and backward, serves every batch, height and width when they are dynamic."""
    counter = Counter()
    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend=counter)
    check_steps(compiled, [(4, 3, 12, 9), (5, 3, 12, 9), (64, 3, 12, 9), (7, 3, 20, 31)], device)
    assert counter.graphs == 1


def test_a_second_batch_size_makes_it_dynamic_for_good(device):
    """By default the first call is for one size, and the second compiles for all that follow."""
    counter = Counter()
    compiled = torch.compile(loss, fullgraph=True, backend=counter)
    check_steps(compiled, [(4, 2, 12, 9), (6, 2, 12, 9), (3, 2, 12, 9), (17, 2, 12, 9)], device)
    assert counter.graphs == 2


@recent_torch
def test_inductor_compiles_a_training_step(device):
    compiled = torch.compile(loss, fullgraph=True, dynamic=True)
    check_steps(compiled, [(3, 2, 12, 9), (8, 2, 11, 14)], device)


def test_a_networks_training_step_serves_every_batch(device):
    model = create_model("small", (1, 28, 28), 10, transformer=True).to(device).eval()
    nn.init.normal_(model.transformer.localization[-1].weight, std=0.1)
    counter = Counter()
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    compilations = []
    for count in (16, 17, 40):  # PyTorch's convolutions distinguish batches below 16 from larger ones
        x = torch.rand(count, 1, 28, 28, device=device)
        torch._dynamo.mark_dynamic(x, 0)
        gradients = []
        for network in (compiled, model):
            network(x).logsumexp(1).mean().backward()
            gradients.append([p.grad.clone() for p in model.parameters()])
            model.zero_grad()
        for ours, expected in zip(*gradients, strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=TOLERANCE)
        compilations.append(counter.graphs)
    assert compilations == [1, 1, 1]


def test_warp_affine_compiles_whole(device):
    compiled = torch.compile(warp_affine, fullgraph=True, dynamic=True, backend="aot_eager")
    M = torch.tensor([[[0.9, 0.2, 1.3], [-0.1, 1.1, 0.4]]], device=device)
    for size in (9, 14):
        src = torch.rand(3, 2, size, 11, device=device)
        torch.testing.assert_close(compiled(src, M, (8, size)), warp_affine(src, M, (8, size)))


@recent_torch
def test_warp_affine_is_exported_for_any_batch(device):
    class Module(nn.Module):
        def forward(self, x, M):
            return warp_affine(x, M, (8, 9))

    arguments = torch.rand(4, 2, 6, 7, device=device), maps(4, device)
    batch = torch.export.Dim("batch")
    program = torch.export.export(Module(), arguments, dynamic_shapes=({0: batch}, {0: batch})).module()
    x, M = torch.rand(9, 2, 6, 7, device=device), maps(9, device)
    torch.testing.assert_close(program(x, M), warp_affine(x, M, (8, 9)))


def test_channels_last_is_known_to_the_compiler(device):
    """Else a compiled graph would read its output by the wrong strides."""
    compiled = torch.compile(lambda x, t: affine_sample(x, t) + 1, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 4, 6, 7, device=device).to(memory_format=torch.channels_last)
    y = compiled(x, maps(2, device))
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, affine_sample(x, maps(2, device)) + 1)


@recent_torch
@kinds
@pytest.mark.parametrize("trained", (False, True))
def test_fills_in_one_graph(kind, trained, device):
    """A number, and a value for each channel, which may have a gradient of its own."""
    x, theta = problem(kind, 3, 9, device)
    fill = torch.linspace(-1, 2, kind.shape[1], device=device).requires_grad_(trained)

    def warp(x, theta):
        return kind.warp(x, theta, None, fill=fill) + kind.warp(x, theta, None, fill=0.5)

    compiled = torch.compile(warp, fullgraph=True, dynamic=True, backend="aot_eager")
    results = []
    for f in (compiled, warp):
        leaves = [x.clone().requires_grad_(), theta.clone().requires_grad_(), *[fill] * trained]
        y = f(*leaves[:2])
        results.append((y.detach(), *torch.autograd.grad(y.square().mean(), leaves)))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=TOLERANCE, atol=TOLERANCE)


@recent_torch
def test_fills_are_exported_for_any_batch(device):
    class Filled(nn.Module):
        def forward(self, x, theta):
            return affine_sample(x, theta, fill=[0.5, -1.0, 2.0]) + affine_sample(x, theta, fill=0.25)

    batch = {0: torch.export.Dim("batch")}
    inputs = problem(Affine, 2, 9, device)
    program = torch.export.export(Filled(), inputs, dynamic_shapes=(batch, batch)).module()
    inputs = problem(Affine, 5, 9, device)
    torch.testing.assert_close(program(*inputs), Filled()(*inputs))


class Warp(nn.Module):
    """A kind of warp, to the input's size."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, x, theta):
        return self.kind.warp(x, theta, None, padding_mode="reflection")


def problem(kind, count, height, device):
    shape = count, *kind.shape[1:-2], height, kind.shape[-1]
    scale = 1 - 0.02 * torch.arange(count, device=device)[:, None, None]
    theta = kind.theta[:1].float().to(device) * scale
    return torch.rand(shape, device=device), theta


def exported(kind, device):
    batch, height = torch.export.Dim("batch"), torch.export.Dim("height")
    dynamic = {0: batch, len(kind.shape) - 2: height}, {0: batch}
    return torch.export.export(Warp(kind), problem(kind, 2, 9, device), dynamic_shapes=dynamic)


@recent_torch
@kinds
def test_gradients_of_every_kind_in_one_graph(kind, device):
    """Batch and height vary; both gradients are those without a compiler."""
    warp, counter = Warp(kind), Counter()
    compiled = torch.compile(warp, fullgraph=True, dynamic=True, backend=counter)
    for count, height in ((11, 9), (12, 9), (17, 14)):  # equal to no other length: PyTorch ties equals
        x, theta = problem(kind, count, height, device)
        results = []
        for f in (compiled, warp):
            leaves = x.clone().requires_grad_(), theta.clone().requires_grad_()
            output = f(*leaves)
            results.append((output.detach(), *torch.autograd.grad(output.square().mean(), leaves)))
        for ours, expected in zip(*results, strict=True):
            torch.testing.assert_close(ours, expected, rtol=TOLERANCE, atol=TOLERANCE)
    assert counter.graphs == 1


@kinds
def test_export_keeps_one_operator_and_varying_sizes(kind, device):
    program = exported(kind, device)
    calls = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert calls.count(torch.ops.stn_ext.sample.default) == 1
    for count, height in ((1, 9), (5, 21)):
        inputs = problem(kind, count, height, device)
        assert torch.equal(program.module()(*inputs), Warp(kind)(*inputs))


def test_exported_programs_are_saved_and_loaded(device, tmp_path):
    torch.export.save(exported(Affine, device), tmp_path / "warp.pt2")
    loaded = torch.export.load(tmp_path / "warp.pt2").module()
    inputs = problem(Affine, 4, 10, device)
    assert torch.equal(loaded(*inputs), Warp(Affine)(*inputs))


@recent_torch
@kinds
def test_aot_inductor_package(kind, device, tmp_path):
    """A package of machine code, loaded without the Python of the network."""
    path = torch._inductor.aoti_compile_and_package(
        exported(kind, device), package_path=str(tmp_path / "warp.pt2")
    )
    packaged = torch._inductor.aoti_load_package(path)
    for count, height in ((3, 9), (5, 14)):
        inputs = problem(kind, count, height, device)
        torch.testing.assert_close(packaged(*inputs), Warp(kind)(*inputs), rtol=0, atol=TOLERANCE)


def opcheck_cases(kind, dtype, memory_format, device, index):
    """The arguments of each operator for a kind of warp, without a tangent and with one."""
    dims = len(kind.size)
    like = {"device": device, "dtype": dtype}

    def images(count, size):
        noise = torch.randn(count, kind.shape[1], *size, **like)
        last = torch.channels_last if dims == 2 else torch.channels_last_3d
        return noise.to(memory_format=last) if memory_format == "channels last" else noise

    theta = kind.theta.to(device)
    points = kind.points.to(device) if kind is ThinPlateSpline else None
    numbers = torch.tensor([2, 0], device=device) if index else None
    # Of CUDA, fills are composed.
    fill = torch.arange(kind.shape[1], **like) if device.type == "cpu" else None
    x, grad = images(3 if index else 2, kind.shape[2:]), images(2, kind.size)
    for tangent in (None, torch.randn_like(theta)):
        maps = theta, points, tangent, numbers
        yield "sample", (x, *maps, fill, kind.size, "bilinear", "zeros", False)
        yield "adjoint", (grad, *maps, len(x), kind.shape[2:], "nearest", "reflection", False)
        yield "moments", (grad, x, *maps, fill, "bilinear", "zeros", True)
        yield "moments", (grad, x, *maps, None, "bilinear", "border", True)
    yield "backward", (grad, x, theta, points, numbers, fill, "bilinear", "zeros", False)
    yield "backward", (grad, x, theta, points, numbers, None, "bilinear", "reflection", True)


@kinds
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16))
@pytest.mark.parametrize("memory_format", ("contiguous", "channels last"))
@pytest.mark.parametrize("index", (False, True))
def test_opcheck(kind, dtype, memory_format, index, device):
    """Schemas tell the truth about aliases, fake kernels about shapes, dtypes and strides."""
    checked = set()
    for name, arguments in opcheck_cases(kind, dtype, memory_format, device, index):
        torch.library.opcheck(getattr(torch.ops.stn_ext, name).default, arguments)
        checked.add(name)
    schemas = (schema.name for schema in torch._C._jit_get_all_schemas())
    assert checked == {name.removeprefix("stn_ext::") for name in schemas if name.startswith("stn_ext::")}


@pytest.mark.parametrize(
    "dtype, mode", ((torch.uint8, "bilinear"), (torch.int16, "bilinear"), (torch.int64, "nearest"))
)
def test_opcheck_of_integers(dtype, mode, device):
    x = torch.randint(0, 256, Affine.shape, device=device).to(dtype)
    rest = None, None, None, None, Affine.size, mode, "zeros", False
    torch.library.opcheck(torch.ops.stn_ext.sample.default, (x, Affine.theta.to(device), *rest))
