"""How Sphinx builds these pages: sphinx-build -W docs docs/_build (with pip install -e '.[docs]')."""

import stn_ext

project = "stn_ext"
copyright = author = "the stn_ext authors"
release = stn_ext.build_info()["version"]

extensions = ["sphinx.ext.autodoc", "sphinx.ext.doctest", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_theme_options = {
    "description": "Differentiable image warping: the sampler of spatial transformer networks, fused.",
    "page_width": "1000px",
    "show_powered_by": False,
}

add_module_names = False
autodoc_member_order = "bysource"
autodoc_mock_imports = ["onnxscript"]  # what it says can be read without what it needs

# sphinx-build -W -b doctest docs docs/_build runs every example, in the pages and in the docstrings.
doctest_global_setup = """
import torch
import stn_ext
from stn_ext import affine_sample, normalised_to_pixels, pixels_to_normalised, warp_affine, warp_perspective
from stn_ext.geometry import compose, invert
torch.manual_seed(0)
"""
