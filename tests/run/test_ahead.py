"""What is done ahead while the driver waits changes nothing but time, and starts import little."""

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from steerproof.run.commands.ahead import Ahead
from steerproof.run.commands.report_inputs import Groundwork
from steerproof.run.driver.summary import Progress
from steerproof.run.graph.ids import UnitId
from steerproof.run.graph.names import ANALYSIS, SCORE
from steerproof.run.store.story import Event

NOTHING = Progress(total=1, reused=0, done=0, running=0, failed=0, blocked=0)


def happened(what: str, unit: UnitId | None = None) -> Event:
    return Event(time=0.0, what=what, unit=unit, detail={})


def after(ahead: Ahead, *events: Event) -> list[Event]:
    """What the listener heard of these."""
    heard: list[Event] = []
    hear = ahead.beside(lambda event, _: heard.append(event))
    for event in events:
        hear(event, NOTHING)
    ahead.groundwork()
    return heard


def test_modules_are_imported_once_work_has_begun_and_the_groundwork_once_all_is_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ahead_a.py").write_text("import threading\nWHO = threading.current_thread()\n")
    monkeypatch.syspath_prepend(tmp_path)
    laid: list[threading.Thread] = []

    def lay() -> Any:
        laid.append(threading.current_thread())

    ahead = Ahead(lay, ["no_such", "ahead_a"])
    events = [happened("units-planned"), happened("unit-done", ANALYSIS)]
    assert after(ahead, *events) == events
    assert "ahead_a" not in sys.modules
    assert not laid
    after(ahead, happened("unit-started", ANALYSIS), happened("unit-done", SCORE))
    assert sys.modules["ahead_a"].WHO is not threading.main_thread()
    assert laid[0] is not threading.main_thread()


def test_what_fails_ahead_is_nobodys_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Groundwork:
        raise ValueError("a unit is damaged")

    ahead = Ahead(fail, [])
    after(ahead, happened("unit-started", SCORE), happened("unit-done", SCORE))
    assert ahead.groundwork() is None
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    ahead = Ahead(fail, [])
    after(ahead, happened("unit-started", SCORE), happened("unit-done", SCORE))
    assert ahead.groundwork() is None


def test_when_it_is_over_nothing_goes_on_and_nothing_begins() -> None:
    """A thread in the middle of a library while Python ends could abort it."""
    begun, finish, ended = threading.Event(), threading.Event(), threading.Event()

    def lay() -> Any:
        begun.set()
        finish.wait(10.0)
        ended.set()

    ahead = Ahead(lay, [])
    ahead.beside(lambda *_: None)(happened("unit-done", SCORE), NOTHING)
    assert begun.wait(10.0)
    threading.Timer(0.1, finish.set).start()
    ahead.end()
    assert ended.is_set()
    ended.clear()
    after(ahead, happened("unit-done", SCORE))
    assert not ended.is_set()


def no_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("steerproof.run.commands.session", ("torch", "transformers", "matplotlib", "jinja2")),
        ("steerproof.run.commands.status", ("torch", "numpy", "matplotlib", "pyarrow")),
    ],
)
def test_a_command_begins_without_what_it_needs_later(module: str, absent: tuple[str, ...]) -> None:
    code = f"import sys, {module}\nprint(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not set(absent) & set(ran.stdout.split())
