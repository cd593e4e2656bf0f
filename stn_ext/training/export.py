"""Exporting a trained network for other programs; what was written is loaded again and compared first."""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
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
from .errors import UserError, memory_for
from .files import make_directory, write_atomically
from .run import About, about_of, model_options, rebuild

ENDINGS = {
    "onnx": ".onnx",
    "pt2": ".pt2",
    "aoti": ".aoti.pt2",
    "state_dict": ".state_dict.pth",
    "weights": ".weights.pth",
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
    device = process.device if args.format == "aoti" else torch.device("cpu")
    model, images = model.to(device), test_images(args, state, about).to(device)
    with tempfile.TemporaryDirectory() as folder, quietly():
        file = Path(folder) / f"{path.stem}{ENDINGS[args.format]}"
        example = images[torch.arange(3) % len(images)]
        run = write(args.format, file, model, example, state)
        difference = largest_difference(run, model, images)
        content = file.read_bytes()
    if not difference <= TOLERANCE:
        raise UserError(
            f"the network as {args.format} differs from the checkpoint's by {difference:.1e} on test images, "
            f"more than {TOLERANCE:g}: nothing is written"
        )
    target = make_directory(
        config.directory(args, "checkpoint") if path.parent == weights.FOLDER else path.parent
    )
    about_file = description(args.format, file.name, state, device)
    about_file |= {"compared_images": len(images), "largest_difference": difference}
    write_atomically(target / file.name, content)
    write_atomically(target / f"{file.name}.json", json.dumps(about_file, indent=2) + "\n")
    print(
        f"{target / file.name}: the same logits as {path}'s to {difference:.1e} on {len(images)} test images"
    )
    print(f"see {target / file.name}.json for classes, shape and normalisation")


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


def write(kind: str, file: Path, model: nn.Module, example: Tensor, state: dict) -> Run:
    """Writes the file, and loads it again."""
    return {
        "onnx": write_onnx,
        "pt2": write_pt2,
        "aoti": write_aoti,
        "state_dict": write_state_dict,
        "weights": write_weights,
    }[kind](file, model, example, state)


def write_onnx(file: Path, model: nn.Module, example: Tensor, state: dict) -> Run:
    try:
        import onnxruntime

        from .. import onnx
    except ImportError as error:
        raise UserError(f"--format onnx needs pip install onnx onnxruntime onnxscript ({error})") from error
    onnx.export(
        model,
        (example,),
        file,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def write_pt2(file: Path, model: nn.Module, example: Tensor, state: dict) -> Run:
    torch.export.save(program_of(model, example), file)
    return torch.export.load(file).module()


def write_aoti(file: Path, model: nn.Module, example: Tensor, state: dict) -> Run:
    from torch import _inductor

    try:
        _inductor.aoti_compile_and_package(program_of(model, example), package_path=str(file))
    except Exception as error:  # of the compiler, which is called in many ways
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(f"--format aoti: nothing was compiled, for which it needs g++ ({reason})") from error
    return _inductor.aoti_load_package(str(file))


def write_state_dict(file: Path, model: nn.Module, example: Tensor, state: dict) -> Run:
    torch.save(model.state_dict(), file)
    again = create_model(**model_options(state["args"], about_of(state))).eval()
    again.load_state_dict(torch.load(file, weights_only=True))
    return again


def write_weights(file: Path, model: nn.Module, example: Tensor, state: dict) -> Run:
    file.write_bytes(checkpoints.to_bytes(schema.weights_alone(state)))
    return rebuild(checkpoints.load(file)).eval()


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
