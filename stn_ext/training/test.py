"""A whole test, from a checkpoint to a report."""

from __future__ import annotations

import math
from argparse import Namespace
from pathlib import Path

import torch

from ..models import ImageClassifier
from . import chosen, config, data, datasets, engine, movement, report
from .distributed import Process
from .errors import UserError, memory_for
from .files import clear_temporaries, make_directory
from .locks import locked
from .objectives import OBJECTIVES
from .run import about_of, rebuild


@memory_for("the test", "--limit")
def test(args: Namespace, process: Process) -> None:
    """Tests a trained network on the whole test set, and reports in [dir_result].

    Raises:
        UserError: a mistake in the options, the data or the checkpoint.
    """
    if process.world > 1:
        raise UserError("--mode test runs in one process: start it without torchrun")
    path, state = chosen.checkpoint(args)
    about, model = about_of(state), rebuild(state)
    if args.tta > 1 and not any(any(part.jitter) for part in engine.transformers_of(model)):
        raise UserError(f"--tta {args.tta}: expected a transformer that was trained with --jitter, in {path}")
    test_set = datasets.load_test(
        args.name_data,
        args.dir_data,
        size=about.shape[1:],
        channels=about.shape[0],
        classes=about.classes,
        name_class=args.name_class or state["args"]["name_class"],
        limit=args.limit,
        num_workers=args.num_workers,
        background=args.image_background or state["args"]["image_background"] or "white",
        say=process.say,
    )
    about.check(test_set)
    directory = make_directory(config.directory(args, "result"))
    with locked(directory, "a test"):
        clear_temporaries(directory, report.is_part)
        report_on(args, process, path, state, model.to(process.device), test_set)


def report_on(
    args: Namespace,
    process: Process,
    path: Path,
    state: dict,
    model: ImageClassifier,
    test_set: data.ImageSet,
) -> None:
    """Tests the network of a checkpoint, and writes the report."""
    about, directory = about_of(state), config.directory(args, "result")
    test_set = test_set.to(process.device)
    normalisation = data.Normalisation(about.background, process.device)
    metrics = engine.evaluate(model, test_set, normalisation, process, samples=args.tta)
    loss_name = OBJECTIVES[about.objective].loss_name
    if not math.isfinite(metrics.loss):
        raise UserError(
            f"{path}: the {loss_name} of the test images is {metrics.loss}: the network is of no use, "
            "test another one's with --epoch"
        )
    figures = f"{loss_name} {metrics.loss:.4f}, accuracy {metrics.accuracy:.2%}"
    print(f"{path}: {len(test_set)} test images: {figures}", flush=True)
    facts = {
        loss_name.replace(" ", "_"): metrics.loss,
        "accuracy": metrics.accuracy,
        "num_images": len(test_set),
        "tta": args.tta,
        **chosen.facts(args, path, state, model),
    }
    outcome = outcome_of(model, test_set, normalisation, args.tta)
    report.write(directory, outcome, facts, args.num_workers, args.report_limit)
    if args.report_limit < len(test_set):
        print(f"the page shows the first {args.report_limit} of {len(test_set)} images: see --report_limit")
    print(f"see {directory / 'index.html'}")


def outcome_of(
    model: ImageClassifier, images: data.ImageSet, normalisation: data.Normalisation, samples: int = 1
) -> report.Outcome:
    """What the network makes of each image."""
    objective = OBJECTIVES[images.objective]()
    outputs, verdicts, each = [], [], []
    for batch, warped, theta, output in engine.predictions(model, images, normalisation, samples=samples):
        outputs.append(normalisation.invert(warped).cpu())
        verdicts.append([part.cpu() for part in objective.judge(output, batch.labels)])
        each.append([part.cpu() for part in theta])
    labels, predictions, confidences = (torch.cat(parts) for parts in zip(*verdicts, strict=True))
    thetas = tuple(torch.cat(parts) for parts in zip(*each, strict=True))
    warps, outlines = movement.of_images(engine.transformers_of(model), thetas, images.shape[1:])
    return report.Outcome(
        inputs=images.images.cpu(),
        outputs=torch.cat(outputs),
        labels=labels,
        predictions=predictions,
        confidences=confidences,
        classes=images.classes,
        files=images.files,
        thetas=thetas,
        warps=tuple(warps) or None,
        outlines=tuple(outlines) or None,
    )
