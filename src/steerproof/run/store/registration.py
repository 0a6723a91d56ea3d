"""The registration of a run directory: what was fixed, what departed from it, and that it stands.

Three places hold it: the lock file with its deviations, the ledger, which keeps the hash of the
lock and of the last deviation, and the published verdict, which names the lock that it answers to.
A lock that is gone or another one than these say is refused by every command that reads it.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from steerproof.errors import IntegrityError, RegistrationError
from steerproof.run.store.files import write_file
from steerproof.run.store.ledger import Ledger
from steerproof.run.store.ledger_file import read_ledger
from steerproof.run.store.manifest import Mismatch, hash_damage
from steerproof.run.store.store import unit_directories
from steerproof.run.store.story import Event, Story
from steerproof.spec.experiment import Experiment
from steerproof.spec.lock import (
    COSMETIC,
    Deviation,
    Lock,
    append_deviation,
    check_registered,
    lock_bytes,
    read_deviations,
    read_lock,
)

SPEC, LOCK, DEVIATIONS = "experiment.yaml", "experiment.lock.json", "deviations.jsonl"
_WAY_OUT = "restore it from a copy, or start a new run directory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What was fixed before the first completion, and what was changed later."""

    lock: Lock
    deviations: tuple[Deviation, ...] = ()
    """Declared departures, oldest first."""

    @property
    def experiment(self) -> Experiment:
        """The experiment as locked.

        Raises:
            IntegrityError: It is none that this version reads.
        """
        try:
            return Experiment.model_validate_json(json.dumps(self.lock.experiment))
        except ValueError as error:
            raise IntegrityError(f"{LOCK} holds no experiment: {error}") from error


def read_registration(run: Path) -> Registration | None:
    """The registration of a run directory, held against the ledger and the results.

    Returns:
        None where nothing was registered yet.

    Raises:
        IntegrityError: It was edited, cut, exchanged or removed.
    """
    story = read_ledger(run) or Story()
    path = run / LOCK
    if not path.is_file():
        _refuse_lost(run, story)
        return None
    lock = read_lock(path.read_bytes(), str(path))
    for where, expected in _recorded_locks(run, story):
        if expected != lock.sha256:
            raise IntegrityError(
                f"{path} is not what was registered: it has {lock.sha256}, but {where} says "
                f"{expected}; {_WAY_OUT}"
            )
    deviations = read_deviations(_content(run / DEVIATIONS), lock)
    last = _recorded_deviation(story)
    if last is not None and last not in {deviation.sha256 for deviation in deviations}:
        raise IntegrityError(
            f"{run / DEVIATIONS} lost a deviation: the ledger says that {last} was declared; "
            f"{_WAY_OUT}"
        )
    return Registration(lock=lock, deviations=deviations)


def register(run: Path, ledger: Ledger, now: Lock, deviate: str | None) -> Registration:
    """Lock the experiment, or check it against the lock that is there.

    Args:
        run: The run directory, held by this process.
        ledger: Its ledger.
        now: What would be locked now.
        deviate: Why it departs from what was locked; None if it does not.

    Raises:
        RegistrationError: It differs from what was locked and no reason is given, or a reason is
            given and nothing differs.
        IntegrityError: The lock or its deviations were edited, cut, exchanged or removed.
    """
    registered = read_registration(run)
    if registered is None:
        if next(unit_directories(run), None) is not None:
            raise IntegrityError(
                f"{run / LOCK} is missing, but units were made under it; {_WAY_OUT}"
            )
        if deviate is not None:
            raise RegistrationError("nothing is locked in this run directory yet; drop --deviate")
        write_file(run / LOCK, lock_bytes(now))
        registered = Registration(lock=read_lock((run / LOCK).read_bytes()))
    if deviate is not None:
        content = append_deviation(
            _content(run / DEVIATIONS), registered.lock, now, reason=deviate, time=now.time
        )
        write_file(run / DEVIATIONS, content)
        registered = Registration(
            lock=registered.lock, deviations=read_deviations(content, registered.lock)
        )
    _record(ledger, registered)
    check_registered(registered.lock, registered.deviations, now)
    return registered


