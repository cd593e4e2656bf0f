"""The README's tables and plots are those of the recorded results."""

import json
import shutil

import plots
import pytest
import readme
import sampler
from PIL import Image


def test_the_readme_says_what_was_recorded():
    text = readme.README.read_text()
    assert readme.fill(text, readme.tables()) == text


def test_tables_are_filled_in_between_their_markers(recorded):
    for name in ("accuracy", "warps-cpu", "errors", "capabilities", "double_backward", "paper", "matrix-cpu"):
        shutil.copy(readme.RESULTS / f"{name}.json", recorded.parent)
    contents = readme.tables(recorded.parent)
    before = "".join(f"{name}:\n<!-- {name} -->\nold\n<!-- /{name} -->\n" for name in contents)
    after = readme.fill(before, contents)
    assert "old" not in after and readme.fill(after, contents) == after
    assert "| digits 64x1x28x28" in after and "tiny" not in after
    assert "vs PyTorch" in after and "on 2 threads" in after and "1 thread(s)" in after
    with pytest.raises(SystemExit, match="expected a marker <!-- accuracy -->"):
        readme.fill("", contents)


def test_plots(recorded):
    content = json.loads(recorded.read_text())
    sizes = [{"curve": "size", "size": n, **row} for n in (1, 2) for row in content["rows"]]
    for case in (content, {"rows": content["rows"], "curves": sizes}):
        drawn = plots.write(case, recorded)
        assert all(Image.open(path).size[0] > 400 for path in drawn)
    assert [path.name for path in drawn] == ["sampler-cpu.png", "sampler-cpu-curves.png"]
    assert sampler.curve_table(sizes).count("\n") == 1 + 2 * 2
