from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from steerproof.errors import UnitsFailedError
from steerproof.run.commands.status import status
from steerproof.run.driver.executors import InlineExecutor, LocalExecutor
from steerproof.run.driver.scheduler import Policy, execute
from steerproof.run.driver.summary import Progress, Summary, raise_failures
from steerproof.run.driver.worker import Failure, Order, WorkReport
from steerproof.run.graph.graph import Unit, build_graph
from steerproof.run.graph.survey import survey
from steerproof.run.store.directory import open_run
from steerproof.run.store.manifest import open_unit
from steerproof.run.store.store import unit_directory
from steerproof.run.store.story import Event
from tests.run.tiny import (
    COUNTER,
    contents,
    counts,
    leftovers,
    run_tiny,
    tiny_graph,
    tiny_units,
    u,
    unit,
)


@pytest.fixture(autouse=True)
def counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(COUNTER, str(tmp_path / "counter"))
    return tmp_path / "counter"


def run_units(run: Path, units: Sequence[Unit], attempts: int = 3) -> Summary:
    with open_run(run, "steerproof run tiny") as directory:
        policy = Policy(attempts=attempts)
        return execute(build_graph(units), directory, InlineExecutor(), policy)


# --- What is done, and what is not done again -----------------------------------------------------


def test_a_second_run_with_nothing_left_does_nothing(tmp_path: Path, counter: Path) -> None:
    first = run_tiny(tmp_path / "run")
    before = contents(tmp_path / "run")
    second = run_tiny(tmp_path / "run")
    assert (first.progress.done, second.progress.done, second.progress.reused) == (9, 0, 9)
    assert set(counts(counter).values()) == {1}
    assert contents(tmp_path / "run") == before


def test_an_edit_redoes_what_depends_on_it_and_nothing_else(tmp_path: Path, counter: Path) -> None:
    run_tiny(tmp_path / "run", tiny_graph(strength=2.0))
    counter.unlink()
    run_tiny(tmp_path / "run", tiny_graph(strength=3.0))
    redone = {
        "adapter/A.villain",
        "cell/A.villain.none",
        "cell/A.villain.c=+2",
        "analysis/all",
    }
    assert counts(counter) == dict.fromkeys(redone, 1)
    counter.unlink()
    run_tiny(tmp_path / "run", tiny_graph(strength=2.0))
    assert counts(counter) == {}, "what the first experiment made is still there"


def test_what_is_not_part_of_the_recipe_redoes_nothing(tmp_path: Path, counter: Path) -> None:
    run_tiny(tmp_path / "run")
    counter.unlink()
    run_tiny(tmp_path / "run", tiny_graph(group="other", limit=1, context={"device": "cuda:3"}))
    assert counts(counter) == {}


def test_readers_of_a_unit_that_comes_out_different_are_redone(
    tmp_path: Path, counter: Path
) -> None:
    """A unit whose files differ at each making: its readers were made from files that are gone."""
    run = tmp_path / "run"
    changing = unit("directions", "all", work="tests.run.works:different_each_time")
    units = [changing, unit("cell", "a", [changing.id]), unit("cell", "b")]
    run_units(run, units)
    place = unit_directory(run, changing.id, build_graph(units).keys[changing.id])
    (place / "result.json").unlink()
    counter.unlink()
    summary = run_units(run, units)
    assert counts(counter) == {"directions/all": 1, "cell/a": 1}
    assert (summary.progress.done, summary.progress.reused) == (2, 1)
    assert len(list((run / "quarantine").iterdir())) == 2


def test_a_unit_records_the_content_of_what_it_read(tmp_path: Path) -> None:
    run_tiny(tmp_path / "run")
    keys = tiny_graph().keys
    cell = open_unit(
        unit_directory(tmp_path / "run", u("cell/A.villain.none"), keys[u("cell/A.villain.none")])
    )
    for read in (u("adapter/A.villain"), u("directions/all")):
        there = open_unit(unit_directory(tmp_path / "run", read, keys[read])).manifest
        assert cell.manifest.read[read] == there.content
        assert cell.manifest.recipe.upstream[read] == there.key


# --- What fails -----------------------------------------------------------------------------------


def test_a_failure_that_cannot_pass_is_tried_once_and_the_others_go_on(
    tmp_path: Path, counter: Path
) -> None:
    cells = [
        unit("cell", name, work="tests.run.works:refuses_some", inputs={"bad": name == "b"})
        for name in "abc"
    ]
    summary = run_units(tmp_path / "run", cells)
    assert counts(counter) == {"cell/a": 1, "cell/b": 1, "cell/c": 1}
    assert summary.progress == Progress(total=3, reused=0, done=2, running=0, failed=1, blocked=0)
    with pytest.raises(UnitsFailedError) as caught:
        raise_failures(summary, "steerproof run tiny --dir here")
    message = str(caught.value)
    assert caught.value.exit_code == 4
    assert "cell/b: ValueError: the loss is NaN (log: logs/attempt-" in message
    assert message.endswith("steerproof run tiny --dir here")


