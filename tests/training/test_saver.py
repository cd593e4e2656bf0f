"""The best epoch and patience, from the figures of epochs, and in trainings that are cut off and go on."""

import shutil

import pytest
import torch

from stn_ext.training import checkpoints, config, saver
from stn_ext.training.distributed import Process
from stn_ext.training.engine import Metrics
from stn_ext.training.saver import Saver
from tests.hostile.test_flips import leaves
from tests.hostile.test_kills import FREE
from tests.hostile.training import SMALL, command, command_and_output

ALONE = Process(torch.device("cpu"))


@pytest.fixture(autouse=True)
def _one_thread():
    """The bits depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def history(*accuracies):
    return [{"validation": {"accuracy": accuracy, "loss": 1.0}} for accuracy in accuracies]


def test_epochs_since_the_best():
    assert saver.epochs_since_best([]) == 0
    assert saver.epochs_since_best(history(0.5)) == 0
    assert saver.epochs_since_best(history(0.1, 0.5, 0.4, 0.2)) == 2
    assert saver.epochs_since_best(history(0.1, 0.5, 0.5)) == 1  # it has not risen
    assert saver.epochs_since_best(history(0.5, 0.1, 0.6)) == 0


def make(tmp_path, epoch=0, before=(), *options):
    args = config.parse(["--dir_checkpoint", str(tmp_path), "--save_best", *options])
    directory = tmp_path / "stn/mnist"
    directory.mkdir(parents=True, exist_ok=True)
    return Saver(args, epoch, history(*before)), directory


def best_of(directory):
    return torch.load(directory / "model_best.pth", weights_only=True)["epoch"]


def test_the_best_is_written_where_it_rises(tmp_path):
    keeper, directory = make(tmp_path)
    seen = []
    for epoch, accuracy in enumerate(accuracies := (0.1, 0.5, 0.5, 0.4, 0.6), 1):
        keeper.epoch_done({"epoch": epoch, "history": history(*accuracies[:epoch])}, final=False)
        seen.append(best_of(directory))
        assert accuracy <= max(accuracies[: seen[-1]])
    assert seen == [1, 2, 2, 2, 5]
    # A run that goes on knows what was best before.
    keeper, _ = make(tmp_path, 5, accuracies)
    keeper.epoch_done({"epoch": 6, "history": history(*accuracies, 0.55)}, final=False)
    assert best_of(directory) == 5


def test_without_the_option_none_is_written(tmp_path):
    keeper, directory = make(tmp_path, 0, (), "--save_best=off")
    keeper.epoch_done({"epoch": 1, "history": history(0.5)}, final=True)
    assert [path.name for path in directory.iterdir()] == ["model_epoch00001.pth"]


def test_where_the_best_is_lost_the_best_of_the_rest_is_kept(tmp_path):
    keeper, directory = make(tmp_path, 2, (0.9, 0.1))
    for epoch, accuracies in (
        (3, (0.9, 0.1, 0.2)),
        (4, (0.9, 0.1, 0.2, 0.1)),
        (5, (0.9, 0.1, 0.2, 0.1, 0.3)),
    ):
        keeper.epoch_done({"epoch": epoch, "history": history(*accuracies)}, final=False)
    assert best_of(directory) == 5


# --- whole trainings ---


def output(root, *options):
    """What it printed."""
    code, printed, errors = command_and_output(root, *options)
    assert code == 0, errors
    return printed


def run(root, *options):
    return output(root, *SMALL, "--lr_policy", "step", *options)


@pytest.fixture
def accuracies(monkeypatch):
    """Validation finds the accuracies of this list, whatever the network is; the epoch is what is next."""
    found = []

    def evaluate(model, data, normalisation, process, **options):
        return Metrics(1.0, found.pop(0))

    monkeypatch.setattr("stn_ext.training.engine.evaluate", evaluate)
    return found


def folder(root):
    return root / "checkpoints/stn/mnist"


def test_the_best_epoch_is_what_test_tests(tmp_path, accuracies):
    accuracies += [0.2, 0.6, 0.5]
    run(tmp_path, "--num_epoch", 3, "--save_best")
    best, second = (
        checkpoints.load(folder(tmp_path) / f"model_{name}.pth") for name in ("best", "epoch00002")
    )
    assert best["epoch"] == 2
    assert all(torch.equal(value, second["model"][name]) for name, value in best["model"].items())
    accuracies += [0.7]
    code, errors = command(tmp_path, "--mode", "test", "--limit", 5, "--epoch", "best")
    assert (code, errors) == (0, "") and accuracies == []
    assert '"epoch": 2' in (tmp_path / "results/stn/mnist/metrics.json").read_text()


def test_mistake_no_best_to_test(tmp_path, accuracies):
    accuracies += [0.2]
    run(tmp_path, "--num_epoch", 1)
    code, errors = command(tmp_path, "--mode", "test", "--epoch", "best")
    assert code == 2 and f"no model_best.pth in {folder(tmp_path)}: train with --save_best" in errors


def test_patience_ends_a_training_and_saves_its_last_epoch(tmp_path, accuracies):
    accuracies += [0.2, 0.6, 0.6, 0.5, 0.9]
    options = ["--num_epoch", 5, "--patience", 2, "--num_freq_save", 100]
    assert "in 2 epochs the validation accuracy has not risen beyond 60.00%" in run(tmp_path, *options)
    assert [path.name for path in folder(tmp_path).iterdir()] == ["model_epoch00004.pth"]
    assert accuracies == [0.9]  # the fifth epoch was not trained
    again = ["--train_continue", "on"]
    assert "raise --patience to go on" in output(tmp_path, *again)
    assert "epoch 5/5" in output(tmp_path, *again, "--patience", 0)


def test_patience_counts_over_an_interruption(tmp_path, accuracies):
    accuracies += [0.6, 0.5, 0.5, 0.9]
    run(tmp_path, "--num_epoch", 2, "--patience", 2)
    assert "epoch 4/" not in output(tmp_path, "--train_continue", "on", "--num_epoch", 9)
    assert accuracies == [0.9]


def test_the_best_of_a_future_that_was_lost_is_replaced(tmp_path, accuracies):
    accuracies += [0.5, 0.4, 0.9]
    run(tmp_path, "--num_epoch", 3, "--save_best")
    (folder(tmp_path) / "model_epoch00003.pth").unlink()  # as where it was killed before it was written
    accuracies += [0.3]
    output(tmp_path, "--train_continue", "on", "--num_epoch", 3)
    assert checkpoints.load(folder(tmp_path) / "model_best.pth")["epoch"] == 1
    assert (folder(tmp_path) / "model_epoch00003.pth").exists()


def test_the_best_asked_for_later_is_found(tmp_path, accuracies):
    accuracies += [0.5, 0.4, 0.3]
    run(tmp_path, "--num_epoch", 2)
    output(tmp_path, "--train_continue", "on", "--num_epoch", 3, "--save_best")
    assert checkpoints.load(folder(tmp_path) / "model_best.pth")["epoch"] == 1
    accuracies += [0.3, 0.4]
    (folder(tmp_path) / "model_best.pth").unlink()
    (folder(tmp_path) / "model_epoch00001.pth").unlink()
    printed = output(tmp_path, "--train_continue", "on", "--num_epoch", 5)
    assert "the checkpoint of epoch 1, the best so far, is gone" in printed
    assert checkpoints.load(folder(tmp_path) / "model_best.pth")["epoch"] == 5


def test_a_fresh_run_sets_the_best_aside(tmp_path, accuracies):
    accuracies += [0.5, 0.1]
    run(tmp_path, "--num_epoch", 1, "--save_best")
    run(tmp_path, "--num_epoch", 1)
    assert (folder(tmp_path) / "previous/1/model_best.pth").exists()
    assert not (folder(tmp_path) / "model_best.pth").exists()


# --- --resume_from ---


def assert_same_bits(one, other):
    one, other = (leaves(checkpoints.load(path)) for path in (one, other))
    assert one.keys() == other.keys()
    for name, value in one.items():
        same = value.equal(other[name]) if hasattr(value, "equal") else value == other[name]
        assert same or FREE.fullmatch(name) or name == "/args/resume_from", name


def test_a_run_goes_on_elsewhere_with_the_same_bits(tmp_path):
    run(tmp_path / "one", "--num_epoch", 3, "--ema", 0.9, "--augment")
    first = folder(tmp_path / "one") / "model_epoch00001.pth"
    printed = output(tmp_path / "other", "--resume_from", first, "--device", "cpu", "--num_workers", 1)
    assert "epoch 2/3" in printed and "epoch 1/3" not in printed
    last = "model_epoch00003.pth"
    assert_same_bits(folder(tmp_path / "one") / last, folder(tmp_path / "other") / last)
    assert sorted(path.name for path in folder(tmp_path / "other").iterdir()) == [
        "model_epoch00002.pth",
        last,
    ]
    # Its arg.txt starts the same again.
    text = (tmp_path / "other/log/stn/mnist/arg.txt").read_text()
    assert f"resume_from: {first}\n" in text and "augment: 1.0\n" in text


def test_an_earlier_epoch_of_the_same_run_sets_the_later_ones_aside(tmp_path):
    run(tmp_path, "--num_epoch", 3, "--save_best")
    straight = tmp_path / "straight"
    shutil.copytree(folder(tmp_path), straight)
    (tmp_path / "log/stn/mnist/notes").write_text("mine")
    again = [
        "--resume_from",
        folder(tmp_path) / "model_epoch00001.pth",
        "--device",
        "cpu",
        "--num_workers",
        1,
    ]
    printed = output(tmp_path, *again)
    moved = folder(tmp_path) / "previous/1"
    assert f"checkpoints are now in {moved}" in printed
    assert sorted(path.name for path in moved.glob("model_epoch*")) == [
        "model_epoch00002.pth", "model_epoch00003.pth",
    ]  # fmt: skip
    for name in ("model_epoch00001.pth", "model_epoch00003.pth", "model_best.pth"):
        assert_same_bits(straight / name, folder(tmp_path) / name)


def test_a_fresh_scope_gets_the_best_of_the_run_it_comes_from(tmp_path, accuracies):
    accuracies += [0.5, 0.4, 0.3]
    run(tmp_path, "--num_epoch", 2)
    where = folder(tmp_path) / "model_epoch00002.pth"
    options = ["--scope", "mine", "--num_epoch", 3, "--save_best"]
    output(tmp_path, "--resume_from", where, *options)
    assert checkpoints.load(tmp_path / "checkpoints/mine/mnist/model_best.pth")["epoch"] == 1


@pytest.mark.parametrize(
    "options, message",
    [
        (["--train_continue", "on"], "both say where to go on from: leave one out"),
        (["--name_data", "mnist_r"], "is of --name_data mnist, not mnist_r"),
        (["--scope", "cls"], "is of another architecture: --transformer on, not off"),
        (["--lr_cls", "0.5"], "--lr_cls 0.5 differs from the checkpoint's 0.004"),
        (["--resume_from", "nowhere.pth"], "cannot read nowhere.pth"),
    ],
)
def test_mistakes_of_where_to_go_on_from(tmp_path, accuracies, options, message):
    accuracies += [0.5]
    run(tmp_path, "--num_epoch", 1)
    before = sorted(folder(tmp_path).iterdir())
    where = folder(tmp_path) / "model_epoch00001.pth"
    code, errors = command(tmp_path, "--resume_from", where, "--num_epoch", 2, *options)
    assert code == 2 and len(errors.splitlines()) == 1 and message in errors, errors
    assert sorted(folder(tmp_path).iterdir()) == before
