"""The pool against one at a time: adapters trained alone by TRL, and cells generated alone.

    python benchmarks/one_at_a_time.py --run RUNDIR [--adapters 5] [--rows 600] [--cells 24]

Trains the same adapters twice, together here and one after another with PEFT and TRL, and
generates the same rows twice, all cells in one pool and one cell after another. Prints one JSON
object: how far apart losses and weights are (weights relative to an adapter's norm), and how many
rows differ in a token. Exit code 1 if a row does. `docs/performance.md` has the numbers.
"""

import argparse
import json
import sys
from pathlib import Path

from steerproof.engine.generate import generate
from steerproof_bench.cells import CellWork, cell_work
from steerproof_bench.jobs import job_work
from steerproof_bench.models import bench_base, bench_experiment
from steerproof_bench.training import compare_adapters


def differing_rows(work: CellWork) -> int:
    """Rows whose tokens depend on whether other cells are in the pool."""

    def drawn(names: tuple[str, ...]) -> dict[int, tuple[int, ...]]:
        rows = [row for name in names for row in work.rows[name]]
        done = generate(work.base, rows, work.settings)
        return {one.row.seed: one.token_ids for one in done}

    together = drawn(work.names)
    alone = {seed: ids for name in work.names for seed, ids in drawn((name,)).items()}
    return sum(together[seed] != ids for seed, ids in alone.items())


def main() -> None:
    """Read the arguments, print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--adapters", type=int, default=5)
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--cells", type=int, default=24)
    asked = parser.parse_args()
    base, experiment = bench_base(None, None, "cpu"), bench_experiment(None, None)
    jobs = job_work(
        base, experiment, count=asked.adapters, rows=asked.rows, tokens=64, run=asked.run
    )
    cells = cell_work(
        base, experiment, count=asked.cells, rows=100, adapters_used=12, run=asked.run
    )
    rows = differing_rows(cells)
    found = {
        "adapters": [job.key for job in jobs.jobs],
        "steps": jobs.steps,
        **compare_adapters(jobs),
        "cells": len(cells.names),
        "rows": len(cells.all_rows),
        "rows_that_differ": rows,
    }
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    sys.exit(1 if rows else 0)


if __name__ == "__main__":
    main()
