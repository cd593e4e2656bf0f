"""affine_sample's gradients."""

import itertools
import weakref

import pytest
import torch

from stn_ext import affine_sample, autograd, reference
from tests.maps import MAPS, PADDINGS, SHAPES, rotation
from tests.warps import WARPS, Affine, ThinPlateSpline, recent_torch


def gradients(f, x, theta, grad):
    """The gradients of x and theta, for a given gradient of the output."""
    x, theta = x.detach().requires_grad_(), theta.detach().requires_grad_()
    return torch.autograd.grad(f(x, theta), (x, theta), grad)


@pytest.mark.parametrize("align_corners", (False, True))
@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_the_references(device, shape, padding_mode, align_corners):
    (n, *rest), size = SHAPES[shape]
    options = {"padding_mode": padding_mode, "align_corners": align_corners}
    for dtype in (torch.float32, torch.float64):
        x = torch.randn(n, *rest, dtype=dtype)
        grad = torch.randn(n, rest[0], *(size or rest[1:]), dtype=dtype)
        for name, theta in MAPS.items():
            if name == "far outside":
                continue  # reflected coordinates have no digits left to differentiate
            theta = theta.expand(n, 2, 3).to(dtype)
            ours = gradients(
                lambda a, t: affine_sample(a, t, size, **options),
                x.to(device),
                theta.to(device),
                grad.to(device),
            )
            exact = gradients(
                lambda a, t: reference.affine_sample(a, t, size, **options),
                x.double(),
                theta.double(),
                grad.double(),
            )
            # Sums of up to as many terms as there are pixels: relative to the largest entry, with a floor for
            # maps that leave the image. 2^-24 (2^-53) a term, growing with the root of their number, and a
            # coordinate's error of 2^-23 pixels (600 pixels' 2^-53) times differences of neighbours.
            for a, e in zip(ours, exact, strict=True):
                assert a.dtype == dtype
                scale = max(e.abs().max().item(), 1)
                tolerance = 1e-5 if dtype == torch.float32 else 1e-11
                torch.testing.assert_close(
                    a.cpu().double() / scale, e / scale, rtol=0, atol=tolerance, msg=name
                )


@pytest.mark.parametrize("align_corners", (False, True))
@pytest.mark.parametrize("zoom", (4.03, 47.03))
def test_input_gradient_with_many_reflections(device, zoom, align_corners):
    """Each output pixel is added once, whichever of the image's mirrored copies it falls on."""
    theta = rotation(20.3, zoom, (0.11, 0.07)).to(device)
    x = torch.randn(1, 2, 5, 70, dtype=torch.float64, device=device)
    grad = torch.randn(1, 2, 40, 30, dtype=torch.float64, device=device)
    options = {"padding_mode": "reflection", "align_corners": align_corners}
    ours, _ = gradients(lambda a, t: affine_sample(a, t, (40, 30), **options), x, theta, grad)
    exact, _ = gradients(
        lambda a, t: reference.affine_sample(a, t, (40, 30), **options), x.cpu(), theta.cpu(), grad.cpu()
    )
    # Coordinates of up to 47 * 70 pixels have errors of 2^-41; sums of up to a thousand terms.
    torch.testing.assert_close(ours.cpu(), exact, rtol=0, atol=1e-9)


