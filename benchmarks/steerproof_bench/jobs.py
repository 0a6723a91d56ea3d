"""The work of the training benchmark: adapters of all arms of a shipped experiment."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from steerproof.codec import read_record
from steerproof.engine.jobs import AdapterJob, Recipe
from steerproof.errors import SteerproofError
from steerproof.model.base import Base
from steerproof.model.chat import text_ids
from steerproof.run.artefacts.dataset import FILE
from steerproof.spec.experiment import Experiment
from steerproof.spec.grid import adapters
from steerproof.study.dataset import Dataset, asked_questions, build_dataset
from steerproof.study.geometry import pushes_of
from steerproof.study.teach import Lesson, job_of, recipe_of
from steerproof_bench.subjects import geometry_of, spread, unit_directory


@dataclass(frozen=True, slots=True, kw_only=True)
class JobWork:
    """Adapters to be trained: what ours and the peer are given."""

    base: Base
    jobs: tuple[AdapterJob, ...]
    recipe: Recipe
    """One epoch, no dropout: the peer's masks could not be ours."""

    @property
    def steps(self) -> int:
        """Optimizer steps of each adapter."""
        return len(self.jobs[0].examples) // self.recipe.rows_per_step


def job_work(
    base: Base,
    experiment: Experiment,
    *,
    count: int,
    rows: int,
    tokens: int,
    run: Path | None,
) -> JobWork:
    """Put the work together.

    Args:
        base: The model.
        experiment: Its adapters, questions and recipe are used.
        count: Adapters, spread over all arms.
        rows: Training rows of each, spread over its dataset; whole steps.
        tokens: Longest answer, in tokens, where answers are made up.
        run: A finished run, for its datasets; None makes answers up from the words of questions.

    Raises:
        SteerproofError: A number cannot be had, or the run lacks a dataset.
    """
    recipe = replace(recipe_of(experiment.training), epochs=1, dropout=0.0)
    if rows < 1 or rows % recipe.rows_per_step:
        raise SteerproofError(f"{rows} rows are not whole steps of {recipe.rows_per_step} rows")
    push = pushes_of(geometry_of(base, experiment))
    made = {} if run else _answers(base, experiment, tokens)
    jobs = []
    for adapter in spread(adapters(experiment), count, "adapters"):
        if run:
            stored = unit_directory(run, "dataset", adapter.persona) / FILE
            data = read_record(Dataset, stored.read_bytes(), str(stored))
        else:
            data = build_dataset(experiment, adapter.persona, made)
        mine = replace(data, rows=tuple(spread(data.rows, rows, "rows")))
        lesson = Lesson(adapter=adapter, experiment=experiment, dataset=mine)
        jobs.append(job_of(base, lesson, push))
    return JobWork(base=base, jobs=tuple(jobs), recipe=recipe)


def _answers(base: Base, experiment: Experiment, tokens: int) -> dict[str, list[str]]:
    """Answers that stand in for the base model's: words of questions, half to all of `tokens`."""
    generator = torch.Generator().manual_seed(experiment.seed)
    words = [word for text in experiment.questions.training for word in text.split()]
    found: dict[str, list[str]] = {}
    for question, _ in asked_questions(experiment):
        order = torch.randint(len(words), (tokens,), generator=generator).tolist()
        text = " ".join(words[i] for i in order)
        length = int(torch.randint(tokens // 2, tokens, (1,), generator=generator))
        ids = text_ids(base.tokenizer, text)[:length]
        found.setdefault(question, []).append(str(base.tokenizer.decode(list(ids))))
    return found
