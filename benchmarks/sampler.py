"""Times affine_sample against its peers, in one run, alternating.

    python benchmarks/sampler.py                      # every case, pass and contender on one thread
    python benchmarks/sampler.py --threads 1 --threads 2 --curves --json out.json
    python benchmarks/sampler.py --case photo --case tiny --pass forward --contender kornia
    python benchmarks/sampler.py --device cuda --json out.json    # on a GPU, whose kernels are held to a copy
    python benchmarks/sampler.py --matrix --seconds 0.3           # every dtype, padding, layout ...

For an honest figure the machine must be idle. A contender is timed where its output agrees with
affine_sample's; "-" where it cannot compute the case. The copy is one of the output: the floor. On a GPU
calls take turns at several sets of tensors, more than its cache holds, and small cases are timed as CUDA
graphs too.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import statistics
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # its profiler is chatty; read on import

import bandwidth
import matrix
import torch
from cases import CASES, COMMON, CURVES, DEFAULT_CASES, Case, Problem
from contenders import (
    BASELINE,
    CONTENDERS,
    FLOOR,
    MAIN_PASSES,
    OURS,
    PASSES,
    DoesNotApply,
    Prepared,
    calls,
    check,
    fused,
)
from tables import markdown, milliseconds
from timing import (
    Measurement,
    alternate,
    captured,
    failure,
    in_turn,
    machine,
    peak_memory,
    sets,
    write_json,
)

import stn_ext

SMALL = 1_000_000  # output values: a GPU is done with them before the next call has been launched


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    option = parser.add_argument
    peers = [name for name in CONTENDERS if name != OURS]
    several = {"action": "append", "metavar": "NAME"}
    option("--case", **several, choices=list(CASES), help=f"of {', '.join(CASES)} (default: the device's)")
    option(
        "--pass",
        **several,
        dest="passes",
        choices=list(PASSES),
        help=f"of {', '.join(PASSES)} (default: all)",
    )
    option("--contender", **several, choices=peers, help=f"of {', '.join(peers)} (default: all)")
    option("--threads", action="append", type=int, help="may be repeated, as the above (default: 1)")
    option("--curves", action="store_true", help="also time by number of images, size and channels")
    option(
        "--matrix",
        action="store_true",
        help="instead: every dtype, interpolation, padding, layout and pass against PyTorch, and pictures "
        "against OpenCV and kornia_rs",
    )
    option("--device", default="cpu", help="default: cpu")
    option("--seconds", type=float, default=3.0, help="for each case and pass (default: 3)")
    option("--json", type=Path, metavar="FILE", help="also write the results there")
    options = parser.parse_args(arguments)
    if problem := no_device(torch.device(options.device)):
        parser.exit(2, f"sampler.py: error: --device {options.device}: {problem}\n")
    options.threads = sorted(set(options.threads or [1]))
    if options.threads[0] < 1:
        parser.error(f"--threads {options.threads[0]}: expected a number above 0")
    return options


def no_device(device: torch.device) -> str:
    """Why affine_sample cannot run on a device; nothing where it can."""
    if device.type == "cuda" and not torch.cuda.is_available():
        return "no GPU here"
    if device.type == "cuda" and not stn_ext.build_info()["cuda"]:
        return "this stn_ext is built without CUDA kernels"
    return ""


def installed(names: Iterable[str]) -> dict[str, str]:
    """The versions of the contenders; those that are missing are named."""
    versions = {}
    for name in names:
        try:
            versions[name] = CONTENDERS[name].version()
        except ImportError as error:
            print(f"missing: {CONTENDERS[name].title}, for {error}: pip install -e '.[bench]'")
    return versions


def prepare(names: Iterable[str], problem: Problem) -> tuple[dict[str, Prepared], dict[str, Measurement]]:
    """The contenders that compute affine_sample's output, and the errors of those that fail."""
    ready, failed = {}, {}
    expected = fused(problem.input, problem.theta, problem.size)
    for name in names:
        try:
            prepared = CONTENDERS[name].prepare(problem)
            check(prepared, expected)
            ready[name] = prepared
        except DoesNotApply:
            continue
        except Exception as error:  # a peer that fails is part of the result
            failed[name] = failure(error)
    return ready, failed


