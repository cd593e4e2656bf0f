"""What `import stn_ext` loads, and what it says when the compiled extension cannot be loaded."""

import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import stn_ext

MARK = b"stn_ext built against PyTorch %s\0"


def run_python(code, **options):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **options)


@pytest.fixture
def package(tmp_path):
    """A folder with the loader in a package of its own, and a PyTorch that has only a version."""
    (tmp_path / "torch.py").write_text("__version__ = '2.9.1+cu130'")
    (tmp_path / "stn_ext").mkdir()
    (tmp_path / "stn_ext/__init__.py").write_text("from . import _extension")
    loader = Path(stn_ext.__file__).with_name("_extension.py")
    (tmp_path / "stn_ext/_extension.py").write_text(loader.read_text())
    return tmp_path


def import_error(package, binary=None):
    """The one line with which `import stn_ext` fails."""
    if binary is not None:
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        (package / f"stn_ext/_C{suffix}").write_bytes(binary)
    code = "try:\n  import stn_ext\nexcept ImportError as error:\n  print(error)"
    run = run_python(code, cwd=package)
    assert run.stderr == ""
    (line,) = run.stdout.splitlines()
    return line


def test_missing_extension_names_the_python_and_the_build_command(package):
    line = import_error(package)
    assert f"no compiled extension for Python {sys.version.split()[0]}" in line
    assert "pip install --no-deps ." in line


def test_build_command_names_the_source_folder_of_an_editable_install(package):
    (package / "setup.py").touch()
    assert import_error(package).endswith(f"pip install --no-deps -e {package}")


def test_other_pytorch_is_named_beside_the_one_built_against(package):
    line = import_error(package, b"\x7fELF" + MARK % b"2.6.0+cpu")
    assert "built against PyTorch 2.6.0+cpu, but this is PyTorch 2.9.1+cu130; rebuild it with: " in line


def test_binary_without_a_version_is_not_loaded(package):
    assert "built against PyTorch (unknown version), but this is" in import_error(package, b"\x7fELF")


def test_extension_that_does_not_load_says_why(package):
    line = import_error(package, b"not a library" + MARK % b"2.9.1+cu130")
    assert "built against this PyTorch 2.9.1+cu130, does not load (" in line
    assert "rebuild it with: " in line


def test_build_info_is_about_the_running_pytorch():
    import torch

    assert stn_ext.build_info()["torch"] == torch.__version__


def test_version_is_the_projects():
    declared = re.search(
        r'^version = "(.+)"', Path(__file__).parents[1].joinpath("pyproject.toml").read_text(), re.MULTILINE
    )
    assert stn_ext.__version__ == stn_ext.build_info()["version"] == declared[1]


def test_operator_needs_torch_alone():
    code = """
import sys
others = ["torchvision", "numpy", "PIL", "tensorboard", "tqdm", "jinja2", "matplotlib"]
sys.modules.update(dict.fromkeys(others))  # importing one of them is an ImportError now
import torch, stn_ext
print(stn_ext.affine_sample(torch.ones(1, 1, 2, 2), torch.eye(2, 3)[None]).sum().item())
"""
    run = run_python(code)
    assert run.stdout == "4.0\n", run.stderr
