"""What has ended is written while the work goes on, in order, and nothing of it is lost."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from steerproof.run.commands.status import status
from steerproof.run.driver.behind import _MOST, Behind
from steerproof.run.driver.executors import InlineExecutor, LocalExecutor
from steerproof.run.driver.scheduler import Policy, execute
from steerproof.run.driver.worker import Ended, Files, Outcomes, Task, WorkReport, ends
from steerproof.run.graph.graph import Graph, build_graph
from steerproof.run.store.directory import open_run
from tests.run.tiny import contents, leftovers, one, order_of, run_tiny, unit

LONG = 20.0


def appears(path: Path) -> None:
    """Wait for a file, or for a unit by the beginning of its name."""
    until = time.monotonic() + LONG
    while not any(path.parent.glob(f"{path.name}*")):
        if time.monotonic() > until:
            raise TimeoutError(f"nobody made {path.name}")
        time.sleep(0.01)


def together(tasks: Sequence[Task]) -> Outcomes:
    """All in one pool: what a task's context says happens as it ends, and as it is written."""
    for task in tasks:
        yield task.unit, partial(written, task)
        told = task.context
        if "makes" in told:
            Path(told["makes"]).touch()
        if "awaits" in told:
            appears(Path(told["awaits"]))
        time.sleep(told.get("then", 0.0))
        if "dies" in told and not Path(told["dies"]).exists():
            Path(told["dies"]).touch()
            os.kill(os.getpid(), signal.SIGKILL)


def written(task: Task) -> Files:
    time.sleep(task.context.get("slowly", 0.0))
    if "needs" in task.context:
        appears(Path(task.context["needs"]))
    if task.context.get("unwritable"):
        raise ValueError("this cannot be put into a table")
    return one(task)


def pool(**contexts: dict[str, object]) -> Graph:
    work = "tests.run.test_behind:together"
    return build_graph(
        [unit("cell", name, work=work, context=context) for name, context in contexts.items()]
    )


def test_work_goes_on_while_what_has_ended_is_written_and_the_files_are_the_same(
    tmp_path: Path,
) -> None:
    """The first is written only once the last has ended."""
    gate = str(tmp_path / "gate")
    graph = pool(a={"needs": gate}, b={}, c={"makes": gate})
    run = tmp_path / "run"
    assert run_tiny(run, graph, LocalExecutor(run / "logs")).failures == ()
    run_tiny(tmp_path / "inline", pool(a={}, b={}, c={}), InlineExecutor())
    assert contents(run) == contents(tmp_path / "inline")
    assert leftovers(run) == []


def test_what_cannot_be_written_is_that_units_failure_alone(tmp_path: Path) -> None:
    run = tmp_path / "run"
    summary = run_tiny(run, pool(a={}, b={"unwritable": True}, c={}), LocalExecutor(run / "logs"))
    (failed,) = summary.failures
    assert (str(failed.unit), failed.error) == (
        "cell/b",
        "ValueError: this cannot be put into a table",
    )
    assert summary.progress.done == 2


def test_a_stop_writes_all_that_had_ended_and_begins_nothing_more(tmp_path: Path) -> None:
    """When it comes two are still to be written, one of which ends only then."""
    stopping, gate = tmp_path / "stopping", str(tmp_path / "gate")
    pause = {"makes": gate, "awaits": str(stopping), "then": 1.0}  # in which the worker is told
    first, third, fourth = {"needs": gate}, {"slowly": 1.5, **pause}, {"then": 3600.0}
    graph = pool(a=first, b={}, c=third, d=fourth, e={})
    run = tmp_path / "run"
    with open_run(run, "x") as directory:

        def listen(event, progress) -> None:
            if event.what == "unit-done":
                directory.stopping.set()
                stopping.touch()

        began = time.monotonic()
        execute(graph, directory, LocalExecutor(run / "logs"), Policy(grace=LONG), listen)
        assert time.monotonic() - began < LONG
    assert status(run).units == {"cell": {"done": 4, "interrupted": 1}}
    assert leftovers(run) == []


