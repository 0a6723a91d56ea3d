"""Real processes, really killed, stopped, starved and refused."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from steerproof.errors import MachineError
from steerproof.run.commands.status import status
from steerproof.run.commands.verify import verify
from steerproof.run.driver.executors import InlineExecutor, LocalExecutor, gpu_environments
from steerproof.run.driver.scheduler import execute
from steerproof.run.graph.graph import build_graph
from steerproof.run.store.directory import open_run
from steerproof.run.store.hold import EXPIRY_SECONDS
from tests.run.forks import ROOT, Forks
from tests.run.tiny import COUNTER, contents, counts, leftovers, run_tiny, slow_units, unit

CELLS = ["cell/a", "cell/b", "cell/c"]
Start = subprocess.Popen[str]


class Programs:
    """Starts the tiny experiment as a program, and makes sure that none survives the test."""

    def __init__(self, counter: Path) -> None:
        self.counter = counter
        self._started: list[Start] = []

    def start(self, run: Path, *arguments: str, seconds: float = 0.0) -> Start:
        environment = {**os.environ, COUNTER: str(self.counter), "TINY_SECONDS": str(seconds)}
        program = subprocess.Popen(
            [sys.executable, "-m", "tests.run.tiny", str(run), *arguments],
            cwd=ROOT,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(program)
        return program

    def close(self) -> None:
        for program in self._started:
            program.send_signal(signal.SIGCONT)
            program.kill()
            program.communicate()


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    started = Programs(tmp_path / "counter")
    yield started
    started.close()


def wait_for(condition: str, seconds: float = 20.0, **names: object) -> None:
    until = time.monotonic() + seconds
    while not eval(condition, {**globals(), **names}):
        assert time.monotonic() < until, f"{condition} did not come true"
        time.sleep(0.02)


def workers_of(program: Start) -> list[psutil.Process]:
    return psutil.Process(program.pid).children(recursive=True)


# --- Killed ---------------------------------------------------------------------------------------


def test_a_worker_killed_at_work_costs_the_unit_in_hand_and_the_driver_goes_on(
    tmp_path: Path, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    monkeypatch.setenv(COUNTER, str(programs.counter))
    deadly = {"marker": str(tmp_path / "died")}
    cells = [
        unit("cell", name, work="tests.run.works:dies_once", context=deadly if name == "b" else {})
        for name in "abc"
    ]
    summary = run_tiny(run, build_graph(cells), LocalExecutor(run / "logs"))
    assert summary.failures == ()
    assert summary.progress.done == 3
    assert (tmp_path / "died").exists()
    assert counts(programs.counter) == dict.fromkeys(CELLS, 1), "a was not done again"
    assert status(run).totals.by_state == {"done": 3, "failed": 1, "interrupted": 1}
    assert leftovers(run) == []


def test_a_unit_that_kills_its_worker_each_time_fails_alone(
    tmp_path: Path, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    monkeypatch.setenv(COUNTER, str(programs.counter))
    cells = [
        unit("cell", name, work="tests.run.works:dies", inputs={"deadly": name == "b"})
        for name in "abc"
    ]
    summary = run_tiny(run, build_graph(cells), LocalExecutor(run / "logs"))
    (failed,) = summary.failures
    assert str(failed.unit) == "cell/b"
    assert "killed by SIGKILL" in failed.error
    assert summary.progress.done == 2
    assert counts(programs.counter)["cell/b"] == 3


def test_a_worker_killed_at_a_fault_point_of_each_try_fails_and_the_next_run_mends_it(
    tmp_path: Path, forks: Forks
) -> None:
    fault = {"STEERPROOF_FAULT": "manifest.before/cell:KILL"}
    died = forks.run(tmp_path, executor="local", units="chain", environment=fault)
    assert died.code == 4, died.errors
    assert status(tmp_path).state == "failed"
    assert forks.run(tmp_path, executor="local", units="chain").code == 0
    assert status(tmp_path).state == "finished"
    assert leftovers(tmp_path) == []


def test_a_killed_driver_takes_its_workers_along_and_the_next_one_goes_on(
    tmp_path: Path, programs: Programs
) -> None:
    run = tmp_path / "run"
    program = programs.start(run, "local", "slow", seconds=0.8)
    wait_for("len(contents(run)) >= 2", run=run)
    (worker,) = workers_of(program)
    program.kill()
    program.wait()
    worker.wait(timeout=5)
    assert status(run).state == "interrupted"
    again = programs.start(run, "local", "slow")
    assert again.wait(timeout=30) == 0
    assert counts(programs.counter)["cell/a"] == 1
    assert status(run).state == "finished"
    assert leftovers(run) == []


# --- Asked to stop --------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_finishes_the_unit_in_hand_and_goes_on_later(
    number: signal.Signals, tmp_path: Path, programs: Programs
) -> None:
    run = tmp_path / "run"
    program = programs.start(run, "local", "slow", seconds=1.0)
    wait_for("len(contents(run)) >= 2", run=run)
    program.send_signal(number)
    asked = time.monotonic()
    assert program.wait(timeout=10) == 130
    assert time.monotonic() - asked < 10
    assert leftovers(run) == []
    found = status(run)
    assert found.state == "interrupted"
    assert found.units["cell"]["done"] == 2, "the one in hand was finished"
    assert programs.start(run, "local", "slow").wait(timeout=30) == 0
    assert counts(programs.counter) == dict.fromkeys(CELLS, 1)


def test_a_unit_that_takes_too_long_is_dropped_within_ten_seconds(
    tmp_path: Path, programs: Programs
) -> None:
    run = tmp_path / "run"
    program = programs.start(run, "local", "slow", seconds=3600)
    wait_for("(run / 'ledger.sqlite').exists()", run=run)
    wait_for("len(workers) == 1", workers=Watched(program))
    wait_for("status(run).units == {'cell': {'running': 3}}", run=run)
    program.terminate()
    asked = time.monotonic()
    assert program.wait(timeout=15) == 130
    assert time.monotonic() - asked < 10
    assert status(run).units == {"cell": {"interrupted": 3}}
    assert leftovers(run) == []


class Watched:
    """The number of a program's workers, now."""

    def __init__(self, program: Start) -> None:
        self._program = program

    def __len__(self) -> int:
        return len(workers_of(self._program))


