"""A capability is what gives the right result, and nothing else."""

import json

import capabilities
import pytest
import torch
import warpers
from capabilities import CAPABILITIES, attempt

from stn_ext import reference

CHEAP = ("a map for each image of a batch", "gradient by theta", "coordinates that are not numbers show")


def contender(warp):
    return warpers.Warper("somebody", warp)


@pytest.mark.parametrize("title", CHEAP)
def test_the_reference_and_the_operator_are_capable(title):
    assert attempt(CAPABILITIES[title], contender(reference.affine_sample)) == ""
    assert attempt(CAPABILITIES[title], warpers.WARPERS["stn_ext"]) == ""


@pytest.mark.parametrize("title", CHEAP)
def test_another_result_is_a_no(title):
    """Images that are mirrored, a theta that is cut off from its gradient, NaN that is hidden."""

    def warp(x, theta, **options):
        return reference.affine_sample(x.flip(-1), theta.detach().nan_to_num(), **options)

    wrong = contender(warp)
    assert attempt(CAPABILITIES[title], wrong)


def test_what_is_lacking_and_what_fails_is_named():
    def broken(x, theta, **options):
        raise RuntimeError("no luck\nat length")

    assert attempt(CAPABILITIES[CHEAP[0]], contender(broken)) == "RuntimeError: no luck"
    lacks = attempt(CAPABILITIES["fill value for each channel"], warpers.WARPERS["pytorch"])
    assert lacks == "Lacks: grid_sample has no fill"


@pytest.mark.parametrize("name", ("kornia", "torchvision", "opencv"))
def test_peers_get_the_map_in_their_own_units(name):
    """Else a no would be ours."""
    warper = warpers.WARPERS[name]
    try:
        warper.version()
    except ImportError:
        pytest.skip(f"{warper.title} is not installed")
    x, theta = capabilities.images(1, 3, 32, 32), capabilities.turns()
    torch.testing.assert_close(
        warper.warp(x, theta).float(), reference.affine_sample(x, theta), rtol=0, atol=capabilities.TOLERANCE
    )


def test_results_are_recorded_and_tabulated(tmp_path, capsys):
    path = tmp_path / "capabilities.json"
    capabilities.main(["--only=each", "--contender=stn_ext", "--contender=pytorch", f"--json={path}"])
    rows = json.loads(path.read_text())["rows"]
    (batch,) = (row for row in rows if row["capability"] == CHEAP[0])
    assert batch["reasons"] == {"stn_ext": "", "pytorch": ""}
    assert capabilities.table(rows) in capsys.readouterr().out
    assert capabilities.table(rows).splitlines()[2].split("|")[2:4] == ["     yes ", "     yes "]
