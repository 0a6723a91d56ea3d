"""A cap on device time: the run stops at it, says so, and goes on when more is allowed."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from steerproof.errors import SteerproofError
from steerproof.run.driver import allowance
from steerproof.run.driver.allowance import Allowance, device_seconds
from steerproof.run.driver.executors import InlineExecutor
from steerproof.run.driver.scheduler import execute
from steerproof.run.driver.summary import Summary
from steerproof.run.driver.worker import Files, Outcomes, Task, each
from steerproof.run.graph.graph import build_graph
from steerproof.run.store.directory import open_run
from steerproof.run.store.ledger_file import read_ledger
from steerproof.run.store.story import Story
from tests.run.tiny import unit

UNITS = 30


def sleeps(tasks: Sequence[Task]) -> Outcomes:
    yield from each(tasks, _sleep)


def _sleep(task: Task) -> Files:
    time.sleep(task.context["seconds"])
    return {"x": task.unit.name.encode()}


def run_for(run: Path, seconds: float, apiece: float = 0.1) -> tuple[Allowance, Summary]:
    """Units that take so many seconds each, in a run that may take so many."""
    work = {"work": "tests.run.test_allowance:sleeps", "context": {"seconds": apiece}}
    units = [unit("cell", str(i), **work) for i in range(UNITS)]
    allowed, hands = Allowance(hours=seconds / 3600), InlineExecutor()
    with open_run(run, "x") as directory, allowed.watching(directory, hands):
        return allowed, execute(build_graph(units), directory, hands)


def test_a_run_stops_at_its_cap_and_goes_on_when_more_is_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr(allowance, "POLL_SECONDS", 0.02)
    allowed, first = run_for(tmp_path / "run", 0.6)
    assert (first.stopped, allowed.reached) == (True, True)
    assert 3 <= first.progress.done <= 9
    assert "stopped at its cap of 0.000166667 device hours (" in allowed.words
    story = read_ledger(tmp_path / "run")
    assert story.last("cap-reached").detail["hours"] == pytest.approx(0.6 / 3600)
    assert 0.3 < device_seconds(story) < 1.2

    with pytest.raises(SteerproofError, match="allow more"):
        run_for(tmp_path / "run", 0.3)
    assert len(read_ledger(tmp_path / "run").attempts) == len(story.attempts)

    allowed, second = run_for(tmp_path / "run", 60, apiece=0.0)
    assert (second.stopped, allowed.reached) == (False, False)
    assert second.progress.done + second.progress.reused == UNITS
    states = [a.state for a in read_ledger(tmp_path / "run").attempts]
    assert states.count("done") == UNITS


def test_device_time_is_that_of_workers_not_of_units(tmp_path):
    run_for(tmp_path / "run", 60, apiece=0.0)
    story = read_ledger(tmp_path / "run")
    pooled = tuple(
        replace(a, pid=7 + i % 2, started=100.0, ended=110.0 + i, seconds=0.1)
        for i, a in enumerate(story.attempts)
    )
    assert device_seconds(Story(attempts=pooled)) == pytest.approx(10 + 28 + 10 + 29)
    unknown = tuple(replace(a, pid=0, seconds=2.0) for a in story.attempts)
    assert device_seconds(Story(attempts=unknown)) == pytest.approx(2 * UNITS)


@pytest.mark.parametrize("hours", [0.0, -1.0, float("nan")])
def test_a_cap_is_above_zero(hours):
    with pytest.raises(SteerproofError, match="above 0"):
        Allowance(hours=hours)
