"""The documentation builds without a warning, its links lead somewhere, and its examples run when pasted."""

import doctest
import importlib
import pkgutil
import re
import shlex
import subprocess
import sys

import pytest

import stn_ext
from stn_ext.training import config

from .command_line import ROOT
from .examples import PAGES, commands, examples

MARKDOWN = [page for folder in (".", "benchmarks", "csrc") for page in sorted((ROOT / folder).glob("*.md"))]


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Runs a Sphinx builder, every warning an error; the folder of its output."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def run(builder):
        command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", builder]
        result = subprocess.run(
            [*command, ROOT / "docs", tmp_path], capture_output=True, text=True, cwd=tmp_path
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return tmp_path

    return run


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """An empty folder to work in, in which the documentation's pictures lie as in a clone."""
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_public_name_has_its_place_in_the_pages(build):
    pages = build("html")
    text = (pages / "api.html").read_text()
    functions = [name for name in stn_ext.__all__ if callable(getattr(stn_ext, name))]
    assert "affine_sample" in functions
    for name in functions:
        assert f'id="stn_ext.{name}"' in text, name
    for module in ("geometry", "nn", "transforms"):
        for name in getattr(stn_ext, module).__all__:
            assert f'id="stn_ext.{module}.{name}"' in text, name
    assert_links_lead_somewhere(pages)


def assert_links_lead_somewhere(folder):
    """Those of the built pages to each other: files, and the places in them."""
    pages = {path.resolve(): path.read_text() for path in folder.rglob("*.html")}
    assert len(pages) > 10
    places = {path: set(re.findall(r'\bid="([^"]+)"', text)) for path, text in pages.items()}
    for path, text in pages.items():
        for link in re.findall(r'\b(?:href|src)="([^"]+)"', text):
            if re.match(r"[a-z]+:|//", link):
                continue  # elsewhere
            file, _, place = link.partition("#")
            target = (path.parent / file.partition("?")[0]).resolve() if file else path
            assert target.exists(), f"{path.name}: {link}"
            # Of pages alone; an empty place, and furo's own, are their beginning.
            if place and target in places:
                assert place in places[target], f"{path.name}: {link}"


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_markdown_names_are_there(page):
    """Those of its links, and where they have a folder those in code."""
    text = page.read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert re.match(r"https?://", link) or (page.parent / link).exists(), link
    for name in re.findall(r"`(\w+/[\w/.]+)`", text):
        if (ROOT / name.partition("/")[0]).is_dir():
            assert (ROOT / name).exists() or (page.parent / name).exists(), name


def test_the_version_is_the_same_everywhere():
    assert f"\nversion: {stn_ext.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    first = re.search(r"^## (\d.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first[1] == stn_ext.__version__


def docstrings():
    """The examples in the package's docstrings, each with a namespace of its own."""
    names = [name for _, name, _ in pkgutil.walk_packages(stn_ext.__path__, "stn_ext.")]
    modules = [stn_ext, *(importlib.import_module(n) for n in names if not n.endswith(("._C", "__main__")))]
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [test for module in modules for test in finder.find(module, globs={}) if test.examples]
    return {test.name: test for test in found}


@pytest.mark.parametrize("name", docstrings())
def test_a_docstrings_example_prints_what_it_says(name, clone):
    run_session(docstrings()[name])


def run_session(session):
    said = []
    assert doctest.DocTestRunner(verbose=False).run(session, out=said.append).failed == 0, "".join(said)


@pytest.mark.parametrize("example", examples("python"), ids=str)
def test_an_example_runs_when_pasted(example, clone):
    exec(compile(example.code, str(example), "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("example", examples("session"), ids=str)
def test_a_session_prints_what_it_says(example, clone):
    session = doctest.DocTestParser().get_doctest(example.code, {}, str(example), str(example.page), 0)
    run_session(session)


def command_lines():
    """Those of main.py, in the shell's examples."""
    found = []
    for example in examples("bash"):
        for line in commands(example):
            for command in line.split(" && "):
                words = shlex.split(command)
                if "main.py" in words:
                    options = words[words.index("main.py") + 1 :]
                    found.append(pytest.param(options, id=f"{example}: {command}"))
    return found


@pytest.mark.parametrize("words", command_lines())
def test_command_lines_are_understood(words):
    """Their options exist, and go together."""
    args = config.parse(words)
    assert args.given


def test_scripts_that_are_named_exist():
    """Of the shell's examples and of what stands in literals: python FILE, bash FILE."""
    named = set()
    for page in PAGES:
        named |= set(re.findall(r"\b(?:python|bash) ([\w./]+\.(?:py|sh))", page.read_text()))
    assert "main.py" in named
    for name in named:
        assert (ROOT / name).exists(), name


def test_the_readme_is_short_and_begins_with_two_lines():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 140
    first = next(example for example in examples("bash", "python") if example.page.suffix == ".md")
    assert len(commands(first)) == 2
