"""Before the run: what it takes on this machine, and what a reviewer would object to."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from steerproof.decide.review.evidence import Evidence, Objection, unknown
from steerproof.decide.review.objections import objections
from steerproof.decide.review.objections import to_json as objections_json
from steerproof.decide.review.plan import (
    Plan,
    Speed,
    make_plan,
    speed_of_throughput,
    speed_of_units,
)
from steerproof.decide.review.shape import Shape, shape_of
from steerproof.errors import ModelError, RegistrationError
from steerproof.model.files import find_directory, weight_bytes
from steerproof.run.doctor import Needs
from steerproof.run.driver.workers import threads_of_a_worker, workers_on
from steerproof.run.graph.graph import Graph
from steerproof.run.graph.survey import survey
from steerproof.run.graph.units import Place, model_directory, model_path
from steerproof.run.results import calibration, with_strengths
from steerproof.run.stages.files import read_json, read_table
from steerproof.run.store.ledger import read_ledger
from steerproof.run.store.manifest import StoredUnit
from steerproof.spec.experiment import Experiment
from steerproof.spec.yaml_io import Loaded
from steerproof.study.dataset import dataset_from_json

if TYPE_CHECKING:
    from steerproof.model.base import Base

Finished = Mapping[str, StoredUnit]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What a short trial on this machine showed."""

    speed: Speed
    calibration: Mapping[str, Any]
    """As calibration.json."""


def plan_of(
    experiment: Experiment, graph: Graph, run: Path, place: Place, tried: Tried | None = None
) -> Plan:
    """Counts, and estimates from what this run directory has timed so far, or from a trial.

    Args:
        experiment: What is planned.
        graph: Its units.
        run: Its run directory, which need not exist.
        place: Where the experiment's files are, and the device.
        tried: A trial, for when nothing was timed here yet.
    """
    return make_plan(
        experiment,
        speed=_speed(experiment, run, place) or (tried and tried.speed),
        shape=_shape(experiment, place),
        todo=survey(run, graph).todo,
        accelerator=place.device.startswith("cuda"),
    )


def _speed(experiment: Experiment, run: Path, place: Place) -> Speed | None:
    """Speed from the units that this run directory has finished."""
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
    devices = workers_on(place.device, weight_bytes(model_directory(experiment, place.directory)))
    return speed_of_units(past, devices=devices, accelerator=place.device.startswith("cuda"))


def try_out(experiment: Experiment, place: Place) -> Tried | None:
    """Try the experiment on this machine, in small; none where the model would not fit.

    Raises:
        ModelError: The model cannot be loaded.
    """
    directory = model_directory(experiment, place.directory)
    weights = weight_bytes(directory)
    accelerated = place.device.startswith("cuda")
    if not accelerated and 4 * weights > psutil.virtual_memory().available:
        return None
    from steerproof.run.trial import geometries, trial  # torch, which most plans do without

    base = _load(experiment, place)
    workers = workers_on(place.device, weights)
    with threads_of_a_worker(workers, accelerated):
        found = trial(experiment, base)
        measured = geometries(experiment, base)
    return Tried(
        speed=speed_of_throughput(experiment, found, devices=workers, accelerator=accelerated),
        calibration=with_strengths(experiment, measured),
    )


def _load(experiment: Experiment, place: Place) -> "Base":
    from steerproof.model.base import load_base

    model = experiment.model
    return load_base(
        model_path(experiment, place.directory),
        revision=model.revision,
        dtype=model.dtype,
        device=place.device,
        system_role=model.system_role,
    )


def _shape(experiment: Experiment, place: Place) -> Shape | None:
    """From the checkpoint's config.json, if it is on this machine."""
    path = model_path(experiment, place.directory)
    if experiment.model.revision is not None and not Path(path).is_dir():
        return None
    config = find_directory(path, experiment.model.revision) / "config.json"
    return shape_of(json.loads(config.read_bytes())) if config.is_file() else None


def evidence_of(experiment: Experiment, finished: Finished, tried: Tried | None = None) -> Evidence:
    """What the finished units, or else a trial, have measured that bears on the design."""
    datasets = [
        dataset_from_json(read_json(stored, "dataset.json"))
        for unit, stored in finished.items()
        if unit.startswith("dataset/")
    ]
    layers = calibration(experiment, finished)
    if tried and not layers["layers"]:
        layers = tried.calibration
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
    experiment: Experiment, finished: Finished, tried: Tried | None = None
) -> tuple[tuple[Objection, ...], tuple[str, ...]]:
    """What to object to, and what cannot be objected to yet."""
    evidence = evidence_of(experiment, finished, tried)
    return objections(experiment, evidence=evidence), unknown(experiment, evidence)


def plan_json(
    experiment: Experiment, graph: Graph, run: Path, place: Place, *, timed: bool = False
) -> dict[str, Any]:
    """`plan --json`: the plan, the objections, and what is not known yet.

    Args:
        experiment: What is planned.
        graph: Its units.
        run: Its run directory, which need not exist.
        place: Where the experiment's files are, and the device.
        timed: Whether a short trial may be made when nothing was done here yet.

    Raises:
        ModelError: The model cannot be loaded for the trial.
    """
    finished = survey(run, graph).reused
    fresh = not any(unit.startswith("directions/") for unit in finished)
    tried = try_out(experiment, place) if timed and fresh else None
    found, later = objections_of(experiment, finished, tried)
    return {
        **plan_of(experiment, graph, run, place, tried).to_json(),
        "objections": objections_json(found),
        "not_yet_known": list(later),
        "dir": str(run),
    }


def needs_of(loaded: Loaded, device: str) -> Needs:
    """What the plan asks of the machine, for `doctor`; zero where the plan cannot say.

    Args:
        loaded: The experiment.
        device: As asked for on the command line.
    """
    place = Place(directory=loaded.directory)
    try:
        shape = _shape(loaded.experiment, place)
    except ModelError:  # doctor's own look at the model says what is wrong with it
        return Needs()
    found = make_plan(loaded.experiment, shape=shape)
    disk, memory = found.disk_bytes, found.memory_bytes
    gpus = int(device.startswith("cuda"))
    return Needs(
        disk=int(disk.high) if disk else 0,
        memory=int(memory.low) if memory and not gpus else 0,
        gpus=gpus,
    )


def describe_model(loaded: Loaded, device: str) -> str:
    """Load the base model and write one chat with its template; what it is, in a line.

    Raises:
        ModelError: The model, its tokenizer or its chat template is unusable.
    """
    experiment = loaded.experiment
    base = _load(experiment, Place(directory=loaded.directory, device=device))
    from steerproof.model.chat import chat_ids

    question = experiment.questions.evaluation[0]
    ids = chat_ids(base, system=experiment.neutral_prompt, user=question)
    numbers = sum(weight.numel() for weight in base.model.parameters())
    return (
        f"{type(base.model).__name__}, {len(base.blocks)} blocks, {numbers:,} parameters, context "
        f"{base.context}; its chat template makes {len(ids)} tokens of the first question"
    )


def refuse_serious(found: Sequence[Mapping[str, Any]]) -> None:
    """Block a run that has serious objections (`--strict`).

    Raises:
        RegistrationError: There is one; with every finding and remedy.
    """
    serious = [one for one in found if one["severity"] == "serious"]
    if serious:
        lines = [f"  {one['finding']} {one['remedy']}" for one in serious]
        raise RegistrationError(
            f"{len(serious)} serious objections, and --strict lets none pass:\n" + "\n".join(lines)
        )
