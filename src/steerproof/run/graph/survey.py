"""Which units of a graph exist, whole and made from what is there now. Reads, changes nothing."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from steerproof.run.graph.graph import Graph, Unit
from steerproof.run.graph.ids import UnitId
from steerproof.run.store.ledger_file import read_ledger
from steerproof.run.store.manifest import DamagedError, Mismatch, StoredUnit, open_unit
from steerproof.run.store.store import unit_directory


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What a run directory holds of a graph."""

    reused: Mapping[UnitId, StoredUnit]
    """Units that need not be done again, by id."""
    kept: Mapping[UnitId, StoredUnit]
    """Sound units whose upstream is to be done: reused if that comes out the same."""
    standing: Mapping[UnitId, StoredUnit]
    """What can be reported as it is: the reused units, and the kept ones that are tolerant of the
    units that are not there."""
    damaged: Mapping[UnitId, Sequence[Mismatch]]
    """Units that are not what their manifest says, with each mismatch, by id."""
    todo: tuple[UnitId, ...]
    """Ids of all units that are not reused, in order of work."""


def survey(run: Path, graph: Graph) -> Survey:
    """Hash every unit of the graph that a run directory holds.

    Args:
        run: The run directory; it need not exist.
        graph: What the experiment asks for.
    """
    reused: dict[UnitId, StoredUnit] = {}
    kept: dict[UnitId, StoredUnit] = {}
    damaged: dict[UnitId, Sequence[Mismatch]] = {}
    for unit in graph.units.values():
        directory = unit_directory(run, unit.id, graph.keys[unit.id])
        if not directory.exists():
            continue
        try:
            stored = open_unit(directory)
        except DamagedError as error:
            damaged[unit.id] = (error.mismatch,)
            continue
        if mismatches := stored.damage():
            damaged[unit.id] = mismatches
        elif all(read in reused for read in unit.upstream) and made_from(stored, unit, reused):
            reused[unit.id] = stored
        else:
            kept[unit.id] = stored
    return Survey(
        reused=reused,
        kept=kept,
        standing=_standing(graph, {**reused, **kept}),
        damaged=damaged,
        todo=tuple(unit for unit in graph.units if unit not in reused),
    )


def recorded(run: Path, *only: UnitId) -> dict[UnitId, StoredUnit]:
    """The finished units that the ledger names and that are whole, by id.

    They are found under the keys they were made with, so a report can be rebuilt by a later version
    of the program, whose own keys would differ.

    Args:
        run: The run directory.
        only: The units to look at; none for all.
    """
    story = read_ledger(run)
    if story is None:
        return {}
    whole: dict[UnitId, StoredUnit] = {}
    done = (unit for unit, state in story.states.items() if state == "done")
    for unit in (unit for unit in done if not only or unit in only):
        with suppress(DamagedError):
            stored = open_unit(unit_directory(run, unit, story.keys[unit]))
            if not stored.damage():
                whole[unit] = stored
    return whole


def _standing(graph: Graph, sound: Mapping[UnitId, StoredUnit]) -> dict[UnitId, StoredUnit]:
    standing: dict[UnitId, StoredUnit] = {}
    for unit in (unit for unit in graph.units.values() if unit.id in sound):
        whole = unit.tolerant or all(read in standing for read in unit.upstream)
        if whole and made_from(sound[unit.id], unit, standing):
            standing[unit.id] = sound[unit.id]
    return standing


def made_from(stored: StoredUnit, unit: Unit, finished: Mapping[UnitId, StoredUnit]) -> bool:
    """Whether a stored unit read exactly what its upstream units hold now.

    Args:
        stored: What is on the disk.
        unit: The same unit in the graph.
        finished: The finished units by id; a tolerant unit reads only those that are there.
    """
    now = {read: finished[read].manifest.content for read in unit.upstream if read in finished}
    return dict(stored.manifest.read) == now
