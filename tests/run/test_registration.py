"""What was registered stands: a lock that is lost, edited or exchanged is refused by everybody."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from steerproof.errors import IntegrityError, RegistrationError
from steerproof.run.commands.status import status
from steerproof.run.commands.verify import raise_mismatches, verify
from steerproof.run.store.directory import open_run
from steerproof.run.store.ledger import LEDGER
from steerproof.run.store.registration import (
    DEVIATIONS,
    LOCK,
    SPEC,
    analysis_alone_differs,
    keep_copy,
    kept_directory,
    read_registration,
    register,
)
from steerproof.run.store.store import publish
from steerproof.spec.experiment import Experiment
from steerproof.spec.lock import Lock, make_lock
from tests.experiments import small_experiment
from tests.run.tiny import run_tiny


def lock_of(experiment: Experiment) -> Lock:
    return make_lock(experiment, versions={}, hashes={}, time="2026-01-01T00:00:00+00:00")


def with_rho(rho: float) -> Experiment:
    analysis = small_experiment().analysis
    changed = analysis.model_copy(
        update={"thresholds": analysis.thresholds.model_copy(update={"rho": rho})}
    )
    return small_experiment(analysis=changed)


def enter(run: Path, experiment: Experiment, deviate: str | None = None) -> None:
    with open_run(run, "steerproof run small") as held:
        register(run, held.ledger, lock_of(experiment), deviate)
        keep_copy(run, held.ledger, "name: small\n", run.parent)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Registered, and departed from twice."""
    enter(tmp_path / "run", with_rho(0.6))
    enter(tmp_path / "run", with_rho(0.5), "a pilot said so")
    enter(tmp_path / "run", with_rho(0.45), "another pilot")
    return tmp_path / "run"


def test_the_same_registration_is_read_again_and_nothing_is_told_twice(run: Path) -> None:
    enter(run, with_rho(0.45))
    registered = read_registration(run)
    assert registered is not None
    assert registered.experiment == with_rho(0.6)
    assert [deviation.reason for deviation in registered.deviations] == [
        "a pilot said so",
        "another pilot",
    ]
    assert verify(run) == []
    assert status(run).problem is None
    assert kept_directory(run) == run.parent
    with open_run(run, "x") as held:
        events = [event.what for event in held.ledger.story().events]
    assert events.count("locked") == 1
    assert events.count("deviated") == 2
    assert events.count("experiment-kept") == 1


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))


def exchange(path: Path) -> None:
    """A sound lock of another question."""
    other = path.parent.parent / "other"
    enter(other, with_rho(0.45))
    shutil.copy(other / LOCK, path)


DAMAGES: list[tuple[Callable[[Path], None], str]] = [
    (Path.unlink, LOCK),
    (flip, LOCK),
    (exchange, LOCK),
    (Path.unlink, DEVIATIONS),
    (cut, DEVIATIONS),
    (flip, DEVIATIONS),
]


@pytest.mark.parametrize(("damage", "name"), DAMAGES)
def test_a_registration_that_is_not_what_it_was_is_refused_by_every_command(
    damage: Callable[[Path], None], name: str, run: Path
) -> None:
    damage(run / name)
    with pytest.raises(IntegrityError) as caught:
        read_registration(run)
    assert caught.value.exit_code == 7
    assert name in str(caught.value) or "lock" in str(caught.value)
    with pytest.raises(IntegrityError):
        enter(run, with_rho(0.45))
    assert status(run).problem == str(caught.value)
    (mismatch,) = verify(run)
    assert mismatch.problem == "registration"


@pytest.mark.parametrize("damage", [flip, Path.unlink])
def test_verify_names_a_changed_copy_of_the_experiment(
    damage: Callable[[Path], None], run: Path
) -> None:
    damage(run / SPEC)
    (mismatch,) = verify(run)
    assert mismatch.path == run / SPEC
    with pytest.raises(IntegrityError, match="1 file does not match") as caught:
        raise_mismatches([mismatch], "steerproof run tiny")
    assert "is not made again: restore experiment.lock.json, " in str(caught.value)
    assert "steerproof run tiny" not in str(caught.value), "which would take what was changed"


def test_a_lost_lock_is_known_from_the_published_verdict_when_the_ledger_is_gone(
    run: Path,
) -> None:
    registered = read_registration(run)
    assert registered is not None
    verdict = {"verdict": "REFUTED", "lock": registered.lock.sha256}
    publish(run, {"verdict.json": json.dumps(verdict).encode()})
    (run / LEDGER).unlink()
    assert read_registration(run) == registered, "the lock itself is enough"
    (run / LOCK).unlink()
    with pytest.raises(IntegrityError, match=r"verdict\.json says"):
        read_registration(run)


def test_units_without_a_lock_are_not_registered_afterwards(tmp_path: Path) -> None:
    run_tiny(tmp_path / "run")
    (tmp_path / "run" / LEDGER).unlink()
    with pytest.raises(IntegrityError, match="units were made under it"):
        enter(tmp_path / "run", with_rho(0.45))
    assert not (tmp_path / "run" / LOCK).exists()


def test_a_crash_between_the_file_and_the_ledger_is_made_good(run: Path) -> None:
    """An older version kept no hash of a deviation; the next run enters it."""
    with open_run(run, "x") as held, held.ledger.transaction():
        held.ledger._connection.execute("DELETE FROM events WHERE what = 'deviated'")
    enter(run, with_rho(0.45))
    cut(run / DEVIATIONS)
    with pytest.raises(IntegrityError, match="lost a deviation"):
        read_registration(run)


def test_an_undeclared_change_and_an_idle_declaration_are_refused(run: Path) -> None:
    with pytest.raises(RegistrationError, match=r"analysis\.thresholds\.rho"):
        enter(run, with_rho(0.3))
    with pytest.raises(RegistrationError, match="nothing that matters"):
        enter(run, with_rho(0.6), "for no reason")


def test_only_a_change_of_the_analysis_leaves_what_was_measured_as_locked() -> None:
    locked = with_rho(0.6)
    assert analysis_alone_differs(locked, with_rho(0.45))
    assert not analysis_alone_differs(locked, locked)
    assert not analysis_alone_differs(
        locked, small_experiment(seed=9, analysis=with_rho(0.4).analysis)
    )
