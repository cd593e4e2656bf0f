"""A whole training, from options to files."""

from __future__ import annotations

import math
import shlex
import time
from argparse import Namespace
from contextlib import ExitStack
from dataclasses import asdict

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import ReduceLROnPlateau

from . import checkpoints, config, data, datasets, engine, footprint, report, schema, weights
from .distributed import Process
from .errors import Interrupted, UserError, memory_for, out_of_memory
from .files import clear_temporaries, make_directory, set_aside, write_atomically
from .interruption import Interruption
from .locks import locked
from .monitor import Bar, Board, epoch_line, examples, side_by_side
from .objectives import OBJECTIVES
from .run import ARCHITECTURE, About, Run, about_of, check_architecture

LOST = 0.5  # of what transformers put out: where more is outside, they show less image than none


@memory_for("training", "--batch_size, --width, --num_transformers, --warp_size, --image_size or --limit")
def train(args: Namespace, process: Process) -> None:
    """Trains a network, or goes on with one, as the options say.

    Raises:
        UserError: a mistake in the options, the data or the checkpoint.
        Interrupted: Ctrl-C; the last whole epoch has been saved.
    """
    with ExitStack() as locks:
        train_locked(args, process, locks)


def train_locked(args: Namespace, process: Process, locks: ExitStack) -> None:
    """The same; what the main process locks stays so until the locks are closed."""
    initial = process.main_first(lambda: find_initial(args, process)) if args.init else None
    saved, training, validation, about = process.main_first(lambda: prepare(args, process, locks))
    process.agree(
        {"the epoch to go on from": saved["epoch"] if saved else 0, **digests(training, validation, process)}
    )
    if saved and saved["epoch"] >= args.num_epoch:
        process.say(f"epoch {saved['epoch']} of {args.num_epoch} is done: raise --num_epoch to go on")
        return
    footprint.check_training(args, about, len(training), process)
    run = Run(args, about, len(training), process, initial)
    if saved:
        run.restore(saved)
    process.say(
        f"{args.scope}: {args.net} on {len(training)} images of {args.name_data}, {describe(process)}"
    )
    saver = Saver(args, run.epoch)
    board = Board(config.directory(args, "log"), run.epoch + 1) if process.is_main else None
    with Interruption() as interruption:
        try:
            train_epochs(run, training, validation, saver, board, interruption)
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted: {saver.finish()}") from None
        except Diverged as failure:
            raise UserError(f"{failure}: lower --lr_cls and --lr_stn; {saver.keep()}") from None
        except RuntimeError as error:
            if process.world == 1 or out_of_memory(error):
                raise
            # One of the other processes has gone: by the same signal as comes here, or otherwise.
            saved_state = saver.finish()
            if interruption.requested:
                raise Interrupted(f"interrupted: {saved_state}") from None
            raise UserError(f"another process has ended, and so this one: {saved_state}") from error
        finally:
            if board:
                board.close()


def digests(training: datasets.TrainingSet, validation: data.ImageSet, process: Process) -> dict[str, str]:
    """What tells the data of one process from another's."""
    if process.world == 1:
        return {}
    sets = {"the training images": training.images, "the validation images": validation}
    return {
        name: f"{len(images)} with checksum {datasets.checksum(images.to(torch.device('cpu')))[:12]}"
        for name, images in sets.items()
    }


