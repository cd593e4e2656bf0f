"""Options from a file: what is read back is what was written, and what is no such file takes one line."""

import os
import random

import pytest

from stn_ext.training import config, config_file
from stn_ext.training.errors import UserError


def parse(path, text, *argv):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return config.parse(["--config", str(path), *argv])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "options.yaml"


def test_yaml_of_ones_own(path):
    args = parse(
        path,
        "# a comment\nlr_cls: 1e-3\namp: off\nantialias: on  # no truth value here\nname_data: mnist_tc\n"
        "warp_size: [20, 30]\ngpu_ids: [-1]\nlimit: ~\noptim: 'sgd'\nlr_STN: 0.5\nscope: \"mine\"\n"
        "transformer:\n  on\n",
    )
    assert (args.lr_cls, args.lr_stn, args.amp, args.antialias) == (1e-3, 0.5, "off", "on")
    assert (args.warp_size, args.gpu_ids, args.limit, args.optim, args.scope) == (
        [20, 30], [-1], None, "sgd", "mine",
    )  # fmt: skip
    assert args.given == {
        *("lr_cls", "lr_stn", "amp", "antialias", "name_data", "warp_size", "gpu_ids", "optim", "scope"),
        "transformer",
    }
    assert args.weight_decay == 1e-4  # sgd's default


def test_sequences_in_lines_and_sizes_in_words(path):
    assert parse(path, "warp_size:\n  - 20\n  - 30\n").warp_size == [20, 30]
    assert parse(path, "warp_size: 20 30\n").warp_size == [20, 30]
    assert parse(path, "warp_size: 20\n").warp_size == [20, 20]


def test_the_command_line_wins(path):
    text = "lr_cls: 0.5\nnet: small\nwarp_size: [20, 30]\ngpu_ids: '0,1'\nseed: 3\n"
    args = parse(path, text, "--lr_cls", "0.25", "--warp_size", "9", "--device", "cpu")
    assert (args.lr_cls, args.net, args.warp_size, args.gpu_ids, args.seed) == (
        0.25,
        "small",
        [9, 9],
        [-1],
        3,
    )
    before = config.parse(["--lr_cls", "0.25", "--config", str(path)])  # wherever it stands
    assert before.lr_cls == 0.25 and before.seed == 3
    assert "config" not in vars(args) and "config" not in args.given


def test_an_empty_file_says_nothing(path):
    assert vars(parse(path, "# nothing\n")) == vars(config.parse([]))