def test_a_worker_killed_while_it_writes_loses_what_was_not_reported_and_it_is_done_again(
    tmp_path: Path,
) -> None:
    run, died = tmp_path / "run", tmp_path / "died"
    first = str(run / "units" / "cell" / "a-")
    graph = pool(a={}, b={"slowly": 1.0}, c={"awaits": first, "dies": str(died)})
    summary = run_tiny(run, graph, LocalExecutor(run / "logs"))
    assert died.exists()
    assert (summary.failures, summary.progress.done) == ((), 3)
    states = status(run).totals.by_state
    assert states == {"done": 3, "failed": 1, "interrupted": 1}, "a was written, b and c were not"
    assert leftovers(run) == []


def test_the_time_of_a_unit_is_that_of_the_work_and_not_of_the_writing(tmp_path: Path) -> None:
    graph = pool(a={"slowly": 1.0, "then": 0.2}, b={"slowly": 1.0})
    run_tiny(tmp_path / "run", graph, LocalExecutor(tmp_path / "run" / "logs"))
    assert 0.2 <= status(tmp_path / "run").totals.seconds < 1.0


def test_units_that_are_done_one_by_one_are_written_before_the_next_is_begun(
    tmp_path: Path,
) -> None:
    with open_run(tmp_path / "run", "x") as directory:
        token = directory.lock.token
        alone = build_graph([unit("cell", name) for name in "ab"])
        waited = [end.waited_for for end in ends(order_of(alone, tmp_path / "run", token))]
        assert waited == [True, True, True]
        graph = pool(a={}, b={})
        waited = [end.waited_for for end in ends(order_of(graph, tmp_path / "run", token))]
        assert waited == [False, False, True], "the order's own end is waited for"


class Gate:
    """Reports that are written only once it is opened."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.said: list[int] = []
        self.behind = Behind(lambda report: self.said.append(report.order))

    def put(self, number: int, *, waited_for: bool = False) -> None:
        def write() -> WorkReport:
            self.opened.wait(LONG)
            return WorkReport(order=number, unit=None)

        self.behind.put(Ended(write=write, waited_for=waited_for))


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.opened.set()
    made.behind.wait()


def test_so_many_may_wait_to_be_written_and_no_more(gate: Gate) -> None:
    put: list[int] = []

    def all_of_them() -> None:
        for number in range(_MOST + 3):
            gate.put(number)
            put.append(number)

    putting = threading.Thread(target=all_of_them)
    putting.start()
    until = time.monotonic() + LONG
    while len(put) < _MOST + 1 and time.monotonic() < until:
        time.sleep(0.01)
    putting.join(0.2)
    assert len(put) == _MOST + 1, "one in hand, and those behind it"
    gate.opened.set()
    putting.join(LONG)
    gate.behind.wait()
    assert gate.said == list(range(_MOST + 3))


def test_what_is_to_be_waited_for_is_waited_for(gate: Gate) -> None:
    gate.put(1)
    putting = threading.Thread(target=lambda: gate.put(2, waited_for=True))
    putting.start()
    putting.join(0.1)
    assert putting.is_alive()
    gate.opened.set()
    putting.join(LONG)
    assert gate.said == [1, 2]


def test_a_worker_that_nobody_hears_ends() -> None:
    code = (
        "import time\n"
        "from steerproof.run.driver.behind import Behind\n"
        "from steerproof.run.driver.worker import Ended, WorkReport\n"
        "def say(report): raise BrokenPipeError('nobody hears')\n"
        "report = WorkReport(order=1, unit=None)\n"
        "Behind(say).put(Ended(write=lambda: report, waited_for=False))\n"
        f"time.sleep({LONG})\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, timeout=LONG
    )
    assert ended.returncode == 1
    assert b"nobody hears" in ended.stderr
