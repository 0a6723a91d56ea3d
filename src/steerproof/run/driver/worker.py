"""What a worker does with an order: call the work, prepare each unit as it is finished, say so.

A work function takes tasks and yields, for each, its files, what makes them, or the error that it
failed with::

    def train(tasks: Sequence[Task]) -> Iterator[tuple[str, Files | Exception]]:
        base = base_of(tasks[0])
        yield from each(tasks, partial(train_one, base))

An error that escapes from it is the whole order's: nothing that was not yielded is finished.
"""

import importlib
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

from steerproof.codec import plain, read_record
from steerproof.errors import DiskFullError
from steerproof.run.driver.spent import Spent
from steerproof.run.graph.ids import UnitId
from steerproof.run.graph.keys import UnitRecipe
from steerproof.run.store.doing import SILENT, Teller, doing_place
from steerproof.run.store.holder import host_name
from steerproof.run.store.manifest import DamagedError, Made, StoredUnit, open_unit
from steerproof.run.store.store import prepare, unit_directory

Files = Mapping[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One unit, as the function that does it sees it."""

    unit: UnitId
    key: str
    inputs: Mapping[str, Any]
    """The part of the resolved experiment that it depends on."""
    upstream: Mapping[UnitId, StoredUnit]
    """The finished units that it reads; reads are verified."""
    context: Mapping[str, Any] = field(default_factory=dict)
    """What the work needs and the result does not depend on: paths, device."""
    teller: Teller = SILENT
    """Is told where the whole order stands; all tasks of an order have the same."""
    spent: Spent = field(default_factory=Spent)
    """Is told what a unit took by itself; all tasks of an order have the same."""


Outcome = Files | Callable[[], Files] | Exception
"""A unit's files, what makes them while the work goes on, or the error that it failed with."""
Outcomes = Iterator[tuple[UnitId, Outcome]]
"""What a work function yields: each unit as it ends."""
Work = Callable[[Sequence[Task]], Outcomes]
_LONGEST_TOLD = 20_000
"""Characters of an error, or of its traceback, that are kept: its beginning and its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderItem:
    """One unit of an order: its recipe, its attempt, and which upstream units are there."""

    recipe: UnitRecipe
    attempt: int
    present: tuple[UnitId, ...]
    context: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the driver asks of a worker: some units that one call of a work function does."""

    number: int
    """The order's number, unique in this call of the driver."""
    run: Path
    """The run directory."""
    work: str
    """Dotted name of the work function, `package.module:function`."""
    items: tuple[OrderItem, ...]
    """The units, in the order in which they are to be done."""
    token: int
    """Fencing token of the driver."""
    apart: bool = False
    """It needs no model, and is for a worker that has none."""

    @property
    def told(self) -> Path:
        """Where it is said what the worker is at."""
        return doing_place(self.run, self.token, self.number)

    def to_json(self) -> str:
        """One line of JSON; no pickle crosses a process boundary."""
        return json.dumps(plain(self))


def order_from_json(text: str) -> Order:
    """Read what `Order.to_json` wrote."""
    return read_record(Order, text.encode(), "an order")


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a unit, or a whole order, did not come out."""

    error: str
    """Class and message, one line or more, for the user."""
    trace: str = ""
    """The traceback, for the log."""
    passing: bool = False
    """Whether trying again may help: lost worker, out of memory."""
    disk_full: bool = False
    """Whether the disk is full, which ends the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkReport:
    """What a worker says about an order."""

    order: int
    """The order's number."""
    unit: UnitId | None
    """The unit it speaks of; None when the order has ended."""
    prepared: Path | None = None
    """Where the unit lies, ready to be committed; None if it failed."""
    failure: Failure | None = None
    """Why the unit, or the order, failed; None if it did not."""
    pid: int = 0
    """The worker's process."""

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(plain(self))


def report_from_json(text: str) -> WorkReport:
    """Read what `WorkReport.to_json` wrote."""
    return read_record(WorkReport, text.encode(), "a report")


def each(tasks: Sequence[Task], do: Callable[[Task], Files]) -> Outcomes:
    """Do tasks one after another; one that raises fails alone, the others go on."""
    for task in tasks:
        began = time.monotonic()
        try:
            outcome = do(task)
        except Exception as error:  # noqa: BLE001  whatever it is, it is this unit's
            outcome = error
        task.spent.alone(time.monotonic() - began)
        yield task.unit, outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A unit, or a whole order, that has ended and is still to be written and reported."""

    write: Callable[[], WorkReport]
    """Prepares the unit on the disk, on whichever thread, and gives the report. Its error is the
    report's."""
    waited_for: bool
    """Whether nothing may be begun before that is done: the unit was done by itself."""


def perform(order: Order) -> Iterator[WorkReport]:
    """Do an order, preparing each unit on the disk as soon as it is finished.

    Yields:
        A report for each unit as it ends, then one without a unit for the order.
    """
    for ended in ends(order):
        yield ended.write()


def ends(order: Order) -> Iterator[Ended]:
    """Do an order, and give each unit as it is finished to be written, in this order.

    Work on the other units goes on when the next one is asked for, written or not. The time of
    a unit is that of the work alone; whoever waits until it is written does so on no unit's time.

    Yields:
        Each unit as it ends, then the order.
    """
    left = {item.recipe.unit: item for item in order.items}
    failure: Failure | None = None
    teller = Teller(order.told, order.items[0].recipe.unit.kind, len(order.items))
    try:
        teller.phase("starting")
        work = _work(order.work)
        spent = Spent()
        # Once: a thousand cells read the same directions.
        opened = cache(lambda unit, key: open_unit(unit_directory(order.run, unit, key)))
        tasks = {item.recipe.unit: _task(item, opened, teller, spent) for item in order.items}
        spent.go_on()
        for unit, outcome in work(list(tasks.values())):
            alone = spent.alone_next
            made = _made(left[unit].attempt, spent.on_next(len(left), teller.in_hand))
            write = partial(_written, order, left.pop(unit), tasks[unit], outcome, made)
            teller.unit_ended()
            yield Ended(write=write, waited_for=alone)
            spent.go_on()
        if left:
            raise RuntimeError(f"{order.work} said nothing about {', '.join(map(str, left))}")
    except Exception as error:  # noqa: BLE001  the driver decides what an error means
        failure = failure_of(error)
    finally:
        teller.end()
    report = WorkReport(order=order.number, unit=None, failure=failure, pid=os.getpid())
    yield Ended(write=lambda: report, waited_for=True)


def failure_of(error: Exception) -> Failure:
    """What the driver must know about an error, on whichever machine it happened."""
    # torch's own out-of-memory error is known by its name: this module does not import torch.
    out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    damaged = isinstance(error, DamagedError)
    trace = "".join(traceback.format_exception(error))
    return Failure(
        error=_sayable(f"{type(error).__name__}: {error}"),
        trace=_sayable(trace),
        passing=out_of_memory or damaged,
        disk_full=isinstance(error, DiskFullError),
    )


def _sayable(text: str) -> str:
    """What can be written down of a text that somebody else's code or file name may have made."""
    told = text.encode(errors="backslashreplace").decode()
    half = _LONGEST_TOLD // 2
    return told if len(told) <= _LONGEST_TOLD else f"{told[:half]} ... {told[-half:]}"


def _work(name: str) -> Work:
    module, _, function = name.partition(":")
    return vars(importlib.import_module(module))[function]


def _task(
    item: OrderItem, opened: Callable[[UnitId, str], StoredUnit], teller: Teller, spent: Spent
) -> Task:
    recipe = item.recipe
    return Task(
        unit=recipe.unit,
        key=recipe.key(),
        inputs=recipe.inputs,
        upstream={unit: opened(unit, recipe.upstream[unit]) for unit in item.present},
        context=item.context,
        teller=teller,
        spent=spent,
    )


def _written(order: Order, item: OrderItem, task: Task, outcome: Outcome, made: Made) -> WorkReport:
    """Write a unit's files; an error, such as a full disk, is this unit's failure."""
    report = WorkReport(order=order.number, unit=task.unit, pid=os.getpid())
    read = {unit: stored.manifest.content for unit, stored in task.upstream.items()}
    try:
        if isinstance(outcome, Exception):
            return replace(report, failure=failure_of(outcome))
        files = outcome if isinstance(outcome, Mapping) else outcome()
        return replace(report, prepared=prepare(order.run, item.recipe, files, read, made))
    except Exception as error:  # noqa: BLE001
        return replace(report, failure=failure_of(error))


def _made(attempt: int, seconds: float) -> Made:
    """How a unit came to be that has just been finished."""
    return Made(
        created=datetime.now(UTC).isoformat(),
        host=host_name().partition(" ")[0],
        attempt=attempt,
        seconds=round(seconds, 6),
        peak_memory=_peak_memory(),
    )


def _peak_memory() -> int:
    """Largest resident memory of this process so far, bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
