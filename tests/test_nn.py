"""SpatialTransformer: identity at the start, any localisation network, gradients into it, its mistakes."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stn_ext import affine_sample
from stn_ext.nn import ParallelTransformers, SpatialTransformer
from stn_ext.transforms import TRANSFORMS, create


def localization(parameters: int, channels: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, parameters)
    )


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_starts_as_the_identity(transform, padding_mode, align_corners):
    x = torch.rand(2, 3, 9, 12)
    module = SpatialTransformer(
        localization(create(transform).num_parameters), transform,
        padding_mode=padding_mode, align_corners=align_corners,
    )  # fmt: skip
    # Parameters of up to 1 are rounded to float32, which moves 6 pixels' half width by 4e-7, or a spline's
    # coefficients by a few times that, and a pixel's value by as much.
    torch.testing.assert_close(module(x), x, atol=1e-5, rtol=0)


@pytest.mark.parametrize("cast", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("how", ["autocast", "module", "and back"])
@pytest.mark.parametrize("transform", [*TRANSFORMS, "8 x 8"])
def test_is_the_identity_in_low_precision(transform, how, cast):
    """A picture of its own coordinates, in pixels, tells how far each has moved."""
    options = {"grid": 8} if transform == "8 x 8" else {}
    transform = "thin_plate_spline" if options else transform
    count = create(transform, **options).num_parameters
    module = SpatialTransformer(localization(count, 2), transform, padding_mode="border", **options)
    x = torch.stack(torch.meshgrid(torch.arange(224.0), torch.arange(224.0), indexing="ij"))[None]
    if how != "autocast":
        module.to(cast)
    if how == "and back":
        module.float()
    if how == "module":  # its images, too, would be rounded
        theta = module.transform(module.localization((x / 224).to(cast)))
        moved = module.sample(x, theta)
    else:
        with torch.autocast("cpu", cast, enabled=how == "autocast"):
            moved = module(x)
    # A spline's parameters, the places of its points, are rounded to 2^-9 of a number of up to 1 by bfloat16,
    # which is 0.22 of the 112 pixels from the middle to the border; between points hardly more. The other
    # transforms' identities are whole numbers.
    assert (moved - x).abs().max() < (0.25 if transform == "thin_plate_spline" else 1e-3)


def test_returns_theta_on_request():
    warped, theta = SpatialTransformer(localization(6))(torch.rand(2, 3, 8, 8), return_theta=True)
    assert warped.shape == (2, 3, 8, 8)
    assert torch.equal(theta, torch.eye(2, 3).expand(2, 2, 3))


def test_warps_as_theta_says_and_to_any_size():
    module = SpatialTransformer(localization(6), size=(5, 7), padding_mode="border", align_corners=True)
    values = torch.tensor([0.7, 0.2, 0.1, -0.3, 0.8, -0.2])
    with torch.no_grad():
        module.localization[-1].bias.copy_(values)
    x = torch.rand(2, 3, 8, 8)
    grid = F.affine_grid(values.view(1, 2, 3).expand(2, 2, 3), (2, 3, 5, 7), align_corners=True)
    expected = F.grid_sample(x, grid, padding_mode="border", align_corners=True)
    torch.testing.assert_close(module(x), expected, atol=1e-5, rtol=1e-5)


def test_a_training_step_moves_theta_away_from_the_identity():
    torch.manual_seed(0)
    module = SpatialTransformer(localization(6))
    x = torch.rand(2, 3, 8, 8)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    (module(x) - x.flip(3)).square().sum().backward()
    optimizer.step()
    theta = module(x, return_theta=True)[1]
    assert (theta - torch.eye(2, 3)).abs().max() > 0.01


@pytest.mark.parametrize(
    "module, arguments, message",
    [
        (localization(5), {}, "out_features = 6 for transform 'affine', but got 5"),
        (
            localization(6),
            {"transform": "attention"},
            "out_features = 3 for transform 'attention', but got 6",
        ),
        (localization(6), {"transform": "swirl"}, "expected a transform of affine, .* but got 'swirl'"),
        (nn.Flatten(), {}, "end in an nn.Linear with a bias"),
        (nn.Linear(4, 6, bias=False), {}, "end in an nn.Linear with a bias"),
    ],
)
def test_a_localization_that_does_not_fit_is_refused(module, arguments, message):
    with pytest.raises(ValueError, match=message):
        SpatialTransformer(module, **arguments)


def test_a_function_is_no_localization():
    with pytest.raises(TypeError, match=r"localization of an nn\.Module, .* but got function"):
        SpatialTransformer(lambda x: x.new_zeros(len(x), 6))


def test_parameters_of_another_number_are_refused():
    module = SpatialTransformer(nn.Flatten(), "rotation", identity=False)
    with pytest.raises(
        ValueError, match=r"'rotation': expected parameters of shape \(N, 1\), but got \(2, 192\)"
    ):
        module(torch.rand(2, 3, 8, 8))


class Net(nn.Module):
    """A localisation network that calls its layers in an order of its own, and a function behind them."""

    def __init__(self, end=lambda x: x):
        super().__init__()
        self.head = nn.Linear(6, 6)
        self.features = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 6))
        self.end = end

    def forward(self, x):
        return self.end(self.head(self.features(x)))


class Unused(Net):
    def forward(self, x):
        return self.head(x[:, :2, 0, :3].flatten(1))


class Bounded(Net):
    def forward(self, x):
        return 0.1 * self.features(x)


def behind(*layers):
    return nn.Sequential(*localization(6), *layers)


@pytest.mark.parametrize(
    "network, message",
    [
        (behind(nn.Tanh()), r"behind it runs localization\.5 \(Tanh\); let it come last, or"),
        (behind(nn.LayerNorm(6)), r"localization\.4, its .*behind it runs localization\.5 \(LayerNorm\)"),
        (behind(nn.BatchNorm1d(6), nn.Sigmoid()), r"5 \(BatchNorm1d\), localization\.6 \(Sigmoid\)"),
        (behind(nn.Dropout(0.99)), r"behind it runs localization\.5 \(Dropout\)"),
        (Net(), r"localization\.features\.2, its last nn\.Linear, .* runs localization\.head \(Linear\)"),
        (Unused(), r"localization\.features\.2, its last nn\.Linear, is set .* but does not run"),
        (Bounded(), r"but Bounded\.forward changes what it returns"),
    ],
)
def test_what_hides_the_identity_is_named(network, message):
    with pytest.raises(ValueError, match=message):
        SpatialTransformer(network)(torch.rand(2, 3, 8, 8))


@pytest.mark.parametrize(
    "norm",
    [
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
    ],
)
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def test_weights_that_are_computed_from_others_are_refused(norm):
    network = localization(6)
    norm(network[-1])
    with pytest.raises(ValueError, match=r"weight and bias of localization\.4, .* computed from others"):
        SpatialTransformer(network)


def test_what_leaves_the_identity_may_stand_behind_it():
    for network, transform in (
        (behind(nn.ReLU(), nn.Identity()), "affine"),
        (behind(nn.Dropout()).eval(), "affine"),
    ):
        x = torch.rand(2, 3, 8, 8)
        torch.testing.assert_close(SpatialTransformer(network, transform)(x), x, atol=1e-5, rtol=0)


def test_only_a_start_is_checked():
    """Neither what was learned or loaded before the first call, nor what comes after it, nor other starts."""
    x = torch.rand(2, 3, 8, 8)
    learned = SpatialTransformer(behind(nn.Tanh()))
    with torch.no_grad():
        learned.localization[-2].weight.normal_()
    loaded = SpatialTransformer(behind(nn.Tanh()))
    loaded.load_state_dict(learned.state_dict())
    assert torch.equal(learned(x), loaded(x))
    elsewhere = SpatialTransformer(behind(nn.Tanh()), identity=False)
    assert elsewhere.localization[-2].weight.any() and elsewhere(x).isfinite().all()
    restarted = SpatialTransformer(localization(6))
    restarted(x)
    restarted.localization.append(nn.Tanh())
    restarted(x)
    restarted.reset_to_identity()
    with pytest.raises(ValueError, match="behind it runs"):
        restarted(x)


def test_the_start_is_checked_where_there_are_numbers_to_check():
    """Under a compiler, without images, by features that are no numbers it waits for the next call."""
    module, x = SpatialTransformer(behind(nn.Tanh())), torch.rand(2, 3, 8, 8)
    torch.compile(module, backend="eager", fullgraph=True)(x)
    torch.func.vmap(lambda x: module(x[None]))(x)
    torch.export.export(module, (x,))
    copy.deepcopy(module).to("meta")(x.to("meta"))
    module(x[:0])
    module(x * torch.inf)
    # A replica of DataParallel asks for all.
    with pytest.raises(ValueError, match="behind it runs"):
        module._replicate_for_data_parallel()(x)
    module(x)


def test_options_reach_the_transform():
    module = SpatialTransformer(localization(12), "thin_plate_spline", grid=(2, 3))
    assert module(torch.rand(2, 3, 8, 8), return_theta=True)[1].shape == (2, 2, 9)
    with pytest.raises(ValueError, match="'affine' takes no such options: grid"):
        SpatialTransformer(localization(6), grid=(2, 3))
    with pytest.raises(ValueError, match="expected a grid of at least 2 x 2 points, but got 1"):
        SpatialTransformer(localization(32), "thin_plate_spline", grid=1)


def test_options_reach_the_sampler():
    x = torch.rand(2, 3, 8, 8)
    shifted = torch.tensor([1.0, 0.0, 0.55, 0.0, 1.0, 0.0])
    fills = (
        0.5,
        [0.1, 0.2, 0.3],
        torch.rand(2, 3, 1, 1),
        torch.tensor([0.1, 0.2, 0.3]),
        nn.Parameter(torch.tensor([0.1, 0.2, 0.3])),
    )
    for mode in ("bilinear", "nearest"):
        for fill in (None, *fills):
            module = SpatialTransformer(localization(6), size=5, mode=mode, fill=fill)
            with torch.no_grad():
                module.localization[-1].bias.copy_(shifted)
            expected = affine_sample(x, shifted.view(1, 2, 3).expand(2, 2, 3), (5, 5), mode=mode, fill=fill)
            assert torch.equal(module(x), expected)
            assert ("fill" in module.state_dict()) == isinstance(fill, nn.Parameter)
    module(x).sum().backward()
    assert module.fill.grad.abs().min() > 0


@pytest.mark.parametrize("size", [5, [5, 5], torch.Size((5, 5)), np.array([5, 5]), (np.int64(5), 5)])
def test_sizes_of_whatever_holds_integers(size):
    module = SpatialTransformer(localization(6), size=size)
    assert module.size == (5, 5) and module(torch.rand(2, 3, 8, 8)).shape == (2, 3, 5, 5)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"padding_mode": "constant"}, ValueError, "padding_mode.*constant"),
        ({"padding_mode": None}, TypeError, "padding_mode of type str, but got None"),
        ({"align_corners": "yes"}, TypeError, "align_corners of type bool, but got 'yes'"),
        ({"mode": "bicubic"}, ValueError, "mode.*bicubic"),
        ({"fill": 1.0, "padding_mode": "border"}, ValueError, "padding_mode 'zeros' with fill"),
        ({"fill": "white"}, (TypeError, ValueError), "expected fill .* but got 'white'"),
        *(
            ({"size": size}, ValueError, r"size of two positive integers \(height, width\), but got")
            for size in (0, (4, 0), (4,), (4, 4, 4), 4.0, "44", True, (True, True))
        ),
    ],
)
def test_mistakes_are_told_at_construction(options, error, message):
    with pytest.raises(error, match=message):
        SpatialTransformer(localization(6), **options)


def test_repr_names_the_transform():
    module = SpatialTransformer(localization(12), "thin_plate_spline", grid=(2, 3))
    text = repr(module)
    assert "thin_plate_spline, size=None" in text and "ThinPlateSpline(grid=(2, 3))" in text
    assert "Matrix(similarity)" in repr(SpatialTransformer(localization(4), "similarity"))


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("aspect", [False, True])
def test_a_picture_that_is_not_square_is_turned_as_it_is(aspect, align_corners):
    """A square of 20 x 20 pixels turned by 45 degrees is as high as wide, unless aspect is left aside."""
    x = torch.zeros(1, 1, 60, 120)
    x[..., 20:40, 50:70] = 1
    options = {} if aspect else {"aspect": False}
    module = SpatialTransformer(localization(1, 1), "rotation", align_corners=align_corners, **options)
    with torch.no_grad():
        module.localization[-1].bias.fill_(torch.pi / 4)
    seen = module(x)[0, 0] > 0.5
    height, width = seen.any(1).sum(), seen.any(0).sum()
    if aspect:
        assert abs(height - 28) <= 2 and abs(width - 28) <= 2  # 20 times the root of 2
    else:
        assert width - height > 10


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transformers_at_several_depths_learn_together(transform):
    parameters = create(transform).num_parameters
    network = nn.Sequential(
        SpatialTransformer(localization(parameters), transform),
        nn.Conv2d(3, 5, 3),
        SpatialTransformer(localization(parameters, 5), transform, size=(6, 7)),
        SpatialTransformer(localization(parameters, 5), transform),
    )
    x = torch.rand(2, 3, 12, 14)
    optimizer = torch.optim.SGD(network.parameters(), 1e-4)
    for _ in range(2):  # a localisation network's first layers get a gradient once its last is not zero
        optimizer.zero_grad()
        y = network(x)
        y.square().sum().backward()
        optimizer.step()
    assert y.shape == (2, 5, 6, 7)
    for name, parameter in network.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_parallel_transformers_concatenate_what_each_sees():
    module = ParallelTransformers(SpatialTransformer(localization(6), size=(5, 4)) for _ in range(4))
    with torch.no_grad():
        for transformer in module.transformers:
            transformer.localization[-1].bias.add_(0.1 * torch.randn(6))
    x = torch.rand(2, 3, 8, 8)
    warped, thetas = module(x, return_theta=True)
    assert warped.shape == (2, 12, 5, 4) and len(thetas) == 4
    for i, transformer in enumerate(module.transformers):
        assert torch.equal(warped[:, 3 * i : 3 * i + 3], transformer(x))
        assert torch.equal(thetas[i], transformer(x, return_theta=True)[1])
    assert torch.equal(module(x), warped)


def test_antialiasing_averages_the_pixels_that_an_output_pixel_covers():
    x = torch.rand(2, 3, 12, 18)
    module = SpatialTransformer(localization(6), size=(4, 3), antialias=True)
    torch.testing.assert_close(module(x), F.avg_pool2d(x, (3, 6)), atol=1e-5, rtol=0)
    # Where nothing shrinks it changes nothing.
    for size in (None, (12, 18), (20, 18)):
        modules = [SpatialTransformer(localization(6), size=size, antialias=a) for a in (True, False)]
        assert torch.equal(modules[0](x), modules[1](x))


@pytest.mark.parametrize("transform", ["affine", "projective", "thin_plate_spline"])
def test_antialiasing_leaves_nothing_of_a_pattern_finer_than_the_output(transform):
    """Stripes of one pixel, seen at a quarter of the resolution through a small zoom, are even grey."""
    stripes = (torch.arange(64) % 2).float().expand(1, 1, 64, 64)
    seen = {}
    for antialias in (True, False):
        parameters = create(transform)
        module = SpatialTransformer(
            localization(parameters.num_parameters, 1), transform, (16, 16), antialias=antialias
        )
        with torch.no_grad():
            factor = torch.tensor(parameters.identity) * 0.93
            module.localization[-1].bias.copy_(factor)
            if transform == "projective":
                module.localization[-1].bias[[0, 4]] = -0.07
        seen[antialias] = module(stripes)[0, 0]
    assert seen[False].std() > 0.2
    assert (seen[True] - 0.5).abs().max() < 0.15  # four bilinear samples to a period of two pixels


def test_antialiasing_has_no_meaning_with_aligned_corners():
    with pytest.raises(ValueError, match="align_corners=False with antialias"):
        SpatialTransformer(localization(6), size=(4, 4), antialias=True, align_corners=True)
