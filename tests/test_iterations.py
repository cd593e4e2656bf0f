"""A transformer that looks several times, with or without jitter: what is seen, composed and sampled."""

import copy

import pytest
import torch
from torch import nn

from stn_ext import geometry
from stn_ext.nn import ParallelTransformers, SpatialTransformer
from stn_ext.transforms import TRANSFORMS, create

COMPOSABLE = [name for name in TRANSFORMS if create(name).composable]


class Localization(nn.Module):
    """Of images of any size; keeps what it saw and what it said."""

    def __init__(self, parameters):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU())
        self.head = nn.Linear(4, parameters)
        self.seen, self.said = [], []

    def forward(self, x):
        parameters = self.head(self.features(x).mean((2, 3)))
        if not torch.compiler.is_compiling():
            self.seen.append(x)
            self.said.append(parameters)
        return parameters


def transformer(transform, **options):
    torch.manual_seed(0)
    module = SpatialTransformer(Localization(create(transform).num_parameters), transform, **options)
    nn.init.normal_(module.localization.head.weight, std=0.3)
    return module


def test_which_maps_can_be_composed():
    assert set(TRANSFORMS) - set(COMPOSABLE) == {"thin_plate_spline"}
    with pytest.raises(ValueError, match="iterations=1 for transform 'thin_plate_spline', whose maps cannot"):
        transformer("thin_plate_spline", iterations=2)


@pytest.mark.parametrize("transform", COMPOSABLE)
def test_each_look_sees_what_the_one_before_found(transform):
    module = transformer(transform, size=(6, 7), iterations=3, padding_mode="border")
    once = transformer(transform, size=(6, 7), padding_mode="border")
    full = transformer(transform, padding_mode="border")  # to the input's size
    x = torch.rand(2, 2, 12, 14)
    warped, theta = module(x, return_theta=True)
    seen, said = module.localization.seen, module.localization.said
    thetas = [once.transform(parameters, (12, 14)) for parameters in said]
    first = geometry.compose(thetas[0], thetas[1])
    assert torch.equal(seen[0], x)
    assert torch.equal(seen[1], full.sample(x, thetas[0]))
    assert torch.equal(seen[2], full.sample(x, first))
    assert torch.equal(theta, geometry.compose(first, thetas[2]))
    assert torch.equal(warped, once.sample(x, theta))


