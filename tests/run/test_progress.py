"""What a run shows while it goes on."""

import os
import time
from pathlib import Path

import pytest

from steerproof.errors import ExperimentError
from steerproof.progress import doing_lines, following, left_words
from steerproof.run.commands.status import status, units_of
from steerproof.run.driver.pace import Left, Pace, pace_of
from steerproof.run.driver.summary import Progress
from steerproof.run.driver.worker import perform
from steerproof.run.graph.graph import build_graph
from steerproof.run.graph.ids import UnitId
from steerproof.run.store.directory import open_run
from steerproof.run.store.doing import Doing, Teller, doing_place, doings
from steerproof.run.store.ledger_file import read_ledger
from steerproof.run.store.story import Event
from tests.run.tiny import order_of, run_tiny, unit


def told(place, steps):
    """What is written of events, each with the number of finished units of ten."""
    with (place / "said").open("w") as stream, following(stream, "a run", place) as listen:
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
    more = "1/10 units, training adapters; 9 left, more than 1 s (8 cells not timed yet)"
    assert more in lines[1]
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


def paced(*steps):
    """The pace after events at given seconds."""
    pace = Pace()
    for now, what, kind, detail in steps:
        named = None if kind is None else UnitId(kind, "x")
        pace.note(Event(time=now, what=what, unit=named, detail=detail), now)
    return pace


def test_work_inside_of_units_counts_before_any_has_ended():
    pace = paced(
        (0.0, "units-planned", None, {"kinds": {"adapter": 4, "cell": 8}}),
        (0.0, "unit-started", "adapter", {}),
    )
    assert pace.left(50.0) is None
    # Half of an order of two: one unit's worth of four in 50 s.
    half = Doing(kind="adapter", units=2, done=100, total=200, what="steps")
    assert pace.left(50.0, [half]) == Left(seconds=150.0, untimed={"cell": 8})
    # With its speed, of one unit in 20 s, the time until it began does not count.
    timed = Doing(kind="adapter", units=2, done=100, total=200, what="steps", per_second=5.0)
    assert pace.left(50.0, [timed]) == Left(seconds=60.0, untimed={"cell": 8})
    # Two such workers are twice as fast.
    assert pace.left(50.0, [timed, timed]) == Left(seconds=20.0, untimed={"cell": 8})
    # What has ended is not counted twice, and what is done before the main work is none of it.
    ended = Doing(kind="adapter", units=2, ended=1, done=100, total=200, what="steps")
    assert ended.units_ahead == 0.0
    assert Doing(kind="cell", units=2, phase="starting", done=1, total=2).units_ahead == 0.0
    # As good as done is not nothing.
    last = Doing(kind="adapter", units=4, done=200, total=200, what="steps", per_second=5.0)
    assert pace.left(50.0, [last]) == Left(seconds=1.0, untimed={"cell": 8})


def test_an_order_that_has_hardly_begun_tells_no_speed():
    # Two H100 at the first of 2,676 cells were told "more than 444 h".
    planned = (0.0, "units-planned", None, {"kinds": {"cell": 100}})
    begun = (0.0, "unit-started", "cell", {})
    first = Doing(kind="cell", units=50, done=1, total=5000, what="completions", per_second=0.1)
    assert paced(planned, begun).left(10.0, [first]) is None
    some = [(10.0, "unit-done", "cell", {})] * 50
    assert paced(planned, begun, *some).left(10.0, [first]) == Left(seconds=10.0, untimed={})


def test_what_workers_are_at_is_told_in_one_line_for_each_kind_of_work():
    steps = {"kind": "adapter", "units": 3, "what": "steps", "total": 1000}
    lines = doing_lines(
        [
            Doing(**steps, done=200, per_second=12.4, loss=0.5),
            Doing(**steps, done=1000, per_second=10.0, loss=0.25),
            Doing(kind="cell", units=9, phase="loading the model"),
            Doing(kind="cell", units=9, what="completions", done=0, total=40,
                  per_second=None, tokens_per_second=5421.7),
            Doing(kind="analysis", units=1),
        ]
    )  # fmt: skip
    assert lines == [
        "training adapters: 1,200 of 2,000 steps, 22 steps/s, loss 0.375, 2 workers",
        "measuring cells: loading the model",
        "measuring cells: 0 of 40 completions, 5,422 tokens/s",
        "deciding",
    ]
    assert left_words(Left(seconds=90.2, untimed={})) == "about 1 min 30 s"


