"""`results/`: what people and other programs read, gathered from finished units.

Nothing is computed here that a unit does not hold, so `report` rebuilds all of it at any time.
"""

import json
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from steerproof.decide.analysis.rates_csv import read_rates
from steerproof.decide.analysis.records import Analysis
from steerproof.decide.report.inputs import (
    Completion,
    Deviation,
    Fluency,
    Lock,
    ReportInputs,
    RunFacts,
    TrainingSummary,
)
from steerproof.decide.report.page import SOURCES, build
from steerproof.run.graph.graph import Graph
from steerproof.run.graph.keys import code_version, digest, file_sha256
from steerproof.run.stages.files import read_json, read_table, to_json
from steerproof.run.store.ledger import read_ledger
from steerproof.run.store.manifest import MANIFEST, StoredUnit
from steerproof.run.store.store import publish, results_damage
from steerproof.spec.experiment import Experiment
from steerproof.spec.grid import Cell, cells
from steerproof.spec.lock import Deviation as DeclaredDeviation
from steerproof.spec.lock import Lock as Registration

SHOWN_PER_CELL = 2
"""Completions of a cell that the report shows, at most: one that fired, one that did not."""

MADE_FROM = "made-from.json"
Finished = Mapping[str, StoredUnit]


def calibration(experiment: Experiment, finished: Finished) -> dict[str, Any]:
    """calibration.json: every layer's geometry, with the coefficient and ratio of each strength."""
    measured = [unit for unit in finished if unit.startswith("directions/")]
    return with_strengths(experiment, [read_json(finished[u], "geometry.json") for u in measured])


