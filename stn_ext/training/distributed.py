"""The processes that train together, and the device of each."""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .errors import UserError, guarded

T = TypeVar("T")

SAVING = 60.0  # seconds that the main process has for its checkpoint after Ctrl-C
JOINING = 300.0  # seconds that a process waits for the others at the start
PATIENCE = 10.0  # seconds between two words about it

# The options in which processes may differ: those of the machine that each runs on.
OF_A_MACHINE = {
    *("given", "dir_data", "dir_log", "dir_checkpoint", "dir_result", "resume_from"),
    *("gpu_ids", "num_workers", "cache_dir"),
}


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

    def agree(self, values: dict[str, Any]) -> None:
        """Makes sure that the processes have the same values, for they would wait for each other for ever.

        Raises:
            UserError, in every process: theirs differ.
        """
        main, *others = self.gather(values)
        for rank, other in enumerate(others, 1):
            for name in main:
                if other.get(name) != main[name]:
                    here, there = f"{main[name]} in process 0", f"{other.get(name)} in process {rank}"
                    raise UserError(f"the processes differ in {name}: {here}, {there}")

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
        device = choose_devices(args.gpu_ids, on_this_machine)[local]

        def agreed(args: Namespace, process: Process) -> None:
            process.agree(
                {f"--{name}": value for name, value in vars(args).items() if name not in OF_A_MACHINE}
            )
            work(args, process)

        _join(agreed, args, Process(device, rank, world), _torchruns_store)
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
        raise UserError(f"--gpu_ids or --device: there is no GPU {', '.join(missing)}: PyTorch sees {there}")
    if processes is not None and processes != len(gpu_ids):
        raise UserError(
            f"--gpu_ids or --device: {processes} processes need as many GPUs, but got {len(gpu_ids)}"
        )
    return [torch.device("cuda", i) for i in gpu_ids]


def _join(
    work: Callable[[Namespace, Process], None],
    args: Namespace,
    process: Process,
    make_store: Callable[[Process], dist.Store],
) -> NoReturn:
    """Works together with the other processes, and ends this one.

    Not by way of the interpreter's finalisation: threads of the process group outlive it, and one that lets
    go of a tensor then aborts (github.com/pytorch/pytorch/pull/179291); after Ctrl-C its destructor may wait
    for the others.
    """

    def meet() -> None:
        if process.device.type == "cuda":
            torch.cuda.set_device(process.device)
        store = make_store(process)
        wait_for_all(store, process)
        backend = "nccl" if process.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=process.rank, world_size=process.world)

    def together() -> None:
        work(args, process)
        dist.destroy_process_group()

    # Each speaks for itself until they have met; from then on the main one does.
    code = guarded(meet) or guarded(together, quiet=not process.is_main)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def wait_for_all(store: dist.Store, process: Process) -> None:
    """Returns when every process has come; meanwhile says for which it waits.

    Raises:
        UserError: some have not come after JOINING seconds.
    """
    store.set(f"here/{process.rank}", "")
    missing = list(range(process.world))
    began = said = time.monotonic()
    while missing := [rank for rank in missing if not store.check([f"here/{rank}"])]:
        now = time.monotonic()
        if now - began > JOINING:
            raise UserError(
                f"{_named(missing)} of {process.world} did not come within {JOINING:g} s: start them too"
            )
        if now - said > PATIENCE:
            process.say(
                f"waiting for {_named(missing)} of {process.world}, {JOINING - (now - began):.0f} s more"
            )
            said = now
        time.sleep(0.05)


def _named(ranks: list[int]) -> str:
    return f"process{'es' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def _torchruns_store(process: Process) -> dist.Store:
    """Where the processes that torchrun has started meet; torchrun's own, where it keeps one for them."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    keeps_one = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    is_server = process.is_main and not keeps_one
    if not is_server:
        _wait_for_server(host, port, process)
    try:
        timeout = timedelta(seconds=JOINING)
        store = dist.TCPStore(host, port, None, is_server, timeout, wait_for_workers=False)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"process {process.rank} cannot meet the others at {host}:{port}: {reason}"
        ) from error
    # A second attempt of torchrun's meets in the same store.
    return dist.PrefixStore(f"stn_ext {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _wait_for_server(host: str, port: int, process: Process) -> None:
    """Returns when somebody listens there: PyTorch's store, which waits too, meanwhile prints tracebacks."""
    began = said = time.monotonic()
    who = f"process {process.rank}"
    while True:
        try:
            socket.create_connection((host, port), PATIENCE).close()
            return
        except OSError as error:
            now = time.monotonic()
            if now - began > JOINING:
                text = f"{who} found no process 0 at {host}:{port} within {JOINING:g} s: {error}"
                raise UserError(text) from error
            if now - said > PATIENCE:
                left = JOINING - (now - began)
                print(f"{who} waits for process 0 at {host}:{port}, {left:.0f} s more", flush=True)
                said = now
            time.sleep(0.1)


def _spawn(work: Callable[[Namespace, Process], None], args: Namespace, devices: list[torch.device]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        # Ctrl-C reaches this process, which passes it on: the others begin, and import, deaf to it.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        context = torch.multiprocessing.spawn(
            _child, (work, args, devices, f"{directory}/meeting-point"), nprocs=len(devices), join=False
        )
        signal.signal(signal.SIGINT, before)
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
    meeting_point: str,
) -> None:
    process = Process(devices[rank], rank, len(devices))
    _join(work, args, process, lambda process: dist.FileStore(meeting_point, process.world))
