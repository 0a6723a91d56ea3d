"""Directions, controls, calibration: what the base model's activations say of each persona."""

from collections.abc import Sequence
from pathlib import Path

from steerproof.exchange.brought import brought, given
from steerproof.exchange.shape import shape_in_memory
from steerproof.run.artefacts.directions import to_files
from steerproof.run.driver.worker import Files, Outcomes, Task, each
from steerproof.run.stages.base import base_of
from steerproof.spec.slices import partial_experiment
from steerproof.study.directions import extract, prompts_of
from steerproof.study.geometry import layer_geometry


def directions(tasks: Sequence[Task]) -> Outcomes:
    """One unit per layer, all from one extraction: directions.safetensors, geometry.json."""
    base = base_of(tasks[0])
    experiment = partial_experiment(tasks[0].inputs["experiment"])
    prompts = prompts_of(experiment)
    residuals = extract(base, prompts, sorted({task.inputs["layer"] for task in tasks}))

    shape = shape_in_memory(base, tasks[0].context["name"])
    place = Path(tasks[0].context["directory"])
    bringing = [persona for persona in experiment.personas if persona.direction is not None]

    def one(task: Task) -> Files:
        layer = task.inputs["layer"]
        found = {one.name: given(brought(one, place, shape, layer)) for one in bringing}
        return to_files(layer_geometry(residuals[layer], prompts, experiment.seed, found))

    yield from each(tasks, one)
