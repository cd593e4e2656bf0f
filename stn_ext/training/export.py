"""Exporting a trained network for other programs; what was written is loaded again and compared first."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import __version__
from ..models import create_model
from . import checkpoints, chosen, config, datasets, schema, weights
from .data import Normalisation
from .distributed import Process
from .errors import UserError, memory_for, out_of_memory
from .files import check_replaceable, clear_temporaries_of, make_directory, write_together
from .locks import locked
from .run import About, about_of, model_options, rebuild

ENDINGS = {
    "onnx": ".onnx",
    "pt2": ".pt2",
    "aoti": ".aoti.pt2",
    "state_dict": ".state_dict.pth",
    "weights": ".weights.pth",
}
NEEDS = {
    "onnx": "onnx, onnxruntime and onnxscript that know opset 20",
    "aoti": "g++, and room in the temporary folder",
}
COMPARED = 64  # test images
BATCHES = (1, 7, COMPARED)  # in which they are compared
# Of logits, to which roundings add up to some 1e-5; what is wrong differs by whole numbers.
TOLERANCE = 1e-4

Run = Callable[[Tensor], Tensor]  # the exported network: logits of normalised images


@memory_for("the export", "--limit")
def export(args: Namespace, process: Process) -> None:
    """Writes the network and a description beside its checkpoint.

    Raises:
        UserError: a mistake in the options or the checkpoint, a package or a compiler that is missing, or a
            file whose network is not the checkpoint's.
    """
    if process.world > 1:
        raise UserError("--mode export runs in one process: start it without torchrun")
    path, state = chosen.checkpoint(args)
    about, model = about_of(state), rebuild(state).eval()
    if about.objective != "classification":
        raise UserError(f"{path} is a network for {about.objective}: only classifiers are exported")
    target = place_of(args, path)
    beside = target.with_name(f"{target.name}.json")
    # Before the long part, which would be in vain where nothing can be written.
    for file in (target, beside):
        check_replaceable(file)
    with locked(target, "an export", process.say):
        for file in (target, beside):
            clear_temporaries_of(file)
        device = process.device if args.format == "aoti" else torch.device("cpu")
        images = test_images(args, state, about).to(device)
        content, difference = exported(args.format, model.to(device), images, state)
        about_file = description(args.format, target.name, state, device)
        about_file |= {"compared_images": len(images), "largest_difference": difference}
        about_file["sha256"] = hashlib.sha256(content).hexdigest()
        write_together({beside: json.dumps(about_file, indent=2) + "\n", target: content})
    print(f"{target}: the same logits as {path}'s to {difference:.1e} on {len(images)} test images")
    print(f"see {beside} for classes, shape and normalisation")


def place_of(args: Namespace, path: Path) -> Path:
    """The file to write, beside the checkpoint; of the package's weights, among one's own checkpoints."""
    of_the_package = path.resolve().parent == weights.FOLDER.resolve()
    folder = make_directory(config.directory(args, "checkpoint") if of_the_package else path.parent)
    target = folder / f"{path.stem}{ENDINGS[args.format]}"
    if target.exists() and target.samefile(path):
        raise UserError(f"{target} is the checkpoint itself: give that another name")
    return target


def test_images(args: Namespace, state: dict, about: About) -> Tensor:
    """The first test images, normalised."""
    test_set = datasets.load_test(
        args.name_data,
        args.dir_data,
        size=about.shape[1:],
        channels=about.shape[0],
        classes=about.classes,
        limit=min(COMPARED, args.limit or COMPARED),
        num_workers=args.num_workers,
        background=args.image_background or state["args"]["image_background"] or "white",
    )
    about.check(test_set)
    return Normalisation(about.background).apply(test_set.images).contiguous()


def exported(kind: str, model: nn.Module, images: Tensor, state: dict) -> tuple[bytes, float]:
    """(the file's content, the largest difference of its logits from the network's)

    It is written to memory: where a disk is full, PyTorch's writer of files ends the process.
    """
    file = io.BytesIO()
    with exporting(kind), quietly():
        run = write(kind, file, model, images[torch.arange(3) % len(images)], state)
        difference = largest_difference(run, model, images)
    if not difference <= TOLERANCE:
        raise UserError(
            f"the network as {kind} differs from the checkpoint's by {difference:.1e} on test images, "
            f"more than {TOLERANCE:g}: nothing is written"
        )
    return file.getvalue(), difference


@contextlib.contextmanager
def exporting(kind: str) -> Iterator[None]:
    """Makes whatever exporters, compilers and other programs' runtimes raise a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        needs = f", for which it needs {NEEDS[kind]}" if kind in NEEDS else ""
        raise UserError(f"--format {kind}: nothing was exported{needs} ({reason})") from error


