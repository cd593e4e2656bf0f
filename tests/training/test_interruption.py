"""Signals end a run between two steps, and are ignored from then on."""

import os
import signal

import pytest

from stn_ext.training.errors import guarded
from stn_ext.training.interruption import SIGNALS, Interruption


@pytest.fixture(autouse=True)
def handlers():
    # Those of a shell's background jobs ignore some.
    usual = {number: signal.SIG_DFL for number in SIGNALS} | {signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_waits_for_the_end_of_a_step(number):
    steps = []

    def work():
        with Interruption() as interruption:
            interruption.check()
            os.kill(os.getpid(), number)
            steps.append("saved")
            interruption.check()
            steps.append("never")

    assert guarded(work, quiet=True) == 130 and steps == ["saved"]
    os.kill(os.getpid(), number)  # as torchrun sends again what the terminal has sent


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_outside_of_steps_acts_at_once(number, capsys):
    assert guarded(lambda: os.kill(os.getpid(), number)) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("number", SIGNALS)
def test_what_was_ignored_stays_ignored(number):
    signal.signal(number, signal.SIG_IGN)

    def work():
        with Interruption() as interruption:
            os.kill(os.getpid(), number)
            interruption.check()

    assert guarded(work) == 0
