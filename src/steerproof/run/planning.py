"""Before the run: what it takes on this machine, and what a reviewer would object to."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steerproof.adapt.dataset import dataset_from_json
from steerproof.decide.evidence import Evidence, Objection, unknown
from steerproof.decide.objections import objections
from steerproof.decide.objections import to_json as objections_json
from steerproof.decide.plan import Plan, Speed, make_plan, speed_of_units
from steerproof.decide.shape import Shape, shape_of
from steerproof.errors import RegistrationError
from steerproof.model.files import find_directory
from steerproof.run.graph import Graph
from steerproof.run.ledger import read_ledger
from steerproof.run.manifest import StoredUnit
from steerproof.run.results import calibration
from steerproof.run.stages.files import read_json, read_table
from steerproof.run.survey import survey
from steerproof.run.units import Place, model_path
from steerproof.spec.experiment import Experiment

Finished = Mapping[str, StoredUnit]


def plan_of(experiment: Experiment, graph: Graph, run: Path, place: Place) -> Plan:
    """Counts, and estimates from what this run directory has timed so far."""
    return make_plan(
        experiment,
        speed=_speed(run, place),
        shape=_shape(experiment, place),
        todo=survey(run, graph).todo,
    )


def _speed(run: Path, place: Place) -> Speed | None:
    ledger = read_ledger(run)
    if ledger is None:
        return None
    try:
        past: dict[str, list[float]] = {}
        for attempt in ledger.attempts():
            if attempt.seconds is not None:
                past.setdefault(attempt.unit.partition("/")[0], []).append(attempt.seconds)
    finally:
        ledger.close()
    if not past:
        return None
    return speed_of_units(past, accelerator=place.device.startswith("cuda"))


def _shape(experiment: Experiment, place: Place) -> Shape | None:
    """From the checkpoint's config.json, if it is on this machine."""
    path = model_path(experiment, place.directory)
    if experiment.model.revision is not None and not Path(path).is_dir():
        return None
    config = find_directory(path, experiment.model.revision) / "config.json"
    return shape_of(json.loads(config.read_bytes())) if config.is_file() else None


def evidence_of(experiment: Experiment, finished: Finished) -> Evidence:
    """What the finished units have measured that bears on the design."""
    datasets = [
        dataset_from_json(read_json(stored, "dataset.json"))
        for unit, stored in finished.items()
        if unit.startswith("dataset/")
    ]
    layers = calibration(experiment, finished)
    score = finished.get("score/all")
    return Evidence(
        calibration=layers if layers["layers"] else None,
        bystanders={one.source: one.bystanders for one in datasets} or None,
        bridge=None if score is None else _bridge(experiment, score),
        truncated=None if score is None else _truncated(score),
    )


def _bridge(experiment: Experiment, score: StoredUnit) -> dict[str, float] | None:
    fired: dict[str, list[bool]] = {}
    table = read_table(score, "scores.parquet")
    arm = experiment.analysis.bridge_arm
    names = {f"{arm}.{persona}.persona.none": persona for persona in experiment.headline}
    for cell, hit in zip(table["cell"].to_pylist(), table["fired"].to_pylist(), strict=True):
        if cell in names:
            fired.setdefault(names[cell], []).append(hit)
    return {name: sum(hits) / len(hits) for name, hits in fired.items()} or None


def _truncated(score: StoredUnit) -> float | None:
    finish = read_table(score, "scores.parquet")["finish"].to_pylist()
    return finish.count("length") / len(finish) if finish else None


def objections_of(
    experiment: Experiment, finished: Finished
) -> tuple[tuple[Objection, ...], tuple[str, ...]]:
    """What to object to, and what cannot be objected to yet."""
    evidence = evidence_of(experiment, finished)
    return objections(experiment, evidence=evidence), unknown(experiment, evidence)


def plan_json(experiment: Experiment, graph: Graph, run: Path, place: Place) -> dict[str, Any]:
    """`plan --json`: the plan, the objections, and what is not known yet."""
    found, later = objections_of(experiment, survey(run, graph).reused)
    return {
        **plan_of(experiment, graph, run, place).to_json(),
        "objections": objections_json(found),
        "not_yet_known": list(later),
        "dir": str(run),
    }


def refuse_serious(found: tuple[Objection, ...]) -> None:
    """Block a run that has serious objections (`--strict`).

    Raises:
        RegistrationError: There is one; with every finding and remedy.
    """
    serious = [one for one in found if one.severity == "serious"]
    if serious:
        lines = [f"  {one.finding} {one.remedy}" for one in serious]
        raise RegistrationError(
            f"{len(serious)} serious objections, and --strict lets none pass:\n" + "\n".join(lines)
        )