def train_epochs(
    run: Run,
    training: datasets.TrainingSet,
    validation: data.ImageSet,
    saver: Saver,
    board: Board | None,
    interruption: Interruption,
) -> None:
    """All the epochs that are left, with what is shown and saved between them."""
    args, process = run.args, run.process
    normalisation = data.Normalisation(run.about.background, process.device)
    shown = examples(validation)
    trained = distribute(run.model, process)
    smoothing = {"label_smoothing": args.label_smoothing} if args.label_smoothing else {}
    objective = OBJECTIVES[run.about.objective](**smoothing)
    if board and run.epoch == 0:
        board.images(0, side_by_side(run.network, shown, normalisation))
    while run.epoch < args.num_epoch:
        epoch = run.epoch + 1
        rates = {f"learning rate/{group['name']}": group["lr"] for group in run.optimizer.param_groups}
        order = engine.epoch_order(len(training), args.batch_size, run.order)
        images = training.epoch(epoch)
        began = time.perf_counter()
        with Bar(f"epoch {epoch}/{args.num_epoch}", len(training), process.is_main) as bar:

            def after_step(count: int, totals: Tensor, bar: Bar = bar) -> None:
                interruption.check()
                bar(count, totals)

            metrics = engine.train_epoch(
                trained,
                run.optimizer,
                run.scheduler,
                images,
                normalisation,
                order,
                process,
                on_step=after_step,
                objective=objective,
                averaged=run.averaged,
            )
        seconds = time.perf_counter() - began
        speed = len(training) / seconds
        expect_finite("training loss", metrics.loss, epoch)
        engine.settle(run.network, images, normalisation)
        process.share_buffers(run.network)
        held_out = engine.evaluate(run.network, validation, normalisation, process)
        expect_finite("validation loss", held_out.loss, epoch)
        if not weights_are_finite(run):
            raise Diverged(f"the weights became infinite or no numbers in epoch {epoch}")
        if isinstance(run.scheduler, ReduceLROnPlateau):
            run.scheduler.step(held_out.loss)
        run.epoch = epoch
        run.history.append(
            {
                "train": asdict(metrics),
                "validation": asdict(held_out),
                "images": len(training),
                "seconds": seconds,
            }
        )
        state = run.state()
        if board:
            saver.epoch_done(state)
            outside = engine.outside(run.network, validation, normalisation)
            process.say(epoch_line(epoch, args.num_epoch, metrics, held_out, speed, outside))
            figures = {"images per second": speed, **rates}
            if outside is not None:
                figures["outside of the images"] = outside
                if outside > LOST:
                    process.say(f"{outside:.0%} of what is warped lies outside of the images: lower --lr_stn")
            board.scalars(epoch, metrics, held_out, figures)
            if epoch % args.num_freq_disp == 0 or epoch == args.num_epoch:
                board.images(epoch, side_by_side(run.network, shown, normalisation))
            if epoch == args.num_epoch:
                board.options(config.options(args), held_out)


class Diverged(Exception):
    """Training has failed: what comes of it is no number."""


def expect_finite(name: str, value: float, epoch: int) -> None:
    if not math.isfinite(value):
        raise Diverged(f"the {name} became {value} in epoch {epoch}")


def weights_are_finite(run: Run) -> bool:
    """Whether all that a checkpoint would hold is, in every process: nothing else could be loaded again."""
    weights = [
        *run.model.state_dict().values(),
        *(run.averaged.state_dict().values() if run.averaged else ()),
    ]
    bad = torch.tensor(0 if schema.is_finite(weights) else 1, device=run.process.device)
    return not run.process.sum(bad).item()


class Saver:
    """Writes checkpoints, and keeps the last epoch's at hand for an interruption."""

    def __init__(self, args: Namespace, epoch: int) -> None:
        self.args, self.epoch_on_disk = args, epoch
        self.last = (epoch, b"")  # the last whole epoch, and its checkpoint's content

    def epoch_done(self, state: dict) -> None:
        self.last = epoch, _ = state["epoch"], checkpoints.to_bytes(state)
        if epoch % self.args.num_freq_save == 0 or epoch == self.args.num_epoch:
            self.write()

    def write(self) -> None:
        epoch, content = self.last
        write_atomically(checkpoints.path_of(config.directory(self.args, "checkpoint"), epoch), content)
        self.epoch_on_disk = epoch

    def keep(self) -> str:
        """Saves the last good epoch after a failure; returns what to tell the user."""
        epoch, _ = self.last
        if epoch == 0:
            return "no epoch before it was finished"
        if self.epoch_on_disk < epoch:
            self.write()
        path = checkpoints.find(config.directory(self.args, "checkpoint"), epoch)
        return f"the last good checkpoint is {path}"

    def finish(self) -> str:
        """Saves the last whole epoch of a run that ends early; returns what to tell the user."""
        epoch, _ = self.last
        if epoch == 0:
            return "no epoch was finished, and nothing is saved"
        if self.epoch_on_disk < epoch:
            self.write()
        where = [name for name in vars(self.args) if name in self.args.given and name in config.PLACES]
        words = [word for name in where for word in (f"--{name}", getattr(self.args, name))]
        command = shlex.join(["python", "main.py", "--mode", "train", *words, "--train_continue", "on"])
        return f"epoch {epoch} is saved; go on with: {command}"


