"""300 random command lines, valid and not: each trains, or ends in one line, and none hangs.

Most run in this process, through the parser and all that main.py does before its first step; the others as
processes of their own, whole.
"""

import random
import signal
import struct
import sys

import pytest

import main
from stn_ext.training import memory, options, train
from stn_ext.training.errors import guarded
from stn_ext.training.interruption import SIGNALS
from tests.command_line import directories
from tests.hostile.isolation import run_isolated

pytestmark = pytest.mark.hostile

IN_PROCESS, PROCESSES = 276, 24
SECONDS = 30  # for a line; the slowest takes some three on an idle machine

NUMBERS = [
    "0", "-1", "1", "2", "3.5", "0.5", "1e400", "-inf", "nan", "1e-320", "9" * 25, "9" * 5000, str(2**31),
    str(2**63), "65535", "65536", "10000", "1_0", "0x1", "", " 7 ", "٣", "½", "one", "1,2", "--", "\n",
    "\udcff", "%s%n", "1e6",
]  # fmt: skip
WORDS = [
    "", "on", "off", "\n", "\udcff", "../../x", "x" * 300, "x" * 5000, "$(x)", "猫", "-", "--", "~", "*",
    "a b", "stn", "cls", "mine",
]  # fmt: skip
# What would train for ever is no mistake.
BRIEF = {
    "num_epoch": ["1", "2", "0", "-1", "9" * 25, "many", "1e3"],
    "compile": ["off", "maybe", ""],  # which takes a minute
}
# Nothing is written but below the test's own directory, and where nothing can be.
PLACES = [
    "a/b",
    "\n",
    "\udcff",
    "x" * 300,
    "$(x)",
    "猫",
    "~",
    "a b",
    "datasets/MNIST/raw/t10k-labels-idx1-ubyte",
]
NO_PLACES = ["/dev/null", "/proc/self"]


def random_line(draw: random.Random, root) -> list[str]:
    actions = [
        action
        for action in options.build_parser()._actions
        if action.option_strings and action.dest not in ("help", "name_data")
    ]
    line = [*directories(root), "--net", draw.choice(["small", "small", "cnn", "paper_fcn", "paper_cnn"])]
    line += [
        "--name_data",
        draw.choice(["mnist"] * 4 + ["mnist_rts", "mnist_coloc", "imagefolder", "cifar", ""]),
    ]
    for action in draw.sample(actions, draw.randint(1, 4)):
        if "dir" in action.dest:
            values = [*(f"{root}/{name}" for name in PLACES), *NO_PLACES]
        elif action.dest in BRIEF:
            values = BRIEF[action.dest]
        elif action.choices and draw.random() < 0.8:
            values = list(map(str, action.choices))
        else:
            values = (
                NUMBERS[2:6] if action.type and draw.random() < 0.5 else NUMBERS if action.type else WORDS
            )
        count = draw.choice([1, 1, 1, 2, 3]) if action.nargs == "+" else 1
        words = [draw.choice(values) for _ in range(count)]
        option = draw.choice(action.option_strings)
        line += [f"{option}={words[0]}"] if draw.random() < 0.3 else [option, *words]
    if draw.random() < 0.1:
        line.insert(draw.randrange(len(line)), draw.choice([*WORDS, "--nonsense", "-h"]))
    return line if "num_epoch" in " ".join(line) else [*line, "--num_epoch", "1"]


@pytest.fixture
def root(tmp_path):
    """Sixty training and test digits, black: little to read."""
    raw = tmp_path / "datasets/MNIST/raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        header = struct.pack(">4I", 0x0803, 60, 28, 28)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + bytes(60 * 28 * 28))
        labels = bytes(index % 10 for index in range(60))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x0801, 60) + labels)
    return tmp_path


@pytest.fixture
def in_process(monkeypatch, tmp_path):
    """Within, signals' handlers may be set, and time is bounded; training ends before its first step."""
    handlers = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGALRM)}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "train_epochs", lambda *words: None)
    monkeypatch.setattr(memory, "available", lambda: 10**9)

    def too_long(number, frame):
        raise AssertionError(f"still running after {SECONDS} s")

    signal.signal(signal.SIGALRM, too_long)
    yield
    signal.alarm(0)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_in_one_process(root, in_process, monkeypatch, capsys):
    for stream in (sys.stdout, sys.stderr):  # as they are in a process of its own: names need not be text
        stream.reconfigure(errors="backslashreplace")
    draw = random.Random(0)
    codes = []
    for _ in range(IN_PROCESS):
        line = random_line(draw, root)
        monkeypatch.setattr("sys.argv", ["main.py", *line])
        signal.alarm(SECONDS)
        try:
            code = guarded(main.main)
        except SystemExit as end:  # --help
            code = end.code
        except BaseException as error:
            raise AssertionError(f"{line}: {type(error).__name__}: {error}") from error
        errors = capsys.readouterr().err
        assert (code, len(errors.splitlines())) in ((0, 0), (2, 1)), (line, code, errors)
        assert len(errors) < 7000, line
        codes.append(code)
    assert min(codes.count(0), codes.count(2)) > IN_PROCESS // 20  # both kinds were tried


@pytest.mark.parametrize("seed", range(PROCESSES))
def test_in_its_own(root, seed):
    line = random_line(random.Random(f"process {seed}"), root)
    done = run_isolated("main.py", *line, timeout=2 * SECONDS)
    assert (done.returncode, len(done.stderr.splitlines())) in ((0, 0), (2, 1)), (line, done.stderr)
