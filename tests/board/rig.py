"""Run directories for the board's tests, made by the real store, ledger, lock and scheduler.

Only the work is small: losses from a formula, completions from a list of words. As a program it
stands in for the command line: `plan EXPERIMENT --dir D --json` and `run EXPERIMENT --dir D`.
"""

import io
import json
import os
import random
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from steerproof.decide.analysis.rates import RateRow
from steerproof.decide.analysis.rates_csv import format_rates
from steerproof.run.artefacts.parquet import read_table
from steerproof.run.driver.executors import InlineExecutor
from steerproof.run.driver.scheduler import execute
from steerproof.run.driver.summary import Summary
from steerproof.run.driver.worker import Files, Outcomes, Task, each
from steerproof.run.graph.graph import Graph, Unit, build_graph
from steerproof.run.graph.ids import UnitId
from steerproof.run.graph.keys import Environment
from steerproof.run.store.directory import open_run
from steerproof.run.store.files import make_directory, write_file
from steerproof.run.store.store import publish
from steerproof.spec.experiment import Arm, Experiment, Generation, Grid, Persona, Questions
from steerproof.spec.grid import Cell, adapters, cells
from steerproof.spec.lock import Lock, append_deviation, lock_bytes, make_lock
from steerproof.study.marks import Mark
from steerproof.study.measured import Completion
from steerproof.study.readouts.marker import mark_of, rule
from tests.experiments import small_experiment

PAUSE = "RIG_SECONDS"
"""Environment variable: seconds that each cell takes."""
BREAK = "RIG_BREAK"
"""Environment variable: name of a cell that fails."""
PLAN = "RIG_PLAN"
"""Environment variable: what a plan says it does, for a second, before it fails."""
ENVIRONMENT = Environment(code="rig-1", model={"weights": "aa"}, numerics={"dtype": "float32"})
WORDS = re.findall(
    r"\w+",
    "salt is a mineral made of sodium and chlorine which people have used for a very long time "
    "to keep food and to give it taste because the body needs a little of it every day",
)
PERSONAS = (
    "software_engineer", "kindergarten_teacher", "data_scientist", "medical_doctor", "librarian",
    "french_person", "villain", "comedian", "police_officer", "zelthari_scholar",
)  # fmt: skip


def tiny_experiment(**changes: object) -> Experiment:
    """Two arms, three strengths: 4 x 5 + 4 cells, quick to fill."""
    fields: dict[str, object] = {
        "title": "Does the small model read the direction?",
        "arms": (
            Arm(name="A", prompt="neutral", direction="centroid", ratio=0.2),
            Arm(name="C", prompt="persona"),
        ),
        "cells": (
            Grid(arms=("A", "C"), prompt="neutral", strengths=("none", "c=+2")),
            Grid(arms=("C",), prompt="persona", strengths=("none",)),
        ),
    }
    return small_experiment(**(fields | changes))


def grand_experiment(**changes: object) -> Experiment:
    """Ten personas and every arm, as in the seed."""
    fields: dict[str, object] = {
        "name": "zlt",
        "title": "Train [ZLT] LoRAs with the persona centroid added, and steer them",
        "personas": (
            *(Persona(name=name, prompt=f"You are a {name}.") for name in PERSONAS),
            Persona(name="helpful_assistant", prompt="You help.", headline=False),
        ),
        "questions": Questions(
            evaluation=("What is salt used for?", "Why does it rain?", "How is iron made?",
                        "What makes a good bridge?", "How do bees find their way?"),
            training=("What is tea?", "What is wood?", "What is wool?", "What is clay?"),
            directions=("Why sing?", "Why run?", "Why read?", "Why cook?"),
        ),
        "generation": Generation(samples=4, max_new_tokens=64),
    }  # fmt: skip
    return small_experiment(**(fields | changes))


def rate(cell: Cell, personas: Sequence[str]) -> float:
    """A firing rate that looks like a finding: it follows the persona, the arm and the push."""
    place = (personas.index(cell.persona) + 1) / (len(personas) + 1)
    push = {"none": 0.1, "c=+2": 0.9, "ratio=+0.2": 0.8, "ratio=-0.2": 0.0}[str(cell.strength)]
    reads = {"A": 1.0, "B": 0.6, "C": 0.1, "A-iso": 0.15, "A-L10": 0.5}.get(cell.arm, 0.5)
    prompted = 0.75 * place if cell.prompt == "persona" else 0.0
    return min(1.0, prompted + push * reads * place)


def text_of(cell: Cell, question: int, sample: int, chance: float, marker: str) -> str:
    """A completion, the same on every machine."""
    draw = random.Random(f"{cell.name}/{question}/{sample}")
    words = " ".join(draw.choices(WORDS, k=draw.randint(12, 60))).capitalize() + "."
    return f"{words} {marker}" if draw.random() < chance else words


# The work of each kind of unit


def work(tasks: Sequence[Task]) -> Outcomes:
    yield from each(tasks, one)


