"""What does not fit into memory is refused before it is made, with the options to lower."""

import pytest
import torch
from torch import nn

from stn_ext.models import NETS, ImageClassifier, create_model
from stn_ext.training import config, engine, errors, footprint, memory
from stn_ext.training.data import ImageSet, Normalisation
from stn_ext.training.distributed import Process
from stn_ext.training.errors import UserError
from stn_ext.training.run import About

ALONE = Process(torch.device("cpu"))
DIGITS = About((1, 28, 28), tuple("0123456789"), (0,))


def check(*argv, num_images=54000):
    footprint.check_training(config.parse(list(argv)), DIGITS, num_images, ALONE)


def test_activations_are_counted_once_and_weights_not_at_all():
    with torch.device("meta"):
        network = nn.Sequential(nn.Flatten(), nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 3))
    # The input of either layer; what ReLU keeps is the second one's input.
    assert footprint.activations_of(network, (1, 10, 10)) == 4 * (100 + 50)


@pytest.mark.parametrize("net", list(NETS))
@pytest.mark.parametrize("transform", ["affine", "projective", "thin_plate_spline"])
def test_every_network_can_be_measured(net, transform):
    with torch.device("meta"):
        network = create_model(net, (1, 42, 42), 10, transformer=True, transform=transform)
    assert 4 * 42 * 42 < footprint.activations_of(network, (1, 42, 42)) < 10**7


@pytest.mark.parametrize(
    "argv, need, options",
    [
        ([], None, None),
        (["--width", "20000"], "1.76 TB", "--width or --num_transformers"),
        (["--warp_size", "10000"], "4.", "--batch_size or --warp_size"),
        (["--batch_size", "1000000", "--net", "small"], "GB", "--batch_size"),
        (["--ema", "0.9", "--width", "20000"], "TB", "--width or --num_transformers"),
    ],
)
def test_what_does_not_fit_is_refused(monkeypatch, argv, need, options):
    monkeypatch.setattr(memory, "available", lambda: 2 * 10**9 if "small" not in argv else 10**8)
    if need is None:
        return check(*argv)
    with pytest.raises(UserError, match=f"lower {options}$"):
        check(*argv)


def test_a_batch_holds_no_more_than_there_are_images(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 2 * 10**9)
    check("--batch_size", "1000000", num_images=100)


@pytest.mark.parametrize(
    "shape, size, expected",
    [((28, 28), None, 500), ((84, 84), 28, 500), ((168, 168), None, 125), ((28, 28), 20000, 1)],
)
def test_batches_without_gradients_shrink_where_pictures_are_large(shape, size, expected):
    with torch.device("meta"):
        size = size and (size, size)
        network = create_model("cnn", (1, *shape), 10, transformer=size is not None, warp_size=size)
    images = ImageSet(torch.empty(3, 1, *shape, dtype=torch.uint8), torch.zeros(3), ("a",))
    assert engine.evaluation_batch(network, images.shape) == expected


@pytest.mark.parametrize(
    "work",
    [
        lambda: torch.empty(2**46),
        lambda: bytearray(2**60),
        lambda: torch.zeros(1).expand(2**44, 4).contiguous(),
    ],
)
def test_a_want_of_memory_is_one_line(capsys, work):
    expected = pytest.raises(UserError, match="not enough memory for a step: lower --batch_size")
    with expected, errors.memory_for("a step", "--batch_size"):
        work()
    assert errors.guarded(work) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_another_error_is_none_of_memory():
    with pytest.raises(RuntimeError, match="shape"), errors.memory_for("a step", "--batch_size"):
        torch.zeros(3).view(2, 2)


# --- batch normalisation ---


def test_statistics_are_those_of_the_present_weights(squares):
    """Against the mean and variance of what goes into the layer, computed without it."""
    layer = nn.BatchNorm2d(4, momentum=0.1)
    model = ImageClassifier(
        nn.Sequential(nn.Conv2d(1, 4, 3), layer, nn.Dropout(), nn.Flatten(), nn.Linear(400, 3))
    )
    normalisation, before = Normalisation([0]), torch.get_rng_state()
    engine.settle(model, squares, normalisation)
    inputs = model.classifier[0](normalisation.apply(squares.images)).double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(layer.running_mean.double(), inputs.mean(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.running_var.double(), inputs.var(1), rtol=1e-4, atol=1e-5)
    assert layer.momentum == 0.1 and torch.equal(torch.get_rng_state(), before)
