"""`plan`: what a run takes on this machine, and what a reviewer would object to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from steerproof.codec import plain
from steerproof.decide.analysis.calibration import Calibration
from steerproof.decide.analysis.gates import Gate
from steerproof.decide.review.evidence import Objection, unknown
from steerproof.decide.review.foreseen import foreseen_gates
from steerproof.decide.review.objections import objections
from steerproof.decide.review.plan import (
    Plan,
    Speed,
    make_plan,
    speed_of_throughput,
    speed_of_units,
)
from steerproof.extras import engine_installed, require_engine
from steerproof.model.files import weight_bytes
from steerproof.run.commands.basemodel import load_model, model_shape, needs_of_plan
from steerproof.run.commands.doctor import Needs, unfit
from steerproof.run.commands.evidence import evidence_of
from steerproof.run.commands.preflight import check_numbers, check_runnable, check_stated
from steerproof.run.driver.workers import threads_of_a_worker, workers_on
from steerproof.run.graph.environment import Place, model_directory
from steerproof.run.graph.graph import Graph
from steerproof.run.graph.survey import survey
from steerproof.run.store.ledger_file import read_ledger
from steerproof.spec.experiment import Experiment

Say = Callable[[str], object]
_UNLOOKED = (
    "whether the prompts, the marker, given answers and adapters fit the model: looking needs the"
    " engine, pip install 'steerproof[run]'"
)
"""What a plan without the engine cannot say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """What a short trial on this machine showed."""

    speed: Speed
    calibration: Calibration


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What `plan` says."""

    plan: Plan
    objections: Sequence[Objection]
    gates: Sequence[Gate]
    """The gates of the ranking as far as they can be foreseen."""
    not_yet_known: Sequence[str]
    """What cannot be objected to before something is measured."""
    run: Path
    """The run directory."""
    unfit: Sequence[str] = ()
    """Why `run` would refuse to begin on this machine: memory, disk."""

    def record(self) -> Mapping[str, Any]:
        """As `plan --json` gives it."""
        return {
            **plain(self.plan),
            "objections": plain(self.objections),
            "gates": plain(self.gates),
            "not_yet_known": list(self.not_yet_known),
            "dir": str(self.run),
            "unfit": list(self.unfit),
        }


def plan_run(
    experiment: Experiment,
    graph: Graph,
    run: Path,
    place: Place,
    *,
    trial: Say | None = None,
    absent: str | None = None,
) -> Planned:
    """The plan, the objections, and what is not known yet.

    Args:
        experiment: What is planned.
        graph: Its units.
        run: Its run directory, which need not exist.
        place: Where the experiment's files are, and the device.
        trial: Told in a line what a short trial does, which is made when nothing was done here
            yet; none makes none.
        absent: Why the model is not on this machine; nothing is then asked of it.

    Raises:
        ModelError: What `run` would refuse, or the model cannot be loaded for the trial.
        ExperimentError: What `run` would refuse.
        MachineError: A trial was asked for, and the engine is not installed.
    """
    if absent is None:
        _look(experiment, graph, run, place, trial=trial is not None)
    surveyed = survey(run, graph)
    fresh = not any(unit.kind == "directions" for unit in surveyed.reused)
    tried = try_out(experiment, place, trial) if trial is not None and fresh else None
    plan = make_plan(
        experiment,
        speed=None if absent else _speed(experiment, run, place) or (tried and tried.speed),
        shape=None if absent else model_shape(experiment, place),
        todo={str(unit) for unit in surveyed.todo},
        accelerator=place.device.startswith("cuda"),
    )
    evidence = evidence_of(
        experiment, place.directory, surveyed.reused, tried and tried.calibration
    )
    later = unknown(experiment, evidence)
    if absent is not None:
        later = [f"whether the model, its template and every prompt will do: {absent}", *later]
    elif not engine_installed():
        later = [*later, _UNLOOKED]
    needs = Needs() if absent else needs_of_plan(plan, place.device)
    return Planned(
        plan=plan,
        objections=objections(experiment, evidence=evidence),
        gates=foreseen_gates(experiment, evidence),
        not_yet_known=later,
        run=run,
        unfit=unfit(run, needs),
    )


def _look(experiment: Experiment, graph: Graph, run: Path, place: Place, *, trial: bool) -> None:
    """Refuse what `run` would; without the engine, what needs none of it."""
    if trial:
        require_engine("a trial (--no-trial leaves it out)")
    if engine_installed():
        if check_runnable(experiment, place, graph, run):
            check_numbers(experiment, place)
    else:
        check_stated(experiment, place)


def try_out(experiment: Experiment, place: Place, say: Say = str) -> TrialResult | None:
    """Try the experiment on this machine, in small; none where the model would not fit.

    Args:
        experiment: What is tried.
        place: Where its files are, and the device.
        say: Told in a line what is done.

    Raises:
        ModelError: The model cannot be loaded.
    """
    weights = weight_bytes(model_directory(experiment, place.directory))
    accelerated = place.device.startswith("cuda")
    if not accelerated and 4 * weights > psutil.virtual_memory().available:
        return None
    from steerproof.run.trial import SECONDS, geometries, trial  # torch; most plans do without

    say(f"a trial of about {SECONDS:.0f} s, and as long for the directions: loading the model")
    base = load_model(experiment, place)
    workers = workers_on(place.device, weights)
    with threads_of_a_worker(workers, accelerated):
        throughput = trial(experiment, base, say=say)
        measured = geometries(experiment, base, say=say)
    return TrialResult(
        speed=speed_of_throughput(experiment, throughput, devices=workers, accelerator=accelerated),
        calibration={layer.layer: layer for layer in measured},
    )


def _speed(experiment: Experiment, run: Path, place: Place) -> Speed | None:
    """Speed from the units that this run directory has finished."""
    story = read_ledger(run)
    past: dict[str, list[float]] = {}
    for attempt in story.attempts if story else ():
        if attempt.seconds is not None:
            past.setdefault(attempt.unit.kind, []).append(attempt.seconds)
    if not past:
        return None
    devices = workers_on(place.device, weight_bytes(model_directory(experiment, place.directory)))
    return speed_of_units(past, devices=devices, accelerator=place.device.startswith("cuda"))
