"""Two processes on the CPU do what one does, and one of them writes."""

import contextlib
import json
import os
import signal
import socket
import struct
import sys
from argparse import Namespace

import pytest
import torch
from torch import nn

from stn_ext.models import ImageClassifier
from stn_ext.training import distributed, engine
from stn_ext.training.augmentation import random_maps
from stn_ext.training.data import Normalisation
from stn_ext.training.distributed import Process, choose_devices
from stn_ext.training.errors import UserError
from stn_ext.training.objectives import Classification
from stn_ext.training.steps import Recipe
from stn_ext.training.train import distribute
from tests.command_line import ROOT, directories, environment, run, started, succeed

CPU = torch.device("cpu")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
OPTIONS = ["--gpu_ids", "-1", "--net", "small", "--limit", "603", "--batch_size", "64"]


def train_linear(args: Namespace, process: Process) -> None:
    """Two epochs of a linear network; the main process saves it."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = ImageClassifier(nn.Sequential(nn.Flatten(), nn.Linear(144, 3)))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    trained = distribute(model, process)
    generator = torch.Generator().manual_seed(0)
    figures = []
    for _ in range(2):
        order = engine.epoch_order(len(args.data), 10, generator)
        train = engine.train_epoch(
            trained, optimizer, None, args.data, Normalisation([0]), order, process, recipe=args.recipe
        )
        held_out = engine.evaluate(model, args.data, Normalisation([0]), process)
        figures.append([train.loss, train.accuracy, held_out.loss, held_out.accuracy])
    if process.is_main:
        torch.save({"model": model.state_dict(), "figures": figures}, args.path)


@pytest.mark.parametrize("options", [{}, {"accumulate": 2, "clip_grad": 0.1, "maps": True}])
def test_processes_with_uneven_shares_take_the_steps_of_one(squares, tmp_path, options):
    """103 images in batches of 9 or 10: shares of 4 or 5, or of 2 or 3 in each of two parts."""
    if "maps" in options:
        options = {**options, "maps": random_maps(1, 0, 1, len(squares), (12, 12))}
    args = {"data": squares, "recipe": Recipe(Classification(), **options)}
    train_linear(Namespace(**args, path=tmp_path / "one"), Process(CPU))
    distributed._spawn(train_linear, Namespace(**args, path=tmp_path / "many"), [CPU] * 2)
    one, many = torch.load(tmp_path / "one"), torch.load(tmp_path / "many")
    # The sums are the same but for their order.
    torch.testing.assert_close(many, one, rtol=1e-4, atol=1e-6)


class AbortsWhenFinalised:
    def __del__(self, abort=os.abort):  # globals are gone by then
        abort()


def leave_an_abort_behind(args: Namespace, process: Process) -> None:
    sys.last_to_go = AbortsWhenFinalised()


def test_finished_processes_do_not_abort_in_their_finalisation():
    """As they may where a thread of the process group still holds a tensor."""
    distributed._spawn(leave_an_abort_behind, Namespace(), [CPU] * 2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("torchrun")
    return root, succeed("main.py", *OPTIONS, "--num_epoch", "2", *directories(root), prefix=TORCHRUN)


def test_torchrun_trains_with_one_writer(trained):
    root, printed = trained
    lines = [line.split(":")[0] for line in printed.splitlines() if line.startswith("epoch")]
    assert lines == ["epoch 1/2", "epoch 2/2"]
    assert "with 2 processes" in printed
    names = sorted(path.name for path in (root / "checkpoints/stn/mnist").iterdir())
    assert names == ["model_epoch00001.pth", "model_epoch00002.pth"]
    assert len(list((root / "log/stn/mnist").glob("events.out.tfevents.*"))) == 1


def test_its_checkpoint_serves_one_process(trained):
    root, _ = trained
    succeed("main.py", "--mode", "test", "--limit", "20", *directories(root))
    assert json.loads((root / "results/stn/mnist/metrics.json").read_text())["num_images"] == 20


def test_two_processes_continue_with_the_same_bits(trained, tmp_path):
    root, _ = trained
    where = directories(tmp_path)
    last = tmp_path / "checkpoints/stn/mnist/model_epoch00002.pth"
    last.parent.mkdir(parents=True)
    first = root / "checkpoints/stn/mnist/model_epoch00001.pth"
    (last.parent / first.name).write_bytes(first.read_bytes())
    succeed("main.py", "--train_continue", "on", "--gpu_ids", "-1", *where, prefix=TORCHRUN)
    one = torch.load(root / "checkpoints/stn/mnist/model_epoch00002.pth", weights_only=True)["model"]
    other = torch.load(last, weights_only=True)["model"]
    assert all(torch.equal(one[name], other[name]) for name in one)


def assert_goes_on_with_the_same_bits(root, *options, weights):
    """Two epochs at once and one after the other, by two processes."""
    options = [*OPTIONS[:-4], "--limit", "120", "--batch_size", "16", "--lr_policy", "step", *options]
    for name, *epochs in (("straight", 2), ("twice", 1, 2)):
        for number in epochs:
            again = ["--train_continue", "on"] if number > epochs[0] else []
            where = [*again, *directories(root / name)]
            succeed("main.py", *options, "--num_epoch", number, *where, prefix=TORCHRUN)
    one, other = (
        torch.load(root / name / "checkpoints/stn/mnist/model_epoch00002.pth", weights_only=True)[weights]
        for name in ("straight", "twice")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_two_processes_with_every_option_of_the_steps_go_on_with_the_same_bits(tmp_path):
    options = ["--amp", "bf16", "--accumulate", "2", "--augment", "--clip_grad", "1", "--ema", "0.5"]
    assert_goes_on_with_the_same_bits(tmp_path, *options, weights="averaged")


def test_two_processes_train_compiled_and_go_on_with_the_same_bits(tmp_path):
    assert_goes_on_with_the_same_bits(tmp_path, "--compile", weights="model")


def test_a_mistake_is_told_once(tmp_path):
    done = run("main.py", *OPTIONS, "--limit", "5", *directories(tmp_path), prefix=TORCHRUN)
    assert done.returncode != 0
    assert done.stderr.count("error: expected at least 10 training images") == 1


def test_ctrl_c_saves_the_last_epoch_of_spawned_processes(tmp_path):
    """As with --gpu_ids 0,1, on two CPU processes: the terminal interrupts the whole group at once."""
    options = [*OPTIONS, "--num_epoch", "100000", "--num_freq_save", "100000", *directories(tmp_path)]
    program = f"""