def find_checkpoint_to_continue(args: Namespace, process: Process) -> dict | None:
    """The latest checkpoint, whose options are then in force; None where no epoch was ever finished."""
    directory = config.directory(args, "checkpoint")
    path = checkpoints.find(directory)
    if path is None:
        if args.transformer is None:
            raise UserError(f"no checkpoint in {directory}: say --transformer on or off to start afresh")
        process.say(f"no checkpoint in {directory}: starting with the first epoch")
        return None
    state = checkpoints.load(path)
    if schema.is_weights_alone(state):
        raise UserError(f"{path} holds the weights alone, from which no training can go on")
    check_architecture(args, state, path)
    config.adopt(args, state["args"])
    return state


def find_initial(args: Namespace, process: Process) -> dict:
    """The checkpoint of --init, whose network is then the one that is trained."""
    path = weights.find(args.init)
    state = checkpoints.load(path)
    check_architecture(args, state, path)
    for name in ARCHITECTURE:
        setattr(args, name, state["args"][name])
    process.say(f"starting from the weights of {path}")
    return state


def prepare(
    args: Namespace, process: Process, locks: ExitStack
) -> tuple[dict | None, datasets.TrainingSet, data.ImageSet, About]:
    """(the checkpoint to continue or None, training and validation images, what is to be known of them)"""
    if process.is_main:
        lock_directories(args, locks)
    saved = find_checkpoint_to_continue(args, process) if args.train_continue == "on" else None
    about = about_of(saved) if saved else None
    size, channels = (about.shape[1:], about.shape[0]) if about else (args.image_size, args.image_channels)
    training, validation = datasets.load_training(
        args.name_data,
        args.dir_data,
        seed=args.seed,
        name_class=args.name_class,
        size=size,
        channels=channels,
        limit=args.limit,
        num_workers=args.num_workers,
        background=args.image_background or "white",
        say=process.say if process.is_main else None,
    )
    if about:
        about.check(validation)
    about = about or About.of(training.epoch(1))
    if process.is_main:
        prepare_directories(args, about, process, fresh=not saved)
    return saved, training.to(process.device), validation.to(process.device), about


def lock_directories(args: Namespace, locks: ExitStack) -> None:
    """Makes the directories, locks them, and clears what a killed run left there half done."""
    for directory in {
        make_directory(config.directory(args, kind)).resolve() for kind in ("checkpoint", "log")
    }:
        locks.enter_context(locked(directory, "a training"))
        clear_temporaries(directory, report.is_part)


def prepare_directories(args: Namespace, about: About, process: Process, *, fresh: bool) -> None:
    """Writes arg.txt; a fresh run sets aside an earlier one's files."""
    log, directory = (config.directory(args, kind) for kind in ("log", "checkpoint"))
    if fresh:
        # With what was exported of the checkpoints, and lies beside them.
        moved = set_aside([(log, "events.out.tfevents.*"), (log, "arg.txt"), (directory, "model_epoch*.*")])
        if moved and moved[-1].name.startswith("model_epoch"):
            print(f"an earlier run's checkpoints are now in {moved[-1].parent}", flush=True)
    in_force = config.options(args) | {
        "image_size": about.shape[1:],
        "image_channels": about.shape[0],
        "background": about.background,
        "classes": about.classes,
        "device": process.device,
        "processes": process.world,
    }
    lines = [f"{name}: {config.show(value)}\n" for name, value in in_force.items()]
    write_atomically(log / "arg.txt", "".join(lines))


def distribute(model: nn.Module, process: Process) -> nn.Module:
    """The model whose gradients are averaged over the processes; the model itself where there is but one."""
    if process.world == 1:
        return model
    devices = [process.device] if process.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices)


def describe(process: Process) -> str:
    device = "the CPU" if process.device.type == "cpu" else torch.cuda.get_device_name(process.device)
    return f"on {device}" + (f" with {process.world} processes" if process.world > 1 else "")
