"""What needs no model is done beside the work of workers that have one, where there is any."""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from steerproof.run.driver.executors import InlineExecutor, LocalExecutor
from steerproof.run.driver.scheduler import execute
from steerproof.run.driver.worker import Files, Outcomes, Task, each
from steerproof.run.driver.workers import make_executor
from steerproof.run.graph.environment import Place
from steerproof.run.graph.graph import build_graph
from steerproof.run.graph.units import experiment_graph
from steerproof.run.store.directory import open_run
from steerproof.spec.yaml_io import load_experiment
from tests.run.test_frontier import frontier, size
from tests.run.tiny import run_tiny, u, unit

SHIPPED = Path(__file__).parents[2] / "experiments"
WORK = "tests.run.test_apart:meets"
LONG = 20.0


def meets(tasks: Sequence[Task]) -> Outcomes:
    """Each waits until the one that it is to meet is at work too; says whose process it was in.

    And how many units its order had.
    """
    yield from each(tasks, lambda task: _meet(task, len(tasks)))


def _meet(task: Task, together: int) -> Files:
    place = task.context.get("place")
    if place is not None:
        (Path(place) / task.unit.kind).touch()
        other, until = Path(place) / task.context["other"], time.monotonic() + LONG
        while not other.exists():
            if time.monotonic() > until:
                raise TimeoutError(f"{other.name} was not begun")
            time.sleep(0.01)
    told = [os.environ["WORKER"], together]
    return {"worker.json": json.dumps(told).encode()}


def units(place: Path | None) -> list:
    """Marks and margins, which read the same cell."""
    told = {} if place is None else {"place": str(place)}
    marks = told and {**told, "other": "slots"}
    margins = told and {**told, "other": "score"}
    cell = unit("cell", "a")
    score = unit("score", "all", [cell.id], work=WORK, apart=True, context=marks)
    slots = [unit("slots", name, [cell.id], work=WORK, context=margins) for name in "ab"]
    return [cell, score, *slots]


def workers_of(run: Path) -> dict[str, list]:
    """Whose process each kind of unit was in, and in how large an order."""
    places = (run / "units").glob("*/*/worker.json")
    return {place.parts[-3]: json.loads(place.read_text()) for place in places}


def test_marks_are_made_while_margins_are_read(tmp_path: Path) -> None:
    run = tmp_path / "run"
    executor = LocalExecutor(run / "logs", [{"WORKER": "gpu"}], {"WORKER": "none"})
    summary = run_tiny(run, build_graph(units(tmp_path)), executor)
    assert summary.failures == ()
    assert workers_of(run) == {"score": ["none", 1], "slots": ["gpu", 2]}


def test_with_nothing_beside_it_they_are_made_by_whoever_is_there(tmp_path: Path) -> None:
    cell, score, *_ = units(None)
    run = tmp_path / "run"
    executor = LocalExecutor(run / "logs", [{"WORKER": "gpu"}], {"WORKER": "none"})
    with open_run(run, "x") as directory:
        execute(build_graph([cell, score]), directory, executor)
        assert len({attempt.pid for attempt in directory.ledger.story().attempts}) == 1
    assert workers_of(run) == {"score": ["gpu", 1]}


def test_an_order_done_apart_takes_no_share_from_the_others(tmp_path: Path) -> None:
    score = unit("score", "all", apart=True)
    adapters = [unit("adapter", str(number)) for number in range(4)]
    held = frontier([score, *adapters], tmp_path)
    taken = held.take_apart()
    assert taken is not None
    assert taken[1] == [u("score/all")]
    assert size(held.take(1, busy=0)) == 4
    alone = frontier([score], tmp_path)
    assert alone.take_apart() is None
    assert size(alone.take_apart(busy=1)) == 1
    assert frontier(adapters, tmp_path).take_apart(busy=1) is None


def test_of_an_experiment_only_the_marks_are_done_apart() -> None:
    experiment = load_experiment(SHIPPED / "zlt.yaml").experiment
    graph = experiment_graph(experiment, Place(directory=SHIPPED))
    assert {one.id.kind for one in graph.units.values() if one.apart} == {"score"}


@pytest.mark.parametrize(("device", "beside"), [("cuda", 1), ("cpu", 0)])
def test_only_a_machine_with_gpus_has_such_a_worker(
    device: str, beside: int, tmp_path: Path
) -> None:
    executor = make_executor("local", tmp_path, device, 2)
    assert (executor.free(), executor.free_apart()) == (2, beside)
    executor.close()
    assert InlineExecutor().free_apart() == 0