import sys, torch
from stn_ext.training import config, distributed, errors, train
if __name__ == "__main__":
    args = config.parse({options!r})
    sys.exit(errors.guarded(lambda: distributed._spawn(train.train, args, [torch.device("cpu")] * 2)))
"""
    script = tmp_path / "program.py"
    script.write_text(program)
    with started(script, start_new_session=True) as process:
        while not process.stdout.readline().startswith("epoch 1/"):
            assert process.poll() is None, process.stderr.read()
        os.killpg(process.pid, signal.SIGINT)
        errors = process.communicate(timeout=120)[1]
    assert process.returncode == 130, errors
    assert errors.count("go on with: python main.py") == 1 and "Traceback" not in errors
    (path,) = (tmp_path / "checkpoints/stn/mnist").iterdir()
    assert torch.load(path, weights_only=True)["epoch"] == int(path.stem[-5:])


def ranks(port: int, *ranks: int, options=()) -> contextlib.ExitStack:
    """Some of two processes, as torchrun would start them; yields the list of them."""

    @contextlib.contextmanager
    def all_started():
        with contextlib.ExitStack() as stack:
            yield [
                stack.enter_context(
                    started(
                        "main.py", *OPTIONS, *options,
                        env={**environment(), "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank),
                             "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)},
                    )
                )
                for rank in ranks
            ]  # fmt: skip

    return all_started()


@pytest.fixture
def port():
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return listening.getsockname()[1]


@pytest.mark.parametrize("signalled", [[0, 1], [1]])
def test_signals_to_the_processes_themselves(tmp_path, port, signalled):
    """torchrun's own exit code after Ctrl-C is 1, whatever its processes'."""
    options = ["--num_epoch", "100000", "--num_freq_save", "100000", *directories(tmp_path)]
    with ranks(port, 0, 1, options=options) as processes:
        while not processes[0].stdout.readline().startswith("epoch 1/"):
            assert processes[0].poll() is None, processes[0].stderr.read()
        for rank in signalled:
            processes[rank].send_signal(signal.SIGINT)
        errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [
        130 if rank in signalled else 2 for rank in (0, 1)
    ]
    assert len(errors[0].splitlines()) == 1 and "go on with: python main.py" in errors[0] and errors[1] == ""
    (path,) = (tmp_path / "checkpoints/stn/mnist").glob("*.pth")
    assert torch.load(path, weights_only=True)["epoch"] == int(path.stem[-5:])


@pytest.mark.parametrize(
    "program, message",
    [
        ("sys.argv += ['--limit', str(200 + rank)]", "--limit: 200 in process 0, 201 in process 1"),
        ("sys.argv += ['--seed', '7'] * rank", "--seed: 0 in process 0, 7 in process 1"),
        # As on two machines, of which each has its own files.
        ("sys.argv += ['--dir_data', f'{root}/{rank}']", "the training images: 90 with checksum"),
    ],
)
def test_processes_that_differ_are_refused(tmp_path, program, message):
    for rank in (0, 1):
        raw = tmp_path / str(rank) / "MNIST/raw"
        raw.mkdir(parents=True)
        header = struct.pack(">4I", 0x0803, 100, 28, 28)
        (raw / "train-images-idx3-ubyte").write_bytes(header + bytes([rank]) * 100 * 28 * 28)
        (raw / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x0801, 100) + bytes(100))
    script = tmp_path / "program.py"
    script.write_text(
        f"import os, runpy, sys\nroot, rank = {str(tmp_path)!r}, int(os.environ['RANK'])\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n{program}\nrunpy.run_path('main.py', run_name='__main__')\n"
    )
    done = run(script, *OPTIONS, *directories(tmp_path), prefix=TORCHRUN)
    assert done.returncode != 0
    assert done.stderr.count("error: ") == 1 and f"error: the processes differ in {message}" in done.stderr


def test_a_process_that_does_not_come_is_named(monkeypatch, capsys):
    monkeypatch.setattr(distributed, "JOINING", 0.5)
    monkeypatch.setattr(distributed, "PATIENCE", 0.1)
    with pytest.raises(UserError, match=r"processes 1, 2 of 3 did not come within 0.5 s"):
        distributed.wait_for_all(torch.distributed.HashStore(), Process(CPU, 0, 3))
    assert "waiting for processes 1, 2 of 3, 0 s more" in capsys.readouterr().out


def test_a_main_process_that_does_not_come_is_named(monkeypatch, capsys, port):
    monkeypatch.setattr(distributed, "JOINING", 0.5)
    monkeypatch.setattr(distributed, "PATIENCE", 0.1)
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", str(port))
    with pytest.raises(UserError, match=f"process 1 found no process 0 at localhost:{port} within 0.5 s"):
        distributed._torchruns_store(Process(CPU, 1, 2))
    assert f"process 1 waits for process 0 at localhost:{port}" in capsys.readouterr().out


# --- choice of devices ---


def gpus(monkeypatch, count):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_the_cpu_where_there_is_no_gpu(monkeypatch):
    gpus(monkeypatch, 0)
    assert choose_devices(None) == choose_devices([-1]) == [CPU]
    assert choose_devices(None, processes=2) == [CPU, CPU]
    with pytest.raises(UserError, match="there is no GPU 0: PyTorch sees no GPU"):
        choose_devices([0])


def test_the_asked_gpus(monkeypatch):
    gpus(monkeypatch, 4)
    assert [d.index for d in choose_devices(None)] == [0]
    assert [d.index for d in choose_devices(None, processes=3)] == [0, 1, 2]
    assert [d.index for d in choose_devices([3, 1])] == [3, 1]
    assert choose_devices([-1]) == [CPU]
    with pytest.raises(UserError, match="there is no GPU 4, 5: PyTorch sees GPUs 0 to 3"):
        choose_devices([3, 4, 5])
    with pytest.raises(UserError, match="3 processes need as many GPUs, but got 2"):
        choose_devices([0, 1], processes=3)
