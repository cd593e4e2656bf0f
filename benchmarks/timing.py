"""Timing that can be trusted: contenders alternate in one run; medians with spread; the machine named."""

from __future__ import annotations

import itertools
import json
import math
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch


@dataclass
class Measurement:
    """Seconds a call: median and quartiles over rounds; or the error that stopped it."""

    median: float = math.nan
    low: float = math.nan
    high: float = math.nan
    rounds: int = 0
    error: str = ""

    def shared_by(self, calls: int) -> Measurement:
        """Of each of several calls that were timed together."""
        return replace(self, median=self.median / calls, low=self.low / calls, high=self.high / calls)

    def to_json(self) -> dict:
        return {key: value for key, value in asdict(self).items() if value == value}


def alternate(
    contenders: dict[str, Callable[[], object]], seconds: float, device: torch.device
) -> dict[str, Measurement]:
    """Times the contenders in turns, each turn some calls of each, for about `seconds` in all."""
    keep_freed_memory()
    results, calls = {}, {}
    for name, f in contenders.items():
        try:
            calls[name] = max(1, int(0.004 / max(_seconds(f, 1, device, warmup=3), 1e-7)))
        except Exception as error:  # a peer that fails is part of the result
            results[name] = failure(error)
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while calls and (time.perf_counter() < end or len(next(iter(times.values()))) < 7):
        for name, count in calls.items():
            times[name].append(_seconds(contenders[name], count, device))
    for name, values in times.items():
        low, median, high = statistics.quantiles(values, n=4)
        results[name] = Measurement(median, low, high, len(values))
    return {name: results[name] for name in contenders}


def keep_freed_memory() -> None:
    """A large tensor comes and goes, as in any training.

    glibc then gives less memory back to the system. Otherwise it depends on what was allocated before whether
    calls of some megabytes begin with page faults, which cost as much as the work.
    """
    torch.empty(31 << 20, dtype=torch.uint8)


def sets(bytes_each: int, device: torch.device) -> int:
    """How many sets of tensors, of so many bytes each, to take in turns.

    A GPU's cache is to hold none of them when its turn comes again. On a CPU it is one set.
    """
    if device.type != "cuda":
        return 1
    return sets_beyond(torch.cuda.get_device_properties(device).L2_cache_size, bytes_each)


def sets_beyond(cache: int, bytes_each: int) -> int:
    return min(256, max(2, math.ceil(4 * cache / bytes_each)))


def in_turn(calls: list[Callable[[], object]]) -> Callable[[], object]:
    """The next of the calls. What each gives is kept until its next turn, so that results lie apart."""
    kept: list[object] = [None] * len(calls)
    turns = itertools.cycle(range(len(calls)))

    def next_call() -> object:
        turn = next(turns)
        kept[turn] = None
        kept[turn] = calls[turn]()
        return kept[turn]

    return next_call


def captured(calls: list[Callable[[], object]]) -> Callable[[], object]:
    """A CUDA graph of all the calls, and its replay."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # what is loaded or compiled on first use cannot be captured
        for call in calls[:3]:
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = [call() for call in calls]

    def replay() -> object:
        graph.replay()
        return kept

    return replay


def failure(error: Exception) -> Measurement:
    """Its first line is enough: compilers explain themselves at length."""
    return Measurement(error=f"{type(error).__name__}: {error}".strip().splitlines()[0])


def _seconds(f: Callable[[], object], calls: int, device: torch.device, warmup: int = 0) -> float:
    for _ in range(warmup):
        f()
    if device.type == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(calls):
            f()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / calls
    begin = time.perf_counter()
    for _ in range(calls):
        f()
    return (time.perf_counter() - begin) / calls


def peak_memory(f: Callable[[], object], device: torch.device) -> int:
    """Bytes that a call holds at its peak, beyond what was held before it: results included."""
    f()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        f()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        f()
    events = profile.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak


def machine(device: torch.device) -> dict[str, object]:
    """What a reader needs to judge the numbers."""
    import stn_ext

    info: dict[str, object] = {
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "stn_ext": stn_ext.build_info(),
        "commit": _commit(),
    }
    if device.type == "cuda":
        info["gpu"] = torch.cuda.get_device_name(device)
        info["cuda"] = torch.version.cuda
    return info


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _commit() -> str:
    """The commit, and whether what is measured differs from it: not the results, which are recorded anew."""
    git = ["git", "-C", str(Path(__file__).resolve().parents[1])]
    measured = [
        "csrc",
        "stn_ext",
        "build_support",
        "setup.py",
        "main.py",
        "stn_ext_startup.py",
        "benchmarks/*.py",
    ]
    head = [*git, "rev-parse", "--short=12", "HEAD"]
    try:
        commit = subprocess.run(head, capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", *measured]).returncode
        return commit + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def write_json(path: Path, content: dict) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(path)
