"""A whole training, from options to files."""

from __future__ import annotations

import math
import time
from argparse import Namespace
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import ReduceLROnPlateau

from . import checkpoints, config, config_file, data, datasets, engine, footprint, report, schema, weights
from .augmentation import random_maps
from .compilation import compiled, compiling
from .distributed import Process
from .errors import Interrupted, UserError, memory_for, out_of_memory
from .files import clear_temporaries, make_directory, set_aside, write_atomically
from .interruption import Interruption
from .locks import locked
from .monitor import Bar, Board, epoch_line, examples, side_by_side
from .objectives import OBJECTIVES
from .run import ARCHITECTURE, About, Run, about_of, check_architecture
from .saver import Saver, accuracies, epochs_since_best, settle_best
from .shares import sampler_share
from .steps import Recipe

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
    if saved and is_out_of_patience(args, saved["history"]):
        process.say(f"{no_better(saved['history'])}: raise --patience to go on, or say --patience 0")
        return
    footprint.check_training(args, about, len(training), process)
    run = Run(args, about, len(training), process, initial)
    if saved:
        run.restore(saved)
    process.say(
        f"{args.scope}: {args.net} on {len(training)} images of {args.name_data}, {describe(process)}"
    )
    saver = Saver(args, run.epoch, run.history)
    board = Board(config.directory(args, "log"), run.epoch + 1) if process.is_main else None
    with Interruption() as interruption:
        try:
            with compiling(args.compile == "on"):
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


def digests(training: datasets.TrainingSet, validation: data.AnySet, process: Process) -> dict[str, str]:
    """What tells the data of one process from another's."""
    if process.world == 1:
        return {}
    sets = {"the training images": training.images, "the validation images": validation}
    return {name: f"{len(images)} with checksum {images.checksum()[:12]}" for name, images in sets.items()}


def train_epochs(
    run: Run,
    training: datasets.TrainingSet,
    validation: data.AnySet,
    saver: Saver,
    board: Board | None,
    interruption: Interruption,
) -> None:
    """All the epochs that are left, with what is shown and saved between them."""
    args, process = run.args, run.process
    normalisation = data.Normalisation(run.about.background, process.device)
    shown = examples(validation)
    trained = distribute(compiled(run.model) if args.compile == "on" else run.model, process)
    smoothing = {"label_smoothing": args.label_smoothing} if args.label_smoothing else {}
    objective = OBJECTIVES[run.about.objective](**smoothing)
    if board and run.epoch == 0:
        board.images(0, side_by_side(run.network, shown, normalisation))
    final = run.epoch >= args.num_epoch
    while not final:
        epoch = run.epoch + 1
        rates = {f"learning rate/{group['name']}": group["lr"] for group in run.optimizer.param_groups}
        order = engine.epoch_order(len(training), args.batch_size * args.accumulate, run.order)
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
                recipe=Recipe.of(args, objective, maps_of(run, len(training), epoch)),
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
        impatient = is_out_of_patience(args, run.history)
        final = impatient or epoch >= args.num_epoch
        state = run.state()
        if board:
            saver.epoch_done(state, final=final)
            outside = engine.outside(run.network, validation, normalisation)
            process.say(epoch_line(epoch, args.num_epoch, metrics, held_out, speed, outside))
            figures = {"images per second": speed, **rates}
            share = sampler_share(run.network, images, normalisation, args.batch_size)
            if share is not None:
                figures["sampler's share of a step"] = share
            if outside is not None:
                figures["outside of the images"] = outside
                if outside > LOST:
                    process.say(f"{outside:.0%} of what is warped lies outside of the images: lower --lr_stn")
            board.scalars(epoch, metrics, held_out, figures)
            if epoch % args.num_freq_disp == 0 or final:
                board.images(epoch, side_by_side(run.network, shown, normalisation))
            if final:
                board.options(config.of_the_run(args), held_out)
        if impatient:
            process.say(f"{no_better(run.history)}: no more are trained")


def is_out_of_patience(args: Namespace, history: list[dict]) -> bool:
    return 0 < args.patience <= epochs_since_best(history)


def no_better(history: list[dict]) -> str:
    best = max(accuracies(history))
    return f"in {epochs_since_best(history)} epochs the validation accuracy has not risen beyond {best:.2%}"


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


