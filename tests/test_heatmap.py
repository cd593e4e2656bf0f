"""Places found by a heatmap: where they are, what moves them, and that they are learned."""

import pytest
import torch
from torch import nn

from stn_ext.nn import HeatmapLocalization, SpatialTransformer

TRANSFORMS = ("attention", "translation", "similarity")


def localization(transform="attention", channels=1, **options):
    features = nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU())
    return HeatmapLocalization(features, 4, transform, **options)


def bright(rows, columns, height=16, width=24, side=3):
    """Dark pictures, each with a bright square around (row, column)."""
    pictures = torch.zeros(len(rows), 1, height, width)
    for picture, row, column in zip(pictures, rows, columns, strict=True):
        picture[0, row - side // 2 : row + side // 2 + 1, column - side // 2 : column + side // 2 + 1] = 1
    return pictures


@pytest.mark.parametrize(
    "transform, scale",
    [("translation", 1.0), ("attention", 1.0), ("attention", 0.4), ("similarity", 1.0), ("similarity", 0.4)],
)
def test_starts_in_the_middle_at_the_scale(transform, scale):
    module = SpatialTransformer(localization(transform, scale=scale), transform)
    theta = module(torch.rand(2, 1, 16, 24), return_theta=True)[1]
    # The mean of even weights at symmetrical places: roundings of float32.
    torch.testing.assert_close(theta, scale * torch.eye(2, 3).expand(2, 2, 3), rtol=0, atol=1e-6)


class Peak(nn.Module):
    """One place's feature stands out by 100, which a softmax makes 1."""

    def forward(self, x):
        return 100.0 * (x == x.amax((2, 3), keepdim=True))


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_the_place_is_the_heatmaps(transform):
    network = HeatmapLocalization(Peak(), 1, transform)
    nn.init.ones_(network.heatmap.weight)
    module = SpatialTransformer(network, transform, size=(3, 5), identity=False)
    rows, columns = torch.tensor([0, 3, 15, 8]), torch.tensor([0, 23, 5, 12])
    x = torch.zeros(4, 1, 16, 24)
    x[torch.arange(4), 0, rows, columns] = 1
    warped, theta = module(x, return_theta=True)
    expected = torch.stack(((2 * columns + 1) / 24 - 1, (2 * rows + 1) / 16 - 1), 1)
    torch.testing.assert_close(theta[:, :, 2], expected, rtol=0, atol=1e-6)
    # The middle of what is shown is the pixel that stands out.
    torch.testing.assert_close(warped[:, 0, 1, 2], torch.ones(4), rtol=0, atol=1e-4)


def test_the_centroid_is_that_of_the_weights():
    network = localization(channels=3).double()
    nn.init.normal_(network.heatmap.weight)
    features = torch.randn(2, 4, 5, 7, dtype=torch.float64)
    weights = network.heatmap(features)[:, 0].exp()
    y, x = torch.meshgrid(torch.arange(5.0) * 2 / 5 - 0.8, torch.arange(7.0) * 2 / 7 - 6 / 7, indexing="ij")
    expected = torch.stack([(weights * axis).sum((1, 2)) / weights.sum((1, 2)) for axis in (x, y)], 1)
    torch.testing.assert_close(network.place(features), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shift", [(0, 6), (5, 0), (4, -7)])
def test_what_it_finds_moves_along(shift):
    network = HeatmapLocalization(nn.AvgPool2d(3, 1, 1), 1, "translation")
    nn.init.constant_(network.heatmap.weight, 20)
    here, there = bright([6, 6 + shift[0]], [12, 12 + shift[1]])[:, None]
    moved = network(there) - network(here)
    # What is dark counts too: 359 places of exp(-20) each beside the square's, of which the middle's is 1.
    expected = torch.tensor([[2 * shift[1] / 24, 2 * shift[0] / 16]])
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("iterations", [1, 2])
def test_it_learns_to_find(transform, iterations):
    """From pictures and what is to be seen in the middle alone."""
    torch.manual_seed(0)
    module = SpatialTransformer(localization(transform), transform, iterations=iterations)
    optimizer = torch.optim.Adam(module.parameters(), 0.02)
    middle = bright([8], [12])
    smooth = nn.Sequential(*[nn.AvgPool2d(3, 1, 1)] * 4)  # what is far apart has a gradient too
    for _ in range(150):
        x = bright(torch.randint(4, 13, (32,)), torch.randint(4, 21, (32,)))
        optimizer.zero_grad()
        loss = (smooth(module(x)) - smooth(middle)).square().sum() / 32
        loss.backward()
        optimizer.step()
    rows, columns = torch.tensor([5, 11, 8]), torch.tensor([19, 6, 14])
    theta = module(bright(rows, columns), return_theta=True)[1]
    # The pixel at place (c, r) is shown where the map reads it.
    place = torch.stack(((2 * columns + 1) / 24 - 1, (2 * rows + 1) / 16 - 1), 1)
    middle_place = torch.tensor([25 / 24 - 1, 17 / 16 - 1, 1.0])
    error = (theta @ middle_place - place).abs() * torch.tensor([12.0, 8.0])  # pixels
    assert error.max() < 1.0


def test_shared_layers_learn_from_both():
    first = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU())
    network = HeatmapLocalization(nn.Conv2d(4, 4, 3, padding=1), 4, shared=first)
    nn.init.normal_(network.heatmap.weight)
    front = SpatialTransformer(network, "attention", size=(8, 8), identity=False)
    classifier = nn.Sequential(first, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))
    net = nn.Sequential(front, classifier)
    assert sum(parameter is first[0].weight for parameter in net.parameters()) == 1
    x = torch.rand(4, 1, 16, 24)
    net(x).square().sum().backward()
    both = first[0].weight.grad.clone()
    first[0].weight.grad = None
    classifier(front(x).detach()).square().sum().backward()
    assert (both - first[0].weight.grad).abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_places_are_exact_in_low_precision(dtype):
    network = localization(channels=1)
    with torch.autocast("cpu", dtype):
        parameters = network(torch.rand(2, 1, 100, 100))
    assert parameters.dtype == torch.float32
    torch.testing.assert_close(parameters, torch.tensor([[1.0, 0.0, 0.0]]).expand(2, 3), rtol=0, atol=1e-6)


