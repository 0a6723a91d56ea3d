"""From the rate table to a verdict: the registered analysis. No torch."""

from collections.abc import Sequence

from steerproof.decide.analysis.analyze import analyze
from steerproof.decide.analysis.calibration import layer_gate, reference_cosines
from steerproof.run.artefacts import calibration, score
from steerproof.run.artefacts.analysis import AnalysisResult, to_files
from steerproof.run.driver.worker import Files, Outcomes, Task, each
from steerproof.run.graph.names import SCORE
from steerproof.spec.slices import partial_experiment


def analysis(tasks: Sequence[Task]) -> Outcomes:
    """The registered analysis of the rate table: analysis.json, gates.json."""
    yield from each(tasks, _analysis)


def _analysis(task: Task) -> Files:
    experiment = partial_experiment(task.inputs["experiment"])
    read = [s for unit, s in task.upstream.items() if unit.kind == "directions"]
    layers = {at.layer: at for at in map(calibration.from_unit, read)}
    table = score.rates_of(task.upstream[SCORE], experiment)
    analysis = analyze(table, experiment, geometry=reference_cosines(layers))
    gates = tuple(layer_gate(experiment, at) for at in layers.values())
    return to_files(AnalysisResult(analysis=analysis, gates=gates))
