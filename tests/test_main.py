"""The command line on slices of the real MNIST: train, continue, test, and what each mistake gets."""

import csv
import json
import re
import shutil
import signal
import time

import numpy as np
import pytest
import torch
from PIL import Image

from stn_ext.training import data
from tests.command_line import directories, run, started, succeed

SMALL = ["--net", "small", "--limit", "1200", "--batch_size", "32"]


def train(root, *options):
    return succeed("main.py", "--mode", "train", *directories(root), *options)


def tensors(value, prefix=""):
    """All tensors and numbers in a checkpoint, by name."""
    if isinstance(value, (dict, list, tuple)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {
            name: leaf for key, inner in items for name, leaf in tensors(inner, f"{prefix}/{key}").items()
        }
    return {prefix: value}


def assert_same_bits(one, other):
    one, other = (tensors(torch.load(path, weights_only=True)) for path in (one, other))
    assert one.keys() == other.keys()
    assert any(name.startswith("/optimizer/state") for name in one)
    for name, value in one.items():
        if name.startswith("/args/dir_") or name == "/args/train_continue" or name.endswith("/seconds"):
            continue
        same = torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]
        assert same, name


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Three epochs of the small network, never interrupted; (directory, what it printed)."""
    root = tmp_path_factory.mktemp("trained")
    return root, train(root, *SMALL, "--num_epoch", "3", "--lr_STN", "0.002", "--num_freq_save", "2")


@pytest.fixture(scope="module")
def tested(trained):
    root, _ = trained
    return root / "results/stn/mnist", succeed(
        "main.py", "--mode", "test", "--limit", "50", *directories(root)
    )


def test_a_heatmap_that_looks_twice_with_jitter(tmp_path):
    """Trained, continued and tested with samples of theta: the checkpoint knows what it is."""
    words = ["--net", "small", "--limit", "150", "--transform", "similarity", "--localization", "heatmap"]
    words += ["--start_scale", "0.9", "--iterations", "2", "--jitter", "0.02", "--warp_size", "20"]
    said = train(tmp_path, *words, "--num_epoch", "1")
    assert re.search(r"; \d+\.\d% outside; \d+ images/s", said)
    train(tmp_path, "--train_continue", "on", "--num_epoch", "2")
    test = ["main.py", "--mode", "test", "--limit", "20", *directories(tmp_path)]
    succeed(*test, "--tta", "3")
    facts = json.loads((tmp_path / "results/stn/mnist/metrics.json").read_text())
    chosen = ("localization", "start_scale", "iterations", "jitter", "tta", "epoch")
    assert [facts[name] for name in chosen] == ["heatmap", 0.9, 2, 0.02, 3, 2]
    wrong = run(*test, "--iterations", "3")
    assert wrong.returncode == 2 and "another architecture: --iterations 2, not 3" in wrong.stderr


def test_sequences_are_trained_and_tested(tmp_path):
    """With samples of theta, whose probabilities are averaged symbol by symbol; they have no one class."""
    words = ["--net", "small", "--limit", "150", "--name_data", "mnist_seq", "--jitter", "0.02"]
    train(tmp_path, *words, "--num_epoch", "1", "--label_smoothing", "0.1")
    test = ["main.py", "--mode", "test", "--limit", "20", "--name_data", "mnist_seq", *directories(tmp_path)]
    succeed(*test, "--tta", "2")
    facts = json.loads((tmp_path / "results/stn/mnist_seq/metrics.json").read_text())
    assert facts["classes"] == ["misread", "read"] and 0 <= facts["accuracy"] <= 1
    assert facts["cross_entropy"] > 1  # of five places
    done = run(
        "main.py", "--mode", "export", "--format", "onnx", "--name_data", "mnist_seq", *directories(tmp_path)
    )
    assert done.returncode == 2 and "is a network for sequence: only classifiers" in done.stderr


def test_mistake_samples_of_a_theta_without_jitter(trained):
    done = run("main.py", "--mode", "test", "--limit", "20", "--tta", "3", *directories(trained[0]))
    assert done.returncode == 2
    assert "--tta 3: expected a transformer that was trained with --jitter" in done.stderr


def test_mistake_a_heatmap_for_maps_without_a_place(tmp_path):
    done = run("main.py", "--localization", "heatmap", *directories(tmp_path))
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "expected a transform of attention, translation, similarity, but got 'affine'" in done.stderr


def test_train_prints_a_line_an_epoch_where_there_is_no_terminal(trained):
    lines = [line for line in trained[1].splitlines() if line.startswith("epoch ")]
    assert [line.split(":")[0] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert "validation loss" in lines[0] and "images/s" in lines[0]
    if not torch.cuda.is_available():
        assert "no GPU found: using the CPU" in trained[1]


def test_train_writes_checkpoints_every_so_many_epochs_and_the_last(trained):
    names = sorted(path.name for path in (trained[0] / "checkpoints/stn/mnist").iterdir())
    assert names == ["model_epoch00002.pth", "model_epoch00003.pth"]


def test_train_writes_every_hyperparameter_in_force(trained):
    text = (trained[0] / "log/stn/mnist/arg.txt").read_text()
    args = dict(line.removeprefix("# ").split(": ", 1) for line in text.splitlines())
    assert args["lr_stn"] == "0.002" and args["net"] == "small" and args["batch_size"] == "32"
    assert args["shape"] == "1 28 28" and args["background"] == "0" and args["transformer"] == "on"
    assert {"seed", "optim", "beta1", "weight_decay", "lr_policy", "lr_cls", "num_epoch"} <= args.keys()


def test_what_it_wrote_starts_the_same_again(trained, tmp_path):
    config = trained[0] / "log/stn/mnist/arg.txt"
    train(tmp_path, "--config", config)  # but for the directories
    last = "checkpoints/stn/mnist/model_epoch00003.pth"
    assert_same_bits(tmp_path / last, trained[0] / last)


def test_train_writes_tensorboard_events(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained[0] / "log/stn/mnist"), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    tags = events.Tags()
    assert {
        "loss/train", "loss/validation", "accuracy/train", "accuracy/validation",
        "learning rate/stn", "learning rate/cls", "images per second", "sampler's share of a step",
    } <= set(tags["scalars"])  # fmt: skip
    assert all(0 < event.value < 1 for event in events.Scalars("sampler's share of a step"))
    assert [event.step for event in events.Scalars("loss/validation")] == [1, 2, 3]
    shown = events.Images("input and warped")
    assert [event.step for event in shown] == [0, 1, 2, 3]
    # Pairs of 28 x 28 in rows of five, two of each digit.
    assert (shown[0].width, shown[0].height) == (5 * (2 * 28 + 2) + 2, 4 * (28 + 2) + 2)


def test_tensorboard_gets_pictures_every_so_many_epochs_and_of_the_last(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path, *SMALL[:2], "--limit", "100", "--num_epoch", "5", "--num_freq_disp", "2")
    events = EventAccumulator(str(tmp_path / "log/stn/mnist"), size_guidance={"images": 0})
    events.Reload()
    assert [event.step for event in events.Images("input and warped")] == [0, 2, 4, 5]


def test_training_continued_after_kill_9_ends_with_the_same_bits(trained, tmp_path):
    options = [*SMALL, "--num_epoch", "3", "--lr_stn", "0.002", *directories(tmp_path)]
    first = tmp_path / "checkpoints/stn/mnist/model_epoch00001.pth"
    with started("main.py", *options) as process:
        while not first.exists():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL and not first.with_name("model_epoch00003.pth").exists()
    train(tmp_path, "--train_continue", "on", "--num_freq_save", "2")
    last = "checkpoints/stn/mnist/model_epoch00003.pth"
    saved = tensors(torch.load(tmp_path / last, weights_only=True))
    assert saved["/args/num_freq_save"] == 2 and saved["/args/lr_stn"] == 0.002
    assert_same_bits(tmp_path / last, trained[0] / last)
    assert "epoch 3 of 3 is done: raise --num_epoch" in train(tmp_path, "--train_continue", "on")

    # The other seed's run shows that equality means something.
    train(tmp_path / "other", *SMALL, "--num_epoch", "1", "--seed", "1")
    other = torch.load(tmp_path / "other/checkpoints/stn/mnist/model_epoch00001.pth", weights_only=True)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(other["model"], torch.load(first, weights_only=True)["model"])


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_saves_the_last_epoch_and_says_how_to_go_on(tmp_path, how):
    options = [*SMALL, "--num_epoch", "100000", "--num_freq_save", "100000", *directories(tmp_path)]
    with started("main.py", *options) as process:
        while not process.stdout.readline().startswith("epoch 1/"):
            assert process.poll() is None, process.stderr.read()
        process.send_signal(how)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert len(errors.splitlines()) == 1, errors
    epoch = int(errors.split("epoch ")[1].split()[0])
    assert "go on with: python main.py" in errors
    (path,) = (tmp_path / "checkpoints/stn/mnist").iterdir()
    assert path.name == f"model_epoch{epoch:05d}.pth"
    assert torch.load(path, weights_only=True)["epoch"] == epoch


@pytest.mark.parametrize(
    "name, options, picture",
    [
        # The picture's size (width, height) of an output.
        ("mnist_r", ["--transform", "rotation"], (28, 28)),
        ("mnist_rts", ["--warp_size", "28", "--ema", "0.9", "--label_smoothing", "0.1"], (28, 28)),
        ("mnist_p", ["--transform", "projective"], (28, 28)),
        ("mnist_e", ["--transform", "thin_plate_spline", "--net", "paper_fcn"], (28, 28)),
        ("mnist_tc", ["--transform", "attention", "--warp_size", "20", "30", "--antialias", "on"], (30, 20)),
        ("mnist_add", ["--num_transformers", "2", "--net", "paper_cnn"], (4 * 42, 42)),
    ],
)
def test_distorted_digits_of_each_kind_from_training_to_the_page(tmp_path, name, options, picture):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    common = ["--name_data", name, "--limit", "100", *directories(tmp_path)]
    steps = ["--batch_size", "32", "--num_epoch", "1"]
    succeed("main.py", "--mode", "train", "--net", "cnn", *options, *steps, *common)
    assert "100 test images" in succeed("main.py", "--mode", "test", *common)
    results = tmp_path / "results/stn" / name
    metrics = json.loads((results / "metrics.json").read_text())
    num_classes = 19 if name == "mnist_add" else 10
    assert len(metrics["classes"]) == num_classes == len(metrics["confusion"])
    assert metrics["num_parameters"] > 10_000 and metrics["history"][0]["images"] == 90
    assert len(list((results / "images").glob("*.png"))) == 200
    assert Image.open(results / "images/00099-output.png").size == picture
    assert metrics["transform"].replace("_", " ") in (results / "index.html").read_text()
    succeed("display_result.py", "--name_data", name, "--dir_result", tmp_path / "results")
    events = EventAccumulator(str(tmp_path / "log/stn" / name))
    events.Reload()
    assert [event.step for event in events.Images("input and warped")] == [0, 1]


def test_co_localisation_from_training_to_the_page(tmp_path):
    common = ["--name_data", "mnist_coloc", "--limit", "100", *directories(tmp_path)]
    steps = ["--batch_size", "32", "--num_epoch", "1", "--ema", "0.9"]
    printed = succeed("main.py", "--net", "paper_cnn", "--name_class", "3", *steps, *common)
    assert "epoch 1/1" in printed
    assert "100 test images: triplet loss" in succeed("main.py", "--mode", "test", *common)
    results = tmp_path / "results/stn/mnist_coloc"
    metrics = json.loads((results / "metrics.json").read_text())
    assert metrics["classes"] == ["missed", "located"] and metrics["transform"] == "attention"
    assert metrics["confusion"][1][1] == round(100 * metrics["accuracy"])
    assert Image.open(results / "images/00099-input.png").size == (84, 84)
    assert Image.open(results / "images/00099-output.png").size == (28, 28)
    page = (results / "index.html").read_text()
    assert "Triplet loss" in page and 'const MEASURE = "overlap"' in page
    succeed("display_result.py", "--name_data", "mnist_coloc", "--dir_result", tmp_path / "results")
    assert list((tmp_path / "log/stn/mnist_coloc").glob("events.out.tfevents.*"))


@pytest.mark.parametrize(
    "options, message",
    [
        (["--scope", "cls"], "co-localisation needs --transformer on"),
        (["--transform", "affine"], "co-localisation needs --transform attention"),
        (["--label_smoothing", "0.1"], "--label_smoothing is for classes"),
        (["--warp_size", "84"], "at most 0.84 of their size"),
    ],
)
def test_mistake_what_co_localisation_has_no_use_for(tmp_path, options, message):
    assert_mistake(message, "--name_data", "mnist_coloc", "--limit", "50", *options, *directories(tmp_path))


@pytest.mark.parametrize("options", [[], ["--ema", "0.9"]])
def test_few_pictures_are_validated_with_the_network_that_they_trained(tmp_path, options):
    """Running averages of batch normalisation lag behind in twelve steps: one picture in ten was right."""
    train(tmp_path, "--limit", "500", "--num_epoch", "3", *options)
    state = torch.load(tmp_path / "checkpoints/stn/mnist/model_epoch00003.pth", weights_only=True)
    last = state["history"][-1]
    # 88 % of 50 pictures here, and of those trained on; other processors' sums change a picture or two.
    assert last["validation"]["accuracy"] > 0.6 and last["train"]["accuracy"] > 0.6


def test_averaged_weights_are_those_that_are_tested(tmp_path):
    train(tmp_path, *SMALL, "--limit", "200", "--num_epoch", "1", "--ema", "0.999999")
    state = torch.load(tmp_path / "checkpoints/stn/mnist/model_epoch00001.pth", weights_only=True)
    from stn_ext.training.run import rebuild

    network, name = rebuild(state).state_dict(), "classifier.1.weight"
    assert torch.equal(network[name], state["averaged"][f"module.{name}"])
    assert not torch.allclose(network[name], state["model"][name], rtol=0, atol=1e-4)


def test_a_training_of_distorted_digits_goes_on_with_the_same_bits(tmp_path):
    options = [*SMALL, "--limit", "200", "--name_data", "mnist_rts", "--ema", "0.9", "--lr_policy", "step"]
    last = "checkpoints/stn/mnist_rts/model_epoch00002.pth"
    train(tmp_path / "straight", *options, "--num_epoch", "2")
    train(tmp_path / "twice", *options, "--num_epoch", "1")
    where = ["--name_data", "mnist_rts", "--num_epoch", "2"]
    train(tmp_path / "twice", *where, "--train_continue", "on")
    assert_same_bits(tmp_path / "straight" / last, tmp_path / "twice" / last)


def test_a_widened_control_is_tested_as_such(tmp_path):
    options = [*SMALL, "--limit", "100", "--num_epoch", "1", "--scope", "cls", "--control", "widened"]
    train(tmp_path, *options)
    succeed("main.py", "--mode", "test", "--scope", "cls", "--limit", "20", *directories(tmp_path))
    metrics = json.loads((tmp_path / "results/cls/mnist/metrics.json").read_text())
    assert metrics["control"] == "widened" and metrics["transformer"] == "off"
    assert metrics["num_parameters"] > 28_000  # the small network has 21 840 without its transformer
    assert "Without a spatial transformer" in (tmp_path / "results/cls/mnist/index.html").read_text()


def test_continuing_where_nothing_was_saved_starts_with_the_first_epoch(tmp_path):
    printed = train(tmp_path, *SMALL, "--num_epoch", "1", "--train_continue", "on")
    assert "starting with the first epoch" in printed and "epoch 1/1" in printed


def test_a_fresh_run_sets_an_earlier_one_aside(trained, tmp_path):
    shutil.copytree(trained[0] / "checkpoints", tmp_path / "checkpoints")
    directory = tmp_path / "checkpoints/stn/mnist"
    for number, content in (("1", "model_epoch00003.pth"), ("2", "model_epoch00001.pth")):
        printed = train(tmp_path, *SMALL, "--num_epoch", "1", "--limit", "100")
        assert f"checkpoints are now in {directory / 'previous' / number}" in printed
        assert sorted(p.name for p in directory.glob("*.pth")) == ["model_epoch00001.pth"]
        assert (directory / "previous" / number / content).exists()
    assert (directory / "previous/1/model_epoch00003.pth").exists()  # what was finished stays
    assert "num_epoch: 1" in (tmp_path / "log/stn/mnist/previous/2/arg.txt").read_text()


def test_test_prints_and_writes_the_figures(tested):
    directory, printed = tested
    metrics = json.loads((directory / "metrics.json").read_text())
    assert metrics["num_images"] == 50 and metrics["epoch"] == 3
    assert f"cross entropy {metrics['cross_entropy']:.4f}, accuracy {metrics['accuracy']:.2%}" in printed
    with open(directory / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    right = [row["label"] == row["prediction"] for row in rows]
    assert metrics["accuracy"] == pytest.approx(sum(right) / 50)
    assert sum(map(sum, metrics["confusion"])) == 50
    assert sum(metrics["confusion"][i][i] for i in range(10)) == sum(right)


def test_test_writes_what_went_in_and_what_the_classifier_saw(tested, trained):
    directory = tested[0] / "images"
    assert len(list(directory.iterdir())) == 100
    images = data.load("mnist", trained[0], train=False, limit=50).images
    read = [np.asarray(Image.open(directory / f"{index:05d}-input.png")) for index in range(50)]
    assert torch.equal(torch.from_numpy(np.stack(read))[:, None], images)
    output = np.asarray(Image.open(directory / "00049-output.png"))
    assert output.shape == (28, 28) and output.dtype == np.uint8
    assert not np.array_equal(output, read[49])  # the transformer has learned to move it
    assert np.corrcoef(output.flatten(), read[49].flatten())[0, 1] > 0.5


def test_the_page_of_a_test_has_the_first_images_and_the_files_have_all(trained, tmp_path):
    shutil.copytree(trained[0] / "checkpoints", tmp_path / "checkpoints")
    options = "--limit", "30", "--report_limit", "4", *directories(tmp_path)
    assert "the first 4 of 30 images" in succeed("main.py", "--mode", "test", *options)
    written = tmp_path / "results/stn/mnist"
    assert len(list((written / "images").iterdir())) == 8
    assert len((written / "predictions.csv").read_text().splitlines()) == 31
    assert json.loads((written / "metrics.json").read_text())["num_images"] == 30


def test_test_takes_the_asked_epoch_and_names_with_four_digits(trained, tmp_path):
    shutil.copytree(trained[0] / "checkpoints", tmp_path / "checkpoints")
    directory = tmp_path / "checkpoints/stn/mnist"
    (directory / "model_epoch00002.pth").rename(directory / "model_epoch0002.pth")
    printed = succeed("main.py", "--mode", "test", "--epoch", "2", "--limit", "20", *directories(tmp_path))
    assert "model_epoch0002.pth" in printed
    assert json.loads((tmp_path / "results/stn/mnist/metrics.json").read_text())["epoch"] == 2


def test_the_control_and_a_scope_of_ones_own(tmp_path):
    train(tmp_path, *SMALL, "--num_epoch", "1", "--scope", "cls", "--optim", "sgd", "--lr_policy", "plateau")
    succeed("main.py", "--mode", "test", "--scope", "cls", "--limit", "5", *directories(tmp_path))
    images = tmp_path / "results/cls/mnist/images"
    assert (images / "00003-input.png").read_bytes() == (images / "00003-output.png").read_bytes()
    train(
        tmp_path, *SMALL, "--num_epoch", "1", "--scope", "mine", "--transformer", "off", "--lr_policy", "step"
    )
    succeed("main.py", "--mode", "test", "--scope", "mine", "--limit", "5", *directories(tmp_path))
    assert json.loads((tmp_path / "results/mine/mnist/metrics.json").read_text())["transformer"] == "off"


def test_the_default_network_trains_on_colour_pictures_of_ones_own(tmp_path):
    generator = np.random.default_rng(0)
    for part, count in (("train", 20), ("test", 4)):
        for name, channel in (("red", 0), ("green", 1), ("blue", 2)):
            folder = tmp_path / "datasets" / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(0, 80, (24, 32, 3), dtype=np.uint8)
                pixels[6:18, 8:24, channel] = 250
                Image.fromarray(pixels).save(folder / f"{index}.png")
    options = ["--name_data", "imagefolder", *directories(tmp_path)]
    succeed("main.py", "--num_epoch", "2", "--batch_size", "16", "--image_size", "16", "20", *options)
    args = (tmp_path / "log/stn/imagefolder/arg.txt").read_text()
    assert (
        "image_size: [16, 20]" in args and "# shape: 3 16 20" in args and "# classes: blue green red" in args
    )
    succeed("main.py", "--mode", "test", *options)
    assert Image.open(tmp_path / "results/stn/imagefolder/images/00000-output.png").size == (20, 16)


# --- mistakes: one line on stderr, exit code 2 ---


def assert_mistake(message, *options):
    done = run("main.py", *options)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1 and message in done.stderr, done.stderr


def test_mistake_no_checkpoint(tmp_path):
    assert_mistake("error: no checkpoint in", "--mode", "test", *directories(tmp_path))


def test_mistake_no_checkpoint_of_that_epoch(trained):
    assert_mistake("no checkpoint of epoch 7 in", "--mode", "test", "--epoch", "7", *directories(trained[0]))


@pytest.mark.parametrize("mode", [["--mode", "test"], ["--train_continue", "on"]])
@pytest.mark.parametrize("damage", ["truncated", "empty", "foreign"])
def test_mistake_a_damaged_checkpoint(trained, tmp_path, damage, mode):
    path = tmp_path / "checkpoints/stn/mnist/model_epoch00003.pth"
    shutil.copytree(trained[0] / "checkpoints", tmp_path / "checkpoints")
    if damage == "foreign":
        torch.save({"epoch": 3, "model": {}}, path)
    else:
        path.write_bytes(path.read_bytes()[: 20000 if damage == "truncated" else 0])
    expected = "is not a checkpoint of this program" if damage == "foreign" else "is no readable checkpoint"
    assert_mistake(f"{path} {expected}", *mode, *directories(tmp_path))


@pytest.mark.parametrize("mode", [["--mode", "test"], ["--train_continue", "on"]])
def test_mistake_a_checkpoint_of_another_architecture(trained, tmp_path, mode):
    assert_mistake(
        "is of another architecture: --net small, not cnn", *mode, "--net", "cnn", *directories(trained[0])
    )
    shutil.copytree(trained[0] / "checkpoints/stn", tmp_path / "checkpoints/cls")
    message = "is of another architecture: --transformer on, not off"
    assert_mistake(message, *mode, "--scope", "cls", *directories(tmp_path))


def test_mistake_a_checkpoint_whose_weights_do_not_fit(trained, tmp_path):
    shutil.copytree(trained[0] / "checkpoints", tmp_path / "checkpoints")
    path = tmp_path / "checkpoints/stn/mnist/model_epoch00003.pth"
    state = torch.load(path, weights_only=True)
    name, _ = state["model"].popitem()
    torch.save(state, path)
    assert_mistake(f"{path} is no checkpoint that this program wrote: model lacks {name}", "--mode", "test",
                   *directories(tmp_path))  # fmt: skip


def test_mistake_a_checkpoint_for_other_images(trained, tmp_path):
    shutil.copytree(trained[0] / "checkpoints/stn/mnist", tmp_path / "checkpoints/stn/imagefolder")
    folder = tmp_path / "datasets/test/cat"
    folder.mkdir(parents=True)
    Image.new("L", (28, 28)).save(folder / "1.png")
    assert_mistake(
        "knows no class 'cat'", "--mode", "test", "--name_data", "imagefolder", *directories(tmp_path)
    )


def test_mistake_a_bad_idx_file(tmp_path):
    raw = tmp_path / "datasets/MNIST/raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte").write_bytes(b"nonsense")
    (raw / "train-labels-idx1-ubyte").write_bytes(b"nonsense")
    assert_mistake("train-images-idx3-ubyte: expected an IDX file", *directories(tmp_path))


def test_mistake_a_gpu_that_is_not_there():
    assert_mistake("there is no GPU 99", "--gpu_ids", "99")


def test_mistake_unknown_data():
    assert_mistake("mnist", "--name_data", "cifar")


def test_mistake_too_small_images(trained):
    assert_mistake("expected at least 10 training images", "--limit", "5", *directories(trained[0] / "none"))


@pytest.mark.parametrize(
    "mode, option", [("train", "--dir_log"), ("train", "--dir_checkpoint"), ("test", "--dir_result")]
)
def test_mistake_a_directory_that_cannot_be_written(trained, tmp_path, mode, option):
    (tmp_path / "file").write_text("")
    where = directories(trained[0] if mode == "test" else tmp_path)
    assert_mistake("cannot write to the directory", "--mode", mode, *where, option, tmp_path / "file/below")


def test_mistake_a_learning_rate_that_blows_up(tmp_path):
    options = [*SMALL, "--lr_cls", "1e6", "--optim", "sgd", "--lr_warmup", "0"]
    assert_mistake("lower --lr_cls and --lr_stn", *options, *directories(tmp_path))