def test_readers_of_a_failed_unit_are_blocked_and_a_tolerant_one_runs_over_the_rest(
    tmp_path: Path, counter: Path
) -> None:
    bad = [
        replace(each, work="tests.run.works:refuses") if each.id == u("adapter/A.villain") else each
        for each in tiny_units()
    ]
    summary = run_units(tmp_path / "run", bad)
    assert set(summary.blocked) == {u("cell/A.villain.none"), u("cell/A.villain.c=+2")}
    assert counts(counter)["analysis/all"] == 1
    keys = build_graph(bad).keys
    place = unit_directory(tmp_path / "run", u("analysis/all"), keys[u("analysis/all")])
    read = open_unit(place).manifest.read
    found = survey(tmp_path / "run", build_graph(bad))
    assert u("analysis/all") in found.standing, "it can be reported"
    assert u("analysis/all") not in found.reused, "and is looked at again by the next run"
    assert not {u("adapter/A.villain"), u("cell/A.villain.none")} & set(found.standing)
    assert set(read) == {u("cell/C.villain.none"), u("cell/C.villain.c=+2")}

    # The cause is mended: what was blocked is done, and the analysis again, over all of it.
    counter.unlink()
    summary = run_units(tmp_path / "run", tiny_units())
    assert summary.failures == ()
    assert counts(counter)["analysis/all"] == 1
    assert set(open_unit(place).manifest.read) == {unit.id for unit in tiny_units()[4:8]}


def test_a_tolerant_unit_with_nothing_to_run_over_is_blocked(tmp_path: Path) -> None:
    cell = unit("cell", "a", work="tests.run.works:refuses")
    summary = run_units(tmp_path / "run", [cell, unit("analysis", "all", [cell.id], tolerant=True)])
    assert summary.blocked == (u("analysis/all"),)


def test_an_error_before_any_unit_is_everybodys_after_a_few_orders(
    tmp_path: Path, counter: Path
) -> None:
    cells = [unit("cell", str(n), work="tests.run.works:cannot_load") for n in range(64)]
    summary = run_units(tmp_path / "run", cells)
    assert [failed.error for failed in summary.failures] == ["ModelError: no weights"] * 64
    assert max(counts(counter).values()) <= 4
    assert sum(counts(counter).values()) < 3 * 64


@pytest.mark.parametrize("bad", [[5], [0, 63], [7, 8, 9]])
def test_an_error_that_escapes_is_charged_to_the_units_that_bring_it(
    tmp_path: Path, bad: list[int]
) -> None:
    cells = [
        unit("cell", str(n), work="tests.run.works:escapes", inputs={"bad": n in bad})
        for n in range(64)
    ]
    summary = run_units(tmp_path / "run", cells)
    assert {failed.unit for failed in summary.failures} == {u(f"cell/{n}") for n in bad}
    assert summary.progress.done == 64 - len(bad)


def test_a_unit_that_the_work_says_nothing_about_has_failed(tmp_path: Path) -> None:
    cells = [unit("cell", name, work="tests.run.works:forgets") for name in "ab"]
    summary = run_units(tmp_path / "run", cells)
    assert summary.progress.done == 1
    (failed,) = summary.failures
    assert "said nothing about cell/b" in failed.error


def test_a_pool_that_runs_out_of_memory_is_halved_until_it_fits(
    tmp_path: Path, counter: Path
) -> None:
    cells = [unit("cell", name, work="tests.run.works:out_of_memory") for name in "abcd"]
    summary = run_units(tmp_path / "run", cells)
    assert summary.failures == ()
    assert summary.progress.done == 4
    assert max(counts(counter).values()) <= 5


def test_memory_that_never_suffices_is_tried_so_many_times_and_no_more(
    tmp_path: Path, counter: Path
) -> None:
    summary = run_units(tmp_path / "run", [unit("cell", "a", work="tests.run.works:runs_out")], 2)
    assert counts(counter) == {"cell/a": 2}
    assert summary.failures[0].error.startswith("MemoryError")


def test_a_failed_unit_is_tried_again_by_the_next_run(tmp_path: Path, counter: Path) -> None:
    cells = [unit("cell", "a", work="tests.run.works:refuses")]
    run_units(tmp_path / "run", cells)
    run_units(tmp_path / "run", cells)
    assert counts(counter) == {"cell/a": 2}


