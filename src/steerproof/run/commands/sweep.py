"""A sweep: runs that are registered together, share what is the same, and are read together.

All of them are locked before the first unit of any is made, so that what one takes over from
another is never older than its own registration.
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerproof.codec import json_bytes, plain, read_record
from steerproof.decide.analysis.rates import RateTable
from steerproof.decide.analysis.selection import (
    Selected,
    Selection,
    SettingRow,
    SweptRun,
    halves,
    select,
)
from steerproof.decide.report.figures.sweep import sweep_figure
from steerproof.errors import IntegrityError, UnitsFailedError
from steerproof.run.artefacts import analysis, score
from steerproof.run.artefacts.analysis import AnalysisResult
from steerproof.run.commands.session import (
    Session,
    graph_of,
    lock_session,
    run_experiment,
    to_go_on,
)
from steerproof.run.driver.executors import Executor
from steerproof.run.driver.summary import Listener, Summary
from steerproof.run.graph.environment import Place
from steerproof.run.graph.names import ANALYSIS, SCORE
from steerproof.run.graph.survey import recorded
from steerproof.run.store.borrow import borrowings
from steerproof.run.store.directory import open_run
from steerproof.run.store.files import make_directory, write_file
from steerproof.run.store.ledger_file import read_ledger
from steerproof.spec.settings import directory_name
from steerproof.spec.sweep import AskedRun
from steerproof.text import neutralise_csv

_RESULT = "sweep.json"
EXPLORATORY = (
    "Exploratory: the best of several settings looks better than it is. Choose one, then run it"
    " once as an experiment of its own, on other questions."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRun:
    """One run of a sweep, as far as it is."""

    settings: Mapping[str, str]
    """Value by place."""
    directory: Path
    verdict: str | None
    """The registered one; None where there is none."""
    rho: float | None
    """Of the tested arm at the primary strength."""
    units: int
    """Units of the run that are finished."""
    shared: int
    """Of these, taken over from another run of the sweep."""
    shared_seconds: float
    """Work that the shared ones took once."""
    failure: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResult:
    """What a sweep shows."""

    runs: tuple[SweepRun, ...]
    selection: Selection
    draws: int
    """Random directions asked of each run."""
    halves: tuple[tuple[int, ...], tuple[int, ...]]
    """Places of the evaluation questions of each half."""

    @property
    def shared(self) -> tuple[int, int, float]:
        """Units that were shared, all units, and the seconds of work that were not done again."""
        return (
            sum(run.shared for run in self.runs),
            sum(run.units for run in self.runs),
            sum((run.shared_seconds for run in self.runs), 0.0),
        )

    def row(self, run: SweepRun) -> SettingRow:
        """The numbers of a run's setting."""
        return next(
            row
            for row in self.selection.rows
            if all(run.settings[place] == value for place, value in row.setting.items())
        )

    def record(self) -> dict[str, Any]:
        """As `sweep.json` holds it."""
        chosen, shared = self.selection.chosen, self.shared
        return {
            "exploratory": EXPLORATORY,
            "runs": [plain(run) for run in self.runs],
            "rows": plain(self.selection.rows),
            "halves": plain(self.halves),
            "chosen": None if chosen is None else _selected(chosen),
            "null": [_selected(one) for one in self.selection.null],
            "p": self.selection.p,
            "draws": self.draws,
            "shared": {"units": shared[0], "of": shared[1], "seconds": shared[2]},
        }


def _selected(selected: Selected) -> dict[str, Any]:
    return {**plain(selected), "held_out": selected.held_out}


