"""A real Ray, started here with two workers."""

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from steerproof.errors import MachineError
from steerproof.run.commands.status import status
from steerproof.run.commands.verify import verify
from steerproof.run.driver.executors import RayExecutor
from steerproof.run.driver.scheduler import execute
from steerproof.run.graph.graph import build_graph
from steerproof.run.store.directory import open_run
from tests.run.test_processes import Programs, wait_for
from tests.run.tiny import (
    COUNTER,
    contents,
    counts,
    leftovers,
    run_tiny,
    slow_units,
    tiny_units,
    unit,
)

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ray") / "counter"


@pytest.fixture(scope="module", autouse=True)
def cluster(counter: Path) -> Iterator[None]:
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(COUNTER, str(counter))
        context = ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        patch.setenv("RAY_ADDRESS", context.address_info["gcs_address"])
        yield
        ray.shutdown()


@pytest.fixture(autouse=True)
def _fresh_counter(counter: Path) -> None:
    counter.unlink(missing_ok=True)


def test_two_ray_workers_give_the_same_files_as_this_process(tmp_path: Path) -> None:
    run_tiny(tmp_path / "inline")
    executor = RayExecutor(slots=2)
    units = [replace(each, limit=1, context={"seconds": 0.5}) for each in tiny_units()]
    units = [replace(each, work="tests.run.works:slow") for each in units]
    with open_run(tmp_path / "ray", "x") as directory:
        summary = execute(build_graph(units), directory, executor)
        pids = {attempt.pid for attempt in directory.ledger.story().attempts}
    assert summary.failures == ()
    assert contents(tmp_path / "ray") == contents(tmp_path / "inline")
    assert len(pids) >= 2
    assert os.getpid() not in pids
    assert leftovers(tmp_path / "ray") == []


def test_a_run_begun_here_is_finished_on_ray(tmp_path: Path) -> None:
    run_tiny(tmp_path, build_graph(tiny_units()[:5]))
    summary = run_tiny(tmp_path, executor=RayExecutor(slots=2))
    assert (summary.progress.reused, summary.progress.done) == (5, 4)
    assert verify(tmp_path) == []


def test_a_ray_worker_killed_at_work_costs_the_unit_in_hand(tmp_path: Path, counter: Path) -> None:
    deadly = {"marker": str(tmp_path / "died")}
    cells = [
        unit("cell", name, work="tests.run.works:dies_once", context=deadly if name == "b" else {})
        for name in "abc"
    ]
    summary = run_tiny(tmp_path / "run", build_graph(cells), RayExecutor(slots=1))
    assert (tmp_path / "died").exists()
    assert summary.failures == ()
    assert counts(counter) == {"cell/a": 1, "cell/b": 1, "cell/c": 1}
    assert status(tmp_path / "run").totals.by_state["failed"] == 1


def test_a_failure_on_ray_is_told_with_its_traceback(tmp_path: Path) -> None:
    cells = [unit("cell", "a", work="tests.run.works:refuses")]
    summary = run_tiny(tmp_path, build_graph(cells), RayExecutor(slots=1))
    (failed,) = summary.failures
    assert failed.error == "ValueError: the loss is NaN"
    assert failed.log is not None
    assert "_refuse" in (tmp_path / failed.log).read_text()


def test_after_its_driver_is_killed_a_run_on_ray_goes_on(tmp_path: Path, counter: Path) -> None:
    run, programs = tmp_path / "run", Programs(counter)
    try:
        first = programs.start(run, "ray", "slow", seconds=3.0)
        wait_for("len(contents(run)) >= 2", seconds=60, run=run)
        first.kill()
        first.wait()
        assert status(run).state == "interrupted"
        kept = contents(run)
        assert programs.start(run, "ray", "slow").wait(timeout=60) == 0
    finally:
        programs.close()
    assert kept.items() <= contents(run).items()
    assert len(contents(run)) == 2 * len(slow_units())
    # Any of the two tasks may be the first to end a unit.
    finished = {"/".join(Path(path).parts[1:3]).rpartition("-")[0] for path in kept}
    assert finished <= {str(unit.id) for unit in slow_units()}
    assert {unit: counts(counter)[unit] for unit in finished} == dict.fromkeys(finished, 1)
    assert status(run).state == "finished"
    assert leftovers(run) == []


def test_a_stopped_run_on_ray_ends_within_ten_seconds(tmp_path: Path, counter: Path) -> None:
    run, programs = tmp_path / "run", Programs(counter)
    try:
        program = programs.start(run, "ray", "slow", seconds=3600)
        wait_for("(run / 'ledger.sqlite').exists()", seconds=60, run=run)
        wait_for("status(run).units == {'cell': {'running': 3}}", seconds=60, run=run)
        time.sleep(1)
        program.terminate()
        asked = time.monotonic()
        assert program.wait(timeout=30) == 130
        assert time.monotonic() - asked < 10
    finally:
        programs.close()
    assert status(run).units == {"cell": {"interrupted": 3}}


def test_without_ray_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MachineError, match=r"pip install 'steerproof\[ray\]'"):
        RayExecutor(slots=1)
