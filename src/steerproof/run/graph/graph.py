"""The graph of units: what there is to do, in which order, and the key of each."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from steerproof.run.graph.ids import UnitId
from steerproof.run.graph.keys import Environment, UnitRecipe, check_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One node of the work graph: one directory, one commit."""

    id: UnitId
    """How people, the ledger and other units name it."""
    inputs: Mapping[str, Any]
    """The part of the resolved experiment that decides its files; plain JSON."""
    work: str
    """Dotted name of the function that does it, `package.module:function`."""
    environment: Environment
    """Code, model and numerics that it depends on."""
    upstream: tuple[UnitId, ...] = ()
    """The units that it reads."""
    group: str = ""
    """Units with the same work and group may share one call of a worker."""
    limit: int | None = None
    """Most units in one call; None for as many as are ready."""
    tolerant: bool = False
    """It runs over whichever upstream units succeeded, when all have ended."""
    apart: bool = False
    """It needs no model: it can be done beside the work of those that have one."""
    context: Mapping[str, Any] = field(default_factory=dict)
    """What the work needs and the result does not depend on: paths, device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """Units in an order in which each comes after all that it reads."""

    units: Mapping[UnitId, Unit]
    """Every unit, in that order."""
    recipes: Mapping[UnitId, UnitRecipe]
    """What each unit's key is made of."""
    keys: Mapping[UnitId, str]
    """Each unit's key."""
    dependants: Mapping[UnitId, tuple[UnitId, ...]]
    """The units that read a unit."""


def build_graph(units: Iterable[Unit]) -> Graph:
    """Give every unit its key.

    Args:
        units: Each unit after the units that it reads; this is also the order of work.

    Raises:
        ExperimentError: A kind or name cannot be a directory name.
        ValueError: Two units have one id, or a unit reads one that does not come before it.
    """
    by_id: dict[UnitId, Unit] = {}
    recipes: dict[UnitId, UnitRecipe] = {}
    keys: dict[UnitId, str] = {}
    dependants: dict[UnitId, list[UnitId]] = {}
    for unit in units:
        check_name(unit.id.kind, "unit kind")
        check_name(unit.id.name, "unit name")
        if unit.id in by_id:
            raise ValueError(f"two units are called {unit.id}")
        for read in unit.upstream:
            if read not in by_id:
                raise ValueError(f"{unit.id} reads {read}, which does not come before it")
            dependants[read].append(unit.id)
        recipe = UnitRecipe(
            unit=unit.id,
            inputs=unit.inputs,
            upstream={read: keys[read] for read in unit.upstream},
            code=unit.environment.code,
            model=unit.environment.model,
            numerics=unit.environment.numerics,
        )
        by_id[unit.id], recipes[unit.id], keys[unit.id] = unit, recipe, recipe.key()
        dependants[unit.id] = []
    return Graph(
        units=by_id,
        recipes=recipes,
        keys=keys,
        dependants={unit: tuple(readers) for unit, readers in dependants.items()},
    )
