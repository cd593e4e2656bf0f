"""The paper's experiments: what is run, continued, recorded and shown; the trainings themselves are faked."""

import itertools
import json
import shlex

import numpy as np
import paper
import pytest
from PIL import Image

from stn_ext.training import config


def result(run, epoch=3, num_epoch=3, error=1.0):
    words = [*run.where(), *paper.options_of(run.experiment, run.options)]
    return {
        "experiment": run.experiment, "name_data": run.name_data, "scope": run.scope, "seed": run.seed,
        "error_percent": error, "epoch": epoch, "num_epoch": num_epoch, "images_seen": epoch * 54000,
        "seconds": 60.0 * epoch, "num_parameters": 100_000,
        "machine": {"cpu": "some CPU", "threads": 2},
        "command": shlex.join(["python", "main.py", *words]),
    }  # fmt: skip


@pytest.fixture
def faked(monkeypatch, tmp_path):
    """(options, the runs that were trained); each training takes one of the three epochs' budget."""
    trained = []
    monkeypatch.setattr(paper.Run, "train", lambda run, budget: trained.append(run) or 10.0)
    monkeypatch.setattr(paper.Run, "checkpoints", lambda run: ["one"])
    monkeypatch.setattr(paper.Run, "test", lambda run: result(run, min(3, trained.count(run))))
    monkeypatch.setattr(paper, "animate", lambda run: None)
    monkeypatch.setattr(paper, "epochs_of_equal_time", lambda run: 30)
    words = ["--only", "rts", "tc", "--dir", str(tmp_path), "--json", str(tmp_path / "results/paper.json")]
    return words, trained


def test_each_experiment_has_its_controls_and_seeds_come_last(faked):
    words, trained = faked
    results = paper.measure(paper.parse([*words, "--seeds", "2", "--control_seeds", "1"]))
    order = [(run.seed, run.experiment, run.scope) for run in trained]
    first = [(0, e, c) for e in ("rts", "tc") for c in ("stn", "cls", "time")]
    assert order == [*first, (1, "rts", "stn"), (1, "tc", "stn")]
    assert {result["processor_seconds"] for result in results} == {10.0}


def test_the_control_of_equal_time_has_epochs_for_the_transformers_time(monkeypatch, tmp_path):
    """And keeps them, whatever a later measurement would say."""
    options = paper.parse(["--dir", str(tmp_path), "--", "--num_epoch", "20"])
    run = paper.Run("rts", "time", 0, options)
    monkeypatch.setattr(paper, "step_seconds", lambda run: {"stn": 0.3, "cls": 0.5})
    args = config.parse([*run.where(), *run.what()])
    assert (args.transformer, args.num_epoch, args.control, args.seed) == ("off", 12, "widened", 0)
    monkeypatch.setattr(paper, "step_seconds", lambda run: {"stn": 3.0, "cls": 0.5})
    assert paper.epochs_of_equal_time(paper.Run("rts", "time", 1, options)) == 12
    control = config.parse([*run.where(), *paper.Run("rts", "cls", 0, options).what()])
    assert control.num_epoch == 20


def test_a_step_is_timed_with_a_transformer_and_without(tmp_path):
    options = paper.parse(["--dir", str(tmp_path), "--", "--batch_size", "8", "--width", "4"])
    seconds = paper.step_seconds(paper.Run("rts", "time", 0, options), rounds=2)
    assert set(seconds) == {"stn", "cls"} and min(seconds.values()) > 0


def test_a_training_says_how_long_it_took_and_ends_with_its_budget(tmp_path):
    options = paper.parse(["--dir", str(tmp_path), "--", "--limit", "100", "--num_epoch", "1"])
    run = paper.Run("r", "stn", 0, options)
    assert 0.1 < run.train(paper.Budget(None)) < 300 and run.checkpoints()
    # At once, before anything is saved: of an epoch that lasts, however fast the machine is.
    options = paper.parse(["--dir", str(tmp_path), "--", "--limit", "40000", "--num_epoch", "1"])
    seconds = paper.Run("r", "stn", 1, options).train(paper.Budget(0))
    assert seconds < 300 and not paper.Run("r", "stn", 1, options).checkpoints()


def test_transformers_may_run_before_their_controls(faked):
    words, trained = faked
    results = paper.measure(paper.parse([*words, "--seeds", "1", "--scopes", "stn"]))
    assert [(run.experiment, run.scope) for run in trained] == [("rts", "stn"), ("tc", "stn")]
    assert paper.table(results).count("| 0 / 0 / 1 |") == 2


def test_co_localisation_has_no_control(faked):
    words, trained = faked
    options = paper.parse([*words, "--seeds", "1", "--only", "coloc"])
    results = paper.measure(options)
    assert [(run.experiment, run.scope) for run in trained] == [("coloc", "stn")]
    row = next(line for line in paper.table(results).splitlines() if line.startswith("| co-loc"))
    assert [cell.strip() for cell in row.strip("|").split("|")][1:6] == ["", "", "", "-", "-"]


def test_what_has_ended_is_not_repeated_and_the_rest_goes_on(faked, tmp_path):
    words, trained = faked
    options = paper.parse([*words, "--seeds", "1"])
    for times in (1, 2, 3, 3):
        results = paper.measure(options)
        assert {trained.count(run) for run in trained} == {times}
    assert all(map(paper.ended, results)) and len(results) == 6
    assert {result["processor_seconds"] for result in results} == {30.0}  # of the three times together
    assert json.loads((tmp_path / "results/paper.json").read_text())["runs"] == results


