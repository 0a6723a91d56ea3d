"""What the templates show, gathered from the board's file and the run directories."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from steerproof.board import comments as commenting
from steerproof.board import downloads, drawings, entries, grid, jobs, markdown, runs
from steerproof.board.answers import Answer, answers_of
from steerproof.board.cell_rates import cell_rates
from steerproof.board.comments import Comment
from steerproof.board.context import Board, EntryRun
from steerproof.board.entries import Entry
from steerproof.board.grid import Matrix
from steerproof.board.proposals import body_of
from steerproof.board.templating import experiment_address
from steerproof.run.artefacts.verdict import VerdictHead
from steerproof.run.commands.status import by_kind
from steerproof.run.driver.allowance import device_seconds
from steerproof.spec.grid import Cell, adapters
from steerproof.text import clean

square = grid.square
_WORDS = {
    "run-started": "started",
    "run-stopped": "stopped",
    "run-ended": "ended",
    "units-planned": "units counted",
    "found": "run directory found",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One line of the timeline."""

    at: float
    """Unix time."""
    what: str
    who: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownComment:
    """A comment as it is shown."""

    comment: Comment
    html: Markup
    """Its newest version."""
    earlier: tuple[tuple[str, Markup], ...]
    """Time and text of the versions before, newest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """The live part of an experiment's page."""

    matrix: Matrix | None = None
    kinds: Sequence[tuple[str, int, int, int]] = ()
    """Kind of unit, done, failed, total."""
    left: float | None = None
    """Estimated seconds to the end."""
    partial: bool = False
    """Some kinds have no finished unit yet: it takes longer than that."""
    verdict: VerdictHead | None = None
    answers: Sequence[Answer] = ()
    """Registered, ranking, direction; empty before there is a verdict."""
    figures: Mapping[str, str] = field(default_factory=dict)
    """Title of each, by file name."""
    files: Mapping[str, int] = field(default_factory=dict)
    problem: str | None = None


def _link_to(known: Mapping[int, Entry]) -> markdown.NumberLink:
    """`#267` as a link where the board has that number."""
    return lambda number: experiment_address(number) if number in known else None


def proposal(text: str, known: Mapping[int, Entry]) -> Markup:
    """The proposal's body as HTML."""
    return markdown.render(body_of(text), _link_to(known))


def comments(
    board: Board, number: int, cell: str | None, known: Mapping[int, Entry]
) -> tuple[ShownComment, ...]:
    """Comments with their history, oldest first."""
    link = _link_to(known)
    return tuple(
        ShownComment(
            comment=one,
            html=markdown.render(one.text, link, top=4),
            earlier=tuple(
                (v.at, markdown.render(v.text, link, top=4)) for v in reversed(one.versions[:-1])
            ),
        )
        for one in commenting.comments(board.file, number, cell)
    )


def results(run: EntryRun | None) -> Results:
    """Grid, units, estimate, verdict, figures and files of a run."""
    if run is None:
        return Results()
    rates = cell_rates(run.directory, run.cells, run.experiment)
    told, at = runs.story(run.directory), runs.condition(run.directory)
    left, partial = runs.seconds_left(run.directory)
    return Results(
        matrix=grid.matrix(run.experiment, plain_cells(run), rates),
        kinds=[
            (kind, counts.get("done", 0), counts.get("failed", 0), sum(counts.values()))
            for kind, counts in by_kind(told.states).items()
        ],
        left=left,
        partial=partial,
        verdict=at.head,
        answers=answers_of(at.head),
        figures=downloads.figure_titles(run.directory),
        files=downloads.available(run.directory),
        problem=at.problem,
    )


def training(run: EntryRun | None) -> Markup | None:
    """Training losses of every adapter, one panel per arm; none before the first has ended."""
    if run is None:
        return None
    losses = runs.training_losses(run.directory, adapters(run.experiment))
    arms = tuple(
        (arm.name, tuple((a.label, curve) for a, curve in losses.items() if a.arm == arm.name))
        for arm in run.experiment.arms
    )
    return drawings.losses(tuple((name, curves) for name, curves in arms if curves))


def timeline(board: Board, entry: Entry) -> tuple[Moment, ...]:
    """Events of the board and of the ledger, newest first."""
    moments = [
        Moment(at=runs.unix(e.at), what=_WORDS.get(e.what, e.what), who=e.who, detail=e.detail)
        for e in entries.events(board.file, entry.number)
    ]
    if entry.directory is not None and entry.directory.is_dir():
        for event in runs.timeline(entry.directory):
            what = _WORDS.get(event.what, event.what.replace("-", " "))
            detail = " · ".join(filter(None, (str(event.unit or ""), _words(event.detail))))
            moments.append(Moment(at=event.time, what=what, who="", detail=detail))
        if (word := runs.death(entry.directory)) is not None:
            moments.append(Moment(at=word, what="interrupted", who="", detail="its process died"))
    return tuple(sorted(moments, key=lambda moment: moment.at, reverse=True))


def job_log(board: Board, entry: Entry) -> dict[str, Any] | None:
    """The last job, its log, cleaned, and the log's last line; none if there is no job."""
    mine = jobs.jobs(board.file, entry.number)
    if not mine:
        return None
    last = mine[-1]
    text = clean(jobs.tail(board.logs / f"{last.id}.log"))
    said = [line.strip() for line in text.splitlines() if line.strip()]
    return {"job": last, "text": text, "line": said[-1][:300] if said else ""}


def device_hours(entry: Entry) -> float:
    """Device time of all tries of its run."""
    if entry.directory is None:
        return 0.0
    return device_seconds(runs.story(entry.directory)) / 3600


def registration(entry: Entry) -> dict[str, Any] | None:
    """The locked registration and the deviations from it."""
    if entry.directory is None:
        return None
    registered, problem = runs.registration(entry.directory)
    if registered is None:
        if problem is None:
            return None
        return {"facts": [], "text": "", "deviations": [], "problem": problem}
    lock = registered.lock
    versions = ", ".join(f"{name} {text}" for name, text in lock.versions.items())
    return {
        "facts": [("Locked", lock.time), ("sha256", lock.sha256), ("Versions", versions)],
        "text": json.dumps(lock.experiment, indent=2, ensure_ascii=False),
        "deviations": [
            (one.time, one.reason, [str(change) for change in one.changes if change.matters])
            for one in registered.deviations
        ],
        "problem": problem,
    }


def neighbours(names: Sequence[str], name: str) -> tuple[str | None, str | None]:
    """The cells before and after this one."""
    place = names.index(name)
    before = names[place - 1] if place else None
    return before, names[place + 1] if place + 1 < len(names) else None


def plain_cells(run: EntryRun) -> tuple[Cell, ...]:
    """The cells on the diagonal, one for each persona: those that a column can hold."""
    return tuple(cell for cell in run.cells.values() if cell.plain)


def _words(detail: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key.replace('_', ' ')} {_value(value)}"
        for key, value in detail.items()
        if value not in (None, "", [], {}, 0) and key not in ("pid", "token")
    )


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_value(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    return "" if value is None else str(value)
