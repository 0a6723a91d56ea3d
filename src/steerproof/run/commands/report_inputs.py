"""What the report shows, read from the units, the ledger and the registration."""

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from steerproof.codec import from_values
from steerproof.decide.analysis.analyze import analyze
from steerproof.decide.analysis.calibration import Calibration, reference_cosines
from steerproof.decide.analysis.rates import RateTable
from steerproof.decide.analysis.records import Analysis
from steerproof.decide.report.inputs import (
    Fluency,
    Origin,
    ReportInputs,
    ReportRegistration,
    ReportSample,
    RunDetail,
    RunFacts,
    TrainingSummary,
)
from steerproof.decide.review.evidence import Objection
from steerproof.decide.review.objections import objections
from steerproof.errors import IntegrityError
from steerproof.run.artefacts import analysis, cell, score, training
from steerproof.run.artefacts.score import Marks
from steerproof.run.commands.evidence import Finished, calibrations, evidence_of, scored_of
from steerproof.run.graph.ids import UnitId
from steerproof.run.graph.names import ANALYSIS, SCORE, adapter_unit, cell_unit
from steerproof.run.store.ledger_file import read_ledger
from steerproof.run.store.manifest import DamagedError
from steerproof.run.store.registration import (
    Registration,
    analysis_alone_differs,
    kept_directory,
)
from steerproof.run.store.story import Story
from steerproof.spec.experiment import Experiment
from steerproof.spec.grid import Cell, adapters, cells
from steerproof.study.marks import mean, truncated
from steerproof.study.measured import Completion as Measured

_MEASURED = ("directions", "dataset", "adapter", "cell", "score")
"""Kinds of units that groundwork is laid from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """A run whose analysis is finished."""

    experiment: Experiment
    run: Path
    finished: Finished
    registration: Registration
    units: int
    """Number of units that the experiment asks for."""

    @property
    def judged(self) -> bool:
        """There is a verdict, and the marks that it was made from."""
        return ANALYSIS in self.finished and SCORE in self.finished


@dataclass(frozen=True, slots=True, kw_only=True)
class Groundwork:
    """The part of a report that rests on measurements and marks alone, not on the analysis."""

    made_from: Mapping[UnitId, str]
    """Content of each unit that it may have been read from."""
    directory: Path
    """Where the experiment's relative paths start."""
    calibration: Calibration
    rates: RateTable
    detail: RunDetail
    """Without what is absent, which the ledger says."""
    objections: Sequence[Objection]


def groundwork(experiment: Experiment, directory: Path, finished: Finished) -> Groundwork:
    """Lay it, as soon as the score is there: it takes seconds.

    Raises:
        IntegrityError: A unit is not what its manifest says.
        KeyError: There is no score.
    """
    scored = scored_of(experiment, finished[SCORE])
    unread: dict[str, str] = {}
    evidence = evidence_of(experiment, directory, finished, scored=scored)
    return Groundwork(
        made_from=_measured_in(finished),
        directory=directory,
        calibration=calibrations(experiment, finished),
        rates=scored.table,
        detail=RunDetail(
            training=tuple(_training(experiment, finished, unread)),
            completions=tuple(_completions(experiment, finished, scored.marks)),
            fluency=tuple(_fluency(experiment, finished, scored.marks)),
            unread=unread,
        ),
        objections=objections(experiment, evidence=evidence),
    )


def _measured_in(finished: Finished) -> dict[UnitId, str]:
    """Content of every unit that says what was measured."""
    return {
        unit: stored.manifest.content for unit, stored in finished.items() if unit.kind in _MEASURED
    }


def report_inputs(gathered: Gathered, laid: Groundwork | None = None) -> ReportInputs:
    """Everything that the report shows.

    Args:
        gathered: The run.
        laid: Its groundwork, if it was laid already; it is laid anew if it is of other units.
    """
    experiment, finished = gathered.experiment, gathered.finished
    registration, directory = gathered.registration, kept_directory(gathered.run)
    known = laid and (laid.made_from, laid.directory)
    if laid is None or known != (_measured_in(finished), directory):
        laid = groundwork(experiment, directory, finished)
    result = analysis.from_unit(finished[ANALYSIS])
    return ReportInputs(
        experiment=experiment,
        rates=laid.rates,
        analysis=result.analysis,
        answers=result.answers,
        calibration=laid.calibration,
        detail=replace(laid.detail, absent=_absent(gathered)),
        objections=laid.objections,
        registration=ReportRegistration(
            lock=registration.lock,
            deviations=registration.deviations,
            analysis=_as_registered(experiment, registration, laid.rates, laid.calibration),
        ),
        origin=Origin(
            versions=registration.lock.versions,
            seeds={"experiment": experiment.seed},
            hashes=_hashes(registration, finished),
            facts=_facts(gathered.run, gathered.units),
        ),
    )


