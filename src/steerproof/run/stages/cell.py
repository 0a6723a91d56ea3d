"""Measurement: the tasks' cells in one pool, each unit written when its last row has ended."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace

import pyarrow as pa

from steerproof.engine.canary import Canary, canaries
from steerproof.engine.generate import Completion, generate
from steerproof.engine.lora.peft_files import read_peft
from steerproof.engine.lora.pool import LoraPool, LoraWeights
from steerproof.engine.rows import Row, Subject
from steerproof.engine.sampling import row_seed
from steerproof.errors import SteeringError
from steerproof.model.base import Base
from steerproof.model.chat import chat_ids, text_ids
from steerproof.model.steering import Steering
from steerproof.run.driver.worker import Files, Task
from steerproof.run.stages.base import base_of
from steerproof.run.stages.files import table_bytes, to_json
from steerproof.run.stages.pushes import Pushes, read_directions
from steerproof.run.store.manifest import StoredUnit
from steerproof.spec.experiment import Generation
from steerproof.spec.grid import Cell

PUSH_TOLERANCE = 0.05
"""Largest relative difference between the push asked for and the one that arrived."""
_AUDIT_EVERY = 8


@dataclass(slots=True, kw_only=True)
class _Open:
    """A cell that is being measured."""

    task: Task
    cell: Cell
    push: int
    rows: int
    done: list[Completion] = field(default_factory=list)


def cell(tasks: Sequence[Task]) -> Iterator[tuple[str, Files | Exception]]:
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
        push = pushes.slot(found.direction, found.persona, found.layer, found.strength)
        mine = _rows(base, task, found, adapters[1][found.adapter.name], push)
        cells[found.name] = _Open(task=task, cell=found, push=push, rows=len(mine))
        rows += mine
    steering = None
    if pushes.table:
        steering = Steering(
            base.blocks,
            pushes.table,
            device=base.device,
            dtype=base.dtype,
            audit_every=_AUDIT_EVERY,
        )
    subject = Subject(base=base, adapters=adapters[0], steering=steering)
    watched = _watch(base, subject, rows, ordered[0].inputs["questions"][0])
    settings = Generation(**tasks[0].inputs["generation"])
    for completion in generate(subject, rows, settings):
        one = cells[completion.cell]
        one.done.append(completion)
        if len(one.done) == one.rows:
            yield one.task.unit, _outcome(base, one, pushes, steering, watched[one.cell.name])


def _watch(base: Base, subject: Subject, rows: Sequence[Row], text: str) -> dict[str, Canary]:
    """A canary per cell: the first row of each scores one fixed text, pooled and alone.

    Raises:
        SteeringError: A push changes nothing.
        ModelError: The pool and a row alone disagree.
    """
    first = {row.cell: row for row in reversed(rows)}
    ids = text_ids(base.tokenizer, text)
    return {one.cell: one for one in canaries(subject, list(first.values()), ids)}


def _load_adapters(base: Base, tasks: Sequence[Task]) -> tuple[LoraPool, dict[str, int]]:
    """Every adapter that some cell uses, in a slot of its own, and the slots by name."""
    units: dict[str, StoredUnit] = {}
    for task in tasks:
        for name, unit in task.upstream.items():
            if name.startswith("adapter/"):
                units[name.removeprefix("adapter/")] = unit
    weights: dict[str, LoraWeights] = {}
    for name, unit in units.items():
        unit.path("adapter_config.json")
        unit.path("adapter_model.safetensors")
        weights[name] = read_peft(unit.directory, base)
    widest = max((w.spec for w in weights.values()), key=lambda spec: spec.rank)
    pool = LoraPool(base, slots=len(weights), spec=replace(widest, targets=None))
    slots = {}
    for slot, (name, loaded) in enumerate(weights.items(), start=1):
        pool.load(slot, loaded)
        slots[name] = slot
    return pool, slots


def _rows(base: Base, task: Task, cell: Cell, adapter: int, push: int) -> list[Row]:
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
    base: Base, one: _Open, pushes: Pushes, steering: Steering | None, canary: Canary
) -> Files | SteeringError:
    """The files of a measured cell, or the error that its push was not what was asked."""
    asked = float(pushes.table[one.push - 1].vector.norm()) if one.push else 0.0
    achieved = None
    if one.push and steering is not None:
        achieved = steering.audit().slots[one.push - 1]
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
    done = sorted(one.done, key=lambda c: (c.question, c.sample))
    early = one.task.inputs["early_tokens"]
    texts = [str(base.tokenizer.decode(list(c.token_ids))) for c in done]
    heads = [
        text if len(c.token_ids) <= early else str(base.tokenizer.decode(list(c.token_ids[:early])))
        for c, text in zip(done, texts, strict=True)
    ]
    return pa.table(
        {
            "question": pa.array([c.question for c in done], pa.int32()),
            "sample": pa.array([c.sample for c in done], pa.int32()),
            "seed": pa.array([c.seed for c in done], pa.int64()),
            "text": pa.array(texts, pa.string()),
            "token_ids": pa.array([list(c.token_ids) for c in done], pa.list_(pa.int32())),
            "tokens": pa.array([len(c.token_ids) for c in done], pa.int32()),
            "finish": pa.array([c.finish for c in done], pa.string()),
            "early_chars": pa.array([len(head) for head in heads], pa.int32()),
        }
    )
