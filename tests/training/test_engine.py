"""The training loop's parts, against sums done by hand."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stn_ext.models import ImageClassifier, create_model
from stn_ext.training import config, engine
from stn_ext.training.data import Normalisation
from stn_ext.training.distributed import Process
from stn_ext.training.errors import UserError
from stn_ext.training.run import average

ALONE = Process(torch.device("cpu"))


def options(*argv):
    return config.parse(list(argv))


def linear_model():
    torch.manual_seed(0)
    return ImageClassifier(nn.Sequential(nn.Flatten(), nn.Linear(144, 3)))


@pytest.mark.parametrize("num_images, batch_size", [(103, 10), (100, 10), (5, 10), (11, 10)])
def test_an_epoch_has_each_image_once_in_batches_of_nearly_one_size(num_images, batch_size):
    order = engine.epoch_order(num_images, batch_size, torch.Generator().manual_seed(0))
    assert sorted(torch.cat(order).tolist()) == list(range(num_images))
    sizes = {len(batch) for batch in order}
    assert max(sizes) <= batch_size and max(sizes) - min(sizes) <= 1
    assert len(order) == engine.steps_per_epoch(num_images, batch_size)


def test_every_epoch_has_another_order():
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.cat(engine.epoch_order(100, 10, generator)) for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_a_batch_without_overlap(world):
    index = torch.arange(10)
    shares = [Process(torch.device("cpu"), rank, world).share(index) for rank in range(world)]
    assert torch.equal(torch.cat(shares), index)


def test_evaluation_weights_by_image_not_by_batch(squares, monkeypatch):
    monkeypatch.setattr(engine, "EVALUATION_BATCH", 40)  # 103 images: the last batch is smaller
    model, normalisation = linear_model(), Normalisation([0])
    logits = model((squares.images / 255).float())
    metrics = engine.evaluate(model, squares, normalisation, ALONE)
    assert metrics.loss == pytest.approx(F.cross_entropy(logits, squares.labels).item(), rel=1e-5)
    assert metrics.accuracy == pytest.approx((logits.argmax(1) == squares.labels).double().mean().item())


def test_an_epoch_learns_and_reports_the_images_it_saw(squares):
    args = options("--batch_size", "10", "--lr_warmup", "0")
    model = linear_model()
    optimizer = engine.make_optimizer(model, args)
    scheduler = engine.make_scheduler(optimizer, args, 11)
    normalisation = Normalisation([0])
    seen, before = [], engine.evaluate(model, squares, normalisation, ALONE)
    order = engine.epoch_order(len(squares), 10, torch.Generator().manual_seed(0))
    engine.train_epoch(
        model, optimizer, scheduler, squares, normalisation, order, ALONE, lambda n, sums: seen.append(n)
    )
    after = engine.evaluate(model, squares, normalisation, ALONE)
    assert sum(seen) == 103 and len(seen) == 11
    assert after.loss < before.loss


def test_more_processes_than_images_in_a_batch_are_refused(squares):
    order = engine.epoch_order(103, 2, torch.Generator())
    with pytest.raises(UserError, match="too few images in a batch for 3 processes"):
        engine.train_epoch(
            linear_model(), None, None, squares, Normalisation([0]), order, Process(torch.device("cpu"), 0, 3)
        )


def test_the_two_learning_rates_are_those_of_the_two_networks():
    model = create_model("small", (1, 28, 28), 10, transformer=True)
    optimizer = engine.make_optimizer(model, options("--lr_stn", "0.1", "--lr_cls", "0.2"))
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert all(rate[id(p)] == 0.1 for p in model.transformer.parameters())
    assert all(rate[id(p)] == 0.2 for p in model.classifier.parameters())
    assert len(rate) == len(list(model.parameters()))


@pytest.mark.parametrize("optim", ["adam", "sgd", "rmsprop"])
def test_every_optimiser_takes_beta1_and_decay(optim):
    args = options("--optim", optim, "--beta1", "0.7", "--weight_decay", "0.01")
    defaults = engine.make_optimizer(linear_model(), args).defaults
    assert defaults["weight_decay"] == 0.01
    assert 0.7 in (defaults.get("momentum"), *defaults.get("betas", ()))


@pytest.mark.parametrize(
    "argv, expected",
    [
        # The factor at the start of epochs 0 to 4, with 10 steps an epoch.
        (["--lr_policy", "linear"], [1, 0.75, 0.5, 0.25]),
        (["--lr_policy", "linear", "--lr_final", "0.2"], [1, 0.8, 0.6, 0.4]),
        (["--lr_policy", "cosine"], [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]),
        (["--lr_policy", "step", "--lr_step", "2", "--lr_decay", "0.1"], [1, 1, 0.1, 0.1]),
        (["--lr_policy", "linear", "--lr_warmup", "2"], [0.05, 0.55, 1, 0.5]),
    ],
)
def test_learning_rate_policies(argv, expected):
    args = options("--num_epoch", "4", "--lr_warmup", "0", "--lr_cls", "2", *argv)
    model = linear_model()
    optimizer = engine.make_optimizer(model, args)
    scheduler = engine.make_scheduler(optimizer, args, 10)
    rates = []
    for _ in range(40):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[::10] == pytest.approx([2 * factor for factor in expected])


def test_plateau_lowers_the_rate_when_the_validation_loss_stays():
    args = options("--lr_policy", "plateau", "--lr_patience", "1", "--lr_decay", "0.5", "--lr_cls", "1")
    optimizer = engine.make_optimizer(linear_model(), args)
    scheduler = engine.make_scheduler(optimizer, args, 10)
    rates = []
    for loss in (3, 2, 2, 2, 2):
        scheduler.step(loss)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [1, 1, 1, 0.5, 0.5]


def test_an_average_forgets_its_beginning_soon_and_then_decays_as_asked():
    model = create_model("small", (1, 28, 28), 10, transformer=False)
    weight = model.get_parameter("classifier.1.bias")
    averaged = average(model, 0.9)
    expected = None
    for step in range(120):
        with torch.no_grad():
            weight.fill_(step**0.5)
        averaged.update_parameters(model)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = step**0.5 if expected is None else decay * expected + (1 - decay) * step**0.5
        # Some hundred roundings of float32.
        torch.testing.assert_close(
            averaged.module.get_parameter("classifier.1.bias"),
            torch.full_like(weight, expected),
            rtol=1e-5,
            atol=0,
        )


def jittered(jitter):
    torch.manual_seed(0)
    return create_model("cnn", (1, 12, 12), 3, transformer=True, transform="translation", jitter=jitter)


def test_samples_average_probabilities_over_jittered_thetas(squares):
    """Against the same thetas, drawn and averaged by hand."""
    model, normalisation, batch = jittered(0.3).eval(), Normalisation([0]), squares[:20]
    ((_, warped, _, outputs),) = engine.predictions(model, batch, normalisation, samples=5)
    images = normalisation.apply(batch.images)
    torch.manual_seed(0)
    expected = torch.zeros(20, 3)
    with torch.no_grad():
        for _ in range(5):
            noise = 0.3 * torch.randn(20, 2)
            theta = model.transformer.transform(model.transformer.localization(images) + noise)
            expected += model.classifier(model.transformer.sample(images, theta)).softmax(1) / 5
        torch.testing.assert_close(outputs.exp(), expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(warped, model.transformer(images))
    assert (outputs - model(images).log_softmax(1)).abs().max() > 0.01
    ((*_, again),) = engine.predictions(model, batch, normalisation, samples=5)
    assert torch.equal(again, outputs) and not any(module.training for module in model.modules())
    together = engine.evaluate(model, batch, normalisation, ALONE, samples=5)
    assert together.loss == pytest.approx(F.nll_loss(outputs, batch.labels).item(), rel=1e-5)


def test_the_share_outside_is_the_transformers(squares):
    normalisation, model = Normalisation([0]), jittered(0.0)
    assert engine.outside(linear_model(), squares, normalisation) is None
    assert engine.outside(model, squares, normalisation) == 0
    with torch.no_grad():
        model.transformer.localization[-1].bias.copy_(torch.tensor([0.5, 1.0]))  # a quarter and a half
    assert engine.outside(model, squares, normalisation) == pytest.approx(1 - 0.75 * 0.5)