def test_a_second_signal_ends_at_once(tmp_path: Path, programs: Programs) -> None:
    run = tmp_path / "run"
    program = programs.start(run, "local", "slow", seconds=3600)
    wait_for("(run / 'ledger.sqlite').exists()", run=run)
    wait_for("status(run).units == {'cell': {'running': 3}}", run=run)
    wait_for("len(workers) == 1", workers=Watched(program))
    (worker,) = workers_of(program)
    program.send_signal(signal.SIGINT)
    time.sleep(0.5)
    program.send_signal(signal.SIGINT)
    program.wait(timeout=5)
    worker.wait(timeout=5)
    assert programs.start(run, "local", "slow").wait(timeout=30) == 0


# --- Two at once ----------------------------------------------------------------------------------


def test_the_second_process_is_told_who_is_there_and_the_first_goes_on(
    tmp_path: Path, programs: Programs
) -> None:
    run = tmp_path / "run"
    first = programs.start(run, "local", "slow", seconds=2.5)
    wait_for("len(contents(run)) >= 2", run=run)
    second = programs.start(run, "inline", "slow")
    _, errors = second.communicate(timeout=20)
    assert second.returncode == 5
    assert f"process {first.pid} on {os.uname().nodename}" in errors
    assert "'steerproof run tiny'" in errors
    assert re.search(r"for \d+ s, last sign of life \d+ s ago", errors)
    stealing = programs.start(run, "inline", "slow", "steal")
    assert stealing.wait(timeout=20) == 5, "a process that shows life is not stolen from"
    assert first.wait(timeout=20) == 0
    assert counts(programs.counter) == dict.fromkeys(CELLS, 1)


def test_after_the_first_is_killed_the_second_proceeds(tmp_path: Path, programs: Programs) -> None:
    run = tmp_path / "run"
    first = programs.start(run, "inline", "slow", seconds=3600)
    wait_for("(run / 'ledger.sqlite').exists()", run=run)
    first.kill()
    first.wait()
    assert programs.start(run, "inline", "slow").wait(timeout=20) == 0


