"""Image classifiers, each with a spatial transformer in front or without it, as its control.

Without one the classifier is the same network, with the same initial weights for the same seed; or, so that
its parameters cannot be what makes the difference, a wider one with as many as both have together. Sizes come
from the images' shape: nothing here is fixed to 28 x 28 pixels, one channel or ten classes.
"""

from .create import LOCALIZATIONS, NETS, create_model
from .localiser import Localiser, Located, RandomEncoder, create_localiser
from .net import ImageClassifier, Net, num_parameters

__all__ = [
    "LOCALIZATIONS",
    "NETS",
    "ImageClassifier",
    "Localiser",
    "Located",
    "Net",
    "RandomEncoder",
    "create_localiser",
    "create_model",
    "num_parameters",
]
