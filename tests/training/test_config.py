"""Options: both spellings, contradictions, and what a checkpoint decides."""

import pytest

from stn_ext.training import config
from stn_ext.training.errors import UserError


def test_defaults():
    args = config.parse([])
    assert (args.mode, args.scope, args.name_data, args.net, args.transformer) == (
        "train",
        "stn",
        "mnist",
        "cnn",
        "on",
    )
    assert args.num_epoch == 10 and args.given == set()
    assert (args.dir_data, args.dir_log, args.dir_checkpoint, args.dir_result) == (
        "./datasets", "./log", "./checkpoints", "./results",
    )  # fmt: skip


@pytest.mark.parametrize("name", ["stn", "STN"])
def test_both_spellings_of_the_learning_rates(name):
    assert config.parse([f"--lr_{name}", "0.5"]).lr_stn == 0.5
    other = {"stn": "cls", "STN": "CLS"}[name]
    assert config.parse([f"--lr_{other}", "0.25"]).lr_cls == 0.25


@pytest.mark.parametrize("scope, transformer", [("stn", "on"), ("cls", "off")])
def test_the_scope_says_whether_there_is_a_transformer(scope, transformer):
    assert config.parse(["--scope", scope]).transformer == transformer


def test_a_scope_of_ones_own_says_it_itself():
    assert config.parse(["--scope", "mine", "--transformer", "off"]).transformer == "off"


def test_what_was_given_is_known_even_where_it_equals_the_default():
    assert config.parse(["--net", "cnn", "--seed", "0", "--limit", "5"]).given == {"net", "seed", "limit"}


def test_gpu_ids():
    assert config.parse([]).gpu_ids is None
    assert config.parse(["--gpu_ids", "-1"]).gpu_ids == [-1]
    assert config.parse(["--gpu_ids", "0,2"]).gpu_ids == [0, 2]


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--scope", "mine"], "say --transformer on or off"),
        (["--scope", "stn", "--transformer", "off"], "means --transformer on"),
        (["--scope", "../up"], "expected letters"),
        (["--name_data", "cifar"], "invalid choice: 'cifar' .*mnist.*fashion_mnist.*kmnist.*imagefolder"),
        (["--net", "big"], "invalid choice"),
        (["--num_epoch", "0"], r"a whole number from 1 to 1,000,000 \(epochs"),
        (["--batch_size", "many"], r"from 1 to 2,147,483,647 \(images, .*\), but got 'many'"),
        (["--lr_cls", "-1"], r"a number from 0 to 1e\+06"),
        (["--lr_cls", "nan"], r"a number from 0 to 1e\+06"),
        (["--beta1", "1"], "a number from 0 to below 1"),
        (["--gpu_ids", "0,0"], "different GPU ids"),
        (["--gpu_ids", "zero"], "different GPU ids"),
        (["--gpu_ids=-1,0"], "different GPU ids"),
        (["--image_size", "28"], "for --name_data imagefolder only"),
        (["--image_background", "red"], "--image_background is for --name_data imagefolder only"),
        (["--name_data", "imagefolder", "--image_size", "1", "2", "3"], "HEIGHT WIDTH"),
        (["--name_data", "imagefolder", "--image_background", "reddish"], "a colour such as .* 'reddish'"),
        (["--name_data", "imagefolder", "--image_background", "#ff000080"], "a colour such as white"),
        (["--epoch", "3"], "--epoch is for --mode test, predict, export only, not for train"),
        (["--tta", "3"], "--tta is for --mode test only"),
        (["--unknown"], "unrecognized arguments"),
        (["--lr_stn=--"], "--lr_stn.*: expected a value, but got '--'"),
        (["--width", "9" * 5000], "from 1 to 65,536 .*, but got '9{59}"),
    ],
)
def test_mistakes(argv, message):
    with pytest.raises(UserError, match=message):
        config.parse(argv)


NUMBERS = [option.dest for option in config.build_parser()._actions if type(option.default) in (int, float)]
NUMBERS += ["epoch", "image_size", "limit", "warp_size", "weight_decay", "width"]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("text", ["1e400", "inf", "-1", "9" * 30, str(2**63), "0x10", "", "½"])
def test_every_number_has_bounds_and_says_them(name, text):
    with pytest.raises(UserError) as error:
        config.parse([f"--{name}={text}"])
    assert f"--{name}" in str(error.value).lower() and "expected a" in str(error.value)
    assert len(str(error.value)) < 300


def test_a_value_takes_one_line_and_words_are_told_apart():
    assert config.show(["blue", "green"]) == "blue green" and config.show([28, 28]) == "28 28"
    names = ["two words", "line\nbreak: 1", "'", "\udcff", "\x1b[31m", "", "schön"]
    shown = config.show(names)
    assert shown.isprintable() and shown.startswith("'two words' 'line\\nbreak: 1' ")
    assert shown.endswith(" '' schön")
    assert len(config.show("a path\nof two lines").splitlines()) == 1


def test_help_groups_the_options_and_states_each_default():
    text = config.build_parser().format_help()
    for title in (
        "what to do:", "data:", "network:", "training:", "learning-rate policy:", "speed and memory:",
        "checkpoints:", "output;",
    ):  # fmt: skip
        assert title in text
    entries = text[text.index("what to do:") :]
    assert entries.count("(default:") == entries.count("\n  --")


def test_a_continued_run_takes_the_options_of_its_checkpoint():
    saved = config.options(
        config.parse(["--net", "small", "--lr_cls", "0.5", "--num_epoch", "7", "--dir_log", "a"])
    )
    args = config.parse(["--train_continue", "on", "--dir_log", "b", "--net", "small"])
    config.adopt(args, saved)
    assert (args.net, args.lr_cls, args.num_epoch, args.dir_log) == ("small", 0.5, 7, "b")
    args = config.parse(["--train_continue", "on", "--num_epoch", "9"])
    config.adopt(args, saved)
    assert args.num_epoch == 9
    with pytest.raises(UserError, match=r"--lr_cls 0.1 differs from the checkpoint's 0.5"):
        config.adopt(config.parse(["--lr_cls", "0.1"]), saved)
