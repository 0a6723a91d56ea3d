"""From the rate table to a verdict: the registered analysis. No torch."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from steerproof.decide.analysis.analyze import analyze
from steerproof.decide.analysis.rates_csv import read_rates
from steerproof.decide.analysis.records import to_json as analysis_json
from steerproof.run.driver.worker import Files, Task, each
from steerproof.run.stages.files import read_json, to_json
from steerproof.spec.experiment import Experiment
from steerproof.spec.slices import partial_experiment


def analysis(tasks: Sequence[Task]) -> Iterator[tuple[str, Files | Exception]]:
    """The registered analysis of the rate table: analysis.json, gates.json."""
    yield from each(tasks, _analysis)


def _analysis(task: Task) -> Files:
    experiment = partial_experiment(task.inputs["experiment"])
    table = read_rates(task.upstream["score/all"].path("rates.csv"), experiment)
    layers = [
        read_json(unit, "geometry.json")
        for name, unit in task.upstream.items()
        if name.startswith("directions/")
    ]
    cosines = {
        str(layer["layer"]): {n: p["reference_cosine"] for n, p in layer["personas"].items()}
        for layer in layers
    }
    result = analyze(table, experiment, geometry=cosines)
    return {
        "analysis.json": to_json(analysis_json(result)),
        "gates.json": to_json([_gate(experiment, layer) for layer in layers]),
    }


def _gate(experiment: Experiment, layer: Mapping[str, Any]) -> dict[str, Any]:
    """What a layer's directions had to satisfy, with the numbers."""
    allowed = experiment.gates.neutral_cosine
    return {
        "layer": layer["layer"],
        "h_bar": layer["h_bar"],
        "neutral_cosine_max": layer["neutral_cosine_max"],
        "neutral_cosine_allowed": allowed,
        "passed": layer["neutral_cosine_max"] <= allowed,
        "split_half": {n: layer["personas"][n]["split_half"] for n in experiment.headline},
    }
