"""What is told of the memory that is free."""

import resource
import subprocess
import sys

import pytest

from stn_ext.training import memory
from stn_ext.training.errors import UserError


def test_sizes_as_people_read_them():
    sizes = [0, 999, 1000, 999_499, 999_500, 2_764_800_000, 10**15]
    assert [memory.size(count) for count in sizes] == [
        *("0 bytes", "999 bytes", "1 KB", "999 KB", "1 MB", "2.76 GB", "1000 TB"),
    ]  # fmt: skip


def test_there_is_memory_but_no_exabyte():
    memory.check(1 << 20, "this", "no advice")
    with pytest.raises(UserError, match=r"^this needs 1152922 TB of memory, but only .* free: buy more$"):
        memory.check(1 << 60, "this", "buy more")


def test_the_limit_of_the_process_counts():
    """ulimit -v, as batch systems set it."""
    code = (
        "import resource; from stn_ext.training import memory;"
        "taken = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize();"
        "resource.setrlimit(resource.RLIMIT_AS, (taken + (64 << 20),) * 2);"
        "print(memory.available())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 32 << 20 < int(done.stdout) <= 64 << 20


@pytest.mark.parametrize("version", [1, 2])
def test_the_limit_of_a_control_group_counts(tmp_path, monkeypatch, version):
    """The group's own, or the tightest of those around it; what its cache holds can be had back."""
    group, lines = "/jobs/7", "0::/jobs/7\n"
    names, cache, root = ("memory.max", "memory.current"), "inactive_file", tmp_path
    if version == 1:
        lines = "9:cpu:/\n4:memory,hugetlb:/jobs/7\n"
        names, cache = ("memory.limit_in_bytes", "memory.usage_in_bytes"), "total_inactive_file"
        root = tmp_path / "memory"
    (root / group[1:]).mkdir(parents=True)
    for folder, values in ((group[1:], ("max", 5000)), ("jobs", (9000, 6000))):
        for name, value in zip(names, values, strict=True):
            (root / folder / name).write_text(f"{value}\n")
    (root / "jobs/memory.stat").write_text(f"anon 1\n{cache} 500\n")
    read = memory._read
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "_read", lambda path: lines if path == "/proc/self/cgroup" else read(path))
    assert memory.available() == 9000 - 6000 + 500


def test_where_the_system_does_not_say_nothing_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "_read", lambda path: "")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert memory.available() is None
    memory.check(1 << 60, "this", "no advice")
