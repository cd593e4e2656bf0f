"""The build's choices: which PyTorch it sees, which CUDA toolkit it uses, where it builds, what it packs."""

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "build_support"))

import backend  # noqa: E402
import cuda_toolkit  # noqa: E402


def make_script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


def make_toolkit(root, version="13.0"):
    """A folder that looks like a CUDA toolkit."""
    make_script(
        root / "bin/nvcc",
        'case "$1" in\n'
        f"--version) echo 'Cuda compilation tools, release {version}, V{version}.88' ;;\n"
        "--list-gpu-code) printf 'sm_75\\nsm_90\\nsm_120\\n' ;;\n"
        f"--dryrun) echo '#$ _SPACE_= ' >&2; echo '#$ TOP={root}/bin/..' >&2 ;;\n"
        "esac\n",
    )
    for file in ("include/cuda_runtime.h", "lib/libcudart.so.13"):
        (root / file).parent.mkdir(exist_ok=True)
        (root / file).touch()
    return root


def setup_py(*arguments, **variables):
    return subprocess.run(
        [sys.executable, "setup.py", "-q", *arguments],
        cwd=ROOT,
        env=os.environ | {"STN_EXT_CUDA": "0"} | variables,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def places(tmp_path, monkeypatch):
    """The four places in which a toolkit is looked for, all empty: their names and their folders."""
    monkeypatch.setattr(cuda_toolkit, "wheel_folders", lambda: [tmp_path / "site/nvidia"])
    monkeypatch.setattr(cuda_toolkit, "STANDARD_ROOT", tmp_path / "standard")
    return {
        "CUDA_HOME": tmp_path / "home",
        "wheel": tmp_path / "site/nvidia/cu13",
        "standard": tmp_path / "standard",
        "PATH": tmp_path / "on_path",
    }


@pytest.fixture
def environ(places):
    return {"CUDA_HOME": str(places["CUDA_HOME"]), "PATH": str(places["PATH"] / "bin")}


@pytest.mark.parametrize("first", range(4))
def test_toolkits_are_searched_in_order(places, environ, first):
    for root in list(places.values())[first:]:
        make_toolkit(root)
    toolkit, reason = cuda_toolkit.choose_toolkit("13.2", environ)
    assert toolkit.root == list(places.values())[first]
    assert toolkit.version == "13.0"
    assert str(toolkit.root) in reason


def test_script_on_path_leads_to_the_toolkit_that_it_runs(places, environ, tmp_path):
    toolkit = make_toolkit(tmp_path / "elsewhere")
    make_script(places["PATH"] / "bin/nvcc", f'exec {toolkit}/bin/nvcc "$@"\n')
    assert cuda_toolkit.choose_toolkit("13.2", environ)[0].root == toolkit


def test_folder_without_headers_is_passed_over(places, environ):
    make_toolkit(places["CUDA_HOME"])
    (places["CUDA_HOME"] / "include/cuda_runtime.h").unlink()
    make_toolkit(places["standard"])
    assert cuda_toolkit.choose_toolkit("13.2", environ)[0].root == places["standard"]


def test_runtime_library_is_found_by_its_full_name(places, environ):
    make_toolkit(places["wheel"])
    assert cuda_toolkit.choose_toolkit("13.2", environ)[0].runtime == places["wheel"] / "lib/libcudart.so.13"


def test_other_major_version_is_refused_in_one_line(places, environ):
    make_toolkit(places["standard"], version="12.4")
    toolkit, reason = cuda_toolkit.choose_toolkit("13.2", environ)
    assert toolkit is None
    assert f"{places['standard']} is CUDA 12.4, but PyTorch is built for CUDA 13.2" in reason
    assert "\n" not in reason


def test_other_major_version_does_not_hide_one_that_fits(places, environ):
    make_toolkit(places["CUDA_HOME"], version="12.4")
    make_toolkit(places["PATH"])
    assert cuda_toolkit.choose_toolkit("13.2", environ)[0].root == places["PATH"]


def test_no_toolkit_names_the_places(places):
    toolkit, reason = cuda_toolkit.choose_toolkit("13.2", {"PATH": ""})
    assert toolkit is None
    for place in ("CUDA_HOME", "nvidia-cuda-nvcc", str(places["standard"]), "PATH"):
        assert place in reason


def test_cuda_can_be_refused(places, environ):
    make_toolkit(places["CUDA_HOME"])
    assert cuda_toolkit.choose_toolkit("13.2", environ | {"STN_EXT_CUDA": "0"}) == (None, "STN_EXT_CUDA=0")


@pytest.mark.parametrize(
    ("torch_cuda", "forced", "message"),
    [
        ("13.2", "1", "STN_EXT_CUDA=1, but the CUDA kernels cannot be built: .* has no bin/nvcc"),
        (None, "1", "STN_EXT_CUDA=1, but .* this PyTorch is built without CUDA"),
        ("13.2", "yes", "expected STN_EXT_CUDA to be 0, 1 or unset, but got 'yes'"),
    ],
)
def test_forced_cuda_that_cannot_be_is_one_line(environ, torch_cuda, forced, message):
    with pytest.raises(SystemExit, match=f"^stn_ext: {message}.*$"):
        cuda_toolkit.choose_toolkit(torch_cuda, environ | {"STN_EXT_CUDA": forced})


def test_pytorch_without_cuda_needs_no_toolkit(places, environ):
    make_toolkit(places["CUDA_HOME"])
    assert cuda_toolkit.choose_toolkit(None, environ) == (None, "this PyTorch is built without CUDA")


def test_architectures_are_those_of_pytorch_that_the_compiler_knows(tmp_path):
    toolkit = cuda_toolkit.check_toolkit(make_toolkit(tmp_path), "13.2")
    served_by_torch = ["sm_75", "sm_80", "sm_90", "sm_120", "compute_120"]
    assert cuda_toolkit.architectures(toolkit, served_by_torch) == "7.5;9.0;12.0+PTX"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere clang is the compiler")
@pytest.mark.parametrize(
    "version, message",
    [
        (None, "no C++ compiler: '{}' does not run; install g++ or set CXX"),
        ("Debian clang version 14.0.6", "expected g++, whose OpenMP is PyTorch's, but CXX is '{}': "),
    ],
)
def test_a_compiler_that_cannot_build_it_is_one_line(tmp_path, version, message):
    compiler = tmp_path / "c++"
    if version:
        make_script(compiler, f"echo '{version}'\n")
    result = setup_py("build_ext", CXX=str(compiler))
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(f"stn_ext: {message.format(compiler)}")


def test_builds_by_different_ninjas_have_folders_of_their_own(tmp_path):
    """A version takes for outdated what another has built: each would build everything after the other."""
    folders = set()
    for version in ("1.11.1", "1.13.0.git.kitware.jobserver-pipe-1"):
        make_script(tmp_path / version / "ninja", f"echo {version}\n")
        path = f"{tmp_path / version}{os.pathsep}{os.environ['PATH']}"
        # The compiler is refused only after the folder has been said, and nothing is built.
        result = setup_py("build_ext", PATH=path, CXX=str(tmp_path / "no compiler"))
        (folder,) = [line for line in result.stdout.splitlines() if line.startswith("stn_ext: folder: ")]
        assert folder.endswith(f"-ninja{version}")
        folders.add(folder)
    assert len(folders) == 2


def test_sdist_holds_what_is_needed_to_build_train_and_test(tmp_path):
    """All that is under version control; and nothing that was built."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a clone")
    result = setup_py("egg_info", "--egg-base", str(tmp_path), "sdist", "--formats=tar", "-d", str(tmp_path))
    assert result.returncode == 0, result.stderr
    (archive,) = tmp_path.glob("*.tar")
    with tarfile.open(archive) as tar:
        packed = {member.name.partition("/")[2] for member in tar if member.isfile()}
    assert set(listed.stdout.splitlines()) <= packed
    assert not [name for name in packed if name.endswith((".so", ".pyc"))]


def make_environment(root, **facts):
    """An interpreter that answers as one of an environment with PyTorch would; its site folder."""
    site = str(root / "site-packages")
    answer = {"abi": sysconfig.get_config_var("SOABI"), "site": site, "torch": "2.9.0"} | facts
    make_script(root / "bin/python", f"echo '{json.dumps(answer)}'\n")
    return site


@pytest.fixture
def no_own_torch(tmp_path, monkeypatch):
    """As in an isolated build: the running interpreter has no PyTorch."""
    make_environment(tmp_path / "own", torch=None)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "own/bin/python"))
    monkeypatch.setattr(backend, "parent_python", lambda: None)


def test_backend_sees_the_pytorch_of_its_own_interpreter():
    assert backend.target_site(os.environ) == str(Path(torch.__file__).parents[1])
    assert backend.get_requires_for_build_editable() == []


def test_backend_asks_for_pytorch_where_there_is_none(no_own_torch, monkeypatch):
    monkeypatch.setattr(os, "environ", {"PATH": ""})
    assert backend.get_requires_for_build_editable() == backend.REQUIREMENTS


def test_backend_finds_the_active_environment(no_own_torch, tmp_path):
    site = make_environment(tmp_path / "venv")
    assert backend.target_site({"VIRTUAL_ENV": str(tmp_path / "venv"), "PATH": ""}) == site


def test_backend_finds_python_on_path_behind_one_without_pytorch(no_own_torch, tmp_path):
    make_environment(tmp_path / "build", torch=None)
    site = make_environment(tmp_path / "env")
    path = os.pathsep.join(str(tmp_path / folder) for folder in ("build/bin", "env/bin"))
    assert backend.target_site({"PATH": path}) == site


def test_pip_builds_for_its_own_interpreter_alone(no_own_torch, tmp_path):
    make_environment(tmp_path / "venv")
    environ = {"VIRTUAL_ENV": str(tmp_path / "venv"), "PATH": "", "PIP_BUILD_TRACKER": "set by pip"}
    assert backend.target_site(environ) is None


def test_target_can_be_named(tmp_path):
    site = make_environment(tmp_path / "env")
    assert backend.target_site({"STN_EXT_PYTHON": str(tmp_path / "env/bin/python")}) == site


@pytest.mark.parametrize("facts", [{"torch": "2.5.1+cpu"}, {"torch": None}, {"abi": "another Python's"}])
def test_unsuitable_environments_are_passed_over(tmp_path, facts):
    make_environment(tmp_path / "env", **facts)
    assert backend.target_site({"STN_EXT_PYTHON": str(tmp_path / "env/bin/python")}) is None
