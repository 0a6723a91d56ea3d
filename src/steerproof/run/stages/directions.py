"""Directions, controls, calibration: what the base model's activations say of each persona."""

from collections.abc import Sequence

from steerproof.run.artefacts.directions import to_files
from steerproof.run.driver.worker import Files, Outcomes, Task, each
from steerproof.run.stages.base import base_of
from steerproof.spec.slices import partial_experiment
from steerproof.study.calibration import calibrate
from steerproof.study.directions import extract, from_residuals


def directions(tasks: Sequence[Task]) -> Outcomes:
    """One unit per layer, all from one extraction: directions.safetensors, geometry.json."""
    base = base_of(tasks[0])
    experiment = partial_experiment(tasks[0].inputs["experiment"])
    residuals = extract(
        base,
        personas={p.name: p.prompt for p in experiment.personas},
        neutral=experiment.neutral_prompt,
        questions=experiment.direction_questions,
        layers=sorted({task.inputs["layer"] for task in tasks}),
    )

    def one(task: Task) -> Files:
        seen = residuals[task.inputs["layer"]]
        found = from_residuals(seen, headline=experiment.headline, seed=experiment.seed)
        calibration = calibrate(
            seen,
            found,
            headline=experiment.headline,
            reference=experiment.reference_persona,
            seed=experiment.seed,
        )
        return to_files(found, calibration)

    yield from each(tasks, one)
