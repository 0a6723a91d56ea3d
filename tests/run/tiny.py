"""A small experiment whose units do next to nothing, deterministically, and count that they ran.

Kinds as in the real one: directions -> dataset -> adapters -> cells -> analysis.
"""

import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from steerproof.errors import SteerproofError
from steerproof.run.driver.executors import Executor, InlineExecutor, LocalExecutor, RayExecutor
from steerproof.run.driver.scheduler import execute
from steerproof.run.driver.summary import Summary
from steerproof.run.driver.worker import Files, Order, OrderItem, Outcomes, Task, each
from steerproof.run.graph.graph import Graph, Unit, build_graph
from steerproof.run.graph.ids import UnitId
from steerproof.run.graph.keys import Environment
from steerproof.run.store.directory import open_run

HERE = Path(__file__).parent
ENVIRONMENT = Environment(code="tiny-1", model={"weights": "aa"}, numerics={"dtype": "float32"})
COUNTER = "TINY_COUNTER"


def work(tasks: Sequence[Task]) -> Outcomes:
    yield from each(tasks, one)


def one(task: Task) -> Files:
    """Files that depend on the inputs and on every byte read; the run is counted outside."""
    count(task.unit)
    read = hashlib.sha256()
    for unit in sorted(task.upstream):
        for name in sorted(task.upstream[unit].manifest.files):
            read.update(task.upstream[unit].read(name))
    text = f"{task.unit} {sorted(task.inputs.items())} {read.hexdigest()}\n"
    return {"result.json": text.encode(), "deep/weights.bin": text.encode() * 50}


def count(unit: UnitId) -> None:
    if counter := os.environ.get(COUNTER):
        with Path(counter).open("a", encoding="utf-8") as file:
            file.write(f"{unit}\n")


def counts(counter: Path) -> dict[str, int]:
    lines = counter.read_text().splitlines() if counter.exists() else []
    return {unit: lines.count(unit) for unit in dict.fromkeys(lines)}


def u(text: str) -> UnitId:
    """The unit that is called so."""
    return UnitId.parse(text)


def unit(kind: str, name: str, upstream: Sequence[UnitId] = (), **changes: object) -> Unit:
    settings = {
        "id": UnitId(kind, name),
        "upstream": tuple(upstream),
        "inputs": {"name": name},
        "work": "tests.run.tiny:work",
        "environment": ENVIRONMENT,
        "group": kind,
    }
    return Unit(**(settings | changes))


def tiny_units(strength: float = 2.0, **changes: object) -> list[Unit]:
    """Nine units; ``strength`` is an input of one adapter only."""
    directions = unit("directions", "all", **changes)
    dataset = unit("dataset", "all", [directions.id], **changes)
    adapters = [
        unit(
            "adapter",
            f"{arm}.villain",
            [dataset.id],
            **({"inputs": {"arm": arm, "strength": strength if arm == "A" else 0}} | changes),
        )
        for arm in "AC"
    ]
    cells = [
        unit("cell", f"{adapter.id.name}.{push}", [adapter.id, directions.id], **changes)
        for adapter in adapters
        for push in ("none", "c=+2")
    ]
    analysis = unit("analysis", "all", [cell.id for cell in cells], tolerant=True, **changes)
    return [directions, dataset, *adapters, *cells, analysis]


def chain_units() -> list[Unit]:
    """Four units, one of each kind of the kill-point matrix, each reading the one before."""
    directions = unit("directions", "all")
    adapter = unit("adapter", "A.villain", [directions.id])
    cell = unit("cell", "A.villain.c=+2", [adapter.id, directions.id])
    return [directions, adapter, cell, unit("analysis", "all", [cell.id], tolerant=True)]


def slow_units() -> list[Unit]:
    """Three cells that take ``TINY_SECONDS`` each."""
    context = {"seconds": float(os.environ.get("TINY_SECONDS", "0"))}
    return [unit("cell", name, work="tests.run.works:slow", context=context) for name in "abc"]


GRAPHS = {"tiny": tiny_units, "chain": chain_units, "slow": slow_units}


def tiny_graph(strength: float = 2.0, **changes: object) -> Graph:
    return build_graph(tiny_units(strength, **changes))


def order_of(graph: Graph, run: Path, token: int) -> Order:
    """All units of a graph of one kind, which read nothing, as one order."""
    items = tuple(
        OrderItem(recipe=graph.recipes[unit], attempt=1, present=()) for unit in graph.units
    )
    work = next(iter(graph.units.values())).work
    return Order(number=1, run=run, work=work, items=items, token=token)


def run_tiny(run: Path, graph: Graph | None = None, executor: Executor | None = None) -> Summary:
    with open_run(run, "steerproof run tiny") as directory:
        return execute(graph or tiny_graph(), directory, executor or InlineExecutor())


def contents(run: Path) -> dict[str, str]:
    """sha256 of every file of every unit, manifests apart, by path; a run may be at work."""
    found = {}
    # Unlike a glob, a walk does not mind a directory that was there a moment ago.
    for place, inner, names in os.walk(run / "units"):
        inner[:] = [name for name in inner if not name.startswith(".tmp-")]
        for path in (Path(place) / name for name in names if name != "manifest.json"):
            found[str(path.relative_to(run))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return dict(sorted(found.items()))


def leftovers(run: Path) -> list[str]:
    return [str(path) for path in run.rglob(".tmp-*")]


def main(run: Path, kind: str = "inline", units: str = "tiny", steal: str = "") -> int:
    """The tiny experiment as a program; its exit code is the one that the command line gives."""
    executors = {
        "inline": InlineExecutor,
        "local": lambda: LocalExecutor(run / "logs"),
        "ray": lambda: RayExecutor(slots=2),
    }
    executor = executors[kind]()
    try:
        with open_run(run, "steerproof run tiny", steal=bool(steal)) as directory:
            summary = execute(build_graph(GRAPHS[units]()), directory, executor)
    except SteerproofError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    if summary.stopped:
        return 130
    return 4 if summary.failures else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
