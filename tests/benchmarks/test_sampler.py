"""The contenders compute the same warp, and the tables tell what became of each."""

import json

import bandwidth
import contenders
import pytest
import sampler
import timing
import torch
import torch.nn.functional as F
from cases import Case, Problem
from contenders import CONTENDERS, Contender, DoesNotApply, Prepared

import stn_ext

CPU = torch.device("cpu")
NAMES = [name for name in CONTENDERS if name != "compile"]  # it takes half a minute
CASES = {
    "single": Case((1, 3, 40, 30)),
    "zoom": Case((1, 1, 40, 30), scale=0.5, shift=0.2),
    "outside": Case((1, 1, 20, 20), shift=10),
    "batch": Case((3, 2, 20, 24)),
    "crop": Case((2, 3, 40, 30), size=(10, 12), scale=0.3),
    "channels last": Case((2, 8, 20, 24), channels_last=True),
}


def prepare(name: str, problem: Problem) -> Prepared:
    pytest.importorskip(CONTENDERS[name].module)
    return CONTENDERS[name].prepare(problem)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", NAMES)
def test_contenders_agree(name, case):
    problem = Problem.make(CASES[case], CPU)
    if name == "cudnn" or (name in ("torchvision", "opencv") and len(problem.input) > 1):
        with pytest.raises(DoesNotApply):
            prepare(name, problem)
        return
    prepared = prepare(name, problem)
    output = prepared.to_tensor(prepared.warp(prepared.input, prepared.theta))
    expected = stn_ext.affine_sample(problem.input, problem.theta, problem.size)
    contenders.check(prepared, expected)
    # OpenCV rounded coordinates to 1/32 of a pixel for long.
    torch.testing.assert_close(output, expected, atol=0.2 if name == "opencv" else 1e-4, rtol=0)


@pytest.mark.parametrize("name", ["pytorch", "broadcast", "kornia"])
def test_contenders_have_the_same_gradients(name):
    """Of the images: that of the maps is in the contender's own units."""
    problem = Problem.make(CASES["batch"], CPU)
    run = contenders.call(prepare(name, problem), "forward+backward", problem.grad)
    expected = contenders.call(prepare("stn_ext", problem), "forward+backward", problem.grad)
    torch.testing.assert_close(run()[0], expected()[0], atol=1e-4, rtol=0)


def test_another_warp_is_refused():
    """Even one that is off by a fifth of a pixel."""
    problem = Problem.make(CASES["single"], CPU)
    expected = stn_ext.affine_sample(problem.input, problem.theta)
    shifted = problem.theta + torch.tensor([[0, 0, 0.4 / 30], [0, 0, 0]])
    with pytest.raises(ValueError, match="differs from stn_ext's"):
        contenders.check(Prepared(contenders.fused, problem.input, shifted), expected)
    with pytest.raises(ValueError, match="has shape"):
        contenders.check(Prepared(contenders.fused, problem.input[:, :1], problem.theta), expected)


@pytest.mark.parametrize("matrix", [[[-1.0, 0, 0], [0, 1, 0]], [[0.5, 0, 0], [0, 2, 0]]])
def test_torchvision_has_no_mirror_and_no_narrowing(matrix):
    with pytest.raises(DoesNotApply):
        contenders.torchvision_map(torch.tensor(matrix, dtype=torch.float64))


def test_a_pass_applies_where_there_is_the_gradient():
    problem = Problem.make(CASES["single"], CPU)
    images_only = Prepared(contenders.fused, problem.input, problem.theta, differentiable=("input",))
    assert len(contenders.call(images_only, "forward+input", problem.grad)()) == 1
    for name in ("forward+theta", "forward+backward"):
        with pytest.raises(DoesNotApply):
            contenders.call(images_only, name, problem.grad)


def test_the_table_names_what_failed_and_what_is_missing(monkeypatch, tmp_path, capsys):
    def raise_error(problem):
        raise RuntimeError("no luck\nat length")

    def do_not_apply(problem):
        raise DoesNotApply

    mirrored = contenders.of_tensors(lambda input, theta, size: contenders.fused(input.flip(-1), theta, size))
    added = {
        "broken": Contender("a broken one", raise_error),
        "missing": Contender("a missing one", raise_error, "no_such_module"),
        "wrong": Contender("a wrong one", mirrored),
        "narrow": Contender("a narrow one", do_not_apply),
    }
    for name, contender in added.items():
        monkeypatch.setitem(CONTENDERS, name, contender)
    path = tmp_path / "result.json"
    chosen = [f"--contender={name}" for name in ("pytorch", *added)]
    sampler.main([*chosen, "--case=tiny", "--pass=forward", "--threads=2", "--seconds=0", f"--json={path}"])
    printed = capsys.readouterr().out
    assert "missing: a missing one, for No module named 'no_such_module'" in printed
    assert "- a broken one failed: RuntimeError: no luck (tiny)\n" in printed
    assert "- a wrong one failed: ValueError: its output differs" in printed
    (line,) = (line for line in printed.splitlines() if line.startswith("| tiny"))
    assert line.count("failed") == 2 and "a narrow one" not in printed
    rows = json.loads(path.read_text())["rows"]
    assert {row["contender"] for row in rows} == {"stn_ext", "pytorch", "broken", "wrong", "copy"}
    assert all(row["threads"] == 2 and (row["error"] or row["low"] <= row["high"]) for row in rows)


