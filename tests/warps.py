"""Every kind of warp, each with the same warp composed of PyTorch's own operators."""

import pytest
import torch
import torch.nn.functional as F

import stn_ext

from .maps import rotation

# Its compilers take Functions whose sizes vary, and grid_sample can be differentiated twice.
recent_torch = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13),
    reason="PyTorch 2.6 and 2.7 cannot do all of this; tried from 2.13 on",
)


def output_grid(size, align_corners, like):
    """The output's normalised coordinates (x, y, 1), or (x, y, z, 1): (*size, dims + 1)."""
    eye = torch.eye(len(size), len(size) + 1, dtype=like.dtype, device=like.device)
    grid = F.affine_grid(eye[None], (1, 1, *size), align_corners)[0]
    return torch.cat([grid, torch.ones_like(grid[..., :1])], dim=-1)


class Affine:
    theta = torch.cat([rotation(7.3, 0.97, (0.013, -0.021)), rotation(-61, 1.31, (0.21, 0.12))])
    shape, size = (2, 3, 11, 13), (9, 14)

    @staticmethod
    def warp(input, theta, size, **options):
        return stn_ext.affine_sample(input, theta, size, **options)

    @staticmethod
    def composed(input, theta, size, *, mode="bilinear", padding_mode="zeros", align_corners=False):
        grid = F.affine_grid(theta, (len(theta), 1, *size), align_corners)
        return F.grid_sample(input, grid, mode, padding_mode, align_corners)


class Projective:
    theta = torch.tensor(
        [
            [[1.0133, 0.2317, 0.01327], [-0.1223, 0.9109, 0.03137], [0.2131, -0.1712, 1.017]],
            [[0.7133, -0.3317, 0.1133], [0.2231, 0.8119, -0.0314], [-0.1537, 0.2177, 0.9171]],
        ],
        dtype=torch.float64,
    )
    shape, size = (2, 3, 11, 13), (9, 14)

    @staticmethod
    def warp(input, theta, size, **options):
        return stn_ext.projective_sample(input, theta, size, **options)

    @staticmethod
    def composed(input, theta, size, *, mode="bilinear", padding_mode="zeros", align_corners=False):
        u = torch.einsum("hwb,nsb->nhws", output_grid(size, align_corners, theta), theta)
        return F.grid_sample(input, u[..., :2] / u[..., 2:], mode, padding_mode, align_corners)


class ThinPlateSpline:
    points = torch.tensor([[-0.9, -0.83], [0.87, -0.91], [-0.92, 0.88], [0.9, 0.93], [0.013, 0.057]])
    _generator = torch.Generator().manual_seed(3)
    theta = torch.randn(2, 2, 8, generator=_generator, dtype=torch.float64) * 0.1
    theta[:, 0, 5] += 0.9173
    theta[:, 1, 6] += 0.8911
    shape, size = (2, 3, 11, 13), (9, 14)

    @classmethod
    def warp(cls, input, theta, size, **options):
        return stn_ext.thin_plate_spline_sample(input, theta, cls.points.to(theta.device), size, **options)

    @classmethod
    def composed(cls, input, theta, size, *, mode="bilinear", padding_mode="zeros", align_corners=False):
        grid = output_grid(size, align_corners, theta)
        squares = (grid[..., None, :2] - cls.points.to(theta)).square().sum(-1)
        radial = torch.where(squares > 0, squares * squares.clamp_min(1e-300).log(), 0)
        at = torch.einsum("hwb,nsb->nhws", torch.cat([radial, grid], dim=-1), theta)
        return F.grid_sample(input, at, mode, padding_mode, align_corners)


class Volume:
    theta = torch.tensor(
        [
            [[0.91, 0.113, -0.217, 0.0137], [-0.131, 1.07, 0.157, 0.0311], [0.191, -0.077, 0.83, -0.0213]],
            [[-0.71, 0.413, 0.017, 0.1137], [0.231, 0.97, -0.357, 0.0911], [0.091, 0.177, 1.23, 0.0719]],
        ],
        dtype=torch.float64,
    )
    shape, size = (2, 2, 5, 7, 6), (4, 6, 9)
    warp = Affine.warp
    composed = Affine.composed


WARPS = {
    "affine": Affine,
    "projective": Projective,
    "thin plate spline": ThinPlateSpline,
    "volume": Volume,
}
