r"""What the pooled engine spends, by operation: with one thread on the organism, or on a GPU.

    python benchmarks/step_profile.py generation|training [--run RUNDIR] [--adapters 12]
    python benchmarks/step_profile.py generation --random-config qwen2.5-7b --device cuda \
        --tokens 2048 --mean-tokens 300 --window 300:310

Prints a table of torch's own profiler, of the whole work or of a window of steps, and the time that
steps took unprofiled. `docs/performance.md` has the reading.
"""

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from steerproof.adapt.training import train
from steerproof.bench.cells import cell_work
from steerproof.bench.jobs import job_work
from steerproof.bench.models import bench_base, bench_experiment
from steerproof.bench.options import Options
from steerproof.collect.generation import generate

Tick = Callable[[int], None]
"""Called after every step, with the rows in flight (1 in training)."""


class Window:
    """Profiles steps `first` to `last`, and keeps when every step ended."""

    def __init__(self, asked: str | None, device: str) -> None:
        self.first, self.last = map(int, asked.split(":")) if asked else (0, sys.maxsize)
        kinds = [ProfilerActivity.CPU]
        self.cuda = device.startswith("cuda")
        self.profiler = profile(activities=[*kinds, ProfilerActivity.CUDA] if self.cuda else kinds)
        self.ends: list[tuple[float, int]] = []

    def tick(self, rows: int) -> None:
        """A step has ended."""
        self.ends.append((time.perf_counter(), rows))
        if len(self.ends) == self.first:
            self.profiler.start()
        if len(self.ends) == self.last:
            self.profiler.stop()

    def report(self) -> str:
        """The table, and the steps in sixteen parts."""
        if len(self.ends) < self.first:
            return "the work ended before the window"
        table = self.profiler.key_averages().table(
            sort_by="self_cuda_time_total" if self.cuda else "self_cpu_time_total", row_limit=25
        )
        lines = [table]
        for part in range(16):
            a, b = (i * (len(self.ends) - 1) // 16 for i in (part, part + 1))
            if b > a:
                each = 1e3 * (self.ends[b][0] - self.ends[a][0]) / (b - a)
                lines.append(f"steps {a} to {b}: {each:.2f} ms, {self.ends[a][1]} rows at first")
        return "\n".join(lines)


def work_of(what: str, options: Options) -> Callable[[Tick], object]:
    """Cells of 100 rows, or five steps of each adapter."""
    base = bench_base(options.model, options.random_config, options.device, options.mean_tokens)
    experiment = bench_experiment(options.random_config)
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
                cells.subject, cells.all_rows, cells.settings, on_progress=lambda p: tick(p.running)
            )
        )
    rows = 5 * experiment.training.rows_per_step
    jobs = job_work(
        base, experiment, count=options.adapters, rows=rows, tokens=options.tokens, run=options.run
    )
    return lambda tick: list(
        train(base, jobs.jobs, jobs.recipe, jobs.pushes, on_step=lambda *_: tick(1))
    )


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
    parser.add_argument("--window")
    asked = vars(parser.parse_args())
    what, window = asked.pop("what"), Window(asked.pop("window"), asked["device"])
    torch.set_num_threads(1)
    work = work_of(what, Options(**asked))
    if window.first == 0:
        window.profiler.start()
    with suppress(KeyboardInterrupt):  # What was seen until then is worth a table.
        work(window.tick)
    if window.first <= len(window.ends) < window.last:
        window.profiler.stop()
    sys.stdout.write(window.report() + "\n")


if __name__ == "__main__":
    main()