def test_a_teller_writes_at_most_once_a_second_and_gives_the_speed_since(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("steerproof.run.store.doing.time.monotonic", lambda: now[0])
    (tmp_path / "lock").mkdir()
    place = doing_place(tmp_path, 3, 1)
    teller = Teller(place, "adapter", 2)
    teller.phase("")
    written = set()
    for step in range(1, 51):
        now[0] += 0.125  # a step takes an eighth of a second, which is no rounded number
        teller.at(step, 50, "steps", tokens=10 * step, loss=1 / step)
        written.add(place.read_bytes())
    assert len(written) == 7  # the beginning, and six whole seconds of 6.25
    (last,) = doings(tmp_path, 3)
    assert (last.done, last.total, last.kind, last.units) == (48, 50, "adapter", 2)
    assert last.per_second == pytest.approx(8.0)
    assert last.tokens_per_second == pytest.approx(80.0)
    assert last.loss == pytest.approx(1 / 48)
    now[0] += 2.0
    teller.at(10, 50, "steps", loss=float("nan"))  # it began again; and a NaN is not JSON
    assert doings(tmp_path, 3) == [last]
    teller.end()
    assert doings(tmp_path, 3) == []
    assert not list((tmp_path / "lock").iterdir())


def test_a_disk_that_takes_nothing_fails_no_work_and_tells_nothing(tmp_path):
    teller = Teller(doing_place(tmp_path, 1, 1), "cell", 1)  # there is no such directory
    teller.phase("starting")
    teller.at(1, 2, "completions")
    full = Path("/dev/full")
    if full.exists():
        (tmp_path / "lock").mkdir()
        place = doing_place(tmp_path, 1, 2)
        place.symlink_to(full)
        Teller(place, "cell", 1).phase("starting")
    teller.end()


def test_what_is_no_record_or_another_drivers_is_not_believed(tmp_path):
    lock = tmp_path / "lock"
    lock.mkdir()
    Teller(doing_place(tmp_path, 2, 7), "cell", 5).phase("starting")
    doing_place(tmp_path, 2, 1).write_text('{"kind": "cell"')
    doing_place(tmp_path, 2, 2).write_text("9" * 100_000)
    os.mkfifo(doing_place(tmp_path, 2, 3))
    doing_place(tmp_path, 2, 4).symlink_to(lock / "nowhere")
    doing_place(tmp_path, 2, 5).mkdir()
    assert [one.units for one in doings(tmp_path, 2)] == [5]
    assert doings(tmp_path, 3) == []


def test_each_order_says_what_it_is_at_and_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("steerproof.run.store.doing.SECONDS", 0.0)
    run = tmp_path / "run"
    with open_run(run, "x") as directory:
        token = directory.lock.token
        graph = build_graph([unit("cell", name, work="tests.run.works:tells") for name in "ab"])
        reports = perform(order_of(graph, run, token))
        next(reports)
        (doing,) = doings(run, token)
        assert (doing.kind, doing.units, doing.ended, doing.done) == ("cell", 2, 0, 1)
        assert status(run).doing == [doing]
        list(reports)
        assert doings(run, token) == []
        # A worker that was killed cannot take back what it said: nobody asks once the run is over.
        Teller(doing_place(run, token, 9), "cell", 1).phase("starting")
        assert len(status(run).doing) == 1
    assert list(status(run).doing) == []
    assert status(run).left is None
    with open_run(run, "x") as directory:  # and the next one has another token, and sweeps
        assert doings(run, directory.lock.token) == doings(run, token) == []


def test_a_ledger_tells_how_long_its_last_call_has_to_go(tmp_path):
    run_tiny(tmp_path / "run")
    story = read_ledger(tmp_path / "run")
    pace = pace_of(story)
    assert pace.left(time.time()) is None  # all is done
    half = story.events[: next(i for i, e in enumerate(story.events) if e.what == "unit-done") + 3]
    left = pace_of(type(story)(attempts=story.attempts, events=half)).left(time.time())
    assert left is not None
    assert left.seconds >= 1.0
    assert left.untimed["cell"] == 4


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
