"""Networks with a transformer of every kind, exported and traced: right at other batches and sizes too."""

import io
import subprocess
import sys

import pytest
import torch
from torch import nn

import stn_ext
from stn_ext.nn import ParallelTransformers, SpatialTransformer
from stn_ext.transforms import TRANSFORMS, create
from tests.warps import recent_torch

OTHERS = (1, 3, 15, 9), (5, 3, 21, 31)

# What a compiler or an exporter fuses and reorders, and GridSample's coordinates in float32: a few roundings
# of coordinates of up to 31 pixels.
TOLERANCE = 2e-5


class Localization(nn.Module):
    """Of images of any size, and not the identity."""

    def __init__(self, parameters, channels=3):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU())
        self.head = nn.Linear(4, parameters)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))


def transformer(transform, **options):
    module = SpatialTransformer(Localization(create(transform).num_parameters), transform, **options)
    nn.init.normal_(module.localization.head.weight, std=0.3)
    return module


def network(*transformers):
    front = transformers[0] if len(transformers) == 1 else ParallelTransformers(transformers)
    return nn.Sequential(front, nn.Conv2d(3 * len(transformers), 2, 3)).eval()


NETWORKS = {
    **{transform: lambda transform=transform: network(transformer(transform)) for transform in TRANSFORMS},
    "of a size": lambda: network(transformer("affine", size=(6, 7), padding_mode="border")),
    "antialias": lambda: network(transformer("thin_plate_spline", size=(6, 7), antialias=True)),
    "filled": lambda: network(transformer("affine", fill=torch.tensor([0.1, 0.2, 0.3]))),
    "nearest": lambda: network(transformer("projective", mode="nearest", align_corners=True)),
    "turned": lambda: network(transformer("similarity", align_corners=True)),
    "in parallel": lambda: network(transformer("affine"), transformer("thin_plate_spline")),
}
networks = pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS.keys())


def free():
    """Example images, and what is left open of their shape."""
    batch = torch.export.Dim("batch")
    height, width = (torch.export.Dim(name, min=8, max=4096) for name in ("height", "width"))
    return (torch.rand(3, 3, 12, 17),), ({0: batch, 2: height, 3: width},)


def check(exported, net):
    for shape in OTHERS:
        x = torch.rand(shape)
        with torch.no_grad():
            torch.testing.assert_close(exported(x), net(x), rtol=0, atol=TOLERANCE)


@recent_torch
@networks
def test_exported_for_any_batch_and_size(make):
    net = make()
    images, shapes = free()
    check(torch.export.export(net, images, dynamic_shapes=shapes).module(), net)


@networks
def test_onnx_for_any_batch_and_size(make):
    onnxruntime = pytest.importorskip("onnxruntime")
    net = make()
    images, shapes = free()
    program = stn_ext.onnx.export(net, images, dynamic_shapes=shapes)
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (name,) = (value.name for value in session.get_inputs())
    check(lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0]), net)


def test_a_program_is_loaded_where_stn_ext_is_imported(tmp_path):
    net, path = NETWORKS["affine"](), tmp_path / "network.pt2"
    images, shapes = free()
    torch.export.save(torch.export.export(net, images, dynamic_shapes=shapes), path)
    torch.save((images[0], net(*images)), tmp_path / "images.pt")
    code = """if True:
        import sys, torch
        import stn_ext
        images, expected = torch.load(sys.argv[1] + "/images.pt")
        with torch.no_grad():
            output = torch.export.load(sys.argv[1] + "/network.pt2").module()(images)
        print((output - expected).abs().max().item() < 1e-5)
    """
    result = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert result.stdout == "True\n", result.stderr


@networks
def test_traced_by_fx(make):
    net = make()
    traced = torch.fx.symbolic_trace(net)
    check(traced, net)
    # A graph is also code, which a file can hold.
    file = io.BytesIO()
    torch.save(traced, file)
    check(torch.load(io.BytesIO(file.getvalue()), weights_only=False), net)


def test_torchvision_extracts_features():
    extraction = pytest.importorskip("torchvision.models.feature_extraction")
    net = NETWORKS["thin_plate_spline"]()
    extractor = extraction.create_feature_extractor(net, {"0": "warped", "1": "features"})
    x = torch.rand(2, 3, 9, 9)
    outputs = extractor(x)
    assert torch.equal(outputs["warped"], net[0](x)) and torch.equal(outputs["features"], net(x))


def test_operators_are_traced_by_fx():
    def warps(x, theta, homography, coefficients, points):
        y = stn_ext.affine_sample(x, theta, (5, 6), padding_mode="border")
        y = stn_ext.projective_sample(y, homography)
        y = stn_ext.thin_plate_spline_sample(y, coefficients, points, fill=0.5)
        pixels = stn_ext.normalised_to_pixels(theta, (5, 6), (5, 6))
        return stn_ext.warp_affine(y, pixels, (7, 7)), stn_ext.warp_perspective(y, homography, (7, 7))

    traced = torch.fx.symbolic_trace(warps)
    spline = create("thin_plate_spline")
    coefficients = spline(torch.tensor([spline.identity]) + 0.1)
    maps = 0.9 * torch.eye(2, 3)[None], torch.eye(3)[None] + 0.01, coefficients, spline.points
    arguments = torch.rand(1, 2, 7, 8), *maps
    for ours, expected in zip(traced(*arguments), warps(*arguments), strict=True):
        assert torch.equal(ours, expected)


def test_subclasses_of_tensors_are_told_of_a_call():
    """PyTorch's protocol for what stands for a tensor, which tracers and subclasses rest upon."""
    calls = []

    class Watched(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            calls.append(function)
            return super().__torch_function__(function, types, args, kwargs)

    x, theta = torch.rand(1, 2, 7, 8), torch.eye(2, 3)[None]
    y = stn_ext.affine_sample(x.as_subclass(Watched), theta, padding_mode="border")
    assert type(y) is Watched and stn_ext.affine_sample in calls
    assert torch.equal(y.as_subclass(torch.Tensor), stn_ext.affine_sample(x, theta, padding_mode="border"))


@pytest.mark.filterwarnings("ignore")  # trace is deprecated, and warns of what it fixes
@networks
def test_traced_by_jit_for_any_batch(make):
    net = make()
    traced, file = torch.jit.trace(net, torch.rand(3, 3, 12, 17)), io.BytesIO()
    torch.jit.save(traced, file)
    loaded = torch.jit.load(io.BytesIO(file.getvalue()))
    for count in (1, 5):
        x = torch.rand(count, 3, 12, 17)
        for module in (traced, loaded):
            torch.testing.assert_close(module(x), net(x), rtol=0, atol=TOLERANCE)


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_shows_the_graph(tmp_path):
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    with tensorboard.SummaryWriter(tmp_path) as writer:
        writer.add_graph(NETWORKS["affine"](), torch.rand(2, 3, 9, 9))
    (events,) = tmp_path.iterdir()
    assert b"stn_ext::sample" in events.read_bytes()


def test_a_transformer_alone_is_traced_for_one_kind_of_result():
    module, x = transformer("affine").eval(), torch.rand(2, 3, 9, 9)
    with pytest.raises(TypeError, match=r"return_theta of a bool, but got Proxy; .*concrete_args"):
        torch.fx.symbolic_trace(module)
    traced = torch.fx.symbolic_trace(module, concrete_args={"return_theta": True})
    for ours, expected in zip(traced(x, True), module(x, True), strict=True):
        assert torch.equal(ours, expected)
