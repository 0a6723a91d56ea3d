"""`explain`: why the next run reuses a unit, or does not."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerproof.errors import ExperimentError, IntegrityError
from steerproof.run.artefacts import cell
from steerproof.run.graph.graph import Graph, Unit
from steerproof.run.graph.ids import UnitId
from steerproof.run.graph.keys import UnitRecipe, directory_name
from steerproof.run.graph.names import SCORE
from steerproof.run.graph.survey import Survey, survey
from steerproof.run.stages.inputs import ScoreInputs, inputs_from
from steerproof.run.store.ledger_file import read_ledger
from steerproof.run.store.manifest import (
    DamagedError,
    Manifest,
    Mismatch,
    StoredUnit,
    open_unit,
)
from steerproof.run.store.store import unit_directory
from steerproof.spec.changes import Change, differences


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitChange:
    """One thing that decides a unit's files and is not what it was."""

    unit: UnitId
    """The unit whose recipe it is in: the one asked about, or one that it reads."""
    change: Change
    """Where in the recipe (`inputs.strength`, `code`, `model.weights`), and both values."""

    def __str__(self) -> str:
        change = self.change
        return f"{self.unit}: {change.field} was {change.old!r} and is {change.new!r}"

    def record(self) -> dict[str, Any]:
        """As `explain --json` gives it."""
        change = self.change
        return {
            "unit": str(self.unit), "field": change.field, "old": change.old, "new": change.new
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a unit is, or is not, reused."""

    unit: UnitId
    reused: bool
    """Whether the next run takes it as it is."""
    reason: str
    """One sentence."""
    changes: Sequence[UnitChange] = ()
    """What changed since it, or a unit that it reads, was last made."""
    damage: Sequence[Mismatch] = ()
    """Files that are not what their manifest says."""


def find_unit(graph: Graph, text: str) -> UnitId:
    """The unit that somebody names.

    Raises:
        ExperimentError: The experiment has no such unit; with the nearest ones.
    """
    names = {str(unit): unit for unit in graph.units}
    if text in names:
        return names[text]
    parts = [name for name in names if text and text in name][:3]
    near = parts or difflib.get_close_matches(text, names, n=3)
    if len(parts) == 1:
        return names[parts[0]]
    meant = f": did you mean {' or '.join(near)}?" if near else ""
    raise ExperimentError(f"the experiment has no unit {text!r}{meant}")


def explain(run: Path, graph: Graph, unit: UnitId) -> Explanation:
    """Say whether the next run reuses a unit, and why.

    Args:
        run: The run directory.
        graph: What the experiment asks for.
        unit: One of its units.
    """
    surveyed = survey(run, graph)
    if unit in surveyed.reused:
        made = surveyed.reused[unit].manifest.made
        reason = f"its key and files are as on {made.created}, when it was made"
        reason += _gone(graph.units[unit]) + _unseen(surveyed.reused[unit])
        return Explanation(unit=unit, reused=True, reason=reason)
    if unit in surveyed.damaged:
        reason = "a file is not what its manifest says"
        return Explanation(unit=unit, reused=False, reason=reason, damage=surveyed.damaged[unit])
    if unit in surveyed.kept:
        return Explanation(unit=unit, reused=False, reason=_why_kept(graph, surveyed, unit))
    last = _last_made(run, unit)
    if last is None:
        return Explanation(unit=unit, reused=False, reason=_never_made(run, unit))
    reason = "something that decides its files has changed since it was made"
    changes = tuple(_changes(run, graph, unit, last))
    return Explanation(unit=unit, reused=False, reason=reason, changes=changes)


def _gone(unit: Unit) -> str:
    """Which file a score was marked by is not there any more, if one is."""
    if unit.id != SCORE:
        return ""
    name = inputs_from(unit.inputs, ScoreInputs, unit.id).part.scoring.file
    if name is None or (path := Path(unit.context["directory"]) / name).is_file():
        return ""
    return f"; {path}, by which it was marked, is gone, and is needed only to mark anew"


def _unseen(stored: StoredUnit) -> str:
    """What a sound cell's record says that a reader should know: its push could not be verified."""
    if cell.FILE not in stored.manifest.files:
        return ""
    try:
        seen = cell.record_of(stored).push_seen
    except IntegrityError as error:
        return f"; but {error}"
    if seen in ("none", "verified"):
        return ""
    return f"; what its push does to the fixed text is {seen}: no more than rounding does"


def told_changes(changes: Sequence[UnitChange]) -> list[str]:
    """A line for each change, with the units that it is of; hashes are shortened."""
    units: dict[str, list[str]] = {}
    for one in changes:
        change = one.change
        what = f"{change.field} was {_short(change.old)} and is {_short(change.new)}"
        units.setdefault(what, []).append(str(one.unit))
    return [
        f"{what}: {', '.join(names[:3])}" + f" and {len(names) - 3} more" * (len(names) > 3)
        for what, names in units.items()
    ]


def _short(value: object) -> str:
    shown = repr(value)
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value):
        shown = f"{value[:12]}..."
    return "not there" if value is None else shown


