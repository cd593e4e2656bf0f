"""Each option that changes the steps does so, and such a training goes on from a checkpoint bit for bit."""

import pytest
import torch

from stn_ext.training import checkpoints
from tests.command_line import directories, run
from tests.hostile.test_flips import leaves
from tests.hostile.test_kills import FREE
from tests.hostile.training import SMALL, command

LAST = "model_epoch00002.pth"


@pytest.fixture(autouse=True)
def _one_thread():
    """The bits depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained(root, *options, epochs=2, directory="checkpoints/stn/mnist"):
    """The last checkpoint's content, and the path."""
    # A policy that does not depend on the number of epochs to come.
    code, errors = command(root, *SMALL, "--lr_policy", "step", "--num_epoch", epochs, *options)
    assert code == 0, errors
    path = root / directory / f"model_epoch{epochs:05d}.pth"
    return checkpoints.load(path), path


def differences(one, other):
    one, other = leaves(one), leaves(other)
    assert one.keys() == other.keys()
    for name, value in one.items():
        same = value.equal(other[name]) if hasattr(value, "equal") else value == other[name]
        if not same and not FREE.fullmatch(name):
            yield name


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("plain"))[0]


STEPS = [
    ["--amp", "bf16"],
    ["--clip_grad", "0.05"],
    ["--accumulate", "2"],
    ["--augment"],
    ["--augment", "0.3", "--amp", "bf16", "--clip_grad", "0.5", "--accumulate", "2", "--ema", "0.9"],
]


@pytest.mark.parametrize("options", STEPS, ids=" ".join)
def test_each_option_changes_the_steps_and_goes_on_with_the_same_bits(tmp_path, plain, options):
    straight, _ = trained(tmp_path / "straight", *options)
    changed = list(differences(plain["model"], straight["model"]))
    assert changed, "the option did nothing"
    trained(tmp_path / "twice", *options, epochs=1)
    twice, _ = trained(tmp_path / "twice", "--train_continue", "on")
    assert list(differences(straight, twice)) == []


@pytest.mark.parametrize("option", [["--amp", "off"], ["--accumulate", "3"], ["--augment", "0.5"]])
def test_what_makes_a_run_what_it_is_stays(tmp_path, option):
    trained(tmp_path, "--amp", "bf16", "--accumulate", "2", "--augment", epochs=1)
    code, errors = command(tmp_path, "--num_epoch", 2, "--train_continue", "on", *option)
    assert code == 2 and f"{option[0]} {option[1]} differs from the checkpoint's" in errors, errors


def test_a_compiled_training_goes_on_with_the_same_bits(tmp_path, plain):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    straight, _ = trained(tmp_path / "straight", "--compile")
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert not torch._dynamo.utils.counters["graph_break"]
    # Compiled dropout draws other numbers; the network and the learning are the same otherwise.
    assert list(differences(plain["model"], straight["model"]))
    loss, other = (state["history"][-1]["validation"]["loss"] for state in (plain, straight))
    assert loss == pytest.approx(other, rel=0.1)
    trained(tmp_path / "twice", "--compile", epochs=1)
    twice, _ = trained(tmp_path / "twice", "--train_continue", "on")
    assert list(differences(straight, twice)) == []


def test_where_nothing_can_be_compiled_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    options = [*SMALL, "--num_epoch", "1", "--compile", *directories(tmp_path)]
    monkeypatch.setenv("CXX", "/nonexistent")
    done = run("main.py", *options)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "error: --compile: PyTorch cannot compile the network here" in done.stderr
