"""The package's annotations reach its users."""

from importlib.resources import files

from mypy import api

PROGRAM = """
import torch
import stn_ext

x = torch.rand(1, 1, 4, 4)
theta = torch.eye(2, 3)[None]
reveal_type(stn_ext.affine_sample(x, theta, (2, 3)))
reveal_type(stn_ext.warp_affine(x, theta, (2, 3)))
reveal_type(stn_ext.pixels_to_normalised(theta, (4, 4), (4, 4)))
stn_ext.affine_sample(x, theta, "small")
"""


def test_type_checkers_see_the_signatures(tmp_path, monkeypatch):
    (tmp_path / "program.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MYPYPATH", str(files("stn_ext").joinpath("..")))
    printed, failure, _ = api.run(["program.py"])
    assert failure == "", failure
    assert printed.count('Revealed type is "torch._tensor.Tensor"') == 3, printed
    (error,) = (line for line in printed.splitlines() if "error:" in line)
    assert 'incompatible type "str"' in error


def test_the_marker_is_part_of_the_package():
    assert files("stn_ext").joinpath("py.typed").is_file()
