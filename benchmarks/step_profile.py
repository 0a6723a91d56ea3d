"""What the pooled engine spends, by operation, on the organism with one thread.

    python benchmarks/step_profile.py generation|training [--run RUNDIR] [--adapters 12]

Prints a table of torch's own profiler. `docs/performance.md` has the reading.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from steerproof.adapt.training import train
from steerproof.bench.cells import cell_work
from steerproof.bench.jobs import job_work
from steerproof.bench.models import bench_base, bench_experiment
from steerproof.collect.generation import generate


def work_of(what: str, adapters: int, run: Path | None) -> Callable[[], object]:
    """24 cells of 100 rows, or five steps of each adapter."""
    base, experiment = bench_base(None, None, "cpu"), bench_experiment(None)
    if what == "generation":
        cells = cell_work(base, experiment, count=24, rows=100, adapters_used=adapters, run=run)
        return lambda: list(generate(cells.subject, cells.all_rows, cells.settings))
    jobs = job_work(base, experiment, count=adapters, rows=100, tokens=64, run=run)
    return lambda: list(train(base, jobs.jobs, jobs.recipe, jobs.pushes))


def main() -> None:
    """Read the arguments, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["generation", "training"])
    parser.add_argument("--run", type=Path)
    parser.add_argument("--adapters", type=int, default=12)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    work = work_of(asked.what, asked.adapters, asked.run)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        work()
    table = seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=20)
    sys.stdout.write(table + "\n")


if __name__ == "__main__":
    main()
