"""The README's and the pages' tables and plots are those of the recorded results."""

import json
import shutil

import docutils.core
import plots
import pytest
import readme
import sampler
import tables
from PIL import Image


@pytest.mark.parametrize("page", readme.PAGES, ids=lambda page: page.name)
def test_a_page_says_what_was_recorded(page):
    text = page.read_text()
    assert readme.fill(page, text, readme.contents()[page]) == text


def test_pages_are_filled_in_between_their_markers(recorded):
    for path in readme.RESULTS.glob("*.json"):
        if path.name != recorded.name:
            shutil.copy(path, recorded.parent)
    for page, texts in readme.contents(recorded.parent).items():
        begin, end = ("<!-- {} -->", "<!-- /{} -->") if page.suffix == ".md" else (".. {}:\n", ".. end of {}")
        before = "".join(f"{begin.format(name)}\nold\n{end.format(name)}\n" for name in texts)
        after = readme.fill(page, before, texts)
        assert "old" not in after and readme.fill(page, after, texts) == after
        for text in texts.values():
            assert text in after
        with pytest.raises(SystemExit, match=f"{page.name}: expected a marker"):
            readme.fill(page, "", texts)
        assert "vs PyTorch" in after or page not in readme.PAGES[:2]


def test_the_results_are_those_of_the_common_cases(recorded):
    text = readme.speed(json.loads(recorded.read_text())["rows"])
    assert "| digits 64x1x28x28" in text and "tiny" not in text
    assert "vs PyTorch" in text and "on 2 threads" in text


def test_the_summary_has_the_geometric_means(recorded):
    rows = json.loads(recorded.read_text())["rows"]
    median = {(r["case"], r["pass"], r["contender"]): r["median"] for r in rows if r["threads"] == 1}
    header, _, forward, backward = readme.summary(rows).splitlines()
    assert "vs PyTorch" in header and "copy" not in header
    ratio = median["digits", "forward", "pytorch"] / median["digits", "forward", "stn_ext"]
    assert forward.startswith("| forward ") and f" {ratio:.2f} (1) |" in forward
    assert backward.startswith("| forward+backward ")


def test_corners_that_lose_are_counted():
    row = {"shape": "digits", "dtype": "uint8", "mode": "nearest", "padding": "fill", "layout": "planes"}
    rows = [row | {"what": "forward", "ratio": ratio} for ratio in (2.0, 0.9, 0.5)]
    text = readme.slower(rows)
    assert "Of 3 corners" in text and " 2 are slower" in text
    assert "0.50 of its speed (digits, uint8, nearest, fill, planes, forward)" in text


def test_distinct_capabilities_are_those_that_the_fewest_peers_have():
    rows = [
        {
            "capability": f"{peers} peers",
            "reasons": {"stn_ext": ""} | {n: "" if n < peers else "no" for n in range(9)},
        }
        for peers in range(9, -1, -1)
    ]
    rows.insert(0, {"capability": "not ours", "reasons": {"stn_ext": "no", 0: "no"}})
    assert [row["capability"] for row in readme.distinct(rows)] == [f"{n} peers" for n in range(7, -1, -1)]


def test_tables_in_restructuredtext_say_the_same():
    cells = [["a", "1.5 ± 2%", "-"], ["", "- / 3", "7"], ["*all*", "", "2 (1)"]]
    text = tables.rst(f"before\n\n{tables.markdown(['', 'x, ms', 'y'], cells)}\n\nafter")
    document = docutils.core.publish_doctree(text, settings_overrides={"report_level": 2, "halt_level": 2})
    (table,) = document.findall(docutils.nodes.table)
    rows = [[entry.astext() for entry in row] for row in table.findall(docutils.nodes.row)]
    assert rows == [["", "x, ms", "y"], cells[0], cells[1], ["all", "", "2 (1)"]]
    assert not list(document.findall(docutils.nodes.bullet_list))
    assert "figures" in table["classes"]
    paragraphs = [node.astext() for node in document.children if isinstance(node, docutils.nodes.paragraph)]
    assert paragraphs == ["before", "after"]


def test_plots(recorded):
    content = json.loads(recorded.read_text())
    sizes = [{"curve": "size", "size": n, **row} for n in (1, 2) for row in content["rows"]]
    for case in (content, {"rows": content["rows"], "curves": sizes}):
        drawn = plots.write(case, recorded)
        assert all(Image.open(path).size[0] > 400 for path in drawn)
    assert [path.name for path in drawn] == ["sampler-cpu.png", "sampler-cpu-curves.png"]
    assert sampler.curve_table(sizes).count("\n") == 1 + 2 * 2