def _why_kept(graph: Graph, surveyed: Survey, unit: UnitId) -> str:
    again = [str(read) for read in graph.units[unit].upstream if read not in surveyed.reused]
    what = "a unit that it reads was made again and came out different"
    if again:
        what = f"it reads {', '.join(again[:5])}, to be done first"
    return f"{what}; it is kept if what it reads comes out as it was"


def _never_made(run: Path, unit: UnitId) -> str:
    story = read_ledger(run)
    attempts = story.attempts_of(unit) if story else ()
    if not attempts:
        return "it was never made"
    last = attempts[-1]
    log = f" (log: {last.log})" if last.log else ""
    return f"it was never finished; the last attempt {last.state}: {last.error}{log}"


def _last_made(run: Path, unit: UnitId) -> Manifest | None:
    """The newest manifest of a unit of this name, whatever its key."""
    made: list[Manifest] = []
    named = directory_name(unit, "*")
    for directory in (run / "units").glob(named):
        try:
            manifest = open_unit(directory).manifest
        except DamagedError:
            continue
        if manifest.unit == unit:
            made.append(manifest)
    return max(made, key=lambda manifest: manifest.made.created, default=None)


def _changes(run: Path, graph: Graph, unit: UnitId, last: Manifest) -> list[UnitChange]:
    """What changed in a unit's recipe, and in those of the units that it reads."""
    changes: list[UnitChange] = []
    todo, seen = [(unit, last)], {unit}
    while todo:
        current, made = todo.pop()
        old, new = made.recipe, graph.recipes[current]
        changes += [
            UnitChange(unit=current, change=change)
            for change in sorted(_own_changes(old, new), key=lambda change: change.field)
        ]
        for read in sorted(old.upstream.keys() & new.upstream.keys() - seen):
            if old.upstream[read] == new.upstream[read]:
                continue
            seen.add(read)
            before = _manifest(run, read, old.upstream[read])
            if before is not None:
                todo.append((read, before))
                continue
            key = Change(
                field=f"upstream.{read}",
                old=old.upstream[read],
                new=new.upstream[read],
                matters=True,
            )
            changes.append(UnitChange(unit=current, change=key))
    return changes


def _own_changes(old: UnitRecipe, new: UnitRecipe) -> list[Change]:
    """What differs between two recipes, but for the keys of units that both read."""
    both = {str(unit) for unit in old.upstream.keys() & new.upstream.keys()}

    def own(recipe: UnitRecipe) -> dict[str, Any]:
        record = recipe.record()
        upstream = {unit: key for unit, key in record.pop("upstream").items() if unit not in both}
        return {**record, "upstream": upstream}

    return list(differences(own(old), own(new)))


def _manifest(run: Path, unit: UnitId, key: str) -> Manifest | None:
    try:
        return open_unit(unit_directory(run, unit, key)).manifest
    except DamagedError:
        return None
