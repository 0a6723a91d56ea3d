"""What the finished units, or else a trial, have measured that bears on the design."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from steerproof.decide.analysis.calibration import Calibration
from steerproof.decide.analysis.rates import RateTable
from steerproof.decide.review.evidence import Evidence, Objection
from steerproof.errors import IntegrityError, RegistrationError
from steerproof.exchange.adapters import prompts_known
from steerproof.run.artefacts import calibration, dataset, score
from steerproof.run.artefacts.score import Marks
from steerproof.run.graph.ids import UnitId
from steerproof.run.graph.names import SCORE, dataset_unit, directions_unit
from steerproof.run.store.manifest import StoredUnit
from steerproof.spec.experiment import Experiment
from steerproof.spec.grid import Cell
from steerproof.study.dataset import Dataset
from steerproof.study.marks import rate, truncated

Finished = Mapping[UnitId, StoredUnit]
"""The finished units of a run."""


def calibrations(experiment: Experiment, finished: Finished) -> Calibration:
    """Every layer that was measured, the primary one first.

    Raises:
        IntegrityError: What was measured is of other personas or of another layer.
    """
    units = {layer: directions_unit(layer) for layer in experiment.steered_layers}
    measured = {
        layer: calibration.from_unit(finished[unit])
        for layer, unit in units.items()
        if unit in finished
    }
    for layer, at in measured.items():
        lacking = [p.name for p in experiment.personas if p.name not in at.personas]
        if lacking or at.layer != layer:
            raise IntegrityError(
                f"{finished[units[layer]].directory} is not of layer {layer} and this experiment's"
                f" personas: it has layer {at.layer}, and lacks {', '.join(lacking) or 'nobody'}"
            )
    return measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A score unit, read once: it is the largest table of a run."""

    table: RateTable
    marks: Marks


def scored_of(experiment: Experiment, unit: StoredUnit) -> Scored:
    """What was scored, of a score unit.

    Raises:
        IntegrityError: The unit is not what its manifest says.
    """
    return Scored(table=score.rates_of(unit, experiment), marks=score.from_unit(unit))


def evidence_of(
    experiment: Experiment,
    directory: Path,
    finished: Finished,
    tried: Calibration | None = None,
    scored: Scored | None = None,
) -> Evidence:
    """What is known besides the experiment file.

    Args:
        experiment: Whose design it is.
        directory: Where its relative paths start.
        finished: The units that are there.
        tried: What a trial measured, for when no directions unit is there yet.
        scored: What was scored, if it was read already.
    """
    datasets = list(_datasets(experiment, finished))
    if scored is None and SCORE in finished:
        scored = scored_of(experiment, finished[SCORE])
    every = None if scored is None else [mark for cell in scored.marks.values() for mark in cell]
    return Evidence(
        calibration=calibrations(experiment, finished) or tried,
        bystanders={data.source: data.bystanders for data in datasets} or None,
        bridge=None if scored is None else _bridge(experiment, scored.marks),
        table=None if scored is None else scored.table,
        truncated=None if every is None else truncated(every),
        prompts_known=frozenset(
            arm.name
            for arm in experiment.arms
            if arm.adapters is not None and prompts_known(experiment, arm, directory)
        ),
    )


def _datasets(experiment: Experiment, finished: Finished) -> Iterator[Dataset]:
    """The training rows of every persona that has some.

    Raises:
        IntegrityError: They are of other personas.
    """
    names = [persona.name for persona in experiment.personas]
    for name in names:
        unit = finished.get(dataset_unit(name))
        if unit is None:
            continue
        data = dataset.from_unit(unit)
        if data.source != name or not set(data.bystanders) <= set(names):
            raise IntegrityError(
                f"{unit.directory} holds rows of {data.source}, with the bystanders"
                f" {', '.join(data.bystanders)}: not of {name} and other personas"
            )
        yield data


def _bridge(experiment: Experiment, marks: Marks) -> dict[str, float] | None:
    """Rate of each headline persona's bridge cell that was measured."""
    rates: dict[str, float] = {}
    for persona in experiment.headline:
        bridge = Cell(
            arm=experiment.analysis.bridge_arm,
            persona=persona,
            prompt="persona",
            direction="none",
            layer=None,
        )
        fired = rate(marks.get(bridge.name, ()))
        if fired is not None:
            rates[persona] = fired
    return rates or None


def refuse_serious(raised: Sequence[Objection]) -> None:
    """Block a run that has serious objections (`--strict`).

    Raises:
        RegistrationError: There is one; with every finding and remedy.
    """
    serious = [objection for objection in raised if objection.severity == "serious"]
    if serious:
        lines = [f"  {objection.finding} {objection.remedy}" for objection in serious]
        raise RegistrationError(
            f"{len(serious)} serious objections, and --strict lets none pass:\n" + "\n".join(lines)
        )
