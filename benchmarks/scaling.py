"""How the driver scales: a graph of 1,000 personas and 100,000 cells whose units do nothing.

    python benchmarks/scaling.py --personas 1000 --cells 100000 --dir DIRECTORY [--executor local]

Prints one JSON object: seconds to build the graph, to run it, per unit, and to resume it finished;
size of the ledger; largest resident memory of the driver. `docs/cluster.md` has the numbers.
"""

import argparse
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from steerproof.run.driver.executors import InlineExecutor, LocalExecutor
from steerproof.run.driver.scheduler import execute
from steerproof.run.driver.worker import Outcomes, Task
from steerproof.run.graph.graph import Graph, Unit, build_graph
from steerproof.run.graph.ids import UnitId
from steerproof.run.graph.keys import Environment
from steerproof.run.store.directory import open_run

ENVIRONMENT = Environment(
    code="0" * 64,
    model={"model.safetensors": "1" * 64, "tokenizer.json": "2" * 64},
    numerics={"torch": "2", "transformers": "5", "dtype": "bfloat16", "device": "cuda"},
)
POOL = 1000


def nothing(tasks: Sequence[Task]) -> Outcomes:
    """The work: one small file."""
    for task in tasks:
        yield task.unit, {"result.json": str(task.unit).encode()}


def unit(kind: str, name: str, upstream: Sequence[UnitId] = (), tolerant: bool = False) -> Unit:
    """A unit with inputs of the size that real ones have."""
    inputs = {"name": name, "questions": [f"question {number}" for number in range(20)]}
    return Unit(
        id=UnitId(kind, name),
        inputs=inputs,
        work="benchmarks.scaling:nothing",
        environment=ENVIRONMENT,
        upstream=tuple(upstream),
        group=kind,
        limit=POOL,
        tolerant=tolerant,
    )


def scaled_graph(personas: int, cells: int) -> Graph:
    """Directions, a dataset and an adapter per persona, its share of the cells, an analysis."""
    everywhere = unit("directions", "all")
    units = [everywhere]
    names = [f"persona-{number}" for number in range(personas)]
    units += [unit("dataset", name, [everywhere.id]) for name in names]
    units += [unit("adapter", name, [UnitId("dataset", name), everywhere.id]) for name in names]
    for number in range(cells):
        name = names[number % personas]
        reads = [UnitId("adapter", name), everywhere.id]
        units.append(unit("cell", f"{name}.{number // personas}", reads))
    last = [node.id for node in units if node.id.kind == "cell"]
    return build_graph([*units, unit("analysis", "all", last, tolerant=True)])


def measure(personas: int, cells: int, run: Path, executor: str) -> dict[str, object]:
    """Build, run and resume, timing each."""
    seconds: list[float] = []
    began = time.perf_counter()
    graph = scaled_graph(personas, cells)
    seconds.append(time.perf_counter() - began)
    for _ in range(2):
        began = time.perf_counter()
        with open_run(run, "benchmarks/scaling.py") as directory:
            hands = InlineExecutor() if executor == "inline" else LocalExecutor(run / "logs")
            summary = execute(graph, directory, hands)
        if summary.failures or summary.stopped:
            raise SystemExit(f"{summary}")
        seconds.append(time.perf_counter() - began)
    units = len(graph.units)
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} processors",
        "executor": executor,
        "units": units,
        "graph_seconds": round(seconds[0], 2),
        "run_seconds": round(seconds[1], 1),
        "milliseconds_per_unit": round(1000 * seconds[1] / units, 2),
        "resume_seconds": round(seconds[2], 1),
        "ledger_megabytes": round((run / "ledger.sqlite").stat().st_size / 1e6, 1),
        "driver_peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000,
    }


def main() -> None:
    """Read the arguments, print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--personas", type=int, default=1000)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--executor", choices=["inline", "local"], default="local")
    asked = parser.parse_args()
    numbers = measure(asked.personas, asked.cells, asked.dir, asked.executor)
    sys.stdout.write(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
