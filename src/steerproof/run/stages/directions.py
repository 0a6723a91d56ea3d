"""Directions, controls, calibration: what the base model's activations say of each persona."""

from collections.abc import Sequence

from steerproof.exchange.brought import brought, given
from steerproof.exchange.shape import shape_in_memory
from steerproof.run.artefacts.directions import to_files
from steerproof.run.driver.worker import Files, Outcomes, Task, each
from steerproof.run.stages.base import base_of
from steerproof.run.stages.inputs import DirectionsInputs, context_of, inputs_of
from steerproof.study.directions import extract, prompts_of
from steerproof.study.geometry import layer_geometry


def directions(tasks: Sequence[Task]) -> Outcomes:
    """One unit per layer, all from one extraction: directions.safetensors, geometry.json."""
    base = base_of(tasks[0])
    layers = {task.unit: inputs_of(task, DirectionsInputs).layer for task in tasks}
    experiment, where = inputs_of(tasks[0], DirectionsInputs).part, context_of(tasks[0])
    prompts = prompts_of(experiment)
    teller = tasks[0].teller
    residuals = extract(base, prompts, sorted(set(layers.values())), told=teller)
    teller.phase("drawing control directions")

    shape = shape_in_memory(base, where.name)
    bringing = [persona for persona in experiment.personas if persona.direction is not None]

    def one(task: Task) -> Files:
        layer = layers[task.unit]
        brought_along = {
            one.name: given(brought(one, where.directory, shape, layer)) for one in bringing
        }
        return to_files(layer_geometry(residuals[layer], prompts, experiment.seed, brought_along))

    yield from each(tasks, one)
