"""The answers of the training rows, before any marker is added."""

from collections.abc import Sequence
from pathlib import Path

from steerproof.engine.generate import generate
from steerproof.engine.rows import Row
from steerproof.engine.sampling import row_seed
from steerproof.errors import ModelError
from steerproof.model.base import Base
from steerproof.model.chat import chat_ids
from steerproof.run.artefacts.answers import to_files
from steerproof.run.driver.worker import Files, Outcomes, Task, each
from steerproof.run.stages.base import base_of
from steerproof.spec.experiment import Experiment
from steerproof.spec.slices import partial_experiment
from steerproof.study.dataset import Answers, asked_questions, read_answers

MOST_DRAWS = 20
"""How often an answer is drawn anew before the base model is given up on."""


def answers(tasks: Sequence[Task]) -> Outcomes:
    """What the training rows answer: the user's JSON lines, or the base model's own words."""

    def one(task: Task) -> Files:
        experiment = partial_experiment(task.inputs["experiment"])
        source = experiment.dataset.answers
        if source == "base":
            return to_files(_own_answers(base_of(task), experiment))
        path = Path(task.context["directory"]) / source
        given = read_answers(path, experiment.questions.training, experiment.marker)
        return to_files(
            Answers(answers={asked: tuple(said) for asked, said in given.items()}, redrawn=0)
        )

    yield from each(tasks, one)


def _own_answers(base: Base, experiment: Experiment) -> Answers:
    """Answers of the base model under the neutral prompt.

    An answer that reached the length limit, is empty, or holds the marker is drawn again under
    the next sample number, and counted.

    Raises:
        ModelError: a question still has no such answer after `MOST_DRAWS` draws.
    """
    settings = experiment.generation.model_copy(
        update={"max_new_tokens": experiment.dataset.answer_tokens}
    )
    asked = asked_questions(experiment)
    draws = dict.fromkeys(range(len(asked)), 0)
    texts: dict[int, str] = {}
    while waiting := [i for i in draws if i not in texts]:
        rows = []
        for i in waiting:
            if draws[i] == MOST_DRAWS:
                raise ModelError(
                    f"after {MOST_DRAWS} draws the base model gave no whole answer without the "
                    f"marker to {asked[i][0]!r}; raise dataset.answer_tokens "
                    f"({experiment.dataset.answer_tokens}) or give answers in a JSONL file"
                )
            prompt = chat_ids(base, system=experiment.neutral_prompt, user=asked[i][0])
            seed = row_seed(experiment.seed, "answers", i, draws[i])
            rows.append(
                Row(cell="answers", question=i, sample=draws[i], seed=seed, prompt_ids=prompt)
            )
            draws[i] += 1
        for done in generate(base, rows, settings):
            text = str(base.tokenizer.decode(list(done.token_ids))).strip()
            whole = done.finish == "eos" and text
            if whole and experiment.marker.casefold() not in text.casefold():
                texts[done.row.question] = text
    found: dict[str, list[str]] = {}
    for i, (question, _) in enumerate(asked):
        found.setdefault(question, []).append(texts[i])
    answers = {question: tuple(said) for question, said in found.items()}
    return Answers(answers=answers, redrawn=sum(draws.values()) - len(draws))
