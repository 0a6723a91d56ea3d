"""Training: the tasks' adapters in one pool, each unit written as its adapter ends."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from steerproof.engine.batches import Example
from steerproof.engine.lora.peft_files import read_peft, write_peft
from steerproof.engine.train import AdapterJob, Pooling, Recipe, TrainedAdapter, train
from steerproof.model.base import Base
from steerproof.model.chat import chat_ids, text_ids
from steerproof.run.artefacts import dataset as dataset_file
from steerproof.run.driver.worker import Files, Outcomes, Task, each
from steerproof.run.graph.names import dataset_unit
from steerproof.run.stages.base import base_of
from steerproof.run.stages.files import to_json
from steerproof.run.stages.pushes import Pushes, read_directions
from steerproof.spec.experiment import Training
from steerproof.spec.seeds import derived_seed
from steerproof.spec.slices import partial_experiment
from steerproof.study.dataset import signal


def adapter(tasks: Sequence[Task]) -> Outcomes:
    """One unit per (arm, persona): PEFT's two files and training.json.

    Adapters of one persona start from the same weights and see the same order of rows in every
    arm, so arms differ in their signal alone.
    """
    base = base_of(tasks[0])
    given = [task for task in tasks if task.inputs["experiment"]["arms"][0]["adapters"]]
    yield from each(given, lambda task: _import(base, task))
    trained = [task for task in tasks if task not in given]
    if not trained:
        return
    pushes = Pushes(read_directions(trained))
    jobs = [_job(base, task, pushes) for task in trained]
    experiment = partial_experiment(trained[0].inputs["experiment"])
    pooling = Pooling(checkpointing=experiment.training.gradient_checkpointing)
    by_key = {str(task.unit): task for task in trained}
    for ended in train(base, jobs, _recipe(experiment.training), pooling):
        if isinstance(ended, TrainedAdapter):
            yield by_key[ended.key].unit, _files(base, by_key[ended.key], ended, pushes)
        else:
            yield by_key[ended.key].unit, ended.error


def _recipe(training: Training) -> Recipe:
    return Recipe(**training.model_dump(exclude={"gradient_checkpointing"}))


def _job(base: Base, task: Task, pushes: Pushes) -> AdapterJob:
    experiment = partial_experiment(task.inputs["experiment"])
    arm, persona = experiment.arms[0], task.inputs["persona"]
    dataset = dataset_file.from_unit(task.upstream[dataset_unit(persona)])
    examples = []
    for row in dataset.rows:
        told = signal(experiment, arm, dataset.source, row)
        push = None
        if told.direction is not None:
            layer = experiment.layer(arm.layer)
            push = pushes.push(arm.direction, told.direction, layer, arm.training_strength)
        examples.append(
            Example(
                prompt_ids=chat_ids(base, system=told.system, user=row.question),
                completion_ids=(*text_ids(base.tokenizer, row.answer), base.end_of_turn),
                push=push,
            )
        )
    seed = derived_seed(task.inputs.get("training_seed", experiment.seed), "adapter", persona)
    return AdapterJob(key=str(task.unit), examples=tuple(examples), seed=seed)


def _files(base: Base, task: Task, ended: TrainedAdapter, pushes: Pushes) -> Files:
    record: dict[str, Any] = {
        "losses": ended.losses,
        "gradient_norms": ended.gradient_norms,
        "firings": ended.firings,
        "tokens": ended.tokens,
        "seconds": ended.seconds,
        "pushes": [
            {
                "asked_ratio": pushes.ratio(audit.push),
                "asked_norm": audit.asked_norm,
                "achieved_norm": audit.measured.push_norm,
                "residual_norm": audit.measured.residual_norm,
                "token_ratio": audit.measured.ratio,
                "layer": audit.measured.layer,
                "positions": audit.measured.positions,
            }
            for audit in ended.pushes
        ],
    }
    files = write_peft(base, ended.weights, task.context["name"])
    return {**files, "training.json": to_json(record)}


def _import(base: Base, task: Task) -> Files:
    """Take over an adapter that was trained elsewhere, checked and rewritten."""
    directory = Path(task.context["directory"]) / task.inputs["experiment"]["arms"][0]["adapters"]
    weights = read_peft(directory / task.inputs["persona"], base)
    record = {"losses": [], "pushes": [], "imported": asdict(weights.spec)}
    files = write_peft(base, weights, task.context["name"])
    return {**files, "training.json": to_json(record)}