def sweep_sessions(asked: Sequence[AskedRun], place: Path, device: str) -> tuple[Session, ...]:
    """A session for each run, in its own directory below the sweep's."""
    runs = [place / directory_name(one.settings) for one in asked]
    return tuple(
        Session(
            loaded=one.loaded,
            run=run,
            place=Place(directory=one.loaded.directory, device=device),
            command=to_go_on(run),
            others=tuple(other for other in runs if other != run),
        )
        for one, run in zip(asked, runs, strict=True)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreseen:
    """What a sweep will do."""

    runs: tuple[str, ...]
    units: int
    """Of all runs together."""
    different: int
    """Units of different content: as many are made."""

    @property
    def words(self) -> str:
        """As a person reads it."""
        same = self.units - self.different
        return (
            f"{len(self.runs)} runs, {self.units} units; {same} of them are the same work as"
            f" another and are shared. {EXPLORATORY}"
        )


def foreseen(sessions: Sequence[Session]) -> Foreseen:
    """What is to be done, and what of it is the same."""
    keys = [(unit, key) for session in sessions for unit, key in graph_of(session).keys.items()]
    return Foreseen(
        runs=tuple(session.run.name for session in sessions),
        units=len(keys),
        different=len(set(keys)),
    )


def run_sweep(
    sessions: Sequence[Session],
    make: Callable[[Session], Executor],
    *,
    listen: Callable[[Session, Callable[[Listener], None]], None],
) -> tuple[dict[Path, str], bool]:
    """Register every run, then do what is missing of each.

    Args:
        sessions: The runs.
        make: A new executor for a run.
        listen: Called for each run with what does it, which wants a listener.

    Returns:
        What failed, in words, by run directory; and whether it was stopped.

    Raises:
        ModelError, ExperimentError, RegistrationError: One of the runs cannot work; nothing of the
            others was begun.
    """
    for session in sessions:
        with open_run(session.run, session.command) as held:
            lock_session(session, graph_of(session), held)
    failures: dict[Path, str] = {}
    for session in sessions:
        ended: list[Summary] = []

        def do(show: Listener, session: Session = session, ended: list[Summary] = ended) -> None:
            ended.append(run_experiment(session, make(session), listen=show)[0])

        try:
            listen(session, do)
        except UnitsFailedError as error:
            failures[session.run] = str(error)
        if ended and ended[0].stopped:
            return failures, True
    return failures, False


def read_sweep(
    asked: Sequence[AskedRun], sessions: Sequence[Session], failures: Mapping[Path, str], draws: int
) -> SweepResult:
    """What the runs of a sweep hold, selected and read.

    Raises:
        IntegrityError: A file is not what its manifest says.
    """
    points: list[SweptRun] = []
    runs: list[SweepRun] = []
    for one, session in zip(asked, sessions, strict=True):
        finished = recorded(session.run)
        table, result = RateTable(), None
        if SCORE in finished:
            table = score.rates_of(finished[SCORE], session.experiment)
        if ANALYSIS in finished:
            result = analysis.from_unit(finished[ANALYSIS])
        points.append(SweptRun(setting=one.chosen, experiment=session.experiment, table=table))
        settings = {setting.place: setting.text for setting in one.settings}
        runs.append(_run(settings, session.run, result, failures.get(session.run)))
    return SweepResult(
        runs=tuple(runs),
        selection=select(points, draws),
        draws=draws,
        halves=halves(asked[0].loaded.experiment.questions.evaluation),
    )


def _run(
    settings: Mapping[str, str], place: Path, result: AnalysisResult | None, failure: str | None
) -> SweepRun:
    finished, story = recorded(place), read_ledger(place)
    borrowed = [] if story is None else borrowings(story)
    said = None if result is None else result.analysis
    return SweepRun(
        settings=settings,
        directory=place,
        verdict=None if said is None else said.verdict,
        rho=None if said is None else said.arms[said.arm].primary.rho,
        units=len(finished),
        shared=sum(taken.units for taken in borrowed),
        shared_seconds=sum((taken.seconds for taken in borrowed), 0.0),
        failure=failure,
    )


def is_sweep(place: Path) -> bool:
    """Whether a directory is a sweep's, with results."""
    return (place / "results" / _RESULT).is_file()


def selection_in(place: Path) -> Selection:
    """What a sweep found, as it was published.

    Raises:
        IntegrityError: The file is not what was written.
    """
    path = place / "results" / _RESULT
    selection = read_record(Selection, path.read_bytes(), str(path))
    if len({frozenset(row.setting) for row in selection.rows}) > 1:
        raise IntegrityError(f"{path}: its rows are settings of different fields")
    return selection


def publish_sweep(place: Path, result: SweepResult) -> None:
    """Write `results/` of a sweep: sweep.csv, sweep.json, sweep.svg.

    Raises:
        DiskFullError: No space.
    """
    results = place / "results"
    make_directory(results)
    write_file(results / _RESULT, json_bytes(result.record()))
    write_file(results / "sweep.csv", _csv(result).encode())
    drawn = sweep_figure(result.selection)
    if not isinstance(drawn, str):
        write_file(results / "sweep.svg", drawn.svg.encode())


def _csv(result: SweepResult) -> str:
    """One line a run; the numbers of its setting stand in each of its runs."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    places = list(result.runs[0].settings)
    writer.writerow(
        [*("status", *places, "verdict", "rho", "effect", "effect_half_1", "effect_half_2"),
         *("null_mean", "null_largest", "units", "shared_units", "directory")]
    )  # fmt: skip
    for run in result.runs:
        row = result.row(run)
        null = [value for value in row.null if value is not None]
        effects = (row.effects.whole, row.effects.first, row.effects.second)
        drawn = (sum(null) / len(null), max(null)) if null else (None, None)
        values = ("exploratory", *run.settings.values(), run.verdict, run.rho, *effects, *drawn)
        writer.writerow(
            [_field(value) for value in (*values, run.units, run.shared, run.directory.name)]
        )
    return out.getvalue()


def _field(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else neutralise_csv(str(value))
