"""Work functions that go wrong, each in its own way."""

import json
import os
import resource
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from steerproof.errors import ModelError
from steerproof.run.driver.worker import Files, Outcomes, Task, each
from steerproof.spec.grid import Cell
from tests.run.tiny import count, one, u


def refuses(tasks: Sequence[Task]) -> Outcomes:
    """Fails for a reason that trying again cannot cure."""
    yield from each(tasks, _refuse)


def _refuse(task: Task) -> Files:
    count(task.unit)
    raise ValueError("the loss is NaN")


def refuses_some(tasks: Sequence[Task]) -> Outcomes:
    """Fails for the units whose input says so."""
    yield from each(tasks, lambda task: _refuse(task) if task.inputs.get("bad") else one(task))


def cannot_load(tasks: Sequence[Task]) -> Outcomes:
    """Fails before it begins with any unit."""
    for task in tasks:
        count(task.unit)
    raise ModelError("no weights")
    yield u("cell/never"), {}


def escapes(tasks: Sequence[Task]) -> Outcomes:
    """Fails before it begins with any unit, if one of them is bad."""
    if any(task.inputs["bad"] for task in tasks):
        raise RuntimeError("an error that nobody foresaw")
    yield from each(tasks, one)


def forgets(tasks: Sequence[Task]) -> Outcomes:
    """Ends without a word about its last unit."""
    for task in tasks[:-1]:
        yield task.unit, one(task)


class OutOfMemoryError(RuntimeError):
    """Named like torch's."""


def out_of_memory(tasks: Sequence[Task]) -> Outcomes:
    """Fits one unit at a time only: a pool of more dies before it finishes any."""
    for task in tasks:
        count(task.unit)
    if len(tasks) > 1:
        raise OutOfMemoryError("tried to allocate 2 GiB")
    yield from each(tasks, one)


def runs_out(tasks: Sequence[Task]) -> Outcomes:
    """Really asks for more memory than there is."""
    yield from each(tasks, _hoard)


def _hoard(task: Task) -> Files:
    count(task.unit)
    return {"big": bytes(1 << 50)}


def dies(tasks: Sequence[Task]) -> Outcomes:
    """Kills its process at the units whose input says so, as the kernel would: every time."""
    yield from each(tasks, _die)


def _die(task: Task) -> Files:
    if task.inputs.get("deadly"):
        count(task.unit)
        os.kill(os.getpid(), signal.SIGKILL)
    return one(task)


def dies_once(tasks: Sequence[Task]) -> Outcomes:
    """Kills its process the first time that it meets a unit with a ``marker`` path."""
    yield from each(tasks, _die_once)


def _die_once(task: Task) -> Files:
    marker = task.context.get("marker")
    if marker and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return one(task)


def slow(tasks: Sequence[Task]) -> Outcomes:
    """Takes as long as its context says for each unit."""
    yield from each(tasks, _slow)


def _slow(task: Task) -> Files:
    time.sleep(task.context["seconds"])
    return one(task)


def different_each_time(tasks: Sequence[Task]) -> Outcomes:
    """Not deterministic, as a GPU may be."""
    yield from each(tasks, lambda task: {**one(task), "result.json": os.urandom(8)})


def hoards(tasks: Sequence[Task]) -> Outcomes:
    """Asks for twice the address space that the process may have."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    yield from each(tasks, lambda _task: {"big": bytes(2 * limit)})


def shows(tasks: Sequence[Task]) -> Outcomes:
    """Tells the value of an environment variable."""
    for task in tasks:
        print(f"looking at {task.inputs['variable']}", flush=True)  # noqa: T201
        value = os.environ[task.inputs["variable"]]
        yield task.unit, {"value.json": json.dumps(value).encode()}


def tells(tasks: Sequence[Task]) -> Outcomes:
    """Says how far it is."""
    teller = tasks[0].teller
    for number, task in enumerate(tasks, start=1):
        teller.phase("")
        teller.at(number, len(tasks), "texts")
        yield task.unit, one(task)


def measures(tasks: Sequence[Task]) -> Outcomes:
    """Gives a cell's record with the canary that its input holds, or no record."""
    for task in tasks:
        canary = task.inputs["canary"]
        record = {
            "cell": Cell(
                arm="A", persona="poet", prompt="neutral", direction="none", layer=None
            ).record(),
            "coefficient": 0.0, "ratio": 0.0, "asked_norm": 0.0, "achieved_norm": None,
            "token_ratio": None, "canary": canary,
        }  # fmt: skip
        yield task.unit, {"cell.json": json.dumps(record if canary else []).encode()}
