"""What Plan said: the work, what it takes, and the objections."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steerproof.board import jobs, runs
from steerproof.board.context import Board
from steerproof.board.entries import Entry
from steerproof.text import span

_PLAIN = (str, int, float)


@dataclass(frozen=True, slots=True, kw_only=True)
class Objection:
    """One reason why the experiment may not show what it claims."""

    severity: str
    finding: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A plan as a page shows it."""

    facts: Sequence[tuple[str, str]]
    """Name and number, in words."""
    objections: Sequence[Objection]
    unknown: Sequence[str]
    """What cannot be said before something is measured."""


def plan_of(board: Board, entry: Entry) -> Plan | None:
    """The newest successful plan; objections of a finished run replace the plan's own."""
    said = _said(board, entry)
    judged = entry.directory and runs.read_json(entry.directory / "results" / "objections.json")
    if said is None and not isinstance(judged, list):
        return None
    said = said or {}
    listed = judged if isinstance(judged, list) else said.get("objections")
    return Plan(
        facts=_facts(said),
        objections=[_objection(one) for one in _items(listed) if isinstance(one, dict)],
        unknown=[str(text) for text in (*_items(said.get("not_yet_known")), *_reasons(said))],
    )


def _said(board: Board, entry: Entry) -> Mapping[str, Any] | None:
    done = [j for j in jobs.jobs(board.file, entry.number) if j.kind == "plan" and j.code == 0]
    found = runs.read_json(board.logs / f"{done[-1].id}.out") if done else None
    return found if isinstance(found, dict) else None


def _objection(one: Mapping[str, Any]) -> Objection:
    return Objection(**{name: str(one.get(name) or "") for name in Objection.__slots__})


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
        ("memory", "memory_bytes", 1e-9, " GB"),
        ("disk", "disk_bytes", 1e-9, " GB"),
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
