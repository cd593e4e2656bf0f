"""Networks exported to ONNX give onnxruntime what PyTorch computes, on real digits."""

import subprocess
import sys

import pytest
import torch
from torch import nn

import stn_ext.onnx
from stn_ext import affine_sample
from stn_ext.models import create_model
from stn_ext.training import data
from tests.maps import MAPS, PADDINGS
from tests.warps import WARPS, Affine, Projective

onnxruntime = pytest.importorskip("onnxruntime")

# AffineGrid and GridSample keep coordinates in float32: 28 pixels to 2^-19 or so after a few roundings,
# times differences of neighbours of at most 1.
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def digits():
    """Test digits of MNIST, (200, 1, 28, 28), from 0 to 1."""
    return data.load("mnist", "datasets", train=False, limit=200).images.float() / 255


def run(program, *inputs):
    """onnxruntime's outputs."""
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_inputs()]
    feeds = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
    return [torch.from_numpy(output) for output in session.run(None, feeds)]


def operators(program):
    return {node.op_type for node in program.model.graph}


class Sample(nn.Module):
    def __init__(self, *arguments, **options):
        super().__init__()
        self.arguments, self.options = arguments, options
        self.eval()

    def forward(self, x, theta):
        return affine_sample(x, theta, *self.arguments, **self.options)


def all_maps(count):
    maps = [theta for name, theta in MAPS.items() if name != "far outside"]
    return torch.cat([maps[k % len(maps)] for k in range(count)]).float()


@pytest.mark.parametrize("net", ("small", "cnn"))
def test_networks_agree_on_digits_for_any_batch(digits, net):
    model = create_model(net, (1, 28, 28), 10, transformer=True).eval()
    torch.nn.init.normal_(model.transformer.localization[-1].weight, std=0.1)  # no longer the identity
    batch = torch.export.Dim("batch")
    program = stn_ext.onnx.export(model, (digits[:3],), dynamic_shapes=({0: batch},))
    assert {"AffineGrid", "GridSample"} <= operators(program)
    assert program.model.opset_imports == {"": 20}
    for count in (1, 3, 200):
        (logits,) = run(program, digits[:count])
        with torch.no_grad():
            expected = model(digits[:count])
        # The classifier amplifies the warp's errors by less than ten.
        torch.testing.assert_close(logits, expected, rtol=0, atol=10 * TOLERANCE)
        assert (model.transformer(digits[:count]) - digits[:count]).abs().max() > 0.1


@pytest.mark.parametrize("align_corners", (False, True))
@pytest.mark.parametrize("padding_mode", PADDINGS)
def test_options_agree_on_digits(digits, padding_mode, align_corners):
    sample = Sample((20, 33), padding_mode=padding_mode, align_corners=align_corners)
    inputs = digits, all_maps(len(digits))
    (output,) = run(stn_ext.onnx.export(sample, inputs), *inputs)
    torch.testing.assert_close(output, sample(*inputs), rtol=0, atol=TOLERANCE)


def test_size_may_vary(digits):
    """Height and width left open: the default output is of the input's size."""
    inputs = digits[:2], all_maps(2)
    sizes = {0: torch.export.Dim("n"), 2: torch.export.Dim("h"), 3: torch.export.Dim("w")}
    program = stn_ext.onnx.export(Sample(), inputs, dynamic_shapes=(sizes, {0: sizes[0]}))
    inputs = digits[:5, :, 3:, :20], all_maps(5)
    (output,) = run(program, inputs[0].contiguous(), inputs[1])
    torch.testing.assert_close(output, affine_sample(*inputs), rtol=0, atol=TOLERANCE)


def test_theta_of_another_precision(digits):
    inputs = digits[:4], all_maps(4).double()
    (output,) = run(stn_ext.onnx.export(Sample(), inputs), *inputs)
    torch.testing.assert_close(output, affine_sample(*inputs), rtol=0, atol=TOLERANCE)


def test_table_serves_torchs_own_export(digits):
    inputs = digits[:4], all_maps(4)
    with torch.no_grad():
        program = torch.onnx.export(
            Sample(), inputs, dynamo=True, custom_translation_table=stn_ext.onnx.TRANSLATIONS
        )
    torch.testing.assert_close(run(program, *inputs)[0], affine_sample(*inputs), rtol=0, atol=TOLERANCE)


def test_file_is_written(digits, tmp_path):
    path = tmp_path / "sample.onnx"
    inputs = digits[:4], all_maps(4)
    stn_ext.onnx.export(Sample(), inputs, path)
    session = onnxruntime.InferenceSession(path)
    assert [value.name for value in session.get_inputs()] == ["x", "theta"]


kinds = pytest.mark.parametrize("kind", WARPS.values(), ids=WARPS.keys())


class Warp(nn.Module):
    """A kind of warp with options, of which tensors are the model's constants."""

    def __init__(self, kind, size, **options):
        super().__init__()
        self.kind, self.size, self.options = kind, size, options
        self.eval()

    def forward(self, x, theta):
        return self.kind.warp(x, theta, self.size, **self.options)


def check(program, warp, *inputs, tolerance=TOLERANCE):
    (output,) = run(program, *inputs)
    expected = warp(*inputs)
    assert output.dtype == expected.dtype
    torch.testing.assert_close(output.double(), expected.double(), rtol=0, atol=tolerance, equal_nan=True)


