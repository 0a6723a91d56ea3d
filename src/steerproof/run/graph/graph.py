"""The graph of units: what there is to do, in which order, and the key of each."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from steerproof.run.graph.keys import Environment, Recipe, check_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One node of the work graph: one directory, one commit.

    Attributes:
        kind: What it is: ``directions``, ``adapter``, ``cell``, ...
        name: Which one, readable; unique within its kind.
        inputs: The part of the resolved experiment that decides its files; plain JSON.
        work: Dotted name of the function that does it, ``package.module:function``.
        environment: Code, model and numerics that it depends on.
        upstream: Ids of the units that it reads.
        group: Units with the same work and group may share one call of a worker.
        limit: Most units in one call; None for as many as are ready.
        tolerant: It runs over whichever upstream units succeeded, when all have ended.
        context: What the work needs and the result does not depend on: paths, device.
    """

    kind: str
    name: str
    inputs: Mapping[str, Any]
    work: str
    environment: Environment
    upstream: tuple[str, ...] = ()
    group: str = ""
    limit: int | None = None
    tolerant: bool = False
    context: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """``kind/name``: how people, the ledger and other units name it."""
        return f"{self.kind}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """Units in an order in which each comes after all that it reads.

    Attributes:
        units: Every unit by id, in that order.
        recipes: What each unit's key is made of, by id.
        keys: Each unit's key, by id.
        dependants: Ids of the units that read a unit, by id.
    """

    units: Mapping[str, Unit]
    recipes: Mapping[str, Recipe]
    keys: Mapping[str, str]
    dependants: Mapping[str, tuple[str, ...]]


def build_graph(units: Iterable[Unit]) -> Graph:
    """Give every unit its key.

    Args:
        units: Each unit after the units that it reads; this is also the order of work.

    Raises:
        ExperimentError: A kind or name cannot be a directory name.
        ValueError: Two units have one id, or a unit reads one that does not come before it.
    """
    by_id: dict[str, Unit] = {}
    recipes: dict[str, Recipe] = {}
    keys: dict[str, str] = {}
    dependants: dict[str, list[str]] = {}
    for unit in units:
        check_name(unit.kind, "unit kind")
        check_name(unit.name, "unit name")
        if unit.id in by_id:
            raise ValueError(f"two units are called {unit.id!r}")
        for read in unit.upstream:
            if read not in by_id:
                raise ValueError(f"{unit.id!r} reads {read!r}, which does not come before it")
            dependants[read].append(unit.id)
        recipe = Recipe(
            unit=unit.id,
            inputs=unit.inputs,
            upstream={read: keys[read] for read in unit.upstream},
            environment=unit.environment,
        )
        by_id[unit.id], recipes[unit.id], keys[unit.id] = unit, recipe, recipe.key()
        dependants[unit.id] = []
    return Graph(
        units=by_id,
        recipes=recipes,
        keys=keys,
        dependants={unit: tuple(readers) for unit, readers in dependants.items()},
    )
