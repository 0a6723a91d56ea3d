"""What Plan said: the work, what it takes, and the objections."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Annotated

from pydantic import Field

from steerproof.board import jobs, runs
from steerproof.board.context import Board
from steerproof.board.entries import Entry
from steerproof.board.jobs import BoardJob
from steerproof.codec import from_values
from steerproof.errors import IntegrityError
from steerproof.text import byte_unit, span

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_COUNTED = {"trained": "adapters", "cells": "cells", "completions": "completions"}
_BRIEF = (*_COUNTED, "time", "GPU hours", "memory", "disk")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownObjection:
    """One reason why the experiment may not show what it claims."""

    severity: str
    finding: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Between:
    low: Amount
    high: Amount

    def words(self, scale: float, unit: str) -> str:
        """`3 min to 5 min`, `0.02 to 0.04 GB`."""
        ends = (self.low * scale, self.high * scale)
        low, high = (f"{end:.2g}" if unit else span(end) for end in ends)
        return f"{low}{unit}" if low == high else f"{low} to {high}{unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    """What a page shows of `plan --json`."""

    counts: Mapping[str, int] = field(default_factory=dict)
    hours: _Between | None = None
    gpu_hours: _Between | None = None
    memory_bytes: _Between | None = None
    disk_bytes: _Between | None = None
    device_hours: _Between | None = None
    objections: tuple[ShownObjection, ...] = ()
    not_yet_known: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()

    def facts(self) -> Iterator[tuple[str, str]]:
        """Name and number, in words."""
        yield from ((name.replace("_", " "), f"{n:,}") for name, n in self.counts.items())
        for name, known, scale, unit in (
            ("time", self.hours, 3600.0, ""),
            ("GPU hours", self.gpu_hours, 1.0, " h"),
            ("memory", self.memory_bytes, *_unit(self.memory_bytes)),
            ("disk", self.disk_bytes, *_unit(self.disk_bytes)),
        ):
            if known is not None:
                yield name, known.words(scale, unit)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownPlan:
    """A plan as a page shows it."""

    facts: Sequence[tuple[str, str]]
    """Name and number, in words."""
    objections: Sequence[ShownObjection]
    unknown: Sequence[str]
    """What cannot be said before something is measured."""
    hours: float | None = None
    """Device hours at most, as planned."""
    who: str = ""
    """Who asked for it; empty where only the run's own objections are known."""
    at: str = ""
    """When it was asked for, ISO 8601."""

    @property
    def brief(self) -> str:
        """Its answer in a line: `24 cells · time 5 min to 8 min · disk 0.02 GB`."""
        return " · ".join(_spoken(name, value) for name, value in self.facts if name in _BRIEF)

    @property
    def cap(self) -> str:
        """A cap on device time with room above the plan, to start from: `1.6`.

        A plan's hours leave out what is the same for a small run and a large one: starting the
        workers, loading the model, directions, scoring.
        """
        return "1" if self.hours is None else f"{0.1 + self.hours * 1.5:.2g}"

    @property
    def raised(self) -> str:
        """`3 objections, 1 serious`."""
        count = len(self.objections)
        serious = sum(one.severity == "serious" for one in self.objections)
        if not count:
            return "no objections"
        more = f", {serious} serious" if serious else ""
        return f"{count} objection{'' if count == 1 else 's'}{more}"


def plan_of(board: Board, entry: Entry) -> ShownPlan | None:
    """The newest successful plan; objections of a finished run replace the plan's own."""
    newest = next(iter(plans_of(board, entry)), None)
    judged = entry.directory and runs.read_json(entry.directory / "results" / "objections.json")
    with suppress(IntegrityError):
        raised = from_values(tuple[ShownObjection, ...], judged, "objections.json")
        bare = ShownPlan(facts=(), objections=(), unknown=())
        return replace(newest or bare, objections=raised)
    return newest


def plans_of(board: Board, entry: Entry) -> tuple[ShownPlan, ...]:
    """Every plan that was made for an entry, newest first: what `plan --json` wrote is kept."""
    asked = [j for j in jobs.jobs(board.file, entry.number) if j.kind == "plan" and not j.alive]
    return tuple(plan for plan in (_plan(board, job) for job in reversed(asked)) if plan)


def _plan(board: Board, job: BoardJob) -> ShownPlan | None:
    """The plan of a job that ended well, whether or not a board saw it end."""
    given = None if job.code else runs.read_json(board.logs / f"{job.id}.out")
    try:
        said = from_values(_Said, given, "what plan said")
    except IntegrityError:
        return None
    return ShownPlan(
        facts=tuple(said.facts()),
        objections=said.objections,
        unknown=(*said.not_yet_known, *said.reasons),
        hours=said.device_hours and said.device_hours.high,
        who=job.who,
        at=job.at,
    )


def _spoken(name: str, value: str) -> str:
    return f"{value} {_COUNTED[name]}" if name in _COUNTED else f"{name} {value}"


def _unit(known: _Between | None) -> tuple[float, str]:
    return byte_unit(known and known.high)