def test_what_was_made_with_other_settings_is_made_anew(tmp_path):
    """A control knows nothing of the transformer's settings, a transformer's run of the controls'."""
    options = paper.parse(["--dir", str(tmp_path)])
    others = paper.parse(["--dir", str(tmp_path), "--", "--transform", "projective", "--iterations", "2"])
    longer = paper.parse(["--dir", str(tmp_path), "--", "--num_epoch", "31"])
    for scope in ("stn", "cls"):
        made = result(paper.Run("r", scope, 0, options))
        old = {name: value for name, value in made.items() if name != "command"}
        old["options"] = paper.options_of("r", options)
        for recorded in (made, old):
            assert paper.is_made(paper.Run("r", scope, 0, options), recorded)
            assert paper.is_made(paper.Run("r", scope, 0, others), recorded) == (scope == "cls")
            assert not paper.is_made(paper.Run("r", scope, 0, longer), recorded)
    assert not paper.is_made(
        paper.Run("r", "stn", 0, options), result(paper.Run("r", "stn", 0, options), epoch=2)
    )
    assert not paper.is_made(paper.Run("r", "stn", 0, options), None)


def test_a_spent_budget_starts_nothing(faked):
    words, trained = faked
    assert paper.measure(paper.parse([*words, "--budget", "0"])) == [] and trained == []


def test_the_table_says_what_has_not_ended(tmp_path):
    options = paper.parse(["--dir", str(tmp_path)])
    runs = {
        (scope, seed): paper.Run("rts", scope, seed, options) for scope in ("stn", "cls") for seed in (0, 1)
    }
    results = [
        result(runs["stn", 0], error=0.5), result(runs["stn", 1], error=0.7),
        result(runs["cls", 0], epoch=1, error=0.9),
    ]  # fmt: skip
    text = paper.table(results)
    row = next(line for line in text.splitlines() if line.startswith("| RTS"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == [
        "RTS", "0.8", "0.5", "0.54", "0.90 *", "-", "0.60 ± 0.14", "1 / 0 / 2", "100k / - / 100k",
        "0.054M / - / 0.162M", "1 / - / 3", "2 thread(s) of some CPU",
    ]  # fmt: skip
    assert "not at its end" in text and "not at its end" not in paper.table(results[:2])


def test_every_experiments_options_are_main_s_and_the_user_s_count():
    for name, experiment in paper.EXPERIMENTS.items():
        words = paper.options_of(name, paper.parse(["--", "--num_epoch", "7"]))
        args = config.parse(["--name_data", f"mnist_{name}", *words])
        assert args.num_epoch == 7 and args.ema > 0
        config.parse(["--mode", "test", *experiment.test])
        if "cls" in experiment.scopes:
            assert args.control == "widened"
        if name not in ("sim2", "seq") and "cls" in experiment.scopes:  # as the paper found it
            assert experiment.best <= experiment.without


def test_networks_are_as_small_as_the_papers():
    from stn_ext.models import num_parameters
    from stn_ext.training.run import About, build

    shapes = {
        "rts": (1, 42, 42),
        "tc": (1, 60, 60),
        "sim2": (1, 96, 96),
        "seq": (1, 64, 128),
        "add": (2, 42, 42),
    }
    for name, experiment in paper.EXPERIMENTS.items():
        if "cls" not in experiment.scopes:
            continue
        objective = "sequence" if name == "seq" else "classification"
        about = About(shapes.get(name, (1, 28, 28)), tuple("0123456789"), (0,), objective)
        args = vars(config.parse(paper.options_of(name, paper.parse([]))))
        with_transformer, control = (
            num_parameters(build({**args, "transformer": choice}, about)) for choice in ("on", "off")
        )
        assert 100_000 < with_transformer <= control < 400_000


def test_spaced_frames_are_closest_at_the_start():
    chosen = paper.spaced(list(range(60)), 10)
    steps = [b - a for a, b in itertools.pairwise(chosen)]
    assert chosen[0] == 0 and chosen[-1] == 59 and steps == sorted(steps)
    assert paper.spaced([1, 2]) == [1, 2] and paper.spaced([1]) == [1]


def test_the_animation_begins_with_the_identity(tmp_path):
    """From real checkpoints of a training on few images."""
    from tests.command_line import directories, succeed

    words = ["--limit", "60", "--batch_size", "32", "--num_epoch", "2", "--transform", "projective"]
    options = paper.parse(["--dir", str(tmp_path), "--pictures", str(tmp_path / "docs")])
    run = paper.Run("p", "stn", 0, options)
    where = [f"--dir_{kind}={run.directory(kind)}" for kind in ("log", "checkpoint", "result")]
    succeed("main.py", "--name_data", "mnist_p", *words, *directories(tmp_path), *where)
    paper.animate(run)
    with Image.open(tmp_path / "docs/mnist_p.gif") as picture:
        assert picture.n_frames >= 2 and picture.size == (2 * (5 * 58 + 2), 2 * (2 * 30 + 2))
        first = np.asarray(picture.convert("L")).astype(int)[::2, ::2]
    pair = first[2:30, 2:58]  # the first digit beside what is seen of it, within the frame
    assert np.abs(pair[:, :28] - pair[:, 28:]).max() <= 8  # as far as a palette of 256 colours can tell