def test_a_process_that_was_stopped_during_a_takeover_commits_nothing_when_it_wakes(
    tmp_path: Path, programs: Programs
) -> None:
    run = tmp_path / "run"
    sleeper = programs.start(run, "local", "slow", seconds=1.5)
    wait_for("len(contents(run)) >= 2", run=run)
    for process in (*workers_of(sleeper), psutil.Process(sleeper.pid)):
        process.suspend()
    refused = programs.start(run, "inline", "slow")
    _, errors = refused.communicate(timeout=20)
    assert refused.returncode == 5, "stopped, but its heartbeat is fresh"
    assert "--steal" not in errors
    (lease,) = (run / "lock").glob("lease-*.json")
    old = time.time() - 2 * EXPIRY_SECONDS
    os.utime(lease, (old, old))
    refused = programs.start(run, "inline", "slow")
    _, errors = refused.communicate(timeout=20)
    assert refused.returncode == 5
    assert "add --steal" in errors

    thief = programs.start(run, "inline", "slow", "steal")
    assert thief.wait(timeout=20) == 0
    committed = contents(run)
    for process in (*workers_of(sleeper), psutil.Process(sleeper.pid)):
        process.resume()
    _, errors = sleeper.communicate(timeout=20)
    assert sleeper.returncode == 5
    assert "was taken over by another process" in errors or "took" in errors
    assert contents(run) == committed
    assert verify(run) == []
    aside = {place.name for place in (run / "quarantine").iterdir()}
    assert all(name.startswith("ledger.sqlite") for name in aside), (
        "the sleeper keeps the old ledger"
    )
    found = status(run)
    assert (found.state, found.totals.by_state["done"]) == ("finished", 3)
    assert programs.start(run, "inline", "slow").wait(timeout=20) == 0
    assert leftovers(run) == []


# --- Too little of something ----------------------------------------------------------------------


@pytest.mark.parametrize("limit", [200, 4000, 20_000, 40_000])
def test_a_file_size_limit_stops_the_run_cleanly_and_it_goes_on_when_there_is_room(
    limit: int, forks: Forks, tmp_path: Path
) -> None:
    """Limits that hit the lease, a unit's file, and the ledger."""
    counter = tmp_path / "counter"
    full = forks.run(tmp_path / "run", file_limit=limit, environment={COUNTER: str(counter)})
    finished = contents(tmp_path / "run")
    assert full.code == 6, full.errors
    assert re.search(r"[\d,]+ bytes needed, [\d,]+ bytes available", full.errors)
    assert leftovers(tmp_path / "run") == []
    before = counts(counter)
    assert forks.run(tmp_path / "run", environment={COUNTER: str(counter)}).code == 0
    assert finished.items() <= contents(tmp_path / "run").items()
    kept = {unit for unit in before if any(f"units/{unit}-" in name for name in finished)}
    assert all(counts(counter)[unit] == 1 for unit in kept)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 400 kB, where this process may mount one."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(place)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode != 0:
        pytest.skip(f"may not mount a small filesystem: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_filesystem_stops_the_run_cleanly_and_it_goes_on_when_there_is_room(
    small_disk: Path, forks: Forks
) -> None:
    ballast = small_disk / "ballast"
    assert forks.run(small_disk / "run", units="chain").code == 0, "400 kB suffice"
    ballast.write_bytes(bytes(300_000))
    full = forks.run(small_disk / "other", units="tiny")
    assert full.code == 6, full.errors
    assert re.search(r"bytes needed, [\d,]+ bytes available", full.errors)
    assert leftovers(small_disk / "other") == []
    ballast.unlink()
    assert forks.run(small_disk / "other", units="chain").code == 0


def test_a_run_directory_on_a_read_only_filesystem_is_refused_and_readable(
    small_disk: Path, forks: Forks
) -> None:
    assert forks.run(small_disk / "run", units="chain").code == 0
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    refused = forks.run(small_disk / "run", units="chain")
    assert refused.code == 3
    assert "Read-only file system" in refused.errors
    assert verify(small_disk / "run") == []
    assert status(small_disk / "run").state == "finished"


