"""The networks: any images, and a control that is the same but for the transformer."""

import pytest
import torch

from stn_ext.models import NETS, create_model, num_parameters
from stn_ext.transforms import TRANSFORMS


@pytest.mark.parametrize("transformer", [True, False])
@pytest.mark.parametrize("shape, num_classes", [((1, 28, 28), 10), ((3, 37, 52), 4), ((1, 42, 42), 19)])
@pytest.mark.parametrize("net", NETS)
def test_takes_images_of_any_shape(net, shape, num_classes, transformer):
    model = create_model(net, shape, num_classes, transformer=transformer)
    x = torch.rand(2, *shape)
    assert model(x).shape == (2, num_classes)
    assert model.warp(x).shape == x.shape


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("num_transformers, warp_size", [(1, None), (2, (20, 24)), (4, (28, 28))])
def test_transformers_of_any_kind_size_and_number(num_transformers, warp_size, transform):
    model = create_model(
        "cnn", (2, 42, 40), 19, transformer=True, transform=transform,
        num_transformers=num_transformers, warp_size=warp_size, antialias=num_transformers == 4,
    )  # fmt: skip
    x = torch.rand(2, 2, 42, 40)
    assert model.warp(x).shape == (2, 2 * num_transformers, *(warp_size or (42, 40)))
    assert model(x).shape == (2, 19)


@pytest.mark.parametrize("transform", ["attention", "translation", "similarity"])
@pytest.mark.parametrize("net", NETS)
def test_a_heatmap_in_front_of_any_classifier(net, transform):
    scale = 1.0 if transform == "translation" else 0.6
    options = {"localization": "heatmap", "start_scale": scale, "iterations": 2, "jitter": 0.1}
    options |= {"transform": transform, "warp_size": (28, 28)}
    model = create_model(net, (1, 60, 52), 10, transformer=True, **options)
    x = torch.rand(2, 1, 60, 52)
    assert model(x).shape == (2, 10)
    theta = model.eval().transformer(x, return_theta=True)[1]
    torch.testing.assert_close(theta, scale**2 * torch.eye(2, 3).expand(2, 2, 3), rtol=0, atol=1e-5)
    control = create_model(net, (1, 60, 52), 10, transformer=False, widened=True, **options)
    # The small net's next width may be a quarter more.
    assert 1 <= num_parameters(control) / num_parameters(model) < 1.3


