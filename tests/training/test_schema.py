"""Every kind of checkpoint that training writes is found right, and comes back as it was."""

import pytest
import torch

from stn_ext.models import NETS
from stn_ext.training import checkpoints, config, engine, files
from stn_ext.training.data import Normalisation
from stn_ext.training.distributed import Process
from stn_ext.training.errors import UserError
from stn_ext.training.run import About, Run, rebuild
from stn_ext.transforms import TRANSFORMS
from tests.hostile.test_flips import same

ALONE = Process(torch.device("cpu"))


def trained(squares, *options):
    """A run after an epoch."""
    args = config.parse(["--batch_size", "40", *options])
    run = Run(args, About.of(squares), len(squares), ALONE)
    order = engine.epoch_order(len(squares), args.batch_size, run.order)
    normalisation = Normalisation(run.about.background)
    metrics = engine.train_epoch(
        run.model, run.optimizer, run.scheduler, squares, normalisation, order, ALONE, averaged=run.averaged
    )
    if args.lr_policy == "plateau":
        run.scheduler.step(metrics.loss)
    run.epoch = 1
    return run


def comes_back(run, path):
    files.write_atomically(path, checkpoints.to_bytes(run.state()))
    state = checkpoints.load(path)
    assert same(state, run.state())
    weights = run.network.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in rebuild(state).state_dict().items())
    parameters = [parameter for group in run.optimizer.param_groups for parameter in group["params"]]
    for number, kept in state["optimizer"]["state"].items():  # fused optimisers go by the order in memory
        for name, value in run.optimizer.state[parameters[number]].items():
            assert kept[name].stride() == value.stride()


@pytest.mark.parametrize("policy", ["cosine", "step", "plateau"])
@pytest.mark.parametrize("optim", [["adam"], ["sgd"], ["sgd", "--beta1", "0"], ["rmsprop"]])
def test_each_optimiser_and_policy(squares, tmp_path, optim, policy):
    run = trained(squares, "--net", "paper_fcn", "--optim", *optim, "--lr_policy", policy)
    comes_back(run, tmp_path / "model_epoch00001.pth")


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("net", ["cnn", "paper_fcn"])
def test_each_transform(squares, tmp_path, net, transform):
    run = trained(squares, "--net", net, "--transform", transform, "--ema", "0.5")
    comes_back(run, tmp_path / "model_epoch00001.pth")


@pytest.mark.parametrize(
    "options",
    [
        ["--num_transformers", "2", "--warp_size", "6", "8", "--antialias", "on"],
        ["--scope", "cls", "--control", "widened"],
        ["--scope", "mine", "--transformer", "off", "--gpu_ids", "-1", "--dir_data", "-x --mode test"],
        ["--lr_cls", "0.1", "--lr_stn", "1e-07", "--weight_decay", "0"],
    ],
)
def test_other_options(squares, tmp_path, options):
    comes_back(trained(squares, "--net", "paper_fcn", *options), tmp_path / "model_epoch00001.pth")


@pytest.mark.parametrize("net", NETS)
def test_describing_a_network_takes_no_memory(net):
    from stn_ext.training.run import build

    options = vars(config.parse(["--net", net, "--transform", "thin_plate_spline"]))
    with torch.device("meta"):
        model = build(options, About((1, 48, 48), ("a", "b"), (0,)))
    assert all(parameter.is_meta for parameter in model.parameters())


def test_a_state_laid_out_otherwise_in_memory_is_put_right(squares, tmp_path):
    run = trained(squares, "--net", "cnn")
    state = run.state()
    for moments in state["optimizer"]["state"].values():
        moments["exp_avg"] = (
            moments["exp_avg"].flatten()[:1].expand(moments["exp_avg"].numel()).view(moments["exp_avg"].shape)
        )  # one number in memory, which a fused optimiser would run past
    path = tmp_path / "model_epoch00001.pth"
    path.write_bytes(checkpoints.to_bytes(state))
    run.restore(checkpoints.load(path))
    for parameter in run.model.parameters():
        kept = run.optimizer.state[parameter]["exp_avg"]
        assert kept.stride() == parameter.stride() and kept.untyped_storage().nbytes() >= 4 * kept.numel()


def test_a_report_is_of_numbers_only(tmp_path):
    from stn_ext.training import report

    images = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
    label = torch.zeros(1, dtype=torch.int64)
    outcome = report.Outcome(images, images, label, label, torch.ones(1), ("a",))
    with pytest.raises(ValueError):
        report.write(tmp_path / "results", outcome, {"cross_entropy": float("nan")}, 1)
    assert list(tmp_path.rglob("*.tmp")) == [] and list((tmp_path / "results").iterdir()) == []


def test_what_a_refusal_says(squares, tmp_path):
    state = trained(squares, "--net", "paper_fcn").state()
    state["model"]["classifier.1.weight"] = state["model"]["classifier.1.weight"].double()
    path = tmp_path / "model_epoch00001.pth"
    path.write_bytes(checkpoints.to_bytes(state))
    shape = tuple(state["model"]["classifier.1.weight"].shape)
    with pytest.raises(UserError) as error:
        checkpoints.load(path)
    assert str(error.value) == (
        f"{path} is no checkpoint that this program wrote: model.classifier.1.weight is torch.float64 "
        f"{shape}, not torch.float32 {shape}"
    )
