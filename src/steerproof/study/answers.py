"""What the training rows answer, in the base model's own words, before any marker is added."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from steerproof.engine.generate import OnProgress, generate
from steerproof.engine.rows import Row
from steerproof.engine.sampling import row_seed
from steerproof.errors import ModelError
from steerproof.model.base import Base
from steerproof.model.chat import chat_ids, special_token_in
from steerproof.spec.experiment import Experiment, Generation
from steerproof.study.dataset import Answers, asked_questions
from steerproof.study.told import NOBODY, TOLD_SECONDS, Told, completions

_MOST_DRAWS = 20
"""How often an answer is drawn before the base model is given up on."""
_AGAIN = 4
"""Draws at once where the first could not be used: drawing few takes as long as drawing many."""


def own_answers(base: Base, experiment: Experiment, told: Told = NOBODY) -> Answers:
    """Answers of the base model to the training questions, under the neutral prompt.

    An answer that reached the length limit, is empty, or holds the marker or a special token (as a
    text it would end a turn) is drawn again under the next sample number, and counted.

    Raises:
        ModelError: A question still has no such answer after `_MOST_DRAWS` draws.
    """
    settings = experiment.generation.model_copy(
        update={"max_new_tokens": experiment.dataset.answer_tokens}
    )
    questions = [question for question, _ in asked_questions(experiment)]
    return _answered(base, experiment, "answers", questions, settings, told)


def common_answers(base: Base, experiment: Experiment, count: int, told: Told = NOBODY) -> Answers:
    """Answers of the base model to the evaluation questions: texts that graded cells share.

    Args:
        base: The frozen model, nothing attached.
        experiment: Its neutral prompt, marker, seed and generation are read.
        count: Answers per question.
        told: How far that is.

    Raises:
        ModelError: As `own_answers`.
    """
    questions = [text for text in experiment.questions.evaluation for _ in range(count)]
    return _answered(base, experiment, "common", questions, experiment.generation, told)


def _answered(
    base: Base,
    experiment: Experiment,
    name: str,
    questions: Sequence[str],
    settings: Generation,
    told: Told,
) -> Answers:
    """A whole answer to each question: the first of its draws that is one."""
    found: dict[int, _Found] = {}
    draws = range(1)
    while waiting := [i for i in range(len(questions)) if i not in found]:
        if not draws:
            raise _given_up(settings, questions[waiting[0]])
        places = [(i, draw) for i in waiting for draw in draws]
        rows = [_row(base, experiment, name, place, questions[place[0]]) for place in places]
        total = len(found) + len(rows)
        counted = completions(told, total, before=len(found))
        found |= _first_whole(base, rows, settings, experiment.marker, counted)
        draws = range(draws.stop, min(_MOST_DRAWS, draws.stop + _AGAIN))
    return Answers(
        answers=_by_question(questions, found), redrawn=sum(one.draw for one in found.values())
    )


def _row(
    base: Base, experiment: Experiment, name: str, place: tuple[int, int], question: str
) -> Row:
    """A row of the base model; its place is its number and how often it was drawn before."""
    return Row(
        cell=name,
        question=place[0],
        sample=place[1],
        seed=row_seed(experiment.seed, name, *place),
        prompt_ids=chat_ids(base.chat, system=experiment.neutral_prompt, user=question),
    )


class _Found(NamedTuple):
    """An answer."""

    draw: int
    """How many were drawn before it that could not be used."""
    text: str


def _first_whole(
    base: Base, rows: Sequence[Row], settings: Generation, marker: str, counted: OnProgress
) -> dict[int, _Found]:
    """Of each question's rows the first whose text can be used, by the question's number."""
    found: dict[int, _Found] = {}
    for done in generate(base, rows, settings, on_progress=counted, every=TOLD_SECONDS):
        text = str(base.tokenizer.decode(list(done.token_ids))).strip()
        usable = text and special_token_in(base.tokenizer, text) is None
        if done.finish == "eos" and usable and marker.casefold() not in text.casefold():
            this = _Found(done.row.sample, text)
            number = done.row.question
            found[number] = min(found.get(number, this), this)
    return found


def _by_question(
    questions: Sequence[str], found: Mapping[int, _Found]
) -> dict[str, tuple[str, ...]]:
    answers: dict[str, tuple[str, ...]] = {}
    for number, question in enumerate(questions):
        answers[question] = (*answers.get(question, ()), found[number].text)
    return answers


def _given_up(settings: Generation, question: str) -> ModelError:
    return ModelError(
        f"after {_MOST_DRAWS} draws the base model gave no whole answer without the marker to "
        f"{question!r} in {settings.max_new_tokens} tokens; raise dataset.answer_tokens, to an "
        "evaluation question generation.max_new_tokens, or give answers in a JSONL file "
        "(dataset.answers; `steerproof init --given-answers` writes one)"
    )