def measure(
    case: Case, names: Iterable[str], passes: Iterable[str], device: torch.device, seconds: float
) -> list[dict]:
    """A row for each pass and contender, and for a copy of the output."""
    problem = Problem.make(case, device)
    ready, failed = prepare(names, problem)
    count = sets(problem.input.nbytes + problem.grad.nbytes, device)
    grads = [problem.grad, *(problem.grad.clone() for _ in range(count - 1))]
    rows = []
    for pass_name in passes:
        turns = {}
        for name, prepared in ready.items():
            with contextlib.suppress(DoesNotApply):
                turns[name] = calls(prepared, pass_name, grads)
        turns[FLOOR] = [partial(torch.empty_like(grad).copy_, grad) for grad in grads]
        timed = alternate({name: in_turn(turn) for name, turn in turns.items()}, seconds, device)
        results = {pass_name: timed | failed}
        if device.type == "cuda" and problem.grad.numel() <= SMALL:
            results[f"{pass_name}, graph"] = replays(turns, seconds, device) | failed
        for label, measurements in results.items():
            for name, measurement in measurements.items():
                row = {"pass": label, "contender": name, "shape": str(case), "values": problem.grad.numel()}
                row |= measurement.to_json()
                # Only PyTorch's own memory is seen.
                if name in ready and isinstance(ready[name].input, torch.Tensor) and not measurement.error:
                    row["peak_bytes"] = peak_memory(turns[name][0], device)
                rows.append(row)
    return rows


def replays(
    turns: dict[str, list[Callable[[], object]]], seconds: float, device: torch.device
) -> dict[str, Measurement]:
    """Each contender's calls as one CUDA graph: what the GPU needs, without what launching costs the CPU."""
    graphs, failed = {}, {}
    for name, turn in turns.items():
        try:
            graphs[name] = captured(turn)
        except Exception as error:  # a peer that fails is part of the result
            failed[name] = failure(error)
    timed = alternate(graphs, seconds, device)
    return {name: m if m.error else m.shared_by(len(turns[name])) for name, m in timed.items()} | failed


def measure_all(options: argparse.Namespace, names: list[str], device: torch.device) -> list[dict]:
    rows = []
    for case in options.case or DEFAULT_CASES[device.type]:
        for threads in options.threads:
            torch.set_num_threads(threads)
            timed = measure(CASES[case], names, options.passes or PASSES, device, options.seconds)
            rows += [{"case": case, "threads": threads, **row} for row in timed]
            print(".", end="", flush=True, file=sys.stderr)
    return rows


def measure_curves(options: argparse.Namespace, device: torch.device) -> list[dict]:
    rows = []
    torch.set_num_threads(options.threads[0])
    for curve, cases in CURVES.items():
        for size, case in cases.items():
            timed = measure(case, (OURS, BASELINE), MAIN_PASSES, device, options.seconds)
            rows += [{"curve": curve, "size": size, **row} for row in timed]
            print(".", end="", flush=True, file=sys.stderr)
    return rows


# --- tables ------------------------------------------------------------------------------------------


def table(rows: list[dict], threads: int) -> str:
    """A Markdown table, a line for each pass and case on so many threads; and what failed.

    "vs" tells how many times faster affine_sample is than another, "on n threads" than itself on `threads`.
    """
    columns = {name: f"vs {CONTENDERS[name].title}" for name in CONTENDERS if name != OURS}
    columns = {name: title for name, title in columns.items() if name in _values(rows, "contender")}
    columns |= {n: f"on {n} threads" for n in _values(rows, "threads") if n > threads}
    header = ["case", "pass", "stn_ext, ms", "copy, ms", *columns.values(), "peak MB, stn_ext / PyTorch"]
    lines = []
    for pass_name in _values(rows, "pass"):
        ratios = {}
        for case in _values(rows, "case"):
            group = [row for row in rows if row["pass"] == pass_name and row["case"] == case]
            if not group:  # of passes as graphs, which small cases alone have
                continue
            now = {row["contender"]: row for row in group if row["threads"] == threads}
            ratios[case] = times_faster(group, threads)
            cells = [_ratio(ratios[case].get(name)) for name in columns]
            times = [milliseconds(now[OURS]), f"{now[FLOOR]['median'] * 1e3:.3g}"]
            lines.append([f"{case} {now[OURS]['shape']}", pass_name, *times, *cells, _memory(now)])
        if len(COMMON.keys() & ratios) > 1:
            lines.append(["*geometric mean*", pass_name, "", "", *geometric_means(ratios, columns), ""])
    return markdown(header, lines, left=2) + failures(rows)


