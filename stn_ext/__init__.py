"""Differentiable image warping: the sampler of spatial transformer networks, fused, on CPU and CUDA."""

import importlib
from types import ModuleType

from . import geometry, nn, transforms
from ._extension import _C
from .functional import affine_sample, projective_sample, thin_plate_spline_sample
from .trained import FileError, load
from .units import normalised_to_pixels, pixels_to_normalised
from .warp import warp_affine, warp_perspective

__version__: str = _C.__version__
build_info = _C.build_info

__all__ = [
    "FileError",
    "affine_sample",
    "build_info",
    "geometry",
    "load",
    "nn",
    "normalised_to_pixels",
    "pixels_to_normalised",
    "projective_sample",
    "thin_plate_spline_sample",
    "transforms",
    "warp_affine",
    "warp_perspective",
]


def __getattr__(name: str) -> ModuleType:
    # What onnx needs is neither loaded nor needed before it is asked for.
    if name == "onnx":
        return importlib.import_module(".onnx", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