def test_compiled_exported_and_traced():
    net = nn.Sequential(SpatialTransformer(localization("similarity"), "similarity", size=(6, 7)))
    nn.init.normal_(net[0].localization.heatmap.weight)
    x, other = torch.rand(3, 1, 16, 24), torch.rand(5, 1, 16, 24)
    batch = torch.export.Dim("batch")
    programs = [
        torch.compile(net, backend="aot_eager", fullgraph=True),
        torch.export.export(net, (x,), dynamic_shapes=({0: batch},)).module(),
        torch.fx.symbolic_trace(net),
    ]
    for program in programs:
        torch.testing.assert_close(program(other), net(other), rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: localization("affine"), ValueError, "a transform of attention, .* but got 'affine'"),
        (lambda: localization(scale=0), ValueError, "a finite scale above 0, but got 0"),
        (lambda: localization(scale=float("inf")), ValueError, "a finite scale above 0, but got inf"),
        (lambda: localization("translation", scale=0.5), ValueError, "scale=1 for transform 'translation'"),
        (lambda: localization(hidden=0), ValueError, "hidden of a positive integer, but got 0"),
        (lambda: HeatmapLocalization(nn.ReLU(), 1.5), ValueError, "channels of a positive integer"),
        (lambda: HeatmapLocalization(torch.relu, 1), TypeError, r"features of an nn\.Module"),
        (lambda: localization(shared="first"), TypeError, r"shared of an nn\.Module, but got str"),
        (
            lambda: SpatialTransformer(localization(), "affine")(torch.rand(1, 1, 8, 8)),
            ValueError,
            "'affine'",
        ),
    ],
)
def test_mistakes_are_told(make, error, message):
    with pytest.raises(error, match=message):
        make()
