"""The pre-registration: what was fixed before the first completion, and what changed later.

A lock holds the resolved experiment, versions and hashes. Its sha256 covers everything except the
time, so that the same question locks to the same hash anywhere. A hash on one's own disk proves
that nothing differs, not when it was made: post the hash, or `registration.markdown`, where
somebody else's clock stands beside it.

Deviations are lines of `deviations.jsonl`; each holds the hash of the one before, the first the
hash of the lock. A line that is changed, moved or removed from the middle breaks the chain; lines
cut off its end do not, so the ledger keeps the last hash.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from steerproof.codec import canonical, digest, from_values
from steerproof.errors import ExperimentError, IntegrityError, RegistrationError
from steerproof.spec.changes import Change, differences
from steerproof.spec.experiment import Experiment

SCHEMA = 1
COSMETIC = ("name", "title")
"""Fields of the experiment that touch no result."""

_AGAIN = "restore it from a copy, or start a new run directory"

R = TypeVar("R", "Lock", "Deviation")
Hashes = Mapping[str, str | Mapping[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """What was fixed."""

    experiment: dict[str, Any]
    """Every field of the experiment, defaults written out."""
    versions: dict[str, str]
    """Of steerproof, torch, transformers, python: noted; a change of them is no deviation."""
    hashes: dict[str, str | dict[str, str]]
    """sha256 of prompts, data and model files."""
    fingerprint: str
    """sha256 of what can change a result: the experiment without name and title, the hashes."""
    sha256: str
    """sha256 of everything above."""
    time: str
    """When it was locked, ISO 8601, UTC; outside the hash."""
    schema: int = SCHEMA


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """One declared departure from the lock."""

    reason: str
    time: str
    changes: tuple[Change, ...]
    """Against the lock, not against the deviation before."""
    fingerprint: str
    """Of the experiment that was run after it."""
    previous: str
    """sha256 of the deviation before; of the lock for the first."""
    sha256: str = field(default="")
    """sha256 of everything above."""


def resolved(experiment: Experiment) -> dict[str, Any]:
    """Every field of the experiment as plain values, defaults written out."""
    return experiment.model_dump(mode="json")


def prompt_hashes(experiment: Experiment) -> dict[str, str]:
    """sha256 of what the model reads: each persona's prompt, the neutral one, the questions."""
    texts: dict[str, Any] = {f"persona.{p.name}": p.prompt for p in experiment.personas}
    texts["neutral"] = experiment.neutral_prompt
    texts["questions"] = resolved(experiment)["questions"]
    return {name: digest(text) for name, text in texts.items()}


def make_lock(
    experiment: Experiment, *, versions: Mapping[str, str], hashes: Hashes, time: str
) -> Lock:
    """Fix an experiment.

    Args:
        experiment: As loaded.
        versions: Of the software that will run it.
        hashes: sha256 by name, or by group and name, of everything that is read besides.
        time: Now, ISO 8601, UTC.
    """
    fields = resolved(experiment)
    plain_hashes = json.loads(canonical(hashes))
    weighty = {key: value for key, value in fields.items() if key not in COSMETIC}
    body: dict[str, Any] = {
        "experiment": fields,
        "versions": dict(versions),
        "hashes": plain_hashes,
        "fingerprint": digest({"experiment": weighty, "hashes": plain_hashes}),
        "schema": SCHEMA,
    }
    return Lock(**body, sha256=digest(body), time=time)