@kinds
@pytest.mark.parametrize(
    ("mode", "padding_mode", "align_corners"),
    [
        ("bilinear", "zeros", False),
        ("bilinear", "border", True),
        ("bilinear", "reflection", False),
        ("bilinear", "reflection", True),
        ("nearest", "zeros", True),
        ("nearest", "reflection", False),
    ],
)
def test_every_kind_and_mode(kind, mode, padding_mode, align_corners):
    warp = Warp(kind, kind.size, mode=mode, padding_mode=padding_mode, align_corners=align_corners)
    batch = {0: torch.export.Dim("batch")}
    inputs = torch.rand(kind.shape), kind.theta.float()
    program = stn_ext.onnx.export(warp, inputs, dynamic_shapes=(batch, batch))
    assert "GridSample" in operators(program)
    for count in (1, 2, 5):
        check(program, warp, *(torch.cat([t] * 3)[:count] for t in inputs))


def test_points_behind_the_horizon():
    theta = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [2, 0.03, 0.01]]])
    for padding_mode in PADDINGS:
        warp = Warp(Projective, (8, 9), padding_mode=padding_mode)
        inputs = torch.rand(1, 2, 8, 9), theta
        # Near the horizon coordinates are divided by depths of a tenth.
        check(stn_ext.onnx.export(warp, inputs), warp, *inputs, tolerance=10 * TOLERANCE)


@kinds
@pytest.mark.parametrize("fill", (0.7, "channels", "pixels", torch.inf))
def test_fill(kind, fill):
    fills = {
        "channels": torch.tensor([0.3, -1.1, torch.nan])[: kind.shape[1]],
        "pixels": torch.rand(1, 1, *kind.size),
    }
    warp = Warp(kind, kind.size, fill=fills.get(fill, fill))
    inputs = torch.rand(kind.shape), kind.theta.float()
    check(stn_ext.onnx.export(warp, inputs), warp, *inputs)


@kinds
@pytest.mark.parametrize("dtype", (torch.bool, torch.int16, torch.uint32, torch.int64))
@pytest.mark.parametrize("fill", (None, 1))
def test_labels(kind, dtype, fill):
    x = torch.randint(0, 2**15, kind.shape).to(dtype)
    warp = Warp(kind, kind.size, mode="nearest", fill=fill)
    inputs = x, kind.theta.float()
    check(stn_ext.onnx.export(warp, inputs), warp, *inputs, tolerance=0)


@kinds
def test_shared_images(kind):
    """An index, and one image for all maps, of whatever number."""
    theta = kind.theta.float()
    indexed = Warp(kind, kind.size, index=torch.tensor([2, 0]))
    inputs = torch.rand(3, *kind.shape[1:]), theta
    check(stn_ext.onnx.export(indexed, inputs), indexed, *inputs)
    one = Warp(kind, kind.size)
    inputs = torch.rand(1, *kind.shape[1:]), theta
    program = stn_ext.onnx.export(one, inputs, dynamic_shapes=({}, {0: torch.export.Dim("maps")}))
    for maps in (theta, theta.repeat(3, 1, 1)):
        check(program, one, inputs[0], maps)


def test_maps_in_pixels():
    theta = torch.tensor([[[0.9, 0.1, 1.3], [-0.1, 1.1, 0.4]], [[1.1, 0.2, -1.3], [0.1, 0.9, 2.4]]])
    warp = Warp(Affine, (8, 9), theta_units="pixel")
    inputs = torch.rand(2, 3, 10, 11), theta
    check(stn_ext.onnx.export(warp, inputs), warp, *inputs)


@pytest.mark.parametrize("dtype", (torch.float16, torch.uint8, torch.int16, torch.uint16, torch.float64))
@pytest.mark.parametrize("fill", (None, 1e6))
def test_other_dtypes(dtype, fill):
    """All but float64 are computed with in float32, as by the operator, and rounded once."""
    x = torch.rand(Affine.shape)
    x = x.to(dtype) if dtype.is_floating_point else (x * 256).floor().to(dtype)
    warp = Warp(Affine, Affine.size, fill=None if dtype.is_floating_point else fill)
    inputs = x, Affine.theta.to(torch.float64 if dtype == torch.float64 else torch.float32)
    # One step of the dtype where the two sides' errors put a value on either side of a rounding.
    tolerance = {torch.float16: 2**-10, torch.float64: 1e-12}.get(dtype, 1)
    check(stn_ext.onnx.export(warp, inputs), warp, *inputs, tolerance=tolerance)


def test_derivatives_are_refused():
    class Derivative(nn.Module):
        def forward(self, x, theta):
            maps = theta, None, 2 * theta, None
            return torch.ops.stn_ext.sample(x, *maps, None, (5, 6), "bilinear", "zeros", False)

    inputs = torch.rand(2, 3, 5, 6), Affine.theta.float()
    with pytest.raises(torch.onnx.OnnxExporterError, match="derivatives along a tangent are not exported"):
        stn_ext.onnx.export(Derivative(), inputs)


def test_older_opsets_are_refused(digits):
    with pytest.raises(ValueError, match=r"expected opset_version of at least 20, .* but got 18"):
        stn_ext.onnx.export(Sample(), (digits[:1], all_maps(1)), opset_version=18)


def test_import_stn_ext_loads_onnx_when_it_is_asked_for():
    code = """if True:
        import sys, stn_ext
        print([name for name in sys.modules if name.startswith("onnx")])
        print(stn_ext.onnx.export.__name__)
        print(hasattr(stn_ext, "onyx"))
    """
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.splitlines() == ["[]", "export", "False"], result.stderr