# --- Workers --------------------------------------------------------------------------------------


class Recording(InlineExecutor):
    """Remembers the orders; pretends to have more hands than one."""

    def __init__(self, hands: int) -> None:
        super().__init__()
        self.hands = hands
        self.orders: list[list[str]] = []

    def free_apart(self) -> int:
        return 0

    def free(self) -> int:
        return self.hands * super().free()

    def submit(self, order: Order) -> None:
        self.orders.append([item.recipe.unit for item in order.items])
        super().submit(order)


class Mute(InlineExecutor):
    """Loses its worker right after a unit: what it had finished is never reported."""

    def __init__(self, after: str) -> None:
        super().__init__()
        self.after = after

    def poll(self, seconds: float) -> Sequence[WorkReport]:
        (report,) = super().poll(seconds)
        if report.unit != self.after:
            return [report]
        self.after = ""
        self.close()
        super().poll(seconds)
        return [replace(report, unit=None, prepared=None, failure=LOST)]


LOST = Failure(error="worker lost", passing=True)


def test_what_a_lost_worker_had_finished_and_not_reported_is_not_done_again(
    tmp_path: Path, counter: Path
) -> None:
    cells = [unit("cell", name) for name in "abc"]
    summary = run_tiny(tmp_path / "run", build_graph(cells), Mute(after=u("cell/b")))
    assert summary.failures == ()
    assert counts(counter) == {"cell/a": 1, "cell/b": 1, "cell/c": 1}
    assert leftovers(tmp_path / "run") == []
    totals = status(tmp_path / "run").totals.by_state
    assert totals == {"done": 3, "failed": 1}, "the unit after it is charged with the loss"


def test_units_that_share_a_group_go_to_a_worker_together(tmp_path: Path) -> None:
    executor = Recording(hands=1)
    run_tiny(tmp_path / "run", executor=executor)
    assert [len(order) for order in executor.orders] == [1, 1, 2, 4, 1]


def test_what_is_ready_is_shared_among_free_workers_and_limited(tmp_path: Path) -> None:
    cells = [unit("cell", str(number)) for number in range(10)]
    executor = Recording(hands=4)
    run_tiny(tmp_path / "run", build_graph(cells), executor)
    assert len(executor.orders[0]) == 3
    executor = Recording(hands=1)
    limited = [replace(each, limit=4) for each in cells]
    run_tiny(tmp_path / "other", build_graph(limited), executor)
    assert [len(order) for order in executor.orders] == [4, 4, 2]


def test_work_sees_the_context_that_is_no_part_of_the_key(tmp_path: Path) -> None:
    cell = unit("cell", "a", work="tests.run.works:slow", context={"seconds": 0.0})
    assert run_tiny(tmp_path / "a", build_graph([cell])).failures == ()
    executor = LocalExecutor(tmp_path / "b" / "logs")
    assert run_tiny(tmp_path / "b", build_graph([cell]), executor).failures == ()


def test_the_listener_hears_each_event_with_numbers_that_add_up(tmp_path: Path) -> None:
    heard: list[tuple[Event, Progress]] = []
    with open_run(tmp_path / "run", "x") as directory:
        graph = tiny_graph()
        listen = lambda event, progress: heard.append((event, progress))  # noqa: E731
        execute(graph, directory, InlineExecutor(), listen=listen)
        kept = [event.what for event in directory.ledger.story().events]
    names = [event.what for event, _ in heard]
    assert names.count("unit-done") == names.count("unit-started") == 9
    assert [name for name in names if name != "unit-started"] == kept[1:]
    assert {progress.total for _, progress in heard} == {9}
    dones = [progress.done for _, progress in heard]
    assert dones == sorted(dones)
    assert heard[-1][1] == Progress(total=9, reused=0, done=9, running=0, failed=0, blocked=0)


def test_a_resumed_run_starts_counting_at_what_is_there(tmp_path: Path) -> None:
    half = build_graph(tiny_units()[:5])
    run_tiny(tmp_path / "run", half)
    heard: list[Progress] = []
    with open_run(tmp_path / "run", "x") as directory:
        listen = lambda _, progress: heard.append(progress)  # noqa: E731
        execute(tiny_graph(), directory, InlineExecutor(), listen=listen)
    assert heard[0] == Progress(total=9, reused=5, done=0, running=0, failed=0, blocked=0)


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    (tmp_path / "run" / "units" / "cell" / ".tmp-1-dead" / "deep").mkdir(parents=True)
    (tmp_path / "run" / ".tmp-2-dead").write_bytes(b"x")
    run_tiny(tmp_path / "run")
    assert leftovers(tmp_path / "run") == []