def lock_bytes(lock: Lock) -> bytes:
    """Content of `experiment.lock.json`: indented, sorted, for people and for diff."""
    return (json.dumps(asdict(lock), indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def read_lock(content: bytes, name: str = "experiment.lock.json") -> Lock:
    """Read a lock and check its hash.

    Raises:
        IntegrityError: It was edited, or is no lock.
        ExperimentError: A later version of steerproof wrote it.
    """
    try:
        values = json.loads(content)
        if values["schema"] != SCHEMA:
            raise ExperimentError(
                f"{name} has schema {values['schema']}; this version reads {SCHEMA}"
            )
        lock = _typed(Lock(**values), values, name)
        body = {k: v for k, v in asdict(lock).items() if k not in ("sha256", "time")}
        actual = digest(body)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise IntegrityError(f"{name} is no lock: {error}; {_AGAIN}") from None
    if actual != lock.sha256:
        raise IntegrityError(
            f"{name} was changed: its content hashes to {actual}, it says {lock.sha256}; {_AGAIN}"
        )
    return lock


def changes(lock: Lock, now: Lock) -> tuple[Change, ...]:
    """What differs between two locks, in the order of the fields."""
    differing = list(differences(lock.experiment, now.experiment, cosmetic=COSMETIC))
    differing += differences(lock.hashes, now.hashes, under="hashes")
    versions = {key: lock.versions.get(key) for key in (lock.versions | now.versions)}
    current = {key: now.versions.get(key) for key in versions}
    differing += differences(versions, current, under="versions", cosmetic=tuple(versions))
    return tuple(differing)


def check_registered(lock: Lock, deviations: Sequence[Deviation], now: Lock) -> None:
    """Refuse an experiment that is neither the locked one nor one declared as a deviation.

    Raises:
        RegistrationError: With every field that differs and matters.
    """
    declared = {lock.fingerprint, *(deviation.fingerprint for deviation in deviations)}
    if now.fingerprint in declared:
        return
    lines = [f"  {change}" for change in changes(lock, now) if change.matters]
    raise RegistrationError(
        f"the experiment differs from the one locked at {lock.time}:\n"
        + "\n".join(lines)
        + '\nundo these changes, use another run directory, or go on with --deviate "why"'
    )


def append_deviation(content: bytes, lock: Lock, now: Lock, *, reason: str, time: str) -> bytes:
    """Content of `deviations.jsonl` with one more line.

    Args:
        content: Of the file so far; empty if there is none.
        lock: What was fixed.
        now: What will be run instead.
        reason: Why, in words.
        time: Now, ISO 8601, UTC.

    Raises:
        RegistrationError: No reason is given, or nothing that matters changed.
        IntegrityError: The chain so far is broken.
    """
    if not reason.strip():
        raise RegistrationError('a deviation needs a reason: --deviate "why"')
    earlier = read_deviations(content, lock)
    differing = changes(lock, now)
    if not any(change.matters for change in differing):
        raise RegistrationError("nothing that matters differs from the lock; no --deviate needed")
    body = {
        "reason": reason.strip(),
        "time": time,
        "changes": [asdict(change) for change in differing],
        "fingerprint": now.fingerprint,
        "previous": earlier[-1].sha256 if earlier else lock.sha256,
    }
    return content + canonical(body | {"sha256": digest(body)}) + b"\n"


def read_deviations(content: bytes, lock: Lock) -> tuple[Deviation, ...]:
    """Read `deviations.jsonl` and follow its chain from the lock.

    Raises:
        IntegrityError: A line is no deviation, was changed, or does not follow the one before.
    """
    previous, deviations = lock.sha256, []
    for number, line in enumerate(content.splitlines(), start=1):
        place = f"deviations.jsonl:{number}"
        try:
            values = json.loads(line)
            body = {key: value for key, value in values.items() if key != "sha256"}
            parts = tuple(Change(**change) for change in values["changes"])
            deviation = _typed(Deviation(**{**values, "changes": parts}), values, place)
            actual = digest(body)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise IntegrityError(f"{place} is no deviation: {error}; {_AGAIN}") from None
        if actual != deviation.sha256:
            raise IntegrityError(
                f"{place} was changed: it hashes to {actual}, it says {deviation.sha256}; {_AGAIN}"
            )
        if deviation.previous != previous:
            raise IntegrityError(
                f"{place} follows {deviation.previous}, not {previous}: a line before it is gone,"
                f" or stands elsewhere; {_AGAIN}"
            )
        previous = deviation.sha256
        deviations.append(deviation)
    return tuple(deviations)


def _typed(record: R, values: object, name: str) -> R:
    """A record whose fields are there and no others, once their types are seen to be right."""
    try:
        return from_values(type(record), values, name)
    except IntegrityError as error:
        raise IntegrityError(f"{error}; {_AGAIN}") from None
