import errno
import json
import os
import time
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from steerproof.errors import DiskFullError, LockedError
from steerproof.run.store import hold as lock
from steerproof.run.store.hold import (
    EXPIRY_SECONDS,
    acquire,
    kernel_lock_works,
    lock_state,
    locked,
)
from steerproof.run.store.holder import Holder, host_name


def leave_lease(run: Path, holder: Holder, age: float = 0.0) -> Path:
    """A lease as another process would have left it."""
    (run / "lock").mkdir(parents=True, exist_ok=True)
    path = run / "lock" / f"lease-{holder.token:06d}.json"
    path.write_text(json.dumps(asdict(holder)))
    when = time.time() - age
    os.utime(path, (when, when))
    return path


ELSEWHERE = Holder(
    token=4,
    host="node7 4026531836",
    pid=123,
    process_started=0.0,
    command="steerproof run zlt",
    taken=time.time() - 600,
)


def test_a_lock_is_held_then_released_and_each_taking_has_a_larger_token(tmp_path: Path) -> None:
    with locked(tmp_path, "one") as first:
        state = lock_state(tmp_path)
        assert state.held
        assert not state.expired
        assert state.holder == first.holder
        first.check()
    assert not lock_state(tmp_path).held
    with locked(tmp_path, "two") as second:
        assert second.token == first.token + 1
        assert not second.stolen


def test_the_same_process_cannot_take_it_twice(tmp_path: Path) -> None:
    with locked(tmp_path, "one"), pytest.raises(LockedError, match="'one'"):
        acquire(tmp_path, "two")


def test_where_the_kernel_says_yes_to_everybody_the_lease_says_no(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock.fcntl, "flock", lambda *_: None)
    with locked(tmp_path, "one"), pytest.raises(LockedError, match=f"process {os.getpid()}"):
        acquire(tmp_path, "two")
    with locked(tmp_path, "three"):
        pass