def keep_copy(run: Path, ledger: Ledger, text: str, directory: Path) -> None:
    """Keep the experiment file as it was written, for people and for commands that need no other.

    Args:
        run: The run directory, held by this process.
        ledger: Its ledger.
        text: The experiment file.
        directory: Where its relative paths start.
    """
    data, copy = text.encode(), run / SPEC
    if not copy.is_file() or copy.read_bytes() != data:
        write_file(copy, data)
    kept = {"sha256": hashlib.sha256(data).hexdigest(), "directory": str(directory.absolute())}
    last = ledger.story().last("experiment-kept")
    if last is None or last.detail != kept:
        ledger.add_event("experiment-kept", None, **kept)


def kept_directory(run: Path) -> Path:
    """Where the relative paths of a run's experiment start, as far as it is known."""
    story = read_ledger(run)
    kept = story and story.last("experiment-kept")
    directory = kept and kept.detail.get("directory")
    known = Path(directory) if isinstance(directory, str) else None
    return known if known is not None and known.is_dir() else run


def registration_damage(run: Path) -> list[Mismatch]:
    """The lock, the deviations and the experiment's copy, where they are not what was recorded."""
    try:
        registered = read_registration(run)
    except (IntegrityError, OSError) as error:
        return [
            Mismatch(
                path=run / LOCK, problem="registration", expected="as locked", actual=str(error)
            )
        ]
    story = read_ledger(run) or Story()
    kept = story.last("experiment-kept")
    if registered is None or kept is None:
        return []
    return hash_damage(run / SPEC, str(kept.detail.get("sha256")))


def analysis_alone_differs(locked: Experiment, now: Experiment) -> bool:
    """Whether an experiment differs from the locked one in its analysis, and in nothing else."""
    aside = {"analysis", *COSMETIC}
    return locked.model_dump(exclude=aside) == now.model_dump(exclude=aside) and (
        locked.analysis != now.analysis
    )


def _record(ledger: Ledger, registered: Registration) -> None:
    """Let the ledger know the hashes, if a crash or an older version left them out."""
    story = ledger.story()
    if not any(_hash(event) for event in story.events if event.what == "locked"):
        ledger.add_event("locked", sha256=registered.lock.sha256)
    known = {_hash(event) for event in story.events if event.what == "deviated"}
    for deviation in registered.deviations:
        if deviation.sha256 not in known:
            ledger.add_event("deviated", reason=deviation.reason, sha256=deviation.sha256)


def _refuse_lost(run: Path, story: Story) -> None:
    """A lock that is not there was lost, if anything was made under it."""
    for where, sha256 in _recorded_locks(run, story):
        raise IntegrityError(
            f"{run / LOCK} is missing, but {where} says that {sha256} was registered; {_WAY_OUT}"
        )


def _recorded_locks(run: Path, story: Story) -> list[tuple[str, str]]:
    """Who says which lock was registered."""
    told = [("the ledger", _hash(event)) for event in story.events if event.what == "locked"]
    recorded = [(where, sha256) for where, sha256 in told if sha256 is not None][:1]
    published = _published_lock(run)
    if published is not None:
        recorded.append((f"{run / 'results' / 'verdict.json'}", published))
    return recorded


def _published_lock(run: Path) -> str | None:
    try:
        verdict = json.loads(_content(run / "results" / "verdict.json"))
    except (ValueError, RecursionError):
        return None
    sha256 = verdict.get("lock") if isinstance(verdict, dict) else None
    return sha256 if isinstance(sha256, str) else None


def _recorded_deviation(story: Story) -> str | None:
    hashes = [_hash(event) for event in story.events if event.what == "deviated"]
    return next((sha256 for sha256 in reversed(hashes) if sha256 is not None), None)


def _hash(event: Event) -> str | None:
    sha256 = event.detail.get("sha256")
    return sha256 if isinstance(sha256, str) else None


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""
