"""`verify`: hash everything again, and name what is not as it was."""

from collections.abc import Sequence
from pathlib import Path

from steerproof.errors import IntegrityError
from steerproof.run.store.ledger import LEDGER
from steerproof.run.store.ledger_file import read_ledger
from steerproof.run.store.manifest import DamagedError, Mismatch, open_unit
from steerproof.run.store.registration import DEVIATIONS, LOCK, SPEC, registration_damage
from steerproof.run.store.store import results_damage, unit_directories, unit_directory


def verify(run: Path) -> list[Mismatch]:
    """Hash every file of every unit and result again, and hold the registration to its records.

    Returns:
        Everything that is not what its manifest says, and every unit that the ledger knows as
        finished and the disk does not have.
    """
    mismatches: list[Mismatch] = []
    for directory in unit_directories(run):
        try:
            mismatches += open_unit(directory).damage()
        except DamagedError as error:
            mismatches.append(error.mismatch)
    return mismatches + _missing(run) + registration_damage(run) + results_damage(run)


def raise_mismatches(mismatches: Sequence[Mismatch], command: str) -> None:
    """Name the files that do not match.

    Raises:
        IntegrityError: There are any.
    """
    if not mismatches:
        return
    count = len(mismatches)
    lines = [f"{count} {'file does' if count == 1 else 'files do'} not match what was recorded:"]
    lines += [f"  {mismatch}" for mismatch in mismatches[:20]]
    if len(mismatches) > 20:
        lines.append(f"  and {len(mismatches) - 20} more")
    found = {mismatch.path.name for mismatch in mismatches}
    if found & {LOCK, SPEC}:
        lines.append(
            f"What was registered is not made again: restore {LOCK}, {DEVIATIONS} and {SPEC}"
        )
        lines.append("from a copy, or start a new run directory.")
    if found - {LOCK, SPEC}:
        lines.append(f"To set the damaged units aside and do them again: {command}")
    raise IntegrityError("\n".join(lines))


def _missing(run: Path) -> list[Mismatch]:
    story = read_ledger(run)
    if story is None:
        return []
    if story.problem is not None:
        return [
            Mismatch(
                path=run / LEDGER, problem="unreadable", expected="a ledger", actual=story.problem
            )
        ]
    done = [unit for unit, state in story.states.items() if state == "done"]
    places = [unit_directory(run, unit, story.keys[unit]) for unit in done]
    return [
        Mismatch(path=place, problem="missing", expected="a unit", actual="no directory")
        for place in places
        if not place.exists()
    ]