@pytest.mark.parametrize(
    "text, message",
    [
        ("lr: 1", "unrecognized arguments: --lr=1"),
        ("lr_cls: high", "--lr_cls.*expected a number from 0 to .* but got 'high'"),
        ("net: huge", "--net.*invalid choice: 'huge'"),
        ("lr_cls: 1\nnet: small\nlr_cls: 2", "line 3: lr_cls stands there twice"),
        ("lr_cls: {a: 1}", "line 1: expected a name and a value"),
        ("lr_cls: [[1]]", "line 1: expected a name and a value"),
        ("lr_cls: [1, 2]", "--lr_cls.*'1,2'"),
        ("warp_size: []", "--warp_size: expected at least one argument"),
        ("? [a]\n: 1", "line 1: expected a name and a value"),
        ("- lr_cls", "expected lines of an option's name and its value"),
        ("lr_cls 1", "expected lines of an option's name and its value"),
        ("lr_cls: 'x", "line 1: this is no YAML: .*end of stream"),
        ("a: b: c", "line 1: this is no YAML"),
        ("a: *b", "line 1: this is no YAML: found undefined alias"),
        ("lr_cls: 1\n---\nlr_cls: 2", "line 2: this is no YAML: .*another document"),
        ("config: other", "line 1: config is no option for a file"),
        ("help: x", "line 1: help is no option for a file"),
        ("'--seed': 1", "line 1: --seed is no option for a file"),
        ("seed=1 --net: small", "no option for a file"),
        ("'\\n': 1", "no option for a file"),
        (b"\xff\xfe\x00", "is no YAML"),
        (b"a: \x07", "is no YAML"),
        ("[" * 100_000, "no YAML"),
        ("#" * 1_000_001, "no file of options: it has more than 1,000,000 bytes"),
        ("device: cpu\ngpu_ids: 0", "--device and --gpu_ids say the same"),
        ("mode: test\nresume_from: x\ntrain_continue: on", "both say where to go on from"),
    ],
)
def test_mistakes_take_one_line_that_names_the_file(path, text, message):
    with pytest.raises(UserError, match=message) as error:
        parse(path, text)
    assert len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 500
    assert "options.yaml" in str(error.value) or "say where" in str(error.value)


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, message in (
        (tmp_path / "none", "cannot read .*none: No such file"), (tmp_path, "is a folder"),
        (tmp_path / "pipe", "is a named pipe"), ("/dev/zero", "is a device"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            config.parse(["--config", str(path)])
    with pytest.raises(UserError, match="--config: expected one argument"):
        config.parse(["--config"])


WORDS = ["null", "None", "~", "", "a b", "x: y", "#1", "- a", "-", "'", '"', "\\", "\n", "\udcff", "\x1b[31m",
         "schön", "😀", "\x85", "\u2028", "\ufeff", "true", "1e3", "[a]", "{a}", "&a", "*a", "!!x", "%a", "@",
         "`", " a ", "a #b", "on", "0x1", "猫", "\x00"]  # fmt: skip


def random_options(draw):
    """A command line of valid values, of nearly every option."""
    choices = {
        "scope": ["stn", "mine.2"], "net": ["small", "cnn"], "width": ["16"], "warp_size": ["20 30", "7"],
        "lr_cls": ["1e-7", "0.1", "3"], "lr_stn": ["0", "123456.789"], "lr_policy": ["plateau"],
        "optim": ["sgd"], "weight_decay": ["0", "1e-05"], "seed": ["0", "4294967295"], "limit": ["5"],
        "amp": ["bf16", "off"], "compile": ["on", "off"], "augment": ["0.3", "1"], "clip_grad": ["0.1"],
        "gpu_ids": ["-1", "0,1"], "dir_log": WORDS, "dir_data": WORDS, "resume_from": WORDS,
        "image_background": ["#ff8000", "hsl(0, 100%, 50%)", "white"], "image_size": ["20 30", "8"],
        "image_channels": ["1", "3"], "patience": ["3"], "save_best": ["on"], "num_epoch": ["1000000"],
        "label_smoothing": ["0.1"],
    }  # fmt: skip
    line = ["--name_data", "imagefolder", "--transformer=on"]
    for name in draw.sample(sorted(choices), 12):
        value = draw.choice(choices[name])
        line += [f"--{name}", *value.split()] if name.endswith("_size") else [f"--{name}={value}"]
    return line


@pytest.mark.parametrize("seed", range(40))
def test_what_is_written_is_read_back_exactly(path, seed):
    args = config.parse(random_options(random.Random(seed)))
    options = config.options(args)
    text = config_file.write(options, {"classes": config.show(["a\nb", "c: d"])})
    read = parse(path, text)
    assert config.options(read) == options
    assert {name: type(value) for name, value in config.options(read).items()} == {
        name: type(value) for name, value in options.items()
    }
    assert read.given == {name for name, value in options.items() if value is not None}


@pytest.mark.parametrize("word", WORDS)
def test_every_text_is_read_back_as_itself(path, word):
    args = config.parse([f"--dir_log={word}"])
    assert parse(path, config_file.write(config.options(args), {})).dir_log == word


def test_devices():
    assert config.parse(["--device", "cpu"]).gpu_ids == [-1]
    assert config.parse(["--device", "cuda"]).gpu_ids == [0]
    assert config.parse(["--device", "cuda:3"]).gpu_ids == [3]
    assert "device" not in vars(config.parse(["--device", "cpu"]))
    for text in ("gpu", "cuda:", "cuda:x", "mps", "cuda:0,1", "-1"):
        with pytest.raises(UserError, match=r"--device.*expected cpu, cuda, or one GPU as in cuda:1"):
            config.parse([f"--device={text}"])
    with pytest.raises(UserError, match="--device and --gpu_ids say the same"):
        config.parse(["--device", "cpu", "--gpu_ids", "-1"])


def test_each_of_torchruns_processes_has_its_own_gpu(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert config.parse(["--device", "cuda"]).gpu_ids == [0, 1]
