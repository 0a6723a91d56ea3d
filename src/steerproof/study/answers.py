"""What the training rows answer, in the base model's own words, before any marker is added."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from steerproof.engine.generate import generate
from steerproof.engine.rows import Drawn, Row
from steerproof.engine.sampling import row_seed
from steerproof.errors import ModelError
from steerproof.model.base import Base
from steerproof.model.chat import chat_ids, special_token_in
from steerproof.spec.experiment import Experiment, Generation
from steerproof.study.dataset import Answers, asked_questions
from steerproof.study.told import NOBODY, TOLD_SECONDS, Told, completions

_MOST_DRAWS = 20
"""How often an answer is drawn before the base model is given up on."""
_AT_ONCE_ON_GPU = 256
"""Rows of a round, where questions without an answer are so few: a GPU takes as long for fewer."""


def own_answers(base: Base, experiment: Experiment, told: Told = NOBODY) -> Answers:
    """Answers of the base model to the training questions, under the neutral prompt.

    An answer that is too long, is empty, or holds the marker or a special token (as a text it would
    end a turn) is drawn again under the next sample number, and counted.

    Args:
        base: The frozen model, nothing attached.
        experiment: Its questions, neutral prompt, marker, seed, generation and dataset are read.
        told: How far that is.

    Raises:
        ModelError: A question does not fit the context or the chat template, or still has no such
            answer after `_MOST_DRAWS` draws.
    """
    questions = tuple(question for question, _ in asked_questions(experiment))
    longest = {"max_new_tokens": experiment.dataset.answer_tokens}
    settings = experiment.generation.model_copy(update=longest)
    return _answered(base, _Questions(experiment, "answers", questions, settings), told)


def common_answers(base: Base, experiment: Experiment, count: int, told: Told = NOBODY) -> Answers:
    """Answers of the base model to the evaluation questions: texts that graded cells share.

    Args:
        base: The frozen model, nothing attached.
        experiment: As for `own_answers`.
        count: Answers per question.
        told: How far that is.

    Raises:
        ModelError: As `own_answers`.
    """
    questions = tuple(text for text in experiment.questions.evaluation for _ in range(count))
    return _answered(base, _Questions(experiment, "common", questions, experiment.generation), told)


@dataclass(frozen=True, slots=True)
class _Questions:
    """Questions that the base model is asked; one that stands there twice has two answers."""

    experiment: Experiment
    name: str
    """Of these and no others: their seeds depend on it."""
    texts: tuple[str, ...]
    settings: Generation

    def row(self, base: Base, number: int, draw: int) -> Row:
        """A draw of an answer.

        Raises:
            ModelError: The question does not fit the template.
        """
        system, question = self.experiment.neutral_prompt, self.texts[number]
        return Row(
            cell=self.name,
            question=number,
            sample=draw,
            seed=row_seed(self.experiment.seed, self.name, number, draw),
            prompt_ids=chat_ids(base.chat, system=system, user=question),
        )

    def usable(self, base: Base, done: Drawn) -> str:
        """The text that was drawn; empty where it can be no answer."""
        text = str(base.tokenizer.decode(list(done.token_ids))).strip()
        whole = done.finish == "eos" and special_token_in(base.tokenizer, text) is None
        return text if whole and self.experiment.marker.casefold() not in text.casefold() else ""


class _Usable(NamedTuple):
    """An answer."""

    draw: int
    """How many were drawn before it that could not be used."""
    text: str


def _answered(base: Base, asked: _Questions, told: Told) -> Answers:
    """A whole answer to each question, drawn until there is one.

    Nothing else is drawn beside them: in half precision they would come out in other words, and a
    unit must not depend on what is done beside it.
    """
    found: dict[int, _Usable] = {}
    drawn = 0
    while missing := [i for i in range(len(asked.texts)) if i not in found]:
        if drawn == _MOST_DRAWS:
            raise _given_up(asked.settings, asked.texts[missing[0]])
        draws = range(drawn, min(_MOST_DRAWS, drawn + max(1, _at_once(base) // len(missing))))
        rows = [asked.row(base, number, draw) for number in missing for draw in draws]
        counted = completions(told, len(found) + len(rows), before=len(found))
        for done in generate(base, rows, asked.settings, on_progress=counted, every=TOLD_SECONDS):
            if text := asked.usable(base, done):
                number, this = done.row.question, _Usable(done.row.sample, text)
                found[number] = min(found.get(number, this), this)
        drawn = draws.stop
    return _by_question(asked.texts, [found[i] for i in range(len(asked.texts))])


def _at_once(base: Base) -> int:
    """Rows of a round: a CPU takes four times as long for four draws of a question."""
    return _AT_ONCE_ON_GPU if base.device.type == "cuda" else 1


def _by_question(questions: Sequence[str], found: Sequence[_Usable]) -> Answers:
    texts: dict[str, tuple[str, ...]] = {}
    for question, one in zip(questions, found, strict=True):
        texts[question] = (*texts.get(question, ()), one.text)
    return Answers(answers=texts, redrawn=sum(one.draw for one in found))


def _given_up(settings: Generation, question: str) -> ModelError:
    return ModelError(
        f"after {_MOST_DRAWS} draws the base model gave no whole answer without the marker to "
        f"{question!r} in {settings.max_new_tokens} tokens; raise dataset.answer_tokens, to an "
        "evaluation question generation.max_new_tokens, or give answers in a JSONL file "
        "(dataset.answers; `steerproof init --given-answers` writes one)"
    )
