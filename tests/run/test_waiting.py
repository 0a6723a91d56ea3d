"""A command that is silent for long says what it does, on a terminal and nowhere else."""

import io
import sys
import time

import pytest

from steerproof.cli import app, waiting
from steerproof.cli.output import say


class Terminal(io.StringIO):
    """A stream that somebody looks at."""

    def isatty(self) -> bool:
        """It is."""
        return True


def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Called inside a test: pytest puts its own stream back before each."""
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setattr(waiting, "SILENCE", 0.05)
    monkeypatch.setattr(waiting, "_LOOK", 0.01)
    return shown


def until(shown: io.StringIO, words: str) -> str:
    deadline = time.monotonic() + 10.0
    while words not in shown.getvalue() and time.monotonic() < deadline:
        time.sleep(0.01)
    return shown.getvalue()


def test_silence_is_broken_and_again_later_and_no_more_after_the_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = terminal(monkeypatch)
    waiting.begin("hashing \x1b[31mfiles")
    said = until(shown, "so far")
    assert said.splitlines()[0] == "hashing files ..."
    assert "hashing files ... (0 s so far)" in said
    say(None, False, lambda: "done")
    said = shown.getvalue()
    time.sleep(0.3)
    assert shown.getvalue() == said


def test_what_comes_at_once_says_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = terminal(monkeypatch)
    waiting.begin("hashing")
    waiting.end()
    time.sleep(0.2)
    assert shown.getvalue() == ""


def test_lines_of_a_trial_are_told_one_a_second_and_what_lasts_is_told_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = terminal(monkeypatch)
    monkeypatch.setattr(waiting._WAITING, "_told", time.monotonic() - 2.0)
    waiting.tell("round 1")
    waiting.tell("round 2")
    said = until(shown, "round 2")
    waiting.end()
    assert said.splitlines() == ["round 1", "round 2 ..."]


def test_a_pipe_hears_only_what_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = io.StringIO()
    monkeypatch.setattr(sys, "stderr", pipe)
    monkeypatch.setattr(waiting, "SILENCE", 0.0)
    monkeypatch.setattr(waiting._WAITING, "_told", time.monotonic() - 2.0)
    waiting.begin("hashing")
    waiting.tell("round 1")
    time.sleep(0.2)
    waiting.end()
    assert pipe.getvalue() == "round 1\n"


def test_every_command_that_may_take_long_has_words_and_none_else() -> None:
    named = {c.name or c.callback.__name__.replace("_", "-") for c in app.registered_commands}
    named |= {group.name for group in app.registered_groups}
    # Those that serve, ask at the terminal, say what they do themselves, or answer at once.
    quiet = {"board", "add-user", "remove-user", "fetch", "bench", "schema"}
    assert set(waiting.WORDS) == named - quiet
