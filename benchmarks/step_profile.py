r"""What the pooled engine spends, by operation: with one thread on the organism, or on a GPU.

    python benchmarks/step_profile.py generation|training [--run RUNDIR] [--adapters 12]
    python benchmarks/step_profile.py generation --random-config qwen2.5-7b --device cuda \
        --tokens 2048 --mean-tokens 300 --window 300:310 --window 1500:1510

Prints a table of torch's own profiler, of the whole work or of windows of steps, and the time that
steps took unprofiled. `docs/performance.md` has the reading.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from steerproof.engine.generate import generate
from steerproof.engine.train import train
from steerproof_bench.cells import cell_work
from steerproof_bench.jobs import job_work
from steerproof_bench.models import bench_base, bench_experiment
from steerproof_bench.options import Options

Tick = Callable[[int], None]
"""Called after every step, with the rows in flight (1 in training)."""


class Window:
    """Profiles the steps from `first` until `last`."""

    def __init__(self, first: int, last: int, *, cuda: bool) -> None:
        self.first, self.last = first, last
        kinds = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
        self.profiler = profile(activities=kinds if cuda else kinds[:1])
        self.order = "self_cuda_time_total" if cuda else "self_cpu_time_total"

    def at(self, step: int) -> None:
        """So many steps have ended."""
        if step == self.first:
            self.profiler.start()
        elif step == self.last:
            self.profiler.stop()

    def table(self, steps: int) -> str:
        """What was spent, by operation, after so many steps in all."""
        if steps < self.first:
            return f"the work ended before step {self.first}"
        if steps < self.last:
            self.profiler.stop()
        found = self.profiler.key_averages().table(sort_by=self.order, row_limit=25)
        return f"steps {self.first} to {min(self.last, steps)}:\n{found}"


class Watch:
    """Keeps when every step ended, and profiles some windows of them."""

    def __init__(self, asked: Sequence[str], device: str) -> None:
        ranges = [tuple(map(int, one.split(":"))) for one in asked] or [(0, sys.maxsize)]
        cuda = device.startswith("cuda")
        self.windows = [Window(first, last, cuda=cuda) for first, last in ranges]
        self.ends: list[tuple[float, int]] = []

    def tick(self, rows: int) -> None:
        """A step has ended."""
        self.ends.append((time.perf_counter(), rows))
        self.turn()

    def turn(self) -> None:
        """Start and stop the windows."""
        for window in self.windows:
            window.at(len(self.ends))

    def report(self) -> str:
        """The tables, and the steps in sixteen parts."""
        lines = [window.table(len(self.ends)) for window in self.windows]
        for part in range(16):
            a, b = (i * (len(self.ends) - 1) // 16 for i in (part, part + 1))
            if b > a:
                each = 1e3 * (self.ends[b][0] - self.ends[a][0]) / (b - a)
                lines.append(f"steps {a} to {b}: {each:.2f} ms, {self.ends[a][1]} rows at first")
        return "\n".join(lines)


def work_of(what: str, options: Options) -> Callable[[Tick], object]:
    """Cells of 100 rows, or five steps of each adapter."""
    base = bench_base(options.model, options.random_config, options.device, options.mean_tokens)
    experiment = bench_experiment(options.model, options.random_config, len(base.blocks))
    if what == "generation":
        settings = experiment.generation.model_copy(update={"max_new_tokens": options.tokens})
        cells = cell_work(
            base,
            experiment.model_copy(update={"generation": settings}),
            count=options.cells,
            rows=100,
            adapters_used=options.adapters,
            run=options.run,
        )
        return lambda tick: list(
            generate(
                cells.base, cells.all_rows, cells.settings, on_progress=lambda p: tick(p.running)
            )
        )
    rows = 5 * experiment.training.rows_per_step
    jobs = job_work(
        base, experiment, count=options.adapters, rows=rows, tokens=options.tokens, run=options.run
    )
    return lambda tick: list(train(base, jobs.jobs, jobs.recipe, on_step=lambda *_: tick(1)))


def main() -> None:
    """Read the arguments, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["generation", "training"])
    parser.add_argument("--run", type=Path)
    parser.add_argument("--random-config")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--adapters", type=int, default=12)
    parser.add_argument("--cells", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--mean-tokens", type=int)
    parser.add_argument("--window", action="append", default=[], metavar="FIRST:LAST")
    asked = vars(parser.parse_args())
    what, watch = asked.pop("what"), Watch(asked.pop("window"), asked["device"])
    torch.set_num_threads(1)
    work = work_of(what, Options(**asked))
    watch.turn()
    with suppress(KeyboardInterrupt):  # What was seen until then is worth a table.
        work(watch.tick)
    sys.stdout.write(watch.report() + "\n")


if __name__ == "__main__":
    main()
