"""Runs main.py on hostile input, each time in a process of its own, in bounded time and memory.

PyTorch is imported once, by multiprocessing's fork server, so that a run costs a fraction of a second.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.command_line import ROOT

MEMORY = 4 << 30  # bytes of address space a run may add to what the imports took
TIMEOUT = 30.0  # seconds

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        *("stn_ext.training.program", __name__),
        *(
            "torch._dynamo",
            "torch.utils.tensorboard",
            "tqdm",
            "PIL.Image",
        ),  # which a run imports when it needs them
    ]
)


def run_isolated(
    script: str,
    *arguments: object,
    memory: int = MEMORY,
    timeout: float = TIMEOUT,
    stdin: bytes = b"",
) -> subprocess.CompletedProcess:
    """Runs the script as ``python script arguments`` would; fails where it takes longer than the timeout."""
    words = [script, *map(str, arguments)]
    with tempfile.TemporaryDirectory() as name:
        given, *printed = [Path(name, stream) for stream in ("stdin", "stdout", "stderr")]
        given.write_bytes(stdin)
        streams = [str(path) for path in (given, *printed)]
        process = _CONTEXT.Process(target=_child, args=(words, streams, memory))
        process.start()
        process.join(timeout)
        hangs = process.is_alive()
        if hangs:
            os.killpg(process.pid, signal.SIGKILL)
            process.join()
        stdout, stderr = (path.read_text(errors="backslashreplace") for path in printed)
    assert not hangs, f"{words} was still running after {timeout} s; it printed {stdout + stderr}"
    return subprocess.CompletedProcess(words, process.exitcode, stdout, stderr)


def assert_refused(done: subprocess.CompletedProcess, message: str = "") -> None:
    """Exit code 2 and one line on stderr, which holds the message."""
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert len(done.stderr.splitlines()) == 1 and message in done.stderr, done.stderr


def _child(words: list[str], streams: list[str], memory: int) -> None:
    os.setsid()  # what it starts is killed with it
    for descriptor, path in enumerate(streams):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT if descriptor else os.O_RDONLY), descriptor)
    sys.stdin = os.fdopen(0, closefd=False)  # a process of multiprocessing has another
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + memory, taken + memory))
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))  # as Python does for a script
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")