def times_faster(rows: list[dict], threads: int) -> dict[str | int, float]:
    """The ratios of one case and pass by column; NaN where a contender failed."""
    median = {(row["contender"], row["threads"]): row.get("median", math.nan) for row in rows}
    ours = median[OURS, threads]
    peers = {name: time / ours for (name, n), time in median.items() if n == threads and name != OURS}
    return peers | {n: ours / time for (name, n), time in median.items() if n > threads and name == OURS}


def geometric_means(ratios: dict[str, dict], columns: Iterable[str | int]) -> list[str]:
    """Over the common cases; in brackets over how many, where some are lacking."""
    cells = []
    for name in columns:
        known = [ratios[case].get(name, math.nan) for case in COMMON if case in ratios]
        known = [ratio for ratio in known if not math.isnan(ratio)]
        mean = _ratio(statistics.geometric_mean(known)) if known else "-"
        cells.append(mean if len(known) in (0, len(COMMON)) else f"{mean} ({len(known)})")
    return cells


def failures(rows: list[dict]) -> str:
    """A line for each error, below the table."""
    cases: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["error"]:
            cases.setdefault((CONTENDERS[row["contender"]].title, row["error"]), []).append(row["case"])
    lines = [
        f"- {who} failed: {why} ({', '.join(dict.fromkeys(where))})" for (who, why), where in cases.items()
    ]
    return "\n".join(["", "", *lines]) if lines else ""


def curve_table(rows: list[dict]) -> str:
    """A Markdown table, a line for each pass, curve and size."""
    lines = []
    for pass_name in _values(rows, "pass"):
        for curve, size in dict.fromkeys((row["curve"], row["size"]) for row in rows):
            key = (pass_name, curve, size)
            group = [row for row in rows if (row["pass"], row["curve"], row["size"]) == key]
            times = {row["contender"]: milliseconds(row) for row in group}
            lines.append([*map(str, key), *(times[name] for name in (OURS, BASELINE, FLOOR))])
    return markdown(["pass", "by", "size", "stn_ext, ms", "PyTorch, ms", "copy, ms"], lines, left=2)


def _values(rows: list[dict], key: str) -> list:
    return list(dict.fromkeys(row[key] for row in rows))


def _ratio(ratio: float | None) -> str:
    """Nothing where the contender does not apply, NaN where it failed."""
    if ratio is None:
        return "-"
    return "failed" if math.isnan(ratio) else f"{ratio:.2f}"


def _memory(rows: dict[str, dict]) -> str:
    peaks = [rows.get(name, {}).get("peak_bytes") for name in (OURS, BASELINE)]
    return " / ".join("-" if peak is None else f"{peak / 1e6:.3g}" for peak in peaks)


def measure_matrix(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads[0])
    environment = machine(torch.device("cpu"))
    rows, pictures = matrix.measure(options.seconds), matrix.measure_pictures(options.seconds)
    print(", ".join(f"{key}: {value}" for key, value in environment.items()))
    print(f"\n{matrix.table(rows)}\n\n{matrix.picture_table(pictures)}")
    if options.json:
        write_json(options.json, {"machine": environment, "matrix": rows, "pictures": pictures})


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    if options.matrix:
        return measure_matrix(options)
    device = torch.device(options.device)
    versions = installed([OURS, *(options.contender or CONTENDERS)])
    torch.set_num_threads(options.threads[0])
    peers = {CONTENDERS[name].title: v for name, v in versions.items() if CONTENDERS[name].module != "torch"}
    environment = machine(device) | {"peers": peers}
    rows = measure_all(options, list(versions), device)
    curves = measure_curves(options, device) if options.curves else []
    copied = bandwidth.measure(device, options.seconds) if device.type == "cuda" and not options.case else []
    if options.json:
        content = {"machine": environment, "rows": rows, "curves": curves, "bandwidth": copied}
        write_json(options.json, content)
    print(file=sys.stderr)
    print(", ".join(f"{key}: {value}" for key, value in environment.items()))
    print("median ± half the interquartile range")
    for threads in options.threads:
        print(f"\n{threads} thread(s)\n\n{table(rows, threads)}")
    if curves:
        print(f"\n{curve_table(curves)}")
    if copied:
        print(f"\n{bandwidth.table(copied)}")


if __name__ == "__main__":
    main()