def find_checkpoint_to_continue(args: Namespace, process: Process) -> tuple[Path, dict] | None:
    """The checkpoint to go on from, and what is in it, whose options are then in force.

    None where the training starts afresh, as it does where --train_continue finds no epoch that was finished.
    """
    directory = config.directory(args, "checkpoint")
    if args.resume_from is not None:
        path: Path | None = Path(args.resume_from)
    elif args.train_continue == "on":
        path = checkpoints.find(directory)
    else:
        return None
    if path is None:
        if args.transformer is None:
            raise UserError(f"no checkpoint in {directory}: say --transformer on or off to start afresh")
        process.say(f"no checkpoint in {directory}: starting with the first epoch")
        return None
    state = checkpoints.load(path)
    if schema.is_weights_alone(state):
        raise UserError(f"{path} holds the weights alone, from which no training can go on")
    if args.name_data != state["args"]["name_data"]:
        raise UserError(f"{path} is of --name_data {state['args']['name_data']}, not {args.name_data}")
    check_architecture(args, state, path)
    config.adopt(args, state["args"])
    return path, state


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
) -> tuple[dict | None, datasets.TrainingSet, data.AnySet, About]:
    """(the checkpoint to continue or None, training and validation images, what is to be known of them)"""
    if process.is_main:
        lock_directories(args, locks)
    path, saved = find_checkpoint_to_continue(args, process) or (None, None)
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
        cache_dir=args.cache_dir,
        say=process.say if process.is_main else None,
    )
    if about:
        about.check(validation)
    about = about or About.of(training.epoch(1))
    if process.is_main:
        prepare_directories(args, path, saved, process)
        write_options(args, about, process)
    return saved, training.to(process.device), validation.to(process.device), about


def lock_directories(args: Namespace, locks: ExitStack) -> None:
    """Makes the directories, locks them, and clears what a killed run left there half done."""
    for directory in {
        make_directory(config.directory(args, kind)).resolve() for kind in ("checkpoint", "log")
    }:
        locks.enter_context(locked(directory, "a training"))
        clear_temporaries(directory, report.is_part)


def prepare_directories(args: Namespace, path: Path | None, saved: dict | None, process: Process) -> None:
    """Sets aside what an earlier run left, but for what this one goes on from."""
    log, directory = (config.directory(args, kind) for kind in ("log", "checkpoint"))
    if path is None or saved is None or path.resolve().parent != directory.resolve():
        # With what was exported of the checkpoints, and lies beside them.
        patterns = [(log, "events.out.tfevents.*"), (log, "arg.txt")]
        patterns += [(directory, "model_best*.*"), (directory, "model_epoch*.*")]
    else:  # --resume_from may name an epoch that is not the latest
        patterns = [(directory, f"{later.stem}*.*") for later in checkpoints.after(directory, saved["epoch"])]
    moved = set_aside(patterns)
    if moved and moved[-1].name.startswith("model_epoch"):
        print(f"an earlier run's checkpoints are now in {moved[-1].parent}", flush=True)
    if path is not None and saved is not None and args.save_best == "on":
        settle_best(directory, path, saved, process)


def write_options(args: Namespace, about: About, process: Process) -> None:
    """Writes arg.txt, which --config takes."""
    facts = {
        "shape": about.shape,
        "background": about.background,
        "classes": about.classes,
        "device": process.device,
        "processes": process.world,
    }
    shown = {name: config.show(value) for name, value in facts.items()}
    path = config.directory(args, "log") / "arg.txt"
    write_atomically(path, config_file.write(config.options(args), shown))


def maps_of(run: Run, count: int, epoch: int) -> Tensor | None:
    """What warps each of the training images in that epoch, on the device; None without --augment."""
    args, size = run.args, run.about.shape[1:]
    if not args.augment:
        return None
    return random_maps(args.augment, args.seed, epoch, count, size).to(run.process.device)


def distribute(model: nn.Module, process: Process) -> nn.Module:
    """The model whose gradients are averaged over the processes; the model itself where there is but one."""
    if process.world == 1:
        return model
    devices = [process.device] if process.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices)


def describe(process: Process) -> str:
    device = "the CPU" if process.device.type == "cpu" else torch.cuda.get_device_name(process.device)
    return f"on {device}" + (f" with {process.world} processes" if process.world > 1 else "")
