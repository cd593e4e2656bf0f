"""How Sphinx builds these pages: sphinx-build -W docs docs/_build (with pip install -e '.[docs]')."""

import sys
from pathlib import Path

import stn_ext

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "stn_ext"
copyright = author = "the stn_ext authors"
release = stn_ext.build_info()["version"]

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton", "pictured"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "stn_ext"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

add_module_names = False
autodoc_member_order = "bysource"
autodoc_mock_imports = ["onnxscript"]  # what it says can be read without what it needs
