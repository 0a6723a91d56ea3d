"""What a unit took: its own work, and its part of what was done for many at once."""

import time
from pathlib import Path

import pytest

from steerproof.run.driver.spent import Spent
from steerproof.run.graph.graph import build_graph
from steerproof.run.store.doing import Teller
from steerproof.run.store.ledger_file import read_ledger
from tests.run.tiny import run_tiny, unit

POOL = 0.2


def pools(tasks):
    """All at once, in two pools: their units end together, each pool after a while."""
    for number, some in enumerate((tasks[:2], tasks[2:]), start=1):
        time.sleep(POOL)
        tasks[0].teller.at(2 * number, 4, "steps")
        for task in some:
            yield task.unit, {"result.json": b"{}"}


def silent(tasks):
    """One pool that says nothing of where it stands."""
    time.sleep(POOL)
    for task in tasks:
        yield task.unit, {"result.json": b"{}"}


@pytest.mark.parametrize(("work", "whole"), [("pools", 2 * POOL), ("silent", POOL)])
def test_the_time_of_a_pool_is_shared_by_its_units_and_sums_to_the_whole(
    tmp_path: Path, work: str, whole: float
) -> None:
    units = [unit("cell", name, work=f"tests.run.test_spent:{work}") for name in "abcd"]
    run_tiny(tmp_path / "run", build_graph(units))
    story = read_ledger(tmp_path / "run")
    assert story is not None
    seconds = [attempt.seconds for attempt in story.attempts if attempt.seconds is not None]
    assert len(seconds) == 4
    assert max(seconds) < 1.5 * min(seconds)
    assert whole <= story.totals.seconds < 2 * whole


class Clock:
    """Stands until it is moved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("steerproof.run.driver.spent.time.monotonic", lambda: self.now)


def test_work_on_one_unit_is_its_own_and_what_came_before_is_everybodys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, spent = Clock(monkeypatch), Spent()
    spent.go_on()
    taken = []
    for left, own in ((3, 1.0), (2, 5.0), (1, 2.0)):
        clock.now += own + (9.0 if left == 3 else 0.0)  # the model is loaded before the first
        spent.alone(own)
        taken.append(spent.on_next(left, None))
        clock.now += 50.0  # it is written
        spent.go_on()
    assert taken == pytest.approx([4.0, 8.0, 5.0])


def test_cells_that_end_one_by_one_take_what_they_took(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, spent, teller = Clock(monkeypatch), Spent(), Teller(None, "cell", 3)
    spent.go_on()
    taken = []
    for ended, seconds in enumerate((2.0, 3.0, 4.0)):
        clock.now += seconds
        teller.at(10 * (ended + 1), 30, "completions")
        taken.append(spent.on_next(3 - ended, teller.in_hand))
        teller.unit_ended()
    assert taken == pytest.approx([2.0, 3.0, 4.0])
    teller.phase("writing")
    assert teller.in_hand is None


def test_a_pool_that_was_told_of_too_late_still_sums_to_the_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, spent = Clock(monkeypatch), Spent()
    spent.go_on()
    clock.now += 60.0
    taken = [spent.on_next(5 - n, max(0.0, 3.5 - n)) for n in range(5)]
    assert sum(taken) == pytest.approx(60.0)


def test_an_order_of_one_unit_takes_all_its_time(tmp_path: Path) -> None:
    graph = build_graph([unit("cell", "a", work="tests.run.test_spent:silent")])
    run_tiny(tmp_path / "run", graph)
    story = read_ledger(tmp_path / "run")
    assert story is not None
    assert story.totals.seconds >= POOL