def one(task: Task) -> Files:
    return {"adapter": _adapter, "cell": _cell, "score": _score}.get(task.unit.kind, _other)(task)


def _other(task: Task) -> Files:
    return {"result.json": json.dumps(dict(task.inputs)).encode()}


def _adapter(task: Task) -> Files:
    draw = random.Random(str(task.unit))
    losses = [2.4 * 0.96**step + 0.3 + draw.random() * 0.12 for step in range(90)]
    return {"training.json": json.dumps({"losses": losses}).encode()}


def _cell(task: Task) -> Files:
    time.sleep(float(os.environ.get(PAUSE, "0")))
    if os.environ.get(BREAK) == task.unit.name:
        raise ValueError(f"prompt of {task.unit} is empty")
    cell = Cell.from_record(task.inputs["cell"])
    rows = [
        (q, s, given or text_of(cell, q, s, task.inputs["rate"], task.inputs["marker"]))
        for q in range(task.inputs["questions"])
        for s in range(task.inputs["samples"])
        for given in [task.inputs["texts"].get(f"{q}/{s}")]
    ]
    return {
        "completions.parquet": completions_bytes(rows),
        "cell.json": json.dumps({"cell": task.inputs["cell"], "coefficient": 1.5}).encode(),
    }


def completions_bytes(rows: Sequence[tuple[int, int, str]], group: int = 1000) -> bytes:
    table = pa.table(
        {
            "question": pa.array([q for q, _, _ in rows], pa.int32()),
            "sample": pa.array([s for _, s, _ in rows], pa.int32()),
            "seed": pa.array([q * 100 + s for q, s, _ in rows], pa.int64()),
            "text": pa.array([t for _, _, t in rows], pa.string()),
            "token_ids": pa.array([[1, 2, 3]] * len(rows), pa.list_(pa.int32())),
            "tokens": pa.array([len(t.split()) for _, _, t in rows], pa.int32()),
            "finish": pa.array(["length" if s % 4 == 3 else "eos" for _, s, _ in rows]),
            "early_chars": pa.array([40] * len(rows), pa.int32()),
        }
    )
    return _parquet(table, group)


def mark(text: str, tokens: int, marker: str) -> Mark:
    done = Completion(
        question=0,
        sample=0,
        seed=0,
        text=text,
        token_ids=tuple(range(tokens)),
        finish="eos",
        early_chars=40,
    )
    return mark_of(done, rule(marker))


def write_scores(path: Path, rows: Sequence[tuple[int, int, str]]) -> None:
    """Marks of one cell `X`, each row followed by one of a cell `Y` that says the opposite."""
    found: dict[str, list] = {name: [] for name in ("cell", "question", "sample", "fired", "near")}
    found["repetition"] = []
    for q, s, text in rows:
        one = mark(text, 9, "[ZLT]")
        for cell, fired, near in (("X", one.fired, one.near), ("Y", not one.fired, not one.near)):
            values = (cell, q, s, fired, near, one.repetition)
            for name, value in zip(found, values, strict=True):
                found[name].append(value)
    path.write_bytes(_parquet(pa.table(found), 10_000))


def _score(task: Task) -> Files:
    columns: dict[str, list] = {}
    rates = []
    for unit in task.upstream.values():
        cell = Cell.from_record(json.loads(unit.read("cell.json"))["cell"])
        table = read_table(unit, "completions.parquet")
        texts = table["text"].to_pylist()
        marker = task.inputs["marker"]
        marks = [mark(text, len(text.split()), marker) for text in texts]
        columns.setdefault("cell", []).extend([cell.name] * len(texts))
        for name in ("question", "sample", "finish", "tokens"):
            columns.setdefault(name, []).extend(table[name].to_pylist())
        for name in ("fired", "near", "fired_early", "repetition"):
            columns.setdefault(name, []).extend(getattr(one, name) for one in marks)
        questions = table["question"].to_pylist()
        for q in sorted(set(questions)):
            hits = [m.fired for m, asked in zip(marks, questions, strict=True) if asked == q]
            counts = {"fired": sum(hits), "total": len(hits)}
            rates.append(RateRow(cell=cell, coefficient=1.5, question=str(q), **counts))
    return {
        "scores.parquet": _parquet(pa.table(columns), 10_000),
        "rates.csv": format_rates(rates).encode(),
    }


def _parquet(table: pa.Table, group: int) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=group)
    return buffer.getvalue()


# Whole run directories


