"""What somebody else's file could make endless ends at a limit."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from steerproof.board.proposals import read_proposal
from steerproof.decide.analysis.rates_csv import read_rates
from steerproof.errors import ExperimentError
from steerproof.limits import Pattern, TooMuchError, bounded, whole_file
from tests.experiments import small_experiment

LONG = "a1 " * 700 + "a" * 2000 + " " * 2000 + "!"


@pytest.mark.parametrize("text", [r"\[\s*z\s*l\s*t", "a+b", r"(?i:Z)LT", "ſ"])
def test_a_pattern_finds_what_pythons_own_finds(text):
    import re

    for searched in ("say [ zLT now", "aab", "zlt", "S", ""):
        expected = re.search(text, searched, re.IGNORECASE) is not None
        assert Pattern(text, ignore_case=True).found_in(searched) == expected
        assert Pattern(text).is_all_of(searched) == (re.fullmatch(text, searched) is not None)


@pytest.mark.parametrize("text", ["[", "(?P<a>", "a" * 1001, "(" * 400 + ")" * 400 + "["])
def test_what_is_no_pattern_is_an_error(text):
    with pytest.raises(ValueError):  # noqa: PT011 (the library's words)
        Pattern(text)


def test_a_search_that_would_not_end_is_given_up():
    began = time.monotonic()
    with pytest.raises(TooMuchError, match="nested repeats"):
        Pattern(r"\[zlt\]|(\w+\s?)+\$").found_in(LONG)
    assert time.monotonic() - began < 20


def test_time_and_memory_and_depth_are_bounded_and_an_earlier_alarm_still_rings():
    rang = []
    before = signal.signal(signal.SIGALRM, lambda *_: rang.append(True))
    left, interval = signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        for work, seconds, memory, message in (
            (turning, 0.1, 1 << 30, r"not through after 0\.1 s"),
            (hoarding, 5.0, 64 << 20, "more than 64 MiB"),
            (endless, 5.0, 1 << 30, "calls itself"),
        ):
            with pytest.raises(TooMuchError, match=message), bounded(seconds, memory):
                work()
        time.sleep(0.4)
        assert rang == [True]
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, left, interval)
    assert len(bytes(1 << 27)) == 1 << 27


def turning():
    while True:
        pass


def hoarding():
    return bytes(1 << 32)


def endless():
    return endless()


def test_another_thread_is_let_be():
    done = []

    def work():
        with bounded(0.01, 1):
            time.sleep(0.05)
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]


@pytest.mark.parametrize("kind", ["pipe", "device", "directory", "loop", "nothing"])
def test_what_may_have_no_end_is_not_read(tmp_path, kind):
    path = tmp_path / "rates.csv"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/null")
        case "directory":
            path.mkdir()
        case "loop":
            path.symlink_to(path)
    with pytest.raises(OSError, match=r"it is no file|No such|Too many levels"):
        whole_file(path)
    with pytest.raises(ExperimentError, match="cannot be read: "):
        read_rates(path, small_experiment())
    with pytest.raises(ExperimentError, match="cannot read the proposal"):
        read_proposal(path)


def test_what_a_shell_hands_over_is_read():
    reading, writing = os.pipe()
    os.write(writing, b"a,b\n")
    os.close(writing)
    assert whole_file(Path(f"/dev/fd/{reading}")) == b"a,b\n"
    os.close(reading)