def test_speedups_and_geometric_means():
    def row(contender, threads, median):
        return {"contender": contender, "threads": threads, "median": median}

    rows = [row("stn_ext", 1, 2.0), row("stn_ext", 2, 1.0), row("pytorch", 1, 6.0), row("pytorch", 2, 5.0)]
    ratios = sampler.times_faster(rows, 1)
    assert ratios == {"pytorch": 3, 2: 2}
    ratios = {"digits": ratios, "grey": {"pytorch": 12.0}, "tiny": {"pytorch": 100.0}}
    assert sampler.geometric_means(ratios, ["pytorch", 2, "kornia"]) == ["6.00 (2)", "2.00 (1)", "-"]


@pytest.mark.parametrize("option", ["--case=none", "--threads=0", "--contender=stn_ext"])
def test_mistakes_in_options(option, capsys):
    with pytest.raises(SystemExit):
        sampler.main([option])
    assert "error: " in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("case", ("batch", "crop"))
def test_maps_of_cudnn(case):
    """Between the centres of the outer pixels."""
    problem = Problem.make(CASES[case], CPU)
    size = [*problem.input.shape[:2], *problem.size]
    grid = F.affine_grid(contenders.aligned_theta(problem), size, align_corners=True)
    output = F.grid_sample(problem.input, grid, align_corners=True)
    expected = stn_ext.affine_sample(problem.input, problem.theta, problem.size)
    torch.testing.assert_close(output, expected, atol=1e-4, rtol=0)


def test_cuda_without_a_gpu_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as caught:
        sampler.main(["--device=cuda"])
    assert caught.value.code == 2
    assert capsys.readouterr().err == "sampler.py: error: --device cuda: no GPU here\n"


def test_sets_of_tensors_exceed_the_cache():
    cache = 50 << 20
    for bytes_each in (1, 1 << 20, 60 << 20, 1 << 40):
        count = timing.sets_beyond(cache, bytes_each)
        assert 2 <= count <= 256 and (count == 256 or count * bytes_each >= 4 * cache)
    assert timing.sets(1 << 20, CPU) == 1


def test_calls_take_turns_and_keep_their_results():
    problem = Problem.make(CASES["batch"], CPU)
    grads = [problem.grad, problem.grad.clone(), problem.grad.clone()]
    for pass_name in ("forward", "forward+backward"):
        turn = timing.in_turn(contenders.calls(prepare("stn_ext", problem), pass_name, grads))
        results = [turn() for _ in range(4)]
        tensors = [r if isinstance(r, torch.Tensor) else r[0] for r in results]
        assert all(torch.equal(tensors[0], t) for t in tensors)
        assert len({t.data_ptr() for t in tensors[:3]}) == 3


def test_bandwidth_is_the_copys_share():
    rows = bandwidth.measure(CPU, 0, {"small": CASES["batch"]} if not torch.cuda.is_available() else {})
    for row in rows:
        if row["dtype"] == "float32":
            assert not row["error"] and row["bytes"] == 2 * 4 * 3 * 2 * 20 * 24
        elif row["operator"] != "copy":
            assert "float16" in row["dtype"] and (row["error"] or row["share"] > 0)
        if row["operator"] == "copy":
            assert row["share"] == 1
    rows[0] |= {"median": 1e-3, "low": 1e-3, "high": 1e-3, "share": 0.85, "bytes": 2_000_000_000}
    assert "| 1 ± 0% | 2000 |" in " ".join(bandwidth.table(rows).split()) and "85%" in bandwidth.table(rows)


def test_shared_measurement():
    assert timing.Measurement(4.0, 2.0, 6.0, 9).shared_by(2) == timing.Measurement(2.0, 1.0, 3.0, 9)


def test_a_pass_that_some_cases_lack_has_no_lines_for_them():
    """As graphs, which small cases alone are timed as."""
    row = {"shape": "1x1x8x8", "threads": 1, "median": 1.0, "low": 1.0, "high": 1.0, "error": ""}
    cells = [("digits", "forward"), ("grey", "forward"), ("digits", "forward, graph")]
    rows = [
        row | {"case": case, "pass": name, "contender": who}
        for case, name in cells
        for who in (contenders.OURS, contenders.BASELINE, contenders.FLOOR)
    ]
    lines = sampler.table(rows, 1).splitlines()
    assert sum("forward, graph" in line for line in lines) == 1
