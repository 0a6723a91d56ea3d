"""What a run shows while it goes on."""

import time

import pytest

from steerproof.errors import ExperimentError
from steerproof.progress import following
from steerproof.run.commands.status import units_of
from steerproof.run.driver.summary import Progress
from steerproof.run.graph.ids import UnitId
from steerproof.run.store.story import Event
from tests.run.tiny import run_tiny


def told(place, steps):
    """What is written of events, each with the number of finished units of ten."""
    with (place / "said").open("w") as stream, following(stream, "a run") as listen:
        for what, kind, done, detail in steps:
            unit = None if kind is None else UnitId(kind, "x")
            event = Event(time=time.time(), what=what, unit=unit, detail=detail)
            numbers = Progress(total=10, reused=0, done=done, running=0, failed=0, blocked=0)
            listen(event, numbers)
    return (place / "said").read_text().splitlines()


def test_total_and_what_is_left_of_the_whole_run_are_told_and_never_nothing(tmp_path):
    steps = [
        ("units-planned", None, 0, {"kinds": {"adapter": 2, "cell": 8}}),
        ("unit-started", "adapter", 0, {}),
        ("unit-done", "adapter", 1, {}),
        ("unit-done", "adapter", 2, {}),
        ("unit-started", "cell", 2, {}),
        ("unit-done", "cell", 3, {}),
        ("unit-done", "cell", 9, {}),
        ("unit-done", "cell", 10, {}),
    ]
    lines = told(tmp_path, steps)
    assert "0/10 units, training adapters; 10 left" in lines[0]
    assert "1/10 units, training adapters; 9 left, more than 1 s" in lines[1]
    assert "3/10 units, measuring cells; 7 left, about 1 s" in lines[4]
    assert "10/10 units" in lines[-1]
    assert not any(" 0 s" in line or "0 left" in line.replace("10 left", "") for line in lines)


def test_units_that_will_not_be_done_are_not_waited_for(tmp_path):
    steps = [
        ("units-planned", None, 0, {"kinds": {"adapter": 1, "cell": 2}}),
        ("unit-started", "cell", 0, {}),
        ("unit-failed", "adapter", 0, {"error": "no"}),
        ("unit-done", "cell", 1, {}),
    ]
    assert ", about 1 s" in told(tmp_path, steps)[-1]


def test_status_names_the_units_of_a_kind(tmp_path):
    run_tiny(tmp_path / "run")
    assert units_of(tmp_path / "run", "adapter") == {
        "adapter/A.villain": "done",
        "adapter/C.villain": "done",
    }
    assert len(units_of(tmp_path / "run", "all")) == 9
    with pytest.raises(
        ExperimentError, match="no unit of kind 'cells'; there is all, adapter, analysis"
    ):
        units_of(tmp_path / "run", "cells")
