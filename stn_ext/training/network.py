"""A trained network ready for use: what :func:`stn_ext.load` returns."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..trained import FileError
from . import checkpoints, decoding, engine, weights
from .data import Normalisation
from .errors import UserError, as_line
from .photographs import FRAMED, Reader
from .run import about_of, rebuild

Paths = str | os.PathLike[str]

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


class Prediction(NamedTuple):
    """What a network takes an image for, how surely from 0 to 1, and for what else."""

    label: str
    confidence: float
    second: str
    second_confidence: float


class Network(nn.Module):
    """A trained network, in evaluation mode, with what it has to know of images.

    ``images``, wherever they are asked for, are a tensor (N, C, H, W) or (C, H, W) of this network's
    :attr:`shape`, uint8 or floating point from 0 to 1, on any device; or the path of a picture, or several,
    in any format, size and colours that Pillow reads: they are resized as in the training, and a photograph
    of ink on paper is brought to the training's background.

    Attributes:
        classes: the names of the classes, in the order of the logits; of co-localisation, what a window may
            be.
        shape: (C, H, W) of an image.
        background: the training images' background, a uint8 value for each channel.
        epoch: how many epochs it was trained.
    """

    _background: Tensor

    def __init__(self, state: dict) -> None:
        """state: of a checkpoint, as :func:`stn_ext.training.checkpoints.load` returns it."""
        super().__init__()
        about, args = about_of(state), state["args"]
        self.model = rebuild(state)
        self.classes, self.shape, self.background = about.classes, about.shape, about.background
        self.epoch: int = state["epoch"]
        self.objective = about.objective
        self.reader = Reader(
            about.shape,
            about.background,
            framed=FRAMED.get(args["name_data"]),
            behind=args["image_background"] or "white",
        )
        background = torch.tensor(about.background, dtype=torch.float32).view(-1, 1, 1)
        self.register_buffer("_background", background, persistent=False)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images."""
        return self.model(self._normalised(images))

    @torch.no_grad()
    def predict(self, images: Tensor | Paths | Sequence[Paths]) -> list[Prediction]:
        """The class of each image, how surely, and the second.

        Raises:
            ValueError: images of another shape than this network's, or a network that knows no classes
                (co-localisation).
            FileError: a path that leads to no picture.
        """
        if self.objective != "classification":
            raise ValueError(f"predict: a network for {self.objective} knows no classes: see theta and warp")
        logits = torch.cat([self(batch) for batch in self._batches(images)])
        return predictions(logits, self.classes)

    @torch.no_grad()
    def theta(self, images: Tensor | Paths | Sequence[Paths]) -> Tensor | list[Tensor]:
        """The transformer's theta for each image: (N, 2, 3), (N, 3, 3) or (N, 2, K + 3).

        It leads from the output's normalised coordinates to the input's. Of several transformers side by side
        it is a list.

        Raises:
            ValueError: images of another shape, or a network without a transformer.
            FileError: a path that leads to no picture.
        """
        if self.model.transformer is None:
            raise ValueError("theta: this network has no transformer")
        each = [self.model.transformed(self._normalised(batch))[1] for batch in self._batches(images)]
        thetas = [torch.cat(parts) for parts in zip(*each, strict=True)]
        return thetas if len(thetas) > 1 else thetas[0]

    @torch.no_grad()
    def warp(self, images: Tensor | Paths | Sequence[Paths]) -> Tensor:
        """What the classifier sees of each image, in uint8 (N, K * C, H_out, W_out), of K transformers.

        Raises:
            ValueError: images of another shape.
            FileError: a path that leads to no picture.
        """
        normalisation = Normalisation(self.background, self._background.device)
        seen = [self.model.warp(self._normalised(batch)) for batch in self._batches(images)]
        return torch.cat([normalisation.invert(batch.float()) for batch in seen])

    def read(self, paths: Paths | Sequence[Paths]) -> Tensor:
        """The pictures as this network needs them, in uint8 (N, C, H, W), on the CPU.

        Raises:
            FileError: a path that leads to no picture.
        """
        chosen = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
        with public_errors(), decoding.quietly():
            pictures = [self.reader.read(Path(path))[0] for path in chosen]
        return torch.stack(pictures) if pictures else torch.zeros(0, *self.shape, dtype=torch.uint8)

    def extra_repr(self) -> str:
        return f"shape={self.shape}, classes={self.classes}"

    def _batches(self, images: Tensor | Paths | Sequence[Paths]) -> list[Tensor]:
        """Of a size that bounds the memory; one of no images where there are none."""
        if not isinstance(images, Tensor):
            images = self.read(images)
        if images.ndim == 3:
            images = images[None]
        if images.ndim != 4 or tuple(images.shape[1:]) != self.shape:
            raise ValueError(
                f"expected images of shape (N, {', '.join(map(str, self.shape))}), "
                f"but got {tuple(images.shape)}"
            )
        return list(images.split(engine.evaluation_batch(self.model, self.shape)))

    def _normalised(self, images: Tensor) -> Tensor:
        """Channels last, the background at 0, in the weights' dtype: as in the training."""
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise TypeError(
                f"expected images of uint8, or floating point from 0 to 1, but got {images.dtype}"
            )
        scale = 255 if images.dtype == torch.uint8 else 1
        values = images.to(self._background, memory_format=torch.channels_last)
        return (values * (255 / scale) - self._background) / 255


@contextmanager
def public_errors() -> Iterator[None]:
    """Makes what the command line would say of a file an error that a program can catch."""
    try:
        yield
    except UserError as error:
        raise FileError(as_line(str(error))) from None


def predictions(logits: Tensor, classes: Sequence[str]) -> list[Prediction]:
    """The first and the second class of each row of logits; of a single class it is both."""
    top = logits.float().softmax(1).topk(min(2, len(classes)), 1)
    rows = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return [
        Prediction(classes[which[0]], sure[0], classes[which[-1]], sure[-1] if len(sure) > 1 else 0.0)
        for which, sure in rows
    ]


def load(
    path: Paths, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Network:
    """What :func:`stn_ext.load` does; see there."""
    if dtype is not None and dtype not in DTYPES:
        raise TypeError(f"stn_ext.load: expected a dtype of {', '.join(map(str, DTYPES))}, but got {dtype!r}")
    with public_errors():
        network = Network(checkpoints.load(weights.find(path)))
    return network.to(device=device, dtype=dtype)