@pytest.mark.parametrize(
    "options, message",
    [
        ({"localization": "guess"}, "unknown localization 'guess': expected one of regression, heatmap"),
        ({"localization": "heatmap"}, "transform of attention, translation, similarity, but got 'affine'"),
        ({"start_scale": 0.5}, "start_scale is for the localization 'heatmap' only"),
        ({"transform": "thin_plate_spline", "iterations": 2}, "cannot be composed"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(ValueError, match=message):
        create_model("cnn", (1, 28, 28), 10, transformer=True, **options)


PAPER = [  # shape, classes, transformers, of what the paper tests
    ((1, 28, 28), 10, 1), ((1, 42, 42), 10, 1), ((1, 60, 60), 10, 1), ((2, 42, 42), 19, 2),
]  # fmt: skip


@pytest.mark.parametrize("shape, num_classes, num_transformers", PAPER)
@pytest.mark.parametrize("net", ["cnn", "paper_fcn", "paper_cnn"])
def test_networks_have_about_four_hundred_thousand_parameters_at_most(
    net, shape, num_classes, num_transformers
):
    if net == "paper_fcn":
        num_transformers = 1  # each has a fully connected layer of its own
    options = {"transform": "thin_plate_spline", "num_transformers": num_transformers}
    model = create_model(net, shape, num_classes, transformer=True, **options)
    assert 50_000 < num_parameters(model) < 440_000


@pytest.mark.parametrize("shape, num_classes, num_transformers", PAPER)
@pytest.mark.parametrize("net", NETS)
def test_the_widened_control_has_as_many_parameters_and_hardly_more(
    net, shape, num_classes, num_transformers
):
    options = {"num_transformers": num_transformers, "warp_size": (24, 24), "transform": "thin_plate_spline"}
    with_transformer = create_model(net, shape, num_classes, transformer=True, **options)
    torch.manual_seed(1)
    control = create_model(net, shape, num_classes, transformer=False, widened=True, **options)
    wanted = num_parameters(with_transformer)
    assert control.transformer is None
    width = len(next(control.parameters()))  # of the first layer
    narrower = create_model(net, shape, num_classes, transformer=False, width=width - 1)
    assert num_parameters(narrower) < wanted <= num_parameters(control)
    torch.manual_seed(1)
    again = create_model(net, shape, num_classes, transformer=False, widened=True, **options)
    assert all(torch.equal(a, b) for a, b in zip(control.parameters(), again.parameters(), strict=True))


def test_width_makes_a_classifier_wider():
    sizes = [
        num_parameters(create_model("cnn", (1, 28, 28), 10, transformer=True, width=w)) for w in (8, 16, 24)
    ]
    assert sizes[0] < sizes[1] < sizes[2]
    assert sizes[1] == num_parameters(create_model("cnn", (1, 28, 28), 10, transformer=True))


@pytest.mark.parametrize("net", NETS)
def test_the_classifier_is_the_same_with_and_without_a_transformer(net):
    models = []
    for transformer in (True, False):
        torch.manual_seed(3)
        models.append(create_model(net, (1, 28, 28), 10, transformer=transformer))
    with_transformer, without = models
    assert str(with_transformer.classifier) == str(without.classifier)
    for name, value in without.classifier.state_dict().items():
        assert torch.equal(with_transformer.classifier.state_dict()[name], value), name
    assert without.transformer is None and with_transformer.transformer is not None


@pytest.mark.parametrize("net", NETS)
def test_the_untrained_transformer_changes_nothing(net):
    torch.manual_seed(0)
    model = create_model(net, (1, 28, 28), 10, transformer=True).eval()
    x = torch.rand(4, 1, 28, 28)
    torch.testing.assert_close(model(x), model.classifier(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("net", NETS)
def test_the_same_seed_gives_the_same_weights(net):
    def weights(seed):
        torch.manual_seed(seed)
        return torch.cat(
            [p.flatten() for p in create_model(net, (1, 28, 28), 10, transformer=True).parameters()]
        )

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize("net", NETS)
def test_gradients_reach_every_weight_after_the_first_step(net):
    """The localisation network's last layer starts with zero weights: those before it move a step later."""
    torch.manual_seed(0)
    model = create_model(net, (1, 28, 28), 10, transformer=True)
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)  # which leaves theta near the identity
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.rand(8, 1, 28, 28)).logsumexp(1).square().sum().backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_a_hidden_layer_that_drifts_away_still_learns():
    """Bare ReLUs of the localisation network died in trainings on cluttered digits, all of them."""
    model = create_model("cnn", (1, 28, 28), 10, transformer=True)
    *features, last = model.transformer.localization
    torch.nn.init.normal_(last.weight, std=0.01)
    hidden = next(layer for layer in features if isinstance(layer, torch.nn.Linear))
    torch.nn.init.constant_(hidden.bias, -100)
    model(torch.rand(8, 1, 28, 28)).square().sum().backward()
    assert hidden.weight.grad.abs().max() > 0


def test_too_small_images_and_unknown_nets_are_refused():
    with pytest.raises(ValueError, match="images of 12 x 40 are too small for the net 'small'"):
        create_model("small", (1, 12, 40), 10, transformer=True)
    with pytest.raises(ValueError, match="unknown net 'big': expected one of small, cnn, paper_fcn,"):
        create_model("big", (1, 28, 28), 10, transformer=True)