def test_where_there_are_no_kernel_locks_the_lease_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(file: object, how: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    with locked(tmp_path, "one"), pytest.raises(LockedError):
        acquire(tmp_path, "two")


def test_a_fresh_lease_of_another_machine_is_respected_whatever_is_asked(tmp_path: Path) -> None:
    long_ago = replace(ELSEWHERE, taken=time.time() - 600)
    leave_lease(tmp_path, long_ago, age=EXPIRY_SECONDS / 2)
    for steal in (False, True):
        with pytest.raises(
            LockedError, match=r"process 123 on node7: 'steerproof run zlt', for 1\d min"
        ):
            acquire(tmp_path, "here", steal=steal)


def test_an_expired_lease_of_another_machine_is_taken_over_only_on_request(tmp_path: Path) -> None:
    leave_lease(tmp_path, ELSEWHERE, age=2 * EXPIRY_SECONDS)
    assert lock_state(tmp_path).expired
    with pytest.raises(LockedError, match="--steal") as caught:
        acquire(tmp_path, "here")
    assert caught.value.exit_code == 5
    with locked(tmp_path, "here", steal=True) as stolen:
        assert stolen.stolen
        assert stolen.token == ELSEWHERE.token + 1


def test_a_released_lease_of_another_machine_is_free(tmp_path: Path) -> None:
    leave_lease(tmp_path, replace(ELSEWHERE, released=True))
    with locked(tmp_path, "here"):
        pass


def test_the_lease_of_a_dead_process_of_this_machine_is_free_at_once(tmp_path: Path) -> None:
    dead = replace(ELSEWHERE, host=host_name(), pid=os.getpid(), process_started=1.0)
    leave_lease(tmp_path, dead)
    assert not lock_state(tmp_path).held, "the pid is ours, but that process began in 1970"
    with locked(tmp_path, "here"):
        pass


def test_clocks_of_two_machines_that_disagree_do_not_expire_a_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_lease(tmp_path, ELSEWHERE)
    real = time.time
    monkeypatch.setattr(lock.time, "time", lambda: real() + 24 * 3600)
    assert not lock_state(tmp_path).expired, "age is measured by the filesystem's own clock"


def test_whoever_was_taken_over_is_told_at_its_next_check(tmp_path: Path) -> None:
    with locked(tmp_path, "slow") as slow:
        leave_lease(tmp_path, replace(ELSEWHERE, token=slow.token + 1))
        with pytest.raises(LockedError, match="taken over"):
            slow.check()
    newest = lock_state(tmp_path).holder
    assert newest is not None
    assert (newest.command, newest.released) == ("steerproof run zlt", False)


def test_of_two_that_find_it_free_one_gets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one links its lease between our look and our link."""
    monkeypatch.setattr(lock.fcntl, "flock", lambda *_: None)
    look = lock.lock_state

    def look_then_lose(run: Path) -> lock.LockState:
        state = look(run)
        leave_lease(run, replace(ELSEWHERE, token=1))
        return state

    monkeypatch.setattr(lock, "lock_state", look_then_lose)
    with pytest.raises(LockedError, match="just now"):
        acquire(tmp_path, "second")
    assert not list((tmp_path / "lock").glob(".tmp-*"))


def test_the_heartbeat_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.01)
    with locked(tmp_path, "one"):
        (lease,) = (tmp_path / "lock").glob("lease-*.json")
        os.utime(lease, (0, 0))
        until = time.monotonic() + 5
        while lock_state(tmp_path).expired and time.monotonic() < until:
            time.sleep(0.01)
        assert not lock_state(tmp_path).expired


def test_a_torn_lease_locks_nobody_out(tmp_path: Path) -> None:
    leave_lease(tmp_path, ELSEWHERE).write_text('{"token": 4, "ho')
    with locked(tmp_path, "here") as here:
        assert here.token == 5


def test_the_kernel_lock_is_tried_with_two_processes_not_assumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kernel_lock_works(tmp_path)
    monkeypatch.setattr(lock.fcntl, "flock", lambda *_: None)
    assert not kernel_lock_works(tmp_path), "the second process was not refused"
    assert list(tmp_path.iterdir()) == []


def test_a_step_of_the_clock_does_not_make_a_living_holder_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with locked(tmp_path, "steerproof run") as held:
        began = psutil.Process.create_time
        for step in (2.0, -2.0, 3600.0):
            # The system tells a process's start by the clock of now, less the time since it began.
            monkeypatch.setattr(psutil.Process, "create_time", lambda self: began(self) + step)  # noqa: B023
            assert not held.holder.is_dead()
            assert lock_state(tmp_path).held
    monkeypatch.undo()


def test_a_namesake_and_another_start_of_the_machine_are_not_the_holder(tmp_path: Path) -> None:
    with locked(tmp_path, "steerproof run") as held:
        if held.holder.ticks is None or held.holder.boot is None:
            pytest.skip("this system tells neither ticks nor starts")
        assert replace(held.holder, ticks=held.holder.ticks + 1).is_dead()
        assert replace(held.holder, boot="another").is_dead()


@pytest.mark.parametrize(
    "record",
    [b"", b"{}", b'{"pid": "text"}', b"[" * 100_000, b"\xff"],
)
def test_a_lease_that_was_altered_names_nobody(record: bytes, tmp_path: Path) -> None:
    with locked(tmp_path, "first"):
        pass
    lease = tmp_path / "lock" / "lease-000001.json"
    lease.write_bytes(record)
    assert not lock_state(tmp_path).held
    with locked(tmp_path, "second") as held:
        assert held.token == 2


def test_a_pid_that_is_none_is_no_process(tmp_path: Path) -> None:
    with locked(tmp_path, "first") as held:
        assert replace(held.holder, pid=-1, ticks=None).is_dead()
        assert replace(held.holder, pid=2**70, ticks=None).is_dead()


def test_what_a_sync_tool_leaves_beside_the_leases_is_no_lease(tmp_path: Path) -> None:
    with locked(tmp_path, "first"):
        pass
    for name in ("lease-000001 (1).json", "lease-x.json", "lease-000009.json.tmp", ".DS_Store"):
        (tmp_path / "lock" / name).write_bytes(b"{}")
    with locked(tmp_path, "second") as held:
        assert held.token == 2


def test_a_pipe_in_place_of_a_lease_holds_nobody_up(tmp_path: Path) -> None:
    with locked(tmp_path, "first"):
        pass
    lease = tmp_path / "lock" / "lease-000001.json"
    lease.unlink()
    os.mkfifo(lease)
    assert not lock_state(tmp_path).held


def test_a_filesystem_without_hard_links_is_locked_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with locked(tmp_path, "first") as held:
        assert held.token == 1
        with pytest.raises(LockedError), locked(tmp_path, "second"):
            pass


def test_no_inode_for_the_lease_is_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "hardlink_to", full)
    with pytest.raises(DiskFullError), locked(tmp_path, "first"):
        pass