@pytest.mark.parametrize("transform", COMPOSABLE)
def test_starts_as_the_identity_and_learns(transform):
    torch.manual_seed(0)
    module = SpatialTransformer(Localization(create(transform).num_parameters), transform, iterations=3)
    x = torch.rand(2, 2, 12, 14)
    torch.testing.assert_close(module(x), x, atol=1e-5, rtol=0)
    optimizer = torch.optim.SGD(module.parameters(), 1e-5)  # which leaves theta near the identity
    for _ in range(2):  # a localisation network's first layers get a gradient once its last is not zero
        optimizer.zero_grad()
        (module(x) - x.flip(3)).square().sum().backward()
        optimizer.step()
    for name, parameter in module.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_the_gradient_is_that_of_all_looks():
    """By differences of the loss, in float64: through what a look sees, and through what it says."""
    module = transformer("affine", size=(5, 5), iterations=2, padding_mode="border").double()
    parameters = dict(module.named_parameters())
    # A smooth picture, read between its pixels' centres, so that no step crosses a kink.
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, n, dtype=torch.float64) for n in (12, 14)), indexing="ij")
    picture = torch.stack((x * y + x, (2 * x).sin() + y * y))[None]

    def loss(*values):
        return torch.func.functional_call(module, dict(zip(parameters, values, strict=True)), picture).sum()

    assert torch.autograd.gradcheck(loss, tuple(parameters.values()), eps=1e-7, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("iterations", [0, -1, True, 1.5, "2"])
def test_iterations_are_a_positive_number(iterations):
    with pytest.raises(ValueError, match="iterations of a positive integer, but got"):
        transformer("affine", iterations=iterations)


def test_one_number_jitters_all_parameters_in_training_alone():
    module = transformer("attention", jitter=0.1)
    x = torch.rand(2000, 2, 5, 6)
    with torch.no_grad():
        still = copy.deepcopy(module).eval()
        quiet = still(x, return_theta=True)[1]
        assert torch.equal(still(x, return_theta=True)[1], quiet)
        noise = module(x, return_theta=True)[1] - quiet
        again = module(x, return_theta=True)[1] - quiet
    drawn = torch.stack((noise[:, 0, 0], noise[:, 0, 2], noise[:, 1, 2]), 1)
    assert torch.allclose(noise[:, 0, 0], noise[:, 1, 1], atol=1e-6)
    # Of 2000 draws the deviation is known to 1.6 %, the mean to 0.0022; five times that is never seen.
    assert (drawn.std(0) / 0.1 - 1).abs().max() < 0.08 and drawn.mean(0).abs().max() < 0.011
    assert torch.corrcoef(drawn.T).fill_diagonal_(0).abs().max() < 0.11
    assert not torch.equal(noise, again)


def test_jitter_of_each_parameter_and_at_each_look():
    module = transformer("attention", jitter=(0.0, 0.2, 0.0), iterations=2)
    nn.init.zeros_(module.localization.head.weight)
    x = torch.rand(2000, 2, 5, 6)
    with torch.no_grad():
        theta = module(x, return_theta=True)[1]
    assert torch.equal(theta[:, :, :2], torch.eye(2).expand(2000, 2, 2)) and not theta[:, 1, 2].any()
    # Two draws of the same deviation: their sum has the square root of two of it.
    assert abs(theta[:, 0, 2].std() / 0.2 / 2**0.5 - 1) < 0.08
    # The module's own training decides, for the parts of it to be evaluated while thetas are drawn.
    module.eval()
    module.training = True
    assert module(x, return_theta=True)[1][:, 0, 2].std() > 0.1


@pytest.mark.parametrize(
    "jitter", [-0.1, float("nan"), float("inf"), "0.1", (0.1, 0.1), (0.1, 0.1, -0.1), (0.1, None, 0.1), None]
)
def test_jitter_of_other_kinds_is_refused(jitter):
    with pytest.raises(ValueError, match=r"jitter of one finite number >= 0, or one for each of the 3 param"):
        transformer("attention", jitter=jitter)


@pytest.mark.parametrize("align_corners", [False, True])
def test_the_share_outside_is_counted_pixel_by_pixel(align_corners):
    module = transformer("translation", size=(4, 10), align_corners=align_corners)
    x = torch.rand(1, 2, 8, 20)
    span = 2.0 if not align_corners else 2 * 19 / 20  # of twenty pixels, in normalised units
    shifts = torch.tensor([0.0, 0.5, -0.5, 1.2, float("nan")]) * span
    theta = module.transform(torch.stack((shifts, torch.zeros(5)), 1))
    shares = module.outside(x.expand(5, -1, -1, -1), theta)
    torch.testing.assert_close(shares, torch.tensor([0.0, 0.5, 0.5, 1.0, 1.0]))
    assert not shares.requires_grad


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_nothing_of_the_identity_is_outside(transform):
    module = SpatialTransformer(Localization(create(transform).num_parameters), transform)
    x = torch.rand(3, 2, 9, 12)
    assert not module.outside(x, module(x, return_theta=True)[1]).any()


def test_iterations_are_compiled_and_saved():
    module = transformer("projective", size=(6, 7), iterations=2).eval()
    x = torch.rand(2, 2, 12, 14)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), module(x), atol=1e-6, rtol=0)
    other = transformer("projective", size=(6, 7), iterations=2).eval()
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(x), module(x))
    assert "iterations=2" in repr(module)
    pair = ParallelTransformers([module, other])
    assert torch.equal(pair(x), torch.cat((module(x), module(x)), 1))