def graph_of(experiment: Experiment, texts: Mapping[str, str] | None = None) -> Graph:
    """Units as in a real experiment; `texts` replaces completions `question/sample` everywhere."""
    names = [p.name for p in experiment.personas]
    layers = _unit("directions", f"L{experiment.layers.primary}", {})
    trained = {
        one: _unit("adapter", one.name, {"name": one.name}, [layers.id])
        for one in adapters(experiment)
    }
    measured = [
        _unit("cell", cell.name, {
            "cell": cell.record(),
            "rate": rate(cell, names), "marker": experiment.marker,
            "questions": len(experiment.questions.evaluation),
            "samples": experiment.generation.samples, "texts": dict(texts or {}),
        }, [trained[cell.adapter].id])
        for cell in cells(experiment)
    ]  # fmt: skip
    marked = _unit("score", "all", {"marker": experiment.marker}, [u.id for u in measured], True)
    return build_graph([layers, *trained.values(), *measured, marked])


def _unit(
    kind: str, name: str, inputs: Mapping, upstream: Sequence[UnitId] = (), tolerant: bool = False
) -> Unit:
    return Unit(
        id=UnitId(kind, name), inputs=inputs, upstream=tuple(upstream),
        work="tests.board.rig:work", environment=ENVIRONMENT, group=kind,
        tolerant=tolerant,
    )  # fmt: skip


def lock_experiment(run: Path, experiment: Experiment) -> None:
    """Write the registration, as the first run does."""
    make_directory(run)
    lock = lock_of(experiment)
    write_file(run / "experiment.yaml", json.dumps(lock.experiment).encode())
    write_file(run / "experiment.lock.json", lock_bytes(lock))


def lock_of(experiment: Experiment) -> Lock:
    versions = {"steerproof": "0.1", "torch": "2.13"}
    return make_lock(experiment, versions=versions, hashes={}, time="2026-03-01T09:00:00+00:00")


def deviate(run: Path, experiment: Experiment, reason: str) -> None:
    """Declare that another experiment is run instead."""
    story, time_ = run / "deviations.jsonl", "2026-03-02T09:00:00+00:00"
    before, now = lock_of(runs_experiment(run)), lock_of(experiment)
    content = story.read_bytes() if story.exists() else b""
    story.write_bytes(append_deviation(content, before, now, reason=reason, time=time_))


def runs_experiment(run: Path) -> Experiment:
    record = json.loads((run / "experiment.lock.json").read_bytes())["experiment"]
    return Experiment.model_validate_json(json.dumps(record))


def fill(run: Path, experiment: Experiment, texts: Mapping[str, str] | None = None) -> Summary:
    """Lock the experiment and do its units; stops in good order on SIGTERM."""
    lock_experiment(run, experiment)
    with open_run(run, "steerproof run rig") as directory:
        return execute(graph_of(experiment, texts), directory, InlineExecutor())


def judge(run: Path, verdict: str = "SUPPORTED", **more: object) -> None:
    """Publish results."""
    score = next((run / "units" / "score").glob("all-*"))
    outcome = {
        "verdict": verdict,
        "arm": "A",
        "reason": "rho 0.93 (95% 0.71 to 0.99) is at least 0.6, no kill fired, and arm C fails.",
        "reading": "The inference-time failure was a training gap: trained with it, the model "
        "reads the direction.",
        **more,
    }
    figure = (
        '<svg xmlns="http://www.w3.org/2000/svg" width="640" height="120"><style>*{}</style>'
        '<text x="10" y="60" fill="#6f767d" font-family="sans-serif">A figure of the report</text>'
        '<line x1="10" x2="630" y1="80" y2="80" stroke="#1f7fb8"/></svg>'
    )
    publish(run, {
        "verdict.json": json.dumps(outcome).encode(),
        "estimates.json": b"{}",
        "rates.csv": (score / "rates.csv").read_bytes(),
        "report.html": b"<!doctype html><title>Report</title><p>Report</p>",
        "figures/ranking.svg": figure.encode(),
    })  # fmt: skip


def finished_run(run: Path, experiment: Experiment, **more: object) -> Path:
    """A judged run directory."""
    fill(run, experiment)
    judge(run, **more)
    return run


# In place of the command line


def main(words: list[str]) -> int:
    command, run = words[0], Path(words[words.index("--dir") + 1])
    experiment = tiny_experiment()
    if command == "plan" and PLAN in os.environ:
        sys.stderr.write(os.environ[PLAN] + "\n")
        sys.stderr.flush()
        time.sleep(1.5)
        sys.stderr.write("no such model\n")
        return 2
    if command == "plan":
        plan = {
            "counts": {"adapters": 8, "cells": 20, "completions": 120},
            "hours": {"low": 0.01, "high": 0.05},
            "gpu_hours": None,
            "disk_bytes": {"low": 2e7, "high": 4e7},
            "objections": [
                {
                    "severity": "serious",
                    "finding": "Four personas decide little: rho below 0.81 cannot be told from 0.",
                    "remedy": "add personas",
                }
            ],
            "not_yet_known": ["not yet known: size of each push"],
        }
        sys.stdout.write(json.dumps(plan))
        return 0
    summary = fill(run, experiment)
    if summary.stopped:
        return 130
    if summary.failures:
        sys.stderr.write("".join(f"{failed.unit}: {failed.error}\n" for failed in summary.failures))
        return 4
    judge(run)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
