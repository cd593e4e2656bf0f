"""The geometry of thetas, without images: maps composed, inverted, taken apart; points and boxes taken along.

Convention:

- *Direction.* A theta takes an output's places to the input's, as the samplers read it:
  ``affine_sample(image, theta)`` shows at p what the image has at theta p. The other direction, in which a
  picture's contents move, is that of :func:`invert`.
- *Axes.* x runs rightwards, y downwards, z from slice to slice; points are (x, y) or (x, y, z), boxes
  (x, y, ...), while sizes are (height, width) or (depth, height, width), as tensors have them.
- *Angles* are in radians and lead from the x axis towards the y axis: clockwise, as one sees it. It is what
  is read that a theta turns so; the picture's contents turn the other way.
- *Units.* Normalised coordinates run from -1 to 1 over an image. Pixels are counted from the centre of the
  first one, so that an image W pixels wide reaches from -0.5 to W - 0.5 (:mod:`stn_ext.units`). Without
  sizes, all that a call is given is in one unit, whichever it is. A function that is given ``in_size`` takes
  a normalised theta, as samplers do, and everything else in pixels: the output's before the map, the input's
  behind it. ``out_size`` is the input's where it is not given, and ``align_corners`` says what theta's -1 and
  1 are: the outer edges of the outer pixels, or their centres.
- *Shapes.* Affine maps are (N, 2, 3), or (N, 3, 4) of volumes; projective ones are (N, 3, 3) and say more
  than a direction: places with w <= 0 lie behind the horizon, infinitely far, so that a theta and its
  negative are two maps. Of several arguments each has N entries, or one for all.
- *Numbers.* Any floating-point dtype is taken, on any device. All is computed in float64 and returned in the
  widest dtype of what was given, in at least float32. Everything but :func:`inside` is differentiable.
"""

from .affine import AffineParameters, from_box, from_parameters, parameters
from .maps import compose, invert
from .places import inside, warp_boxes, warp_points

__all__ = [
    "AffineParameters",
    "compose",
    "from_box",
    "from_parameters",
    "inside",
    "invert",
    "parameters",
    "warp_boxes",
    "warp_points",
]