@pytest.mark.parametrize("align_corners", (False, True))
@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize(
    "name", ("small turn", "turn by 130", "zoom in", "zoom out", "shear", "half outside")
)
def test_gradcheck(device, name, padding_mode, align_corners):
    """Finite differences of 1e-6 stay within a cell: the maps are chosen away from pixel borders by more."""
    x = torch.randn(2, 2, 5, 6, dtype=torch.float64, device=device, requires_grad=True)
    theta = MAPS[name].repeat(2, 1, 1).to(device).requires_grad_()

    def f(a, t):
        return affine_sample(a, t, (4, 7), padding_mode=padding_mode, align_corners=align_corners)

    assert torch.autograd.gradcheck(f, (x, theta), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("padding_mode", PADDINGS)
def test_gradient_across_pixel_borders(device, padding_mode):
    """The value is continuous in theta: along a path it changes by the gradient's integral."""
    x = torch.randn(1, 1, 6, 6, dtype=torch.float64, device=device)
    start, end = rotation(0, 1.0).to(device), rotation(64.0, 1.3, (0.6, -0.4)).to(device)
    steps = 20000  # midpoint rule: errs where a border is crossed within a step, by a step's length each
    total = torch.zeros((), dtype=torch.float64, device=device)
    t = (torch.arange(steps, dtype=torch.float64, device=device) + 0.5) / steps
    path = start + t[:, None, None] * (end - start)
    weight = torch.randn(1, 1, 5, 5, dtype=torch.float64, device=device)
    for chunk in path.split(4000):
        theta = chunk.clone().requires_grad_()
        y = affine_sample(x.expand(len(chunk), 1, 6, 6), theta, (5, 5), padding_mode=padding_mode)
        (grad,) = torch.autograd.grad((y * weight).sum(), theta)
        total += (grad * (end - start)).sum() / steps

    def value(theta):
        return (affine_sample(x, theta, (5, 5), padding_mode=padding_mode) * weight).sum()

    torch.testing.assert_close(total, value(end) - value(start), rtol=0, atol=2e-2)
    assert (value(end) - value(start)).abs() > 0.2


@pytest.mark.parametrize("padding_mode", PADDINGS)
def test_adjoint_is_the_transpose(device, padding_mode):
    """<sample(x), g> = <x, adjoint(g)> for any map, to rounding."""
    for theta in MAPS.values():
        theta = theta.to(device)
        x = torch.randn(1, 2, 70, 90, dtype=torch.float64, device=device, requires_grad=True)
        y = affine_sample(x, theta, (50, 140), padding_mode=padding_mode)
        g = torch.randn_like(y)
        (grad,) = torch.autograd.grad(y, x, g)
        torch.testing.assert_close((y * g).sum(), (x * grad).sum(), rtol=1e-9, atol=1e-7)


def test_only_the_gradients_asked_for_are_computed(device, monkeypatch):
    called = []

    class Spy:
        def __getattr__(self, name):
            called.append(name)
            return getattr(torch.ops.stn_ext, name)

    monkeypatch.setattr(autograd, "ops", Spy())
    x = torch.randn(1, 1, 6, 6, device=device)
    theta = MAPS["small turn"].float().to(device)
    for need_x, need_theta, expected in (
        (False, False, set()),
        (True, False, {"adjoint"}),
        (False, True, {"moments"}),
        (True, True, {"backward"}),
    ):
        called.clear()
        a, t = x.clone().requires_grad_(need_x), theta.clone().requires_grad_(need_theta)
        y = affine_sample(a, t)
        assert y.requires_grad == (need_x or need_theta)
        if y.requires_grad:
            y.sum().backward()
        assert set(called) == {"sample"} | expected
        assert (a.grad is not None) == need_x and (t.grad is not None) == need_theta


def test_the_input_is_not_kept_for_its_own_gradient(device):
    x = torch.randn(1, 1, 64, 64, device=device, requires_grad=True)
    y = affine_sample(x, MAPS["small turn"].float().to(device))
    assert all(saved is None or saved.shape == (1, 2, 3) for saved in y.grad_fn.saved_tensors)


@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize("index", (None, (1, 0, 1)))
def test_both_gradients_have_the_bits_of_each_alone(device, padding_mode, index):
    count = 2 if index is None else len(index)
    index = None if index is None else torch.tensor(index, device=device)
    x, grad = (torch.randn(n, 3, 40, 70, device=device) for n in (2, count))
    theta = MAPS["turn by 130"].float().to(device).repeat(count, 1, 1)
    options = "bilinear", padding_mode, False
    ops = torch.ops.stn_ext
    grad_x, grad_theta = ops.backward(grad, x, theta, None, index, None, *options)
    assert torch.equal(grad_x, ops.adjoint(grad, theta, None, None, index, 2, x.shape[2:], *options))
    assert torch.equal(grad_theta, ops.moments(grad, x, theta, None, None, index, None, *options))


@pytest.mark.parametrize("layout", ("channels_last", "expanded", "transposed"))
def test_gradient_of_any_layout(device, layout):
    x = torch.randn(2, 4, 9, 11, device=device)
    theta = MAPS["small turn"].float().to(device).repeat(2, 1, 1)
    grad = {
        "channels_last": torch.randn(2, 4, 9, 11, device=device).to(memory_format=torch.channels_last),
        "expanded": torch.randn((), device=device).expand(2, 4, 9, 11),
        "transposed": torch.randn(2, 4, 11, 9, device=device).transpose(2, 3),
    }[layout]
    ours = gradients(affine_sample, x, theta, grad)
    expected = gradients(affine_sample, x, theta, grad.contiguous())
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


def test_empty_batch(device):
    x = torch.zeros(0, 3, 5, 6, device=device, requires_grad=True)
    theta = torch.zeros(0, 2, 3, device=device, requires_grad=True)
    affine_sample(x, theta, (4, 2)).sum().backward()
    assert x.grad.shape == x.shape and theta.grad.shape == theta.shape


def test_no_channels(device):
    x = torch.zeros(2, 0, 5, 6, device=device, requires_grad=True)
    theta = torch.zeros(2, 2, 3, device=device, requires_grad=True)
    affine_sample(x, theta).sum().backward()
    assert x.grad.shape == x.shape and torch.equal(theta.grad, torch.zeros_like(theta))


def test_second_order_by_the_input(device):
    """The output is linear in the input: all but the second derivative by theta is there."""
    x = torch.randn(1, 2, 5, 5, dtype=torch.float64, device=device, requires_grad=True)
    theta = MAPS["small turn"].to(device)
    assert torch.autograd.gradgradcheck(lambda a: affine_sample(a, theta, (4, 6)).square(), x)


def raw_arguments(kind, device, tangent=False, index=None, filled=False):
    """Of the operator sample itself: images, theta, points, tangent, index, fill; and what is no tensor."""
    x, theta = torch.randn(kind.shape, device=device), kind.theta.float().to(device)
    points = kind.points.to(device, copy=True) if kind is ThinPlateSpline else None
    tangent = torch.randn_like(theta) if tangent else None
    index = None if index is None else torch.tensor(index, device=device)
    fill = torch.linspace(-1, 1, x.shape[1], device=device) if filled else None
    padding_mode = "zeros" if filled else "reflection"
    return (x, theta, points, tangent, index, fill), (kind.size, "bilinear", padding_mode, False)


@pytest.mark.parametrize("kind", WARPS.values(), ids=WARPS.keys())
@pytest.mark.parametrize("tangent", (False, True))
@pytest.mark.parametrize("index", (None, (1, 1)))
@pytest.mark.parametrize("filled", (False, True))
def test_an_operator_called_by_itself_has_first_derivatives(kind, tangent, index, filled, device):
    """In C++: the bits that stn_ext.autograd gives, whatever is asked for."""
    (x, theta, points, along, *rest), options = raw_arguments(kind, device, tangent, index, filled)
    grad = torch.randn(2, x.shape[1], *kind.size, device=device)
    for needed in itertools.product((False, True), repeat=3 if tangent else 2):
        if not any(needed):
            continue
        results = []
        for function in (torch.ops.stn_ext.sample, autograd.sample):
            leaves = [t.clone() for t in (x, theta, along) if t is not None]
            for leaf, need in zip(leaves, needed, strict=True):
                leaf.requires_grad_(need)
            y = function(*leaves[:2], points, leaves[2] if tangent else None, *rest, *options)
            y.backward(grad)
            results.append((y.detach(), [leaf.grad for leaf in leaves]))
        assert torch.equal(results[0][0], results[1][0])
        for ours, expected in zip(results[0][1], results[1][1], strict=True):
            assert (ours is None and expected is None) or torch.equal(ours, expected)


def test_the_operator_itself_keeps_no_input_for_its_own_gradient(device):
    """As far as memory tells: what theta does not need is freed."""
    (x, *maps), options = raw_arguments(Affine, device)
    images = x.clone().requires_grad_() * 1
    freed = weakref.ref(images)
    y = torch.ops.stn_ext.sample(images, *maps, *options)
    del images
    assert freed() is None and y.requires_grad


def one_line(error):
    text = str(error.value)
    return "\n" not in text and len(text) < 300


def test_an_operator_called_by_itself_refuses_other_derivatives(device):
    (x, theta, *maps), options = raw_arguments(Affine, device)
    ops, grad = torch.ops.stn_ext, torch.randn(2, 3, *Affine.size, device=device)
    leaf = theta.clone().requires_grad_()
    y = ops.sample(x, leaf, *maps, *options)
    with pytest.raises(NotImplementedError, match=r"^stn_ext::moments has no derivative here: .*") as error:
        torch.autograd.grad(y.sum(), leaf, create_graph=True)
    assert one_line(error)
    for call in (
        lambda: ops.adjoint(grad, leaf, *maps[:3], 2, x.shape[2:], *options[1:]),
        lambda: ops.moments(grad, x, leaf, *maps, *options[1:]),
        lambda: ops.backward(grad, x, leaf, maps[0], *maps[2:], *options[1:]),
    ):
        with pytest.raises(NotImplementedError, match="has no derivative here") as error:
            call()
        assert one_line(error)
        with torch.no_grad():
            call()
    with torch.autograd.forward_ad.dual_level():
        for primal, place in ((x, 0), (theta, 1)):
            arguments = [x, theta]
            arguments[place] = torch.autograd.forward_ad.make_dual(primal, torch.ones_like(primal))
            with pytest.raises(
                NotImplementedError, match=r"^stn_ext::sample has no derivative here"
            ) as error:
                ops.sample(*arguments, *maps, *options)
            assert one_line(error)
    with pytest.raises(RuntimeError) as error:
        torch.func.grad(lambda t: ops.sample(x, t, *maps, *options).sum())(theta)
    assert one_line(error)


@pytest.mark.parametrize("argument", ("points", "fill"))
def test_points_and_fills_have_no_derivative(argument, device):
    tensors, options = raw_arguments(ThinPlateSpline, device, filled=True)
    tensors[{"points": 2, "fill": 5}[argument]].requires_grad_()
    with pytest.raises(NotImplementedError, match=r"^stn_ext::sample has no derivative here"):
        torch.ops.stn_ext.sample(*tensors, *options)


class Network(torch.nn.Module):
    """A trained map, in front of something else that is trained."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.theta = torch.nn.Parameter(kind.theta.float())
        self.scale = torch.nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        return self.kind.warp(x * self.scale, self.theta, self.kind.size, padding_mode="border").square()


def training_step(network, x):
    network.zero_grad()
    y = network(x)
    y.sum().backward()
    return [y.detach(), *(parameter.grad for parameter in network.parameters())]


@recent_torch
@pytest.mark.parametrize("kind", WARPS.values(), ids=WARPS.keys())
def test_an_exported_program_is_trained(kind, device):
    """Without stn_ext's Functions, which export leaves out."""
    network = Network(kind).to(device)
    program = torch.export.export(network, (torch.randn(kind.shape, device=device),)).module()
    x = torch.randn(kind.shape, device=device)
    for ours, expected in zip(training_step(program, x), training_step(network, x), strict=True):
        torch.testing.assert_close(ours, expected)
    assert network.theta.grad.abs().sum() > 0


@recent_torch
def test_an_exported_program_is_compiled_for_training(device):
    torch._dynamo.reset()
    network, x = Network(Affine).to(device), torch.randn(Affine.shape, device=device)
    program = torch.export.export(network, (x,)).module()
    compiled = torch.compile(program, backend="aot_eager", dynamic=True)
    for ours, expected in zip(training_step(compiled, x), training_step(network, x), strict=True):
        torch.testing.assert_close(ours, expected)


class Scripted(torch.nn.Module):
    def __init__(self, theta: torch.Tensor):
        super().__init__()
        self.theta = torch.nn.Parameter(theta)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.stn_ext.sample(
            x, self.theta, None, None, None, None, [9, 14], "bilinear", "border", False
        ).square()


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_scripted_module_is_trained(device):
    x = torch.randn(Affine.shape, device=device)
    network = Scripted(Affine.theta.float()).to(device)
    scripted = torch.jit.script(network)
    for _ in range(3):  # TorchScript's executor first looks on, and then rewrites the graph
        results = training_step(scripted, x), training_step(network, x)
        for ours, expected in zip(*results, strict=True):
            torch.testing.assert_close(ours, expected)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("kind", WARPS.values(), ids=WARPS.keys())
def test_a_traced_warp_is_trained(kind, device):
    """By torch.jit.trace, as TensorBoard's add_graph traces; for any batch, of the example's output size."""

    def warp(x, theta):
        return kind.warp(x, theta, None, padding_mode="border")

    x, theta = torch.randn(kind.shape, device=device), kind.theta.float().to(device)
    traced = torch.jit.trace(warp, (x.requires_grad_(), theta.requires_grad_()))
    x, theta = torch.randn(5, *kind.shape[1:], device=device), theta.detach().repeat(3, 1, 1)[:5]
    grad = torch.randn_like(x)
    for ours, expected in zip(
        gradients(traced, x, theta, grad), gradients(warp, x, theta, grad), strict=True
    ):
        assert torch.equal(ours, expected)


def test_functional_gradient(device):
    x = torch.randn(2, 3, 7, 8, device=device)
    theta = torch.cat([MAPS["small turn"], MAPS["shear"]]).float().to(device)
    weight = torch.randn_like(x)
    ours = torch.func.grad(lambda a, t: (affine_sample(a, t) * weight).sum(), argnums=(0, 1))(x, theta)
    expected = gradients(affine_sample, x, theta, weight)
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))
