"""The processes that train together, and the device of each."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .errors import UserError, guarded

T = TypeVar("T")

SAVING = 60.0  # seconds that the main process has for its checkpoint after Ctrl-C


@dataclass(frozen=True)
class Process:
    """This process: its number among ``world``, and its device."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes files and speaks."""
        return self.rank == 0

    def say(self, text: str) -> None:
        if self.is_main:
            print(text, flush=True)

    def share(self, index: Tensor) -> Tensor:
        """This process's part of the index; the parts differ in length by one at most."""
        return index.tensor_split(self.world)[self.rank]

    def sum(self, values: Tensor) -> Tensor:
        """Adds up over the processes, in place."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: object) -> list[Any]:
        """Each process's value, by rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def main_first(self, work: Callable[[], T]) -> T:
        """Runs work in the main process, which may have to download, then in the others.

        A UserError of one is everybody's, so that none waits for a process that has gone.
        """
        result = None
        for main_turn in (True, False):
            mistake = None
            if self.is_main == main_turn:
                try:
                    result = work()
                except UserError as error:
                    mistake = str(error)
            for told in filter(None, self.gather(mistake)):
                raise UserError(told)
        return cast(T, result)

    def share_buffers(self, model: nn.Module) -> None:
        """Gives every process the main one's running statistics."""
        if self.world > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)


def launch(work: Callable[[Namespace, Process], None], args: Namespace) -> None:
    """Runs ``work`` in this process, or with one process for each of several GPUs.

    Under torchrun the processes exist already; each joins the others, and ends here.

    Raises:
        UserError: a GPU that is not there.
    """
    if args.gpu_ids is None and not torch.cuda.is_available() and os.environ.get("RANK", "0") == "0":
        print("no GPU found: using the CPU", flush=True)
    if "LOCAL_RANK" in os.environ:
        local, on_this_machine = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        _join(
            work, args, Process(choose_devices(args.gpu_ids, on_this_machine)[local], rank, world), "env://"
        )
    devices = choose_devices(args.gpu_ids)
    if len(devices) == 1 or args.mode == "test":
        work(args, Process(devices[0]))
    else:
        _spawn(work, args, devices)


def choose_devices(gpu_ids: list[int] | None, processes: int | None = None) -> list[torch.device]:
    """The device of each process; as many processes as GPUs where their number is not given."""
    available = torch.cuda.device_count()
    if gpu_ids == [-1] or (gpu_ids is None and available == 0):
        return [torch.device("cpu")] * (processes or 1)
    if gpu_ids is None:
        gpu_ids = list(range(processes or 1))
    missing = [str(i) for i in gpu_ids if i >= available]
    if missing:
        there = f"GPUs 0 to {available - 1}" if available else "no GPU (-1 is the CPU)"
        raise UserError(f"--gpu_ids: there is no GPU {', '.join(missing)}: PyTorch sees {there}")
    if processes is not None and processes != len(gpu_ids):
        raise UserError(f"--gpu_ids: {processes} processes need as many GPUs, but got {len(gpu_ids)}")
    return [torch.device("cuda", i) for i in gpu_ids]


def _join(
    work: Callable[[Namespace, Process], None], args: Namespace, process: Process, init_method: str
) -> NoReturn:
    """Works together with the other processes, and ends this one.

    Not by way of the interpreter's finalisation: threads of the process group outlive it, and one that lets
    go of a tensor then aborts (github.com/pytorch/pytorch/pull/179291); after Ctrl-C its destructor may wait
    for the others.
    """

    def together() -> None:
        if process.device.type == "cuda":
            torch.cuda.set_device(process.device)
        backend = "nccl" if process.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, init_method, rank=process.rank, world_size=process.world)
        work(args, process)
        dist.destroy_process_group()

    code = guarded(together, quiet=not process.is_main)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _spawn(work: Callable[[Namespace, Process], None], args: Namespace, devices: list[torch.device]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        init_method = f"file://{directory}/meeting-point"
        context = torch.multiprocessing.spawn(
            _child, (work, args, devices, init_method), nprocs=len(devices), join=False
        )
        try:
            while not context.join():
                pass
        except torch.multiprocessing.ProcessExitedException as error:
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            # The main process saves the last whole epoch, while the others still answer it.
            main = context.processes[0]
            main.terminate()
            main.join(SAVING)
            for child in context.processes:
                child.kill()
                child.join()
            sys.exit(130)


def _child(
    rank: int,
    work: Callable[[Namespace, Process], None],
    args: Namespace,
    devices: list[torch.device],
    init_method: str,
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which passes it on
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    process = Process(devices[rank], rank, len(devices))
    _join(work, args, process, init_method)
