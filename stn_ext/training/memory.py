"""How much memory there is, so that what does not fit is refused before it is loaded."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from .errors import UserError

_CGROUPS = Path("/sys/fs/cgroup")


def check(need: int, what: str, advice: str, device: torch.device | None = None) -> None:
    """Raises UserError, with the advice, where so many bytes are more than there are, here or on a GPU."""
    on_gpu = device is not None and device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if on_gpu else available()
    if free is not None and need > free:
        raise UserError(f"{what} needs {size(need)} of memory, but only {size(free)} are free: {advice}")


def size(count: int) -> str:
    """A number of bytes as people read it: "820 KB", "2.8 GB"."""
    value, unit = float(count), "bytes"
    for larger in ("KB", "MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}" if value < 999.5 else f"{value:.0f} {unit}"


def available() -> int | None:
    """The bytes that this process can still take: the machine's, its control group's, or its own limit's.

    None where the system does not say.
    """
    bounds = [bound for bound in (_of_machine(), *_of_groups(), _of_process()) if bound is not None]
    return max(0, min(bounds)) if bounds else None


def _of_machine() -> int | None:
    return _field("/proc/meminfo", "MemAvailable:", 1024)


def _of_groups() -> list[int]:
    """What is left to the control groups that this process is in, as containers and batch systems have."""
    bounds = []
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            root, limit, usage, cache = _CGROUPS, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            root, limit, usage = _CGROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache = "total_inactive_file"
        else:
            continue
        own = root / group.lstrip("/")
        for folder in (own, *own.parents):
            most, taken = _read(folder / limit).strip(), _read(folder / usage).strip()
            if most.isdecimal() and taken.isdecimal():  # "max": no limit
                bounds.append(int(most) - int(taken) + (_field(folder / "memory.stat", cache, 1) or 0))
            if folder == root:
                break
    return bounds


def _of_process() -> int | None:
    """What ``ulimit -v`` leaves."""
    try:
        import resource  # which Windows lacks
    except ImportError:
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = _read("/proc/self/statm").split()
    if limit == resource.RLIM_INFINITY or not pages:
        return None
    return limit - int(pages[0]) * os.sysconf("SC_PAGESIZE")


def _field(path: str | Path, name: str, unit: int) -> int | None:
    for line in _read(path).splitlines():
        words = line.split()
        if words[:1] == [name]:
            return int(words[1]) * unit
    return None


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
