"""Directions, controls, calibration: what the base model's activations say of each persona."""

from collections.abc import Iterator, Sequence

from safetensors.torch import save as save_tensors

from steerproof.run.driver.worker import Files, Task, each
from steerproof.run.stages.base import base_of
from steerproof.run.stages.files import to_json
from steerproof.spec.slices import partial_experiment
from steerproof.study.calibration import calibrate
from steerproof.study.directions import extract, from_residuals, tensors


def directions(tasks: Sequence[Task]) -> Iterator[tuple[str, Files | Exception]]:
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
        geometry = {
            "layer": found.layer,
            "module": f"{base.block_path}.{found.layer}",
            "hidden_states_index": found.layer + 1,
            "questions": len(experiment.direction_questions),
            **calibration.to_json(),
        }
        stored = save_tensors(tensors([found]), metadata={"layer": str(found.layer)})
        return {"directions.safetensors": stored, "geometry.json": to_json(geometry)}

    yield from each(tasks, one)
