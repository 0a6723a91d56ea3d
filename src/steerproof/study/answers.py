"""What the training rows answer, in the base model's own words, before any marker is added."""

from collections.abc import Mapping, Sequence

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
"""How often an answer is drawn anew before the base model is given up on."""


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
    """A whole answer to each question, drawn anew until there is one."""
    draws = dict.fromkeys(range(len(questions)), 0)
    texts: dict[int, str] = {}
    while waiting := [i for i in draws if i not in texts]:
        if any(draws[i] == _MOST_DRAWS for i in waiting):
            raise _given_up(settings, next(questions[i] for i in waiting))
        rows = [_row(base, experiment, name, (i, draws[i]), questions[i]) for i in waiting]
        draws |= {i: draws[i] + 1 for i in waiting}
        counted = completions(told, len(questions), before=len(texts))
        texts |= _whole(base, rows, settings, experiment.marker, counted)
    return Answers(
        answers=_by_question(questions, texts), redrawn=sum(draws.values()) - len(questions)
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


def _whole(
    base: Base, rows: Sequence[Row], settings: Generation, marker: str, counted: OnProgress
) -> dict[int, str]:
    """The texts that can be used, by the number of their question."""
    texts = {}
    for done in generate(base, rows, settings, on_progress=counted, every=TOLD_SECONDS):
        text = str(base.tokenizer.decode(list(done.token_ids))).strip()
        usable = text and special_token_in(base.tokenizer, text) is None
        if done.finish == "eos" and usable and marker.casefold() not in text.casefold():
            texts[done.row.question] = text
    return texts


def _by_question(questions: Sequence[str], texts: Mapping[int, str]) -> dict[str, tuple[str, ...]]:
    answers: dict[str, tuple[str, ...]] = {}
    for number, question in enumerate(questions):
        answers[question] = (*answers.get(question, ()), texts[number])
    return answers


def _given_up(settings: Generation, question: str) -> ModelError:
    return ModelError(
        f"after {_MOST_DRAWS} draws the base model gave no whole answer without the marker to "
        f"{question!r} in {settings.max_new_tokens} tokens; raise dataset.answer_tokens, to an "
        "evaluation question generation.max_new_tokens, or give answers in a JSONL file "
        "(dataset.answers; `steerproof init --given-answers` writes one)"
    )
