import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from steerproof.errors import DiskFullError, LockedError, MachineError
from steerproof.run.commands.status import status
from steerproof.run.commands.verify import verify
from steerproof.run.graph.survey import recorded
from steerproof.run.store.ledger import LEDGER, Ledger
from steerproof.run.store.ledger_file import open_ledger, read_ledger
from tests.run.tiny import COUNTER, contents, counts, run_tiny, u

KEYS = {u("cell/a"): "a" * 64, u("cell/b"): "b" * 64}


def opened(run: Path, token: int = 1) -> Ledger:
    run.mkdir(exist_ok=True)
    return open_ledger(run, token)


def test_attempts_states_and_events_are_read_back_in_order(tmp_path: Path) -> None:
    ledger = opened(tmp_path / "run")
    ledger.register(KEYS, done=[u("cell/b")])
    number = ledger.start({u("cell/a"): KEYS[u("cell/a")]}, "here")[u("cell/a")]
    ledger.fail(number, "failed", "ValueError: no", "logs/1.log")
    ledger.set_state(u("cell/a"), "failed")
    ledger.add_event("verdict", text="réfuté")
    ledger.close()
    again = read_ledger(tmp_path / "run")
    assert again is not None
    assert again.states == {u("cell/a"): "failed", u("cell/b"): "done"}
    (attempt,) = again.attempts_of(u("cell/a"))
    assert (attempt.state, attempt.error, attempt.log) == ("failed", "ValueError: no", "logs/1.log")
    assert attempt.ended is not None
    assert attempt.ended >= attempt.started
    (event,) = again.events
    assert (event.what, dict(event.detail)) == ("verdict", {"text": "réfuté"})


def test_a_write_is_on_the_disk_when_it_returns(tmp_path: Path) -> None:
    ledger = opened(tmp_path / "run")
    pragma = ledger._connection.execute  # what the connection is set to, asked of SQLite itself
    assert pragma("PRAGMA synchronous").fetchone()[0] == 2, "FULL"
    assert pragma("PRAGMA journal_mode").fetchone()[0] == "wal"
    ledger.close()


def test_totals_are_sums_over_all_calls_not_the_last_one(tmp_path: Path) -> None:
    run_tiny(tmp_path / "run")
    first = status(tmp_path / "run").totals
    run_tiny(tmp_path / "run")
    second = status(tmp_path / "run").totals
    assert second == first
    assert first.by_state == {"done": 9}
    assert first.peak_memory is not None
    assert first.peak_memory > 1 << 20


def test_a_transaction_that_fails_leaves_nothing(tmp_path: Path) -> None:
    ledger = opened(tmp_path / "run")

    def half() -> None:
        with ledger.transaction():
            ledger.add_event("half")
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        half()
    assert ledger.story().events == ()
    ledger.close()


def test_a_reader_changes_nothing(tmp_path: Path) -> None:
    opened(tmp_path / "run").close()
    before = (tmp_path / "run" / LEDGER).read_bytes()
    assert read_ledger(tmp_path / "run") is not None
    assert (tmp_path / "run" / LEDGER).read_bytes() == before


def test_a_writer_with_an_older_token_is_refused(tmp_path: Path) -> None:
    old = opened(tmp_path / "run", token=1)
    new = opened(tmp_path / "run", token=2)
    with pytest.raises(LockedError, match="token 2, ours is 1"):
        old.add_event("late")
    new.add_event("fine")
    assert [event.what for event in new.story().events] == ["fine"]
    old.close()
    new.close()


def test_a_writer_stopped_in_a_transaction_does_not_keep_its_successor_waiting(
    tmp_path: Path,
) -> None:
    stopped = opened(tmp_path / "run", token=1)
    stopped.add_event("before")
    with stopped.transaction():
        stopped.add_event("never committed before the takeover")
        thief = open_ledger(tmp_path / "run", 2, stolen=True)
        thief.add_event("after")
        assert [event.what for event in thief.story().events] == ["before", "after"]
        thief.close()
    stopped.close()
    again = read_ledger(tmp_path / "run")
    assert again is not None
    assert [event.what for event in again.events] == ["before", "after"]


