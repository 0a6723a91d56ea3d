"""What Plan said: the work, what it takes, and the objections."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from steerproof.board import jobs, runs
from steerproof.board.context import Board
from steerproof.board.entries import Entry
from steerproof.board.jobs import BoardJob
from steerproof.text import byte_unit, span

_PLAIN = (str, int, float)
_COUNTED = {"trained": "adapters", "cells": "cells", "completions": "completions"}
_BRIEF = (*_COUNTED, "time", "GPU hours", "memory", "disk")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownObjection:
    """One reason why the experiment may not show what it claims."""

    severity: str
    finding: str
    remedy: str


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
    if not isinstance(judged, list):
        return newest
    objections = [_objection(one) for one in judged if isinstance(one, dict)]
    return replace(newest or ShownPlan(facts=(), objections=(), unknown=()), objections=objections)


def plans_of(board: Board, entry: Entry) -> tuple[ShownPlan, ...]:
    """Every plan that was made for an entry, newest first: what `plan --json` wrote is kept."""
    asked = [j for j in jobs.jobs(board.file, entry.number) if j.kind == "plan" and not j.alive]
    return tuple(plan for plan in (_plan(board, job) for job in reversed(asked)) if plan)


def _plan(board: Board, job: BoardJob) -> ShownPlan | None:
    """The plan of a job that ended well, whether or not a board saw it end."""
    said = None if job.code else runs.read_json(board.logs / f"{job.id}.out")
    if not isinstance(said, dict):
        return None
    return ShownPlan(
        facts=_facts(said),
        objections=[
            _objection(one) for one in _items(said.get("objections")) if isinstance(one, dict)
        ],
        unknown=[str(text) for text in (*_items(said.get("not_yet_known")), *_reasons(said))],
        hours=_high(said.get("device_hours")),
        who=job.who,
        at=job.at,
    )


def _high(value: Any) -> float | None:
    high = value.get("high") if isinstance(value, dict) else None
    return float(high) if isinstance(high, int | float) and 0 <= high < math.inf else None


def _spoken(name: str, value: str) -> str:
    return f"{value} {_COUNTED[name]}" if name in _COUNTED else f"{name} {value}"


def _objection(one: Mapping[str, Any]) -> ShownObjection:
    return ShownObjection(**{name: str(one.get(name) or "") for name in ShownObjection.__slots__})


def _facts(said: Mapping[str, Any]) -> list[tuple[str, str]]:
    counts = said.get("counts")
    facts = [
        (name.replace("_", " "), f"{value:,}" if isinstance(value, int) else str(value))
        for name, value in (counts if isinstance(counts, dict) else {}).items()
        if isinstance(value, _PLAIN)
    ]
    for name, key, scale, unit in (
        ("time", "hours", 3600.0, ""),
        ("GPU hours", "gpu_hours", 1.0, " h"),
        ("memory", "memory_bytes", *byte_unit(_high(said.get("memory_bytes")))),
        ("disk", "disk_bytes", *byte_unit(_high(said.get("disk_bytes")))),
    ):
        text = _range(said.get(key), scale, unit)
        if text:
            facts.append((name, text))
    return facts


def _range(value: Any, scale: float, unit: str) -> str:
    """`3 min to 5 min`, `0.02 to 0.04 GB`; empty where it is not known."""
    given = [value.get(side) for side in ("low", "high")] if isinstance(value, dict) else []
    ends = [float(end) for end in given if isinstance(end, int | float)]
    if len(ends) != 2:
        return ""
    low, high = (span(end * scale) if not unit else f"{end * scale:.2g}" for end in ends)
    return f"{low}{unit}" if low == high else f"{low} to {high}{unit}"


def _reasons(said: Mapping[str, Any]) -> list[Any]:
    return _items(said.get("reasons"))


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