def with_strengths(experiment: Experiment, geometries: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Layers' geometries as calibration.json holds them; they are changed in place."""
    strengths = sorted(
        {s for g in experiment.cells if g.operation == "add" for s in g.strengths}, key=str
    )
    layers: dict[str, Any] = {}
    for geometry in geometries:
        for persona in geometry["personas"].values():
            size = {"h_bar": geometry["h_bar"], "norm": persona["norm"]}
            along = strengths if persona["norm"] else ()  # along no length there is no push
            persona["c_at"] = {str(s): s.coefficient(**size) for s in along}
            persona["ratio_at"] = {str(s): s.ratio(**size) for s in along}
        layers[str(geometry["layer"])] = geometry
    return {"layers": layers}


def verdict_json(finished: Finished, registration: Registration) -> dict[str, Any]:
    """verdict.json: the whole analysis, the gates, and the hash of what was registered."""
    analysis = finished["analysis/all"]
    return {
        **read_json(analysis, "analysis.json"),
        "gates": read_json(analysis, "gates.json"),
        "lock": registration.sha256,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """A run whose analysis is finished."""

    experiment: Experiment
    run: Path
    graph: Graph
    finished: Finished
    """Finished units by id."""
    registration: Registration
    declared: Sequence[DeclaredDeviation]
    objections: Sequence[Mapping[str, Any]]


def report_inputs(gathered: Gathered) -> ReportInputs:
    """Everything that the report shows, read from the units and the ledger."""
    experiment, finished = gathered.experiment, gathered.finished
    score = finished["score/all"]
    found = calibration(experiment, finished)
    return ReportInputs(
        experiment=experiment,
        rates=read_rates(score.path("rates.csv"), experiment),
        analysis=Analysis.from_json(read_json(finished["analysis/all"], "analysis.json")),
        calibration=found,
        training=_training(experiment, finished),
        completions=_completions(experiment, finished),
        fluency=_fluency(experiment, finished),
        objections=gathered.objections,
        versions=gathered.registration.versions,
        seeds={"experiment": experiment.seed},
        hashes=_hashes(gathered.graph, finished),
        lock=Lock(sha256=gathered.registration.sha256, time=gathered.registration.time),
        deviations=tuple(
            Deviation(
                time=one.time,
                why=one.reason,
                fields=tuple(str(change) for change in one.changes),
                sha256=one.sha256,
            )
            for one in gathered.declared
        ),
        facts=_facts(gathered.run, gathered.graph),
        command=f"steerproof run {experiment.name}",
    )


def versions() -> dict[str, str]:
    """Version of everything that decides a number."""
    names = ("steerproof", "torch", "transformers", "safetensors", "numpy", "scipy", "pyarrow")
    return {**{name: version(name) for name in names}, "python": platform.python_version()}


def _hashes(graph: Graph, finished: Finished) -> dict[str, str]:
    model = graph.units["answers/base"].environment.model
    return {
        **{f"model {name}": value for name, value in model.items()},
        "rate table": finished["score/all"].manifest.files["rates.csv"].sha256,
        "analysis": finished["analysis/all"].manifest.content,
    }


def _training(experiment: Experiment, finished: Finished) -> tuple[TrainingSummary, ...]:
    found = []
    for unit, stored in finished.items():
        if not unit.startswith("adapter/"):
            continue
        arm, _, persona = unit.removeprefix("adapter/").partition(".")
        record = read_json(stored, "training.json")
        pushes = [push for push in record["pushes"] if push["positions"]]
        found.append(
            TrainingSummary(
                arm=arm,
                persona=persona,
                losses=tuple(record["losses"]),
                asked=experiment.arm(arm).ratio,
                achieved=_mean_over_tokens(
                    pushes, lambda p: p["asked_ratio"] * p["achieved_norm"] / p["asked_norm"]
                ),
                token_ratio=_mean_over_tokens(pushes, lambda p: p["token_ratio"]),
                firings=record.get("firings") if pushes else None,
                seconds=record.get("seconds"),
            )
        )
    return tuple(found)


def _mean_over_tokens(
    pushes: Sequence[Mapping[str, Any]], value: Callable[[Mapping[str, Any]], float]
) -> float | None:
    """Mean of a quantity of an adapter's pushes, each weighted by its token positions."""
    total = sum(push["positions"] for push in pushes)
    return sum(value(push) * push["positions"] for push in pushes) / total if total else None


def _completions(experiment: Experiment, finished: Finished) -> tuple[Completion, ...]:
    """One completion that fired and one that did not, of each headline cell of the tested arms."""
    marks = _marks(finished)
    wanted = {experiment.analysis.arm, experiment.analysis.baseline_arm}
    found = []
    for cell in cells(experiment):
        stored = finished.get(f"cell/{cell.name}")
        shown = cell.plain and cell.arm in wanted and cell.persona in experiment.headline
        if stored is None or not shown:
            continue
        texts = read_table(stored, "completions.parquet").to_pylist()
        fired = [row["fired"] for row in marks[cell.name]]
        for hit in (True, False)[:SHOWN_PER_CELL]:
            place = next((i for i, value in enumerate(fired) if value == hit), None)
            if place is not None:
                found.append(_shown(experiment, cell, texts[place], hit))
    return tuple(found)


def _shown(experiment: Experiment, cell: Cell, row: Mapping[str, Any], fired: bool) -> Completion:
    return Completion(
        cell=cell,
        question=experiment.questions.evaluation[row["question"]],
        text=row["text"],
        fired=fired,
        finish=row["finish"],
        tokens=row["tokens"],
    )


def _fluency(experiment: Experiment, finished: Finished) -> tuple[Fluency, ...]:
    marks = _marks(finished)
    found = []
    for cell in cells(experiment):
        stored = finished.get(f"cell/{cell.name}")
        if stored is None or not cell.plain:
            continue
        record, rows = read_json(stored, "cell.json"), marks[cell.name]
        sign = -1.0 if record["coefficient"] < 0 else 1.0
        found.append(
            Fluency(
                cell=cell,
                ratio=sign * record["ratio"],
                repetition=_mean(row["repetition"] for row in rows),
                length_share=_mean(row["finish"] == "length" for row in rows),
                tokens=_mean(row["tokens"] for row in rows),
            )
        )
    return tuple(found)


def _marks(finished: Finished) -> dict[str, list[dict[str, Any]]]:
    """The marked completions of each cell, in order of question and sample."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in read_table(finished["score/all"], "scores.parquet").to_pylist():
        found.setdefault(row["cell"], []).append(row)
    return found


def _mean(values: Iterable[float | None]) -> float | None:
    """Mean of those that are defined; None if none is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _facts(run: Path, graph: Graph) -> RunFacts:
    ledger = read_ledger(run)
    seconds = None
    if ledger is not None:
        seconds = ledger.totals().seconds
        ledger.close()
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return RunFacts(units=len(graph.units), seconds=seconds, machine=machine)


def publish_results(
    run: Path, inputs: ReportInputs, verdict: Mapping[str, Any], rates: bytes
) -> None:
    """Write all of `results/`, unless it is there already and made from the same inputs."""
    marker = digest(
        {
            "verdict": dict(verdict),
            "experiment": inputs.experiment.model_dump(mode="json"),
            "objections": [dict(one) for one in inputs.objections],
            "deviations": [one.sha256 for one in inputs.deviations],
            "code": code_version(("steerproof.decide", "steerproof.run.results")),
            "page": [file_sha256(path) for path in SOURCES],
        }
    )
    if _made_from(run) == marker and not results_damage(run):
        return
    report = build(inputs)
    estimates = {k: verdict[k] for k in ("arms", "controls", "comparisons", "geometry", "bridge")}
    publish(
        run,
        {
            "rates.csv": rates,
            "estimates.json": to_json(estimates),
            "verdict.json": to_json(dict(verdict)),
            "calibration.json": to_json(inputs.calibration),
            "objections.json": to_json([dict(one) for one in inputs.objections]),
            "report.html": report.html.encode(),
            **{f"figures/{name}.svg": svg.encode() for name, svg in report.figures.items()},
            MADE_FROM: to_json({"sha256": marker}),
        },
    )


def _made_from(run: Path) -> str | None:
    """What `results/` says that it was made from; None if it cannot say so any more."""
    results = run / "results"
    if not (results / MANIFEST).is_file():
        return None
    try:
        return json.loads((results / MADE_FROM).read_bytes())["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