def write(kind: str, file: io.BytesIO, model: nn.Module, example: Tensor, state: dict) -> Run:
    """Writes the file, and loads it again."""
    return {
        "onnx": write_onnx,
        "pt2": write_pt2,
        "aoti": write_aoti,
        "state_dict": write_state_dict,
        "weights": write_weights,
    }[kind](file, model, example, state)


def write_onnx(file: io.BytesIO, model: nn.Module, example: Tensor, state: dict) -> Run:
    try:
        import onnxruntime

        from .. import onnx
    except ImportError as error:
        raise UserError(f"--format onnx needs pip install onnx onnxruntime onnxscript ({error})") from error
    program = onnx.export(
        model,
        (example,),
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    file.write(program.model_proto.SerializeToString())
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def write_pt2(file: io.BytesIO, model: nn.Module, example: Tensor, state: dict) -> Run:
    torch.export.save(program_of(model, example), file)
    file.seek(0)
    return torch.export.load(file).module()


def write_aoti(file: io.BytesIO, model: nn.Module, example: Tensor, state: dict) -> Run:
    from torch import _inductor

    _inductor.aoti_compile_and_package(program_of(model, example), package_path=file)
    file.seek(0)
    return _inductor.aoti_load_package(file)


def write_state_dict(file: io.BytesIO, model: nn.Module, example: Tensor, state: dict) -> Run:
    torch.save(model.state_dict(), file)
    file.seek(0)
    again = create_model(**model_options(state["args"], about_of(state))).eval()
    again.load_state_dict(torch.load(file, weights_only=True))
    return again


def write_weights(file: io.BytesIO, model: nn.Module, example: Tensor, state: dict) -> Run:
    file.write(checkpoints.to_bytes(schema.weights_alone(state)))
    return rebuild(checkpoints.read(file, Path("the export"))).eval()


def program_of(model: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """The network for any number of images."""
    return torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))


@torch.no_grad()
def largest_difference(run: Run, model: nn.Module, images: Tensor) -> float:
    """Of the logits, in batches of several sizes."""
    differences = [
        (run(batch) - model(batch)).abs().max()
        for size in BATCHES
        for batch in images[: 3 * size].split(size)
    ]
    return float(torch.stack(differences).max())


def description(kind: str, name: str, state: dict, device: torch.device) -> dict[str, Any]:
    """What a program has to know that uses the file."""
    about = about_of(state)
    return {
        "file": name,
        "format": kind,
        "classes": list(about.classes),
        "input": {"name": "images", "dtype": "float32", "shape": ["batch", *about.shape]},
        "output": {"name": "logits", "dtype": "float32", "shape": ["batch", len(about.classes)]},
        # input = (pixel - subtract) / divide, of pixels from 0 to 255, for each channel
        "normalisation": {"subtract": list(about.background), "divide": 255},
        "network": model_options(state["args"], about),
        "epoch": state["epoch"],
        "name_data": state["args"]["name_data"],
        "device": device.type,
        "stn_ext": __version__,
        "torch": str(torch.__version__),
    }


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without what exporters say to their own developers."""
    level = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(level)
