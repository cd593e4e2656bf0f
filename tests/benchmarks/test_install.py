"""What is measured of an install is the README's own line, and is said in minutes and gigabytes."""

import sys

import install
import readme


def test_the_line_is_the_readmes_without_the_training():
    line = install.install_line(readme.README.read_text())
    assert "pip install" in line and "main.py" not in line


def test_the_sentence_has_what_was_measured():
    runs = [
        {"scope": scope, "train_seconds": seconds}
        for scope, seconds in (("stn", 180), ("stn", 300), ("cls", 9000))
    ]
    text = install.sentence({"processor_seconds": 240, "bytes": 7.2e9}, runs).replace("\n", " ")
    assert " 4 minutes of processor time" in text and " 7.2 GB " in text and " 3 to 5 minutes" in text


def test_processor_time_is_that_of_children():
    before = install.processor_seconds()
    install.subprocess.run([sys.executable, "-c", "sum(range(10**6))"], check=True)
    assert install.processor_seconds() > before
