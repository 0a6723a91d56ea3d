"""`results/`: what people and other programs read, gathered from finished units.

Nothing is shown here that the units do not hold, so `report` rebuilds all of it at any time.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steerproof.codec import digest, json_bytes, plain
from steerproof.decide.analysis.calibration import Calibration, LayerCalibration
from steerproof.decide.report.inputs import ReportInputs
from steerproof.decide.report.page import SOURCES, build
from steerproof.limits import whole_file
from steerproof.run.artefacts import analysis, score, slots
from steerproof.run.artefacts.verdict import FILE as VERDICT
from steerproof.run.artefacts.verdict import RunVerdict, verdict_of
from steerproof.run.commands.report_inputs import Gathered, Groundwork, report_inputs
from steerproof.run.graph.keys import code_version, file_sha256
from steerproof.run.graph.names import ANALYSIS, GRADED, SCORE
from steerproof.run.store.manifest import MANIFEST, StoredUnit
from steerproof.run.store.store import publish, results_damage
from steerproof.spec.experiment import Experiment
from steerproof.spec.strength import Strength

_MADE_FROM = "made-from.json"
_ESTIMATES = ("arms", "controls", "comparisons", "geometry", "bridge")


def publish_results(gathered: Gathered, laid: Groundwork | None = None) -> RunVerdict | None:
    """Write all of `results/`, unless it is there already and made from the same inputs.

    Args:
        gathered: The run.
        laid: Its groundwork, if it was laid already.

    Returns:
        The verdict; None while there is no analysis, or no marks that it was made from.
    """
    finished = gathered.finished
    if not gathered.judged:
        return None
    verdict = verdict_of(
        analysis.from_unit(finished[ANALYSIS]),
        gathered.registration.lock.sha256,
        gathered.experiment.exploratory,
    )
    inputs = report_inputs(gathered, laid)
    tables = {score.RATES: finished[SCORE]}
    if GRADED in finished:
        tables[slots.FILE] = finished[GRADED]
    marker = _marker(verdict, inputs, tables)
    if _made_from(gathered.run) != marker or results_damage(gathered.run):
        copied = {name: unit.read(name) for name, unit in tables.items()}
        publish(gathered.run, {**copied, **_files(verdict, inputs, marker)})
    return verdict


def _files(verdict: RunVerdict, inputs: ReportInputs, marker: str) -> dict[str, bytes]:
    report = build(inputs)
    whole = verdict.record()
    return {
        "estimates.json": json_bytes({name: whole[name] for name in _ESTIMATES}),
        VERDICT: json_bytes(verdict),
        "calibration.json": json_bytes(_calibration_json(inputs.experiment, inputs.calibration)),
        "objections.json": json_bytes(inputs.objections),
        "report.html": report.html.encode(),
        **{f"figures/{name}.svg": svg.encode() for name, svg in report.figures.items()},
        _MADE_FROM: json_bytes({"sha256": marker}),
    }


def _calibration_json(experiment: Experiment, measured: Calibration) -> Mapping[str, Any]:
    """calibration.json: every layer, with the coefficient and ratio of each strength."""
    strengths = sorted(
        {s for grid in experiment.cells if grid.operation == "add" for s in grid.strengths},
        key=str,
    )
    return {"layers": {str(layer): _layer(at, strengths) for layer, at in measured.items()}}


def _layer(measured: LayerCalibration, strengths: list[Strength]) -> Mapping[str, Any]:
    personas = {
        name: {
            **plain(persona),
            "c_at": _defined({s: measured.coefficient(name, s) for s in strengths}),
            "ratio_at": _defined({s: measured.ratio(name, s) for s in strengths}),
        }
        for name, persona in measured.personas.items()
    }
    return {**plain(measured), "personas": personas}


def _defined(numbers: Mapping[Strength, float | None]) -> dict[str, float]:
    """Those that there are: along no length there is no push."""
    return {str(strength): value for strength, value in numbers.items() if value is not None}


def _marker(verdict: RunVerdict, inputs: ReportInputs, tables: Mapping[str, StoredUnit]) -> str:
    """One hash over everything that decides the files."""
    return digest(
        {
            "tables": {name: unit.manifest.files[name].sha256 for name, unit in tables.items()},
            "verdict": plain(verdict),
            "experiment": inputs.experiment.model_dump(mode="json"),
            "objections": plain(inputs.objections),
            "absent": {**inputs.detail.absent, **inputs.detail.unread},
            "deviations": [deviation.sha256 for deviation in inputs.registration.deviations],
            "code": code_version(("steerproof.decide", "steerproof.run.commands")),
            "page": [file_sha256(path) for path in SOURCES],
        }
    )


def _made_from(run: Path) -> str | None:
    """What `results/` says that it was made from; None if it cannot say so any more."""
    results = run / "results"
    if not (results / MANIFEST).is_file():
        return None
    try:
        return json.loads(whole_file(results / _MADE_FROM)).get("sha256")
    except (OSError, ValueError, AttributeError):
        return None