def test_what_a_dead_process_left_running_is_interrupted(tmp_path: Path) -> None:
    ledger = opened(tmp_path / "run")
    ledger.register(KEYS, done=[])
    ledger.start(KEYS, "here")
    assert ledger.interrupt_running() == 2
    assert set(ledger.story().states.values()) == {"interrupted"}
    assert {attempt.error for attempt in ledger.story().attempts} == {"its process died"}
    ledger.close()


def test_a_full_disk_while_writing_is_told_as_one(tmp_path: Path) -> None:
    ledger = opened(tmp_path / "run")
    pages = ledger._connection.execute("PRAGMA page_count").fetchone()[0]
    ledger._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(DiskFullError, match="bytes available"):
        ledger.add_event("long", text="x" * 100_000)
    ledger.close()


# --- Lost and damaged -----------------------------------------------------------------------------


def flip_pages(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for offset in range(4096, len(data), 512):
        data[offset] ^= 0xFF
    path.write_bytes(data)


def flip_header(path: Path) -> None:
    path.write_bytes(b"not " + path.read_bytes()[4:])


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def delete(path: Path) -> None:
    path.unlink()


def make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def other_schema(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()


DAMAGES = (flip_pages, flip_header, truncate, empty, delete, make_directory, other_schema)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_lost_ledger_is_rebuilt_from_the_manifests_and_no_unit_is_redone(
    damage: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    monkeypatch.setenv(COUNTER, str(tmp_path / "counter"))
    run_tiny(run)
    before, files = status(run).totals, contents(run)
    damage(run / LEDGER)
    if damage in (flip_pages, flip_header, truncate, make_directory):
        told = status(run)
        assert told.problem is not None
        assert "rebuilds it from the units" in told.problem
        assert told.totals.by_state == before.by_state

    assert run_tiny(run).progress.reused == 9
    after = status(run)
    assert after.state == "finished"
    assert after.totals.by_state == before.by_state
    assert after.totals.seconds == pytest.approx(before.seconds)
    assert "ledger-rebuilt" in [event.what for event in after.events]
    assert contents(run) == files
    assert set(counts(tmp_path / "counter").values()) == {1}
    if damage not in (delete, empty):
        assert list((run / "quarantine").glob("ledger.sqlite-*")), "the damaged one is kept"


def test_a_lost_write_ahead_log_costs_no_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hot log is copied with its database, as a crash leaves them, and then goes missing."""
    run, crashed = tmp_path / "run", tmp_path / "crashed"
    monkeypatch.setenv(COUNTER, str(tmp_path / "counter"))
    run_tiny(run)
    ledger = open_ledger(run, 5)
    ledger.add_event("in the log only")
    assert (run / f"{LEDGER}-wal").stat().st_size > 0
    (run / LEDGER).replace(crashed)
    ledger.close()
    crashed.replace(run / LEDGER)
    (run / f"{LEDGER}-wal").unlink(missing_ok=True)
    (run / f"{LEDGER}-shm").unlink(missing_ok=True)
    assert run_tiny(run).progress.reused == 9
    assert status(run).totals.by_state == {"done": 9}
    assert set(counts(tmp_path / "counter").values()) == {1}


NONSENSE = {
    "a key that is no text": "UPDATE attempts SET key = CAST(x'ff61' AS TEXT) WHERE attempt = 2",
    "a state that is no text": "UPDATE attempts SET state = CAST(x'ff' AS TEXT) WHERE attempt = 2",
    "an unknown state": "UPDATE attempts SET state = 'dooe' WHERE attempt = 2",
    "a unit without a name": "UPDATE attempts SET unit = 'cell' WHERE attempt = 2",
    "a start that is text": "UPDATE attempts SET started = 'soon' WHERE attempt = 2",
    "a start that never was": "UPDATE attempts SET started = 1e18 WHERE attempt = 2",
    "work without an end": "UPDATE attempts SET seconds = 9e999 WHERE attempt = 2",
    "a memory without an end": "UPDATE attempts SET peak_memory = 9e999 WHERE attempt = 2",
    "an event that never was": "UPDATE events SET time = -1e18 WHERE event = 2",
    "a unit's key that is a blob": "UPDATE units SET key = x'ff' WHERE unit = 'dataset/all'",
    "an event's detail torn": "UPDATE events SET detail = '{\"a\": ' WHERE event = 2",
    "an event's detail a list": "UPDATE events SET detail = '[]' WHERE event = 2",
    "no table of events": "DROP TABLE events",
}


@pytest.mark.parametrize("change", NONSENSE.values(), ids=NONSENSE)
def test_a_ledger_that_makes_no_sense_is_told_from_the_units_and_rebuilt(
    change: str, tmp_path: Path
) -> None:
    run_tiny(tmp_path)
    with closing(sqlite3.connect(tmp_path / LEDGER)) as connection:
        connection.execute(change)
        connection.commit()
    told = status(tmp_path)
    assert told.problem is not None
    assert told.units["cell"] == {"done": 4}
    assert [mismatch.path.name for mismatch in verify(tmp_path)] == [LEDGER]
    assert len(recorded(tmp_path)) == 9, "a report can still be made"
    assert run_tiny(tmp_path).progress.reused == 9
    assert verify(tmp_path) == []
    assert status(tmp_path).problem is None


def _loop(path: Path) -> None:
    path.symlink_to(path)


ODD = {
    "a trigger": "CREATE TRIGGER t AFTER INSERT ON events BEGIN SELECT RAISE(ABORT, 'no'); END",
    "a column more": "ALTER TABLE units ADD COLUMN more TEXT",
    "a unique index": "CREATE UNIQUE INDEX once ON attempts (started)",
    "a fence without a token": "ALTER TABLE fence RENAME COLUMN token TO other",
    "tables without a version": "PRAGMA user_version = 0",
    "a name that is no text": "PRAGMA writable_schema = ON; UPDATE sqlite_master SET sql ="
    " CAST(x'43524541544520ff' AS TEXT) WHERE name = 'fence'",
}


@pytest.mark.parametrize("change", ODD.values(), ids=ODD)
def test_a_ledger_that_would_refuse_what_is_written_is_rebuilt(change: str, tmp_path: Path) -> None:
    run_tiny(tmp_path)
    with closing(sqlite3.connect(tmp_path / LEDGER)) as connection:
        connection.executescript(change)
    assert status(tmp_path).units["cell"] == {"done": 4}
    assert run_tiny(tmp_path).progress.reused == 9
    assert "ledger-rebuilt" in [event.what for event in status(tmp_path).events]


@pytest.mark.parametrize("token", ["'x'", "9223372036854775807", "1e300", "x'ff'"])
def test_a_token_that_nobody_was_given_keeps_nobody_out(token: str, tmp_path: Path) -> None:
    run_tiny(tmp_path)
    with closing(sqlite3.connect(tmp_path / LEDGER)) as connection:
        connection.executescript(f"INSERT INTO fence VALUES ({token})")
    assert run_tiny(tmp_path).progress.reused == 9
    assert "ledger-rebuilt" not in [event.what for event in status(tmp_path).events]


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, _loop])
@pytest.mark.parametrize("end", ["", "-wal", "-shm", "-journal"])
def test_what_stands_in_the_place_of_the_ledger_is_set_aside(
    make: Callable[[Path], None], end: str, tmp_path: Path
) -> None:
    run_tiny(tmp_path)
    (tmp_path / f"{LEDGER}{end}").unlink(missing_ok=True)
    make(tmp_path / f"{LEDGER}{end}")
    assert status(tmp_path).state == "finished"
    assert run_tiny(tmp_path).progress.reused == 9


def test_a_ledger_that_stops_working_is_told_as_the_disks_fault(tmp_path: Path) -> None:
    ledger = opened(tmp_path / "run")
    ledger._connection.execute("DROP TABLE events")
    with pytest.raises(MachineError, match=r"cannot use .*ledger\.sqlite: no such table"):
        ledger.add_event("late")
    ledger.close()
