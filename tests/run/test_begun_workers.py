"""Workers that are started before there is an order, while nobody holds the run directory."""

import gc
import json
import os
import signal
import time
from pathlib import Path

import psutil

from steerproof.run.driver.executors import LocalExecutor
from steerproof.run.graph.graph import build_graph
from tests.run.tiny import run_tiny, unit


def shows() -> list:
    return [unit("cell", "a", work="tests.run.works:shows", inputs={"variable": "SLOT"})]


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "local_worker" in words(child)]


def words(process: psutil.Process) -> str:
    try:
        # For a moment after it was started a process has no words yet.
        while not (said := process.cmdline()):
            time.sleep(0.01)
        return " ".join(said)
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def test_a_worker_that_waited_does_the_first_order_and_has_written_nothing_before(
    tmp_path: Path,
) -> None:
    executor = LocalExecutor(tmp_path / "logs", [{"SLOT": "7"}])
    executor.begin(["tests.run.works", "tests.run.no_such_module"])
    (before,) = children()
    time.sleep(0.5)
    assert not any(tmp_path.iterdir())
    assert run_tiny(tmp_path, build_graph(shows()), executor).progress.done == 1
    (log,) = (tmp_path / "logs").glob("worker-*.log")
    assert "looking at SLOT" in log.read_text()
    assert not before.is_running()


def frozen(tasks):
    """How many objects Python does not look through for garbage, of how many."""
    for task in tasks:
        counts = [gc.get_freeze_count(), len(gc.get_objects())]
        yield task.unit, {"counts.json": json.dumps(counts).encode()}


def test_what_a_worker_imported_is_not_looked_through_for_garbage(tmp_path: Path) -> None:
    executor = LocalExecutor(tmp_path / "logs")
    executor.begin(["tests.run.works"])
    cells = [unit("cell", "a", work="tests.run.test_begun_workers:frozen")]
    run_tiny(tmp_path, build_graph(cells), executor)
    (path,) = (tmp_path / "units" / "cell").glob("*/counts.json")
    kept_apart, others = json.loads(path.read_bytes())
    assert kept_apart > 5_000
    assert kept_apart > others


def test_one_that_died_before_it_had_an_order_is_started_anew_and_costs_no_try(
    tmp_path: Path,
) -> None:
    executor = LocalExecutor(tmp_path / "logs", [{"SLOT": "7"}])
    executor.begin([])
    (before,) = children()
    os.kill(before.pid, signal.SIGKILL)
    assert list(executor.poll(10.0)) == []
    summary = run_tiny(tmp_path, build_graph(shows()), executor)
    assert summary.progress.done == 1
    assert len(list((tmp_path / "logs").glob("worker-*.log"))) == 1


def test_workers_that_never_had_an_order_end_without_a_trace(tmp_path: Path) -> None:
    executor = LocalExecutor(tmp_path / "logs", [{}, {}])
    executor.begin([])
    executor.begin([])
    assert len(children()) == 2
    executor.close()
    executor.close()
    assert not children()
    assert not any(tmp_path.iterdir())
