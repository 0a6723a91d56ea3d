"""Measurement: the tasks' cells in one pool, each unit written when its last row has ended."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import pyarrow as pa

from steerproof.engine.canary import Canary, fixed_text
from steerproof.engine.generate import Engine
from steerproof.engine.lora.peft_files import read_peft
from steerproof.engine.lora.pool import LoraWeights
from steerproof.engine.rows import Completion, Row
from steerproof.engine.sampling import row_seed
from steerproof.errors import SteeringError, SteerproofError
from steerproof.model.base import Base
from steerproof.model.chat import chat_ids
from steerproof.model.steering import Push
from steerproof.run.driver.worker import Files, Outcomes, Task
from steerproof.run.stages.base import base_of
from steerproof.run.stages.files import table_bytes, to_json
from steerproof.run.stages.pushes import Pushes, read_directions
from steerproof.run.store.manifest import StoredUnit
from steerproof.spec.experiment import Generation
from steerproof.spec.grid import Cell

PUSH_TOLERANCE = 0.05
"""Largest relative difference between the push asked for and the one that arrived."""


@dataclass(slots=True, kw_only=True)
class _Open:
    """A cell that is being measured."""

    task: Task
    cell: Cell
    push: Push | None
    rows: int
    done: list[Completion] = field(default_factory=list)


def cell(tasks: Sequence[Task]) -> Outcomes:
    """One unit per cell: completions.parquet, cell.json."""
    base = base_of(tasks[0])
    ordered = sorted(
        tasks, key=lambda task: (task.inputs["cell"]["arm"], task.inputs["cell"]["persona"])
    )
    adapters = _load_adapters(base, ordered)
    pushes = Pushes(read_directions(ordered))
    rows: list[Row] = []
    cells: dict[str, _Open] = {}
    for task in ordered:
        found = Cell.from_record(task.inputs["cell"])
        push = pushes.push(found.direction, found.persona, found.layer, found.strength)
        mine = _rows(base, task, found, adapters[found.adapter.name], push)
        cells[found.name] = _Open(task=task, cell=found, push=push, rows=len(mine))
        rows += mine
    engine = Engine(base, rows)
    watched = engine.canaries(fixed_text(base, ordered[0].inputs["questions"]))
    settings = Generation(**tasks[0].inputs["generation"])
    for completion in engine.generate(settings):
        one = cells[completion.row.cell]
        one.done.append(completion)
        if len(one.done) == one.rows:
            yield one.task.unit, _outcome(base, one, pushes, engine, watched[one.cell.name])


def _load_adapters(base: Base, tasks: Sequence[Task]) -> dict[str, LoraWeights]:
    """Every adapter that some cell uses, by name."""
    units: dict[str, StoredUnit] = {}
    for task in tasks:
        for name, unit in task.upstream.items():
            if name.kind == "adapter":
                units[name.name] = unit
    weights: dict[str, LoraWeights] = {}
    for name, unit in units.items():
        unit.path("adapter_config.json")
        unit.path("adapter_model.safetensors")
        weights[name] = read_peft(unit.directory, base)
    return weights


def _rows(base: Base, task: Task, cell: Cell, adapter: LoraWeights, push: Push | None) -> list[Row]:
    inputs = task.inputs
    rows = []
    for question, text in enumerate(inputs["questions"]):
        prompt = chat_ids(
            base,
            system=inputs["system"],
            user=text,
            reserve=inputs["generation"]["max_new_tokens"],
        )
        for sample in range(inputs["generation"]["samples"]):
            rows.append(
                Row(
                    cell=cell.name,
                    question=question,
                    sample=sample,
                    seed=row_seed(inputs["seed"], cell.name, question, sample),
                    prompt_ids=prompt,
                    adapter=adapter,
                    push=push,
                )
            )
    return rows


def _outcome(
    base: Base, one: _Open, pushes: Pushes, engine: Engine, canary: Canary | SteerproofError
) -> Files | SteerproofError:
    """The files of a measured cell, or the error that its push was not what was asked."""
    if not isinstance(canary, Canary):
        return canary
    asked, achieved = 0.0, None
    if one.push is not None:
        asked, achieved = float(one.push.vector.norm()), engine.audit(one.push)
        if achieved.push_norm is None or abs(achieved.push_norm / asked - 1) > PUSH_TOLERANCE:
            return SteeringError(
                f"{one.cell.name}: a push of norm {asked:.4g} was asked for, but "
                f"{achieved.push_norm} arrived at layer {one.cell.layer}; load the model in "
                "float32, or check that the block's output is the residual stream"
            )
    record = {
        "cell": one.task.inputs["cell"],
        "coefficient": pushes.coefficient(one.push),
        "ratio": pushes.ratio(one.push),
        "asked_norm": asked,
        "achieved_norm": achieved.push_norm if achieved else None,
        "token_ratio": achieved.ratio if achieved else None,
        "canary": asdict(canary),
    }
    return {
        "completions.parquet": table_bytes(_table(base, one)),
        "cell.json": to_json(record),
    }


def _table(base: Base, one: _Open) -> pa.Table:
    done = sorted(one.done, key=lambda c: (c.row.question, c.row.sample))
    early = one.task.inputs["early_tokens"]
    texts = [str(base.tokenizer.decode(list(c.token_ids))) for c in done]
    heads = [
        text if len(c.token_ids) <= early else str(base.tokenizer.decode(list(c.token_ids[:early])))
        for c, text in zip(done, texts, strict=True)
    ]
    return pa.table(
        {
            "question": pa.array([c.row.question for c in done], pa.int32()),
            "sample": pa.array([c.row.sample for c in done], pa.int32()),
            "seed": pa.array([c.row.seed for c in done], pa.int64()),
            "text": pa.array(texts, pa.string()),
            "token_ids": pa.array([list(c.token_ids) for c in done], pa.list_(pa.int32())),
            "tokens": pa.array([len(c.token_ids) for c in done], pa.int32()),
            "finish": pa.array([c.finish for c in done], pa.string()),
            "early_chars": pa.array([len(head) for head in heads], pa.int32()),
        }
    )
