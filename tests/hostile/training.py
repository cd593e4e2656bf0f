"""Small trainings and tests as the command line runs them, without the seconds that a new process takes."""

from __future__ import annotations

import io
import resource
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from stn_ext.training import config, program
from stn_ext.training.distributed import launch
from stn_ext.training.errors import guarded
from tests.command_line import directories

SMALL = ["--net", "small", "--limit", "60", "--batch_size", "16", "--gpu_ids", "-1", "--num_workers", "1"]


def command(root: Path, *options: object) -> tuple[int, str]:
    """main.py with these options, writing under root: (its exit code, its standard error)."""
    code, _, errors = command_and_output(root, *options)
    return code, errors


def command_and_output(root: Path, *options: object) -> tuple[int, str, str]:
    """The same: (exit code, standard output, standard error)."""

    def main() -> None:
        args = config.parse([*directories(root), *map(str, options)])
        launch(program.MODES[args.mode], args)

    printed, errors = io.StringIO(), io.StringIO()
    with (
        redirect_stderr(errors),
        redirect_stdout(printed),
        warnings.catch_warnings(record=True) as warned,
    ):
        code = guarded(main)
    told = errors.getvalue() + "".join(f"{warning.message}\n" for warning in warned)
    return code, printed.getvalue(), told


def trained(root: Path, *options: object) -> Path:
    """The last checkpoint of a small training under root."""
    code, errors = command(root, *SMALL, "--num_epoch", 1, *options)
    assert code == 0, errors
    return max((root / "checkpoints/stn/mnist").glob("model_epoch*.pth"))


@contextmanager
def little_room(size: int) -> Iterator[None]:
    """Within, no file can have more bytes: to write more fails, as it does on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
