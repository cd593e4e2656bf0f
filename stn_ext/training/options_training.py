"""The options of main.py that say how a network is trained."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from .values import COUNT, EPOCHS, RATE, device, epoch, fraction, gpu_ids, number, whole

# What an option takes that is on, off, or on where it stands alone.
SWITCH: dict[str, Any] = {"nargs": "?", "choices": ["on", "off"], "const": "on", "default": "off"}


def training_options(option: Callable) -> None:
    option("--num_epoch", type=EPOCHS, default=10, help="passes over the training images")
    option("--batch_size", type=COUNT, default=128, help="images of a batch, over all processes together")
    option(
        "--lr_stn",
        "--lr_STN",
        dest="lr_stn",
        type=RATE,
        default=1e-3,
        metavar="LR",
        help="learning rate of the localisation network",
    )
    option(
        "--lr_cls",
        "--lr_CLS",
        dest="lr_cls",
        type=RATE,
        default=4e-3,
        metavar="LR",
        help="learning rate of the classifier",
    )
    option("--label_smoothing", type=fraction, default=0.0, help="share of a label spread over all classes")
    option(
        "--ema",
        type=fraction,
        default=0.0,
        metavar="DECAY",
        help="validate and test the weights' exponential moving average over steps, such as 0.999 (0: off)",
    )
    option("--optim", choices=["adam", "sgd", "rmsprop"], default="adam", help="optimiser (adam is AdamW)")
    option(
        "--beta1", type=fraction, default=0.9, help="Adam's first coefficient; momentum for sgd and rmsprop"
    )
    option(
        "--weight_decay",
        type=number(0, 1e3, "beyond 1 over the learning rate weights would change sign"),
        default=argparse.SUPPRESS,
        help="decay of the weights, decoupled from the gradient for adam "
        "(default: 0.05 for adam, 0.0001 for sgd and rmsprop)",
    )
    option(
        "--clip_grad",
        type=number(0, 1e6, "the gradient's length, over all weights"),
        default=0.0,
        metavar="NORM",
        help="shorten a step's gradient to this length where it is longer (0: off)",
    )
    option(
        "--augment",
        type=number(0, 1, "of the full strength"),
        nargs="?",
        const=1.0,
        default=0.0,
        metavar="STRENGTH",
        help="warp each training image anew in each epoch: at strength 1, the most and what --augment alone "
        "means, turned by up to 15 degrees, scaled by 1/1.1 to 1.1, sheared by up to 0.1 and moved by up to "
        "a tenth of its sides (0: off)",
    )


def policy_options(option: Callable) -> None:
    option(
        "--lr_policy",
        choices=["linear", "step", "plateau", "cosine"],
        default="cosine",
        help=(
            "linear and cosine: fall smoothly until the last step; "
            "step: times --lr_decay every --lr_step epochs; "
            "plateau: times --lr_decay when the validation loss has not fallen for --lr_patience epochs"
        ),
    )
    option(
        "--lr_warmup",
        type=number(0, 1e6, "epochs"),
        default=1.0,
        metavar="EPOCHS",
        help="rise linearly from 0 over the first epochs (all but plateau)",
    )
    option(
        "--lr_final", type=fraction, default=0.0, help="linear, cosine: what remains of the rate at the end"
    )
    option("--lr_step", type=EPOCHS, default=3, metavar="EPOCHS", help="step: epochs between two falls")
    option("--lr_decay", type=fraction, default=0.3, help="step, plateau: factor of a fall")
    option(
        "--lr_patience",
        type=whole(0, 10**6, "epochs"),
        default=1,
        metavar="EPOCHS",
        help="plateau: epochs to wait",
    )


def speed_options(option: Callable) -> None:
    option(
        "--gpu_ids",
        type=gpu_ids,
        default=argparse.SUPPRESS,
        metavar="ID[,ID...]",
        help=(
            "GPUs to use; several train together; -1 for the CPU "
            "(default: GPU 0 where there is one, else the CPU; under torchrun each process its own)"
        ),
    )
    option(
        "--device",
        type=device,
        default=argparse.SUPPRESS,
        metavar="DEVICE",
        help="the same in PyTorch's words, for one device: cpu, cuda or cuda:1 (default: as --gpu_ids)",
    )
    option(
        "--amp",
        choices=["bf16", "off"],
        default="off",
        help="bf16: train with layers that compute in bfloat16, and weights and losses in float32; "
        "validation and test stay in float32",
    )
    option(
        "--compile",
        **SWITCH,
        help="compile the training step by torch.compile: worth its minute where training takes many",
    )
    option(
        "--accumulate",
        type=whole(1, 10_000, "batches, whose gradients are added up"),
        default=1,
        metavar="N",
        help="a step takes N batches of --batch_size images, one after the other: the gradient of all of "
        "them, and the memory of one",
    )


def checkpoint_options(option: Callable) -> None:
    option(
        "--save_best",
        **SWITCH,
        help="keep the epoch of the best validation accuracy so far as model_best.pth too",
    )
    option(
        "--patience",
        type=whole(0, 10**6, "epochs"),
        default=0,
        metavar="EPOCHS",
        help="end when the validation accuracy has not risen for so many epochs (0: after --num_epoch only)",
    )
    option(
        "--resume_from",
        default=argparse.SUPPRESS,
        metavar="FILE",
        help="go on from that checkpoint as --train_continue does from this scope's latest: with its "
        "options and its random numbers; it writes into this scope's folders (default: none)",
    )
    option("--train_continue", choices=["on", "off"], default="off", help="go on from the latest checkpoint")
    option(
        "--epoch",
        type=epoch,
        default=argparse.SUPPRESS,
        help="test, predict, export: the epoch whose checkpoint is used, or best, for --save_best's "
        "(default: the latest)",
    )
    option(
        "--num_freq_save",
        type=EPOCHS,
        default=1,
        metavar="EPOCHS",
        help="every how many epochs a checkpoint is written; the last epoch's always is",
    )
