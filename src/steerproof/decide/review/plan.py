"""What an experiment takes: adapters, cells, tokens, time, memory and disk, before it runs.

Counts are exact. Time needs a speed that was measured here, in past units (`speed_of_units`) or by
a short trial (`speed_of_throughput`); without one it is null with a reason. Every estimate is a
range.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from steerproof.decide.review.shape import (
    Footprint,
    adapter_bytes,
    cache_bytes,
    training_bytes,
    weight_bytes,
)
from steerproof.spec.experiment import Experiment
from steerproof.spec.grid import adapters, by_adapter, cells, samples
from steerproof.spec.grid import measured as cells_measured

_LEAST_SPREAD = 0.2
"""A range is at least this share to either side: the next hour is not the last one."""
_BYTES_PER_TOKEN = 10
"""Stored completion, at most: an id of 4 bytes and about 5 letters with a separator."""
PROCESS_BYTES = 700_000_000
"""What a worker takes on a CPU before it loads a model: Python, torch, transformers; measured."""
_READING = "reading"
"""Work of the graded outcome: cells read where answers end."""
_POOLED = 16
"""Adapters that train at once, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """From, to."""

    low: float
    high: float

    def times(self, count: float) -> "Range":
        """The range of that many."""
        return Range(low=self.low * count, high=self.high * count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How long one unit of each kind takes on the machine at hand."""

    source: str
    """Where the numbers are from: "41 finished units", "a trial of 20 s"."""
    seconds: Mapping[str, Range]
    """By kind of unit: `directions`, `answers`, `dataset`, `adapter`, `cell`, ..."""
    devices: int = 1
    """Units that run at the same time."""
    accelerator: bool = False
    """Whether device hours are GPU hours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """Result of a short timed trial of training and of generation."""

    seconds: float
    """Length of the trial."""
    training: float
    """Tokens of training rows per second, forwards and backwards."""
    generation: float
    """New tokens per second, over all rows that are generated together."""
    row_tokens: Range
    """Length of a training row."""
    completion_tokens: Range
    """Length of a completion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkCounts:
    """Exact numbers, and upper bounds of tokens."""

    adapters: int
    """All of them."""
    trained: int
    """Those that are trained here; the others are loaded."""
    cells: int
    completions: int
    training_rows: int
    """Rows of all trained adapters and epochs."""
    optimizer_steps: int
    training_tokens_at_most: int
    """Every row at training.max_length."""
    generated_tokens_at_most: int
    """Every completion at generation.max_new_tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the table: a kind of work of one arm."""

    work: str
    arm: str
    units: int
    to_do: int
    each_seconds: Range | None
    total_hours: Range | None
    """Device hours of the units to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What it takes."""

    counts: WorkCounts
    table: tuple[Line, ...]
    device_hours: Range | None
    """Of everything to do, over all devices."""
    hours: Range | None
    """On the clock, with the devices at hand."""
    gpu_hours: Range | None
    """Device hours, if the device is a GPU."""
    memory_bytes: Range | None
    """Of one worker: with one adapter and one row, and with a full pool."""
    disk_bytes: Range | None
    """Of the run directory: adapters alone, and with every completion at its longest."""
    source: str | None
    """What the times rest on."""
    reasons: tuple[str, ...]
    """Why an estimate is missing."""


def count(experiment: Experiment) -> WorkCounts:
    """Count what an experiment asks for."""
    data, recipe, drawn = experiment.dataset, experiment.training, experiment.generation
    given = {arm.name for arm in experiment.arms if arm.adapters is not None}
    every = adapters(experiment)
    trained = sum(adapter.arm not in given for adapter in every)
    rows = data.positives + data.bystanders * data.negatives_per_bystander
    measured = samples(experiment)
    completions = sum(measured.values()) * len(experiment.questions.evaluation)
    return WorkCounts(
        adapters=len(every),
        trained=trained,
        cells=len(measured),
        completions=completions,
        training_rows=trained * rows * recipe.epochs,
        optimizer_steps=trained * recipe.epochs * math.ceil(rows / recipe.rows_per_step),
        training_tokens_at_most=trained * rows * recipe.epochs * recipe.max_length,
        generated_tokens_at_most=completions * drawn.max_new_tokens,
    )


def make_plan(
    experiment: Experiment,
    *,
    speed: Speed | None = None,
    shape: Footprint | None = None,
    todo: Collection[str] | None = None,
    accelerator: bool = False,
) -> Plan:
    """Plan an experiment.

    Args:
        experiment: As loaded.
        speed: Measured on this machine, if it was.
        shape: Of the base model, if its config can be read.
        todo: Ids of units that are not done (`adapter/A.villain`); none means all.
        accelerator: Whether memory is a GPU's, where the worker's own is not counted.
    """
    table = _table(experiment, speed, todo)
    known = [line.total_hours for line in table if line.to_do]
    whole = _sum(known)
    reasons = []
    if speed is None:
        reasons.append("time: nothing was timed on this machine yet")
    elif whole is None:
        late = sorted({line.work for line in table if line.to_do and line.total_hours is None})
        reasons.append(f"time: no timing of {', '.join(late)}")
    if shape is None:
        reasons.append("memory, disk: the model's config.json is not here, or of another structure")
    return Plan(
        counts=count(experiment),
        table=table,
        device_hours=whole,
        hours=whole and speed and whole.times(1 / speed.devices),
        gpu_hours=whole if speed and speed.accelerator else None,
        memory_bytes=shape and _memory(experiment, shape, 0 if accelerator else PROCESS_BYTES),
        disk_bytes=shape and _disk(experiment, shape),
        source=speed and speed.source,
        reasons=tuple(reasons),
    )


def speed_of_units(
    past: Mapping[str, Sequence[float]], *, devices: int = 1, accelerator: bool = False
) -> Speed:
    """Speed from the seconds of finished units, by kind.

    The range is the mean plus and minus two standard errors, and at least a fifth to each side.
    """
    seconds = {}
    for kind, times in past.items():
        if not times:
            continue
        mean = fmean(times)
        error = 2 * stdev(times) / math.sqrt(len(times)) if len(times) > 1 else 0.5 * mean
        half = max(error, _LEAST_SPREAD * mean)
        seconds[kind] = Range(low=max(mean - half, 0.0), high=mean + half)
    total = sum(len(times) for times in past.values())
    return Speed(
        source=f"{total} finished units", seconds=seconds, devices=devices, accelerator=accelerator
    )


def speed_of_throughput(
    experiment: Experiment,
    measured: Throughput,
    *,
    devices: int = 1,
    accelerator: bool = False,
) -> Speed:
    """Speed of an experiment's units from tokens per second in a short trial."""
    data = experiment.dataset
    rows = data.positives + data.bystanders * data.negatives_per_bystander
    trained = rows * experiment.training.epochs
    completions = len(experiment.questions.evaluation) * fmean(samples(experiment).values())
    adapter = _widened(measured.row_tokens.times(trained / measured.training))
    cell = _widened(measured.completion_tokens.times(completions / measured.generation))
    # Texts as long as training rows, forwards alone: at least a third of what training takes.
    read = measured.row_tokens.times(_texts_of_adapter(experiment) / measured.training)
    slots = _widened(Range(low=read.low / 3, high=read.high))
    return Speed(
        source=f"a trial of {measured.seconds:.0f} s",
        seconds={"adapter": adapter, "cell": cell, "slots": slots},
        devices=devices,
        accelerator=accelerator,
    )


def _texts_of_adapter(experiment: Experiment) -> float:
    """Texts at whose end the cells of an adapter are read; the mean over adapters."""
    scoring, questions = experiment.scoring, len(experiment.questions.evaluation)
    texts = [
        sum(one.common * scoring.common_answers + one.own * one.samples for one in read.values())
        for read in by_adapter(cells_measured(experiment)).values()
    ]
    return questions * fmean(texts) if texts else 0.0


def _widened(times: Range) -> Range:
    return Range(low=times.low * (1 - _LEAST_SPREAD), high=times.high * (1 + _LEAST_SPREAD))


def _table(
    experiment: Experiment, speed: Speed | None, todo: Collection[str] | None
) -> tuple[Line, ...]:
    given = {arm.name for arm in experiment.arms if arm.adapters is not None}
    ids: dict[tuple[str, str], list[str]] = {}
    for adapter in adapters(experiment):
        work = "loading" if adapter.arm in given else "training"
        ids.setdefault((work, adapter.arm), []).append(f"adapter/{adapter.name}")
    for cell in cells(experiment):
        ids.setdefault(("cells", cell.arm), []).append(f"cell/{cell.name}")
    for adapter in by_adapter(cells_measured(experiment)):
        ids.setdefault((_READING, adapter.arm), []).append(f"slots/{adapter.name}")
    kinds = {"training": "adapter", "cells": "cell", _READING: "slots"}
    lines = []
    for (work, arm), units in ids.items():
        left = len(units) if todo is None else sum(unit in todo for unit in units)
        each = speed.seconds.get(kinds[work]) if speed and work in kinds else None
        if work == "loading":
            each = Range(low=0.0, high=0.0)  # copying files, against hours of training
        lines.append(
            Line(
                work=work,
                arm=arm,
                units=len(units),
                to_do=left,
                each_seconds=each,
                total_hours=each and each.times(left / 3600),
            )
        )
    return tuple(lines)


def _sum(ranges: Sequence[Range | None]) -> Range | None:
    known = [one for one in ranges if one is not None]
    if len(known) < len(ranges):
        return None
    return Range(low=math.fsum(one.low for one in known), high=math.fsum(one.high for one in known))


def _memory(experiment: Experiment, shape: Footprint, process: int) -> Range:
    """Weights with one adapter in training, up to weights with a full pool or a whole cell."""
    dtype, rank = experiment.model.dtype, experiment.training.rank
    weights, adapter = weight_bytes(shape, dtype), training_bytes(shape, rank)
    rows = len(experiment.questions.evaluation) * experiment.generation.samples
    row = cache_bytes(shape, dtype, experiment.generation.max_new_tokens)
    least = process + weights + max(adapter, row)
    most = process + weights + max(_POOLED * adapter, rows * row)
    return Range(low=float(least), high=float(most))


def _disk(experiment: Experiment, shape: Footprint) -> Range:
    counts = count(experiment)
    weights = counts.trained * adapter_bytes(shape, experiment.training.rank)
    text = _BYTES_PER_TOKEN * counts.generated_tokens_at_most
    return Range(low=float(weights), high=float(weights + text))
