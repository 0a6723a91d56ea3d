"""What a benchmark of the engine is asked for, and the benchmark that does it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from steerproof.errors import SteerproofError
from steerproof.model.base import Base
from steerproof.spec.experiment import Experiment
from steerproof_bench.cells import cell_work
from steerproof_bench.comparison import Comparison, Say, silent
from steerproof_bench.generation import compare as compare_generation
from steerproof_bench.jobs import job_work
from steerproof_bench.models import bench_base, bench_experiment
from steerproof_bench.training import compare as compare_training

GROWTH = (1, 10, 40, 100)
"""Numbers of adapters over which the growth of cost is timed."""

RANDOM_RATE = 1e-5
"""Highest learning rate of a model with random weights. At the rate of a trained one its loss falls
by nats in a few steps, and then two programs that round in other places are soon nats apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The sizes of a benchmark; None takes the usual one."""

    model: str | None = None
    """Directory of a checkpoint, or a shipped name; None for the organism."""
    random_config: str | None = None
    """A true size whose weights are drawn at random, in place of a checkpoint."""
    device: str = "cpu"
    run: Path | None = None
    """A finished run, for its trained adapters and its datasets."""
    adapters: int = 12
    cells: int = 24
    rows: int | None = None
    """Of a cell (100), or of an adapter's training set (600)."""
    tokens: int | None = None
    """New tokens of a row at most; in training, the length of a made-up answer. None is 64 for the
    organism, whose context is short, and 256 for any other model."""
    mean_tokens: int | None = None
    """Mean length of the answers of a random model; None for answers that never end."""
    repeats: int = 3
    """Timed rounds after the first, which is compared; with 0, the first is the one that counts."""
    peer_cells: int | None = None
    """Cells that a peer of generation does, its time multiplied; None for all."""
    growth: bool = False
    """Whether to time the numbers of adapters in `GROWTH` too."""


def bench_generation(options: Options, say: Say = silent) -> Comparison:
    """Pooled generation against its peers; `say` is told every time that is taken.

    Raises:
        SteerproofError: An option is out of range, or a peer's results are not ours.
    """
    _check(options)
    base = bench_base(options.model, options.random_config, options.device, options.mean_tokens)
    experiment = _experiment(options, base)
    settings = experiment.generation.model_copy(update={"max_new_tokens": _tokens(options)})
    work = cell_work(
        base,
        experiment.model_copy(update={"generation": settings}),
        count=options.cells,
        rows=100 if options.rows is None else options.rows,
        adapters_used=options.adapters,
        run=options.run,
    )
    return compare_generation(
        work,
        repeats=options.repeats,
        growth=_growth(options),
        peer_cells=options.peer_cells,
        say=say,
    )


def bench_training(options: Options, say: Say = silent) -> Comparison:
    """Pooled training against its peer; `say` is told every time that is taken.

    Raises:
        SteerproofError: An option is out of range, or the peer's losses are not ours.
    """
    _check(options)
    base = bench_base(options.model, options.random_config, options.device)
    experiment = _experiment(options, base)
    if options.random_config is not None:
        rate = min(experiment.training.learning_rate, RANDOM_RATE)
        training = experiment.training.model_copy(update={"learning_rate": rate})
        experiment = experiment.model_copy(update={"training": training})
    step = experiment.training.rows_per_step
    work = job_work(
        base,
        experiment,
        count=options.adapters,
        rows=600 // step * step if options.rows is None else options.rows,
        tokens=_tokens(options),
        run=options.run,
    )
    return compare_training(work, repeats=options.repeats, growth=_growth(options), say=say)


def _experiment(options: Options, base: Base) -> Experiment:
    return bench_experiment(options.model, options.random_config, len(base.blocks))


def _tokens(options: Options) -> int:
    if options.tokens is not None:
        return options.tokens
    small = options.random_config is None and options.model in (None, "organism")
    return 64 if small else 256


def _growth(options: Options) -> tuple[int, ...]:
    return GROWTH if options.growth else ()


def _check(options: Options) -> None:
    least: Mapping[str, int] = {"repeats": 0, "adapters": 1, "cells": 1, "peer_cells": 1}
    for name, low in {**least, "tokens": 2}.items():
        value = getattr(options, name)
        if value is not None and value < low:
            raise SteerproofError(f"--{name.replace('_', '-')} must be at least {low}, not {value}")