def _as_registered(
    experiment: Experiment, registration: Registration, table: RateTable, measured: Calibration
) -> Analysis | None:
    """The analysis under the locked experiment, of the same table; None where that is no answer.

    A deviation that changed the analysis alone leaves what was measured as it was locked.
    """
    if not registration.deviations:
        return None
    locked = registration.experiment
    if not analysis_alone_differs(locked, experiment):
        return None
    return analyze(table, locked, geometry=reference_cosines(measured))


def _hashes(registration: Registration, finished: Finished) -> dict[str, str]:
    model = registration.lock.hashes.get("model")
    files = model.items() if isinstance(model, dict) else ()
    return {
        **{f"model {name}": value for name, value in files},
        **_judged(finished),
        "rate table": finished[SCORE].manifest.files[score.RATES].sha256,
        "analysis": finished[ANALYSIS].manifest.content,
    }


@dataclass(frozen=True, slots=True)
class _Scoring:
    judgements: str | None = None


@dataclass(frozen=True, slots=True)
class _Part:
    scoring: _Scoring


@dataclass(frozen=True, slots=True)
class _MadeFrom:
    """What of a score's recipe a report shows. It stands in a manifest, which may hold anything."""

    experiment: _Part
    file: str | None = None


def _judged(finished: Finished) -> dict[str, str]:
    """sha256 of the judgements that the marks were made from; it is not part of the lock.

    Raises:
        IntegrityError: The score's recipe does not say what it was made from.
    """
    stored = finished[SCORE]
    name = f"{stored.directory / 'manifest.json'}: what {SCORE} was made from"
    made = from_values(_MadeFrom, stored.manifest.recipe.inputs, name)
    judged = made.experiment.scoring.judgements
    return {} if judged is None or made.file is None else {f"judgements {judged}": made.file}


def _absent(gathered: Gathered) -> dict[str, str]:
    """Why cells have no rates: they failed, or what they hold could not be read."""
    asked = {cell_unit(one): one.name for one in cells(gathered.experiment)}
    story = read_ledger(gathered.run) or Story()
    failed = {
        asked[unit]: f"failed: {_first_line(story, unit)}"
        for unit, state in story.states.items()
        if state == "failed" and unit in asked and unit not in gathered.finished
    }
    return failed | dict(score.unread_of(gathered.finished[SCORE]))


def _first_line(story: Story, unit: UnitId) -> str:
    said = [attempt.error for attempt in story.attempts_of(unit) if attempt.error]
    return said[-1].strip().partition("\n")[0] if said else "its log says why"


def _training(
    experiment: Experiment, finished: Finished, unread: dict[str, str]
) -> Iterator[TrainingSummary]:
    """How training went, adapter by adapter; why a record cannot be read is added to `unread`."""
    for adapter in adapters(experiment):
        unit = adapter_unit(adapter)
        if unit not in finished:
            continue
        try:
            record = training.from_unit(finished[unit])
        except DamagedError:  # found and redone by the next run
            raise
        except IntegrityError as error:
            unread[str(unit)] = str(error).replace(f"{finished[unit].directory}/", "")
            continue
        yield TrainingSummary(
            arm=adapter.arm,
            persona=adapter.persona,
            losses=record.losses,
            asked=experiment.arm(adapter.arm).ratio,
            achieved=record.achieved_ratio,
            token_ratio=record.token_ratio,
            firings=record.firings if record.fired else None,
            seconds=record.seconds,
        )


def _completions(
    experiment: Experiment, finished: Finished, marks: Marks
) -> Iterator[ReportSample]:
    """One completion that fired and one that did not, of each headline cell of the tested arms."""
    arms = {experiment.analysis.arm, experiment.analysis.baseline_arm}
    for asked in cells(experiment):
        stored = finished.get(cell_unit(asked))
        if stored is None or asked.name not in marks:  # not done, or the score could not read it
            continue
        if asked.arm not in arms or asked.persona not in experiment.headline:
            continue
        drawn = cell.completions_of(stored)
        fired = [mark.fired for mark in marks[asked.name]]
        for wanted in (True, False):
            if wanted in fired:
                yield _shown(experiment, asked, drawn[fired.index(wanted)], wanted)


def _shown(experiment: Experiment, asked: Cell, drawn: Measured, fired: bool) -> ReportSample:
    return ReportSample(
        cell=asked,
        question=experiment.questions.evaluation[drawn.question],
        text=drawn.text,
        fired=fired,
        finish=drawn.finish,
        tokens=drawn.tokens,
    )


def _fluency(experiment: Experiment, finished: Finished, marks: Marks) -> Iterator[Fluency]:
    for asked in cells(experiment):
        stored = finished.get(cell_unit(asked))
        if stored is None or asked.name not in marks:
            continue
        read, record = marks[asked.name], cell.record_of(stored)
        yield Fluency(
            cell=asked,
            ratio=record.signed_ratio,
            push=record.push_seen,
            repetition=mean(mark.repetition for mark in read),
            length_share=truncated(read),
            tokens=mean(mark.tokens for mark in read),
        )


def _facts(run: Path, units: int) -> RunFacts:
    story = read_ledger(run)
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return RunFacts(units=units, seconds=story and story.totals.seconds, machine=machine)