def test_a_directory_without_permission_is_refused(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere; the read-only filesystem covers it")
    tmp_path.chmod(0o500)
    with pytest.raises(MachineError, match="Permission denied"):
        run_tiny(tmp_path / "run")


def test_a_worker_that_hits_its_memory_limit_fails_its_unit_and_the_others_go_on(
    tmp_path: Path,
) -> None:
    """RLIMIT_AS for the workers; one unit asks for twice as much."""
    run = tmp_path / "run"
    cells = [unit("cell", "a", work="tests.run.works:hoards"), unit("cell", "b"), unit("cell", "c")]
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (max(2 << 30, in_use() + (1 << 30)), before[1]))
    try:
        summary = run_tiny(run, build_graph(cells), LocalExecutor(run / "logs"))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    (failed,) = summary.failures
    assert (str(failed.unit), failed.error.partition(":")[0]) == ("cell/a", "MemoryError")
    assert summary.progress.done == 2
    assert status(run).totals.by_state == {"done": 2, "failed": 3}


def in_use() -> int:
    return psutil.Process().memory_info().vms


# --- Executors ------------------------------------------------------------------------------------


def test_two_workers_share_the_work_and_give_the_same_files(tmp_path: Path) -> None:
    run_tiny(tmp_path / "one", build_graph(slow_units()), InlineExecutor())
    executor = LocalExecutor(tmp_path / "two" / "logs", [{}, {}])
    pids = set()
    with open_run(tmp_path / "two", "x") as directory:
        execute(build_graph(slow_units()), directory, executor)
        pids = {attempt.pid for attempt in directory.ledger.story().attempts}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_run_begun_inline_is_finished_by_local_workers(tmp_path: Path) -> None:
    half = build_graph(slow_units()[:1])
    run_tiny(tmp_path, half, InlineExecutor())
    summary = run_tiny(tmp_path, build_graph(slow_units()), LocalExecutor(tmp_path / "logs"))
    assert (summary.progress.reused, summary.progress.done) == (1, 2)


def test_a_worker_sees_the_variables_of_its_slot(tmp_path: Path) -> None:
    cells = [unit("cell", "a", work="tests.run.works:shows", inputs={"variable": "SLOT"})]
    executor = LocalExecutor(tmp_path / "logs", [{"SLOT": "7"}])
    run_tiny(tmp_path, build_graph(cells), executor)
    (path,) = (tmp_path / "units" / "cell").glob("*/value.json")
    assert json.loads(path.read_bytes()) == "7"


def test_what_a_worker_prints_is_in_its_log(tmp_path: Path) -> None:
    cells = [unit("cell", "a", work="tests.run.works:shows", inputs={"variable": "HOME"})]
    run_tiny(tmp_path, build_graph(cells), LocalExecutor(tmp_path / "logs"))
    (log,) = (tmp_path / "logs").glob("worker-*.log")
    assert "looking at HOME" in log.read_text()


def test_each_gpu_worker_sees_one_gpu_of_those_that_are_visible(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpu_environments(2) == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-ab,7")
    seen = [environment["CUDA_VISIBLE_DEVICES"] for environment in gpu_environments(2)]
    assert seen == ["3", "GPU-ab"]
    assert gpu_environments(2, 2) == [{"CUDA_VISIBLE_DEVICES": "3,GPU-ab"}]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    seen = [environment["CUDA_VISIBLE_DEVICES"] for environment in gpu_environments(2, 2)]
    assert seen == ["0,1", "2,3"]


def test_the_driver_side_imports_no_torch() -> None:
    code = (
        "import sys, steerproof.run.commands.status, steerproof.run.driver.scheduler,"
        " steerproof.run.driver.executors;"
        "sys.exit('torch' in sys.modules or 'ray' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_replace_keeps_a_units_identity() -> None:
    first = unit("cell", "a")
    graphs = [build_graph([each]) for each in (first, replace(first, group="b", limit=3))]
    assert graphs[0].keys == graphs[1].keys
