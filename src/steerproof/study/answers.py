"""What the training rows answer, in the base model's own words, before any marker is added."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from steerproof.engine.generate import generate
from steerproof.engine.rows import Drawn, Row
from steerproof.engine.sampling import row_seed
from steerproof.errors import ModelError, SteerproofError
from steerproof.model.base import Base
from steerproof.model.chat import chat_ids, special_token_in
from steerproof.spec.experiment import Experiment, Generation
from steerproof.study.dataset import Answers, asked_questions
from steerproof.study.halving import in_halves
from steerproof.study.told import NOBODY, TOLD_SECONDS, Told, completions

_MOST_DRAWS = 20
"""How often an answer is drawn before the base model is given up on."""
_AGAIN_ON_GPU = 4
"""Draws at once where the first could not be used: a GPU draws many in the time of few."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedAnswers:
    """Questions that the base model is asked, under one system prompt."""

    name: str
    """Of these and no others: their seeds depend on it."""
    questions: tuple[str, ...]
    """One that stands there twice has two answers."""
    system: str
    marker: str
    """No answer may hold it."""
    seed: int
    settings: Generation
    """Temperature, nucleus, and the length of the longest answer."""


def own_answers(experiment: Experiment) -> AskedAnswers:
    """What the training rows need: answers to their questions, under the neutral prompt."""
    questions = tuple(question for question, _ in asked_questions(experiment))
    longest = {"max_new_tokens": experiment.dataset.answer_tokens}
    settings = experiment.generation.model_copy(update=longest)
    return _asked(experiment, "answers", questions, settings)


def common_answers(experiment: Experiment, count: int) -> AskedAnswers:
    """Texts that graded cells share: so many answers to each evaluation question."""
    questions = tuple(text for text in experiment.questions.evaluation for _ in range(count))
    return _asked(experiment, "common", questions, experiment.generation)


def answered(
    base: Base, asked: Sequence[AskedAnswers], told: Told = NOBODY
) -> Iterator[tuple[AskedAnswers, Answers | SteerproofError]]:
    """A whole answer of the base model to each question, all of them drawn together.

    An answer that is too long, is empty, or holds the marker or a special token (as a text it would
    end a turn) is drawn again under the next sample number, and counted.

    Args:
        base: The frozen model, nothing attached.
        asked: Each of another name, and of one temperature and nucleus.
        told: How far that is.

    Yields:
        Each with its answers, or why there are none: a question does not fit the context or the
        chat template, or still has no such answer after `_MOST_DRAWS` draws.
    """
    by_name = {one.name: one for one in asked}
    for name, outcome in in_halves(by_name, partial(_together, base, told)):
        yield by_name[name], outcome


def _together(
    base: Base, told: Told, asked: Mapping[str, AskedAnswers]
) -> Iterator[tuple[str, Answers | ModelError]]:
    settings = next(iter(asked.values())).settings
    waiting = {name: _Asking(one, {}) for name, one in asked.items()}
    total = sum(len(one.questions) for one in asked.values())
    draws = range(1)
    while waiting:
        rows: list[Row] = []
        for name, one in list(waiting.items()):
            try:
                rows += one.rows(base, draws)
            except ModelError as error:
                del waiting[name]
                yield name, error
        if not waiting:
            return
        before = total - sum(len(one.missing) for one in waiting.values())
        counted = completions(told, before + len(rows), before=before)
        for done in generate(base, rows, settings, on_progress=counted, every=TOLD_SECONDS):
            waiting[done.row.cell].take(base, done)
        for name in [name for name, one in waiting.items() if not one.missing]:
            yield name, waiting.pop(name).answers()
        draws = range(draws.stop, min(_MOST_DRAWS, draws.stop + _again(base)))


def _again(base: Base) -> int:
    """Draws at once of what must be drawn again: a CPU takes four times as long for four."""
    return _AGAIN_ON_GPU if base.device.type == "cuda" else 1


def _asked(
    experiment: Experiment, name: str, questions: tuple[str, ...], settings: Generation
) -> AskedAnswers:
    return AskedAnswers(
        name=name,
        questions=questions,
        system=experiment.neutral_prompt,
        marker=experiment.marker,
        seed=experiment.seed,
        settings=settings,
    )


class _Usable(NamedTuple):
    """An answer."""

    draw: int
    """How many were drawn before it that could not be used."""
    text: str


@dataclass(frozen=True, slots=True)
class _Asking:
    """Questions, and the answers that were found so far, by the question's number."""

    asked: AskedAnswers
    found: dict[int, _Usable]

    @property
    def missing(self) -> list[int]:
        """The questions without an answer."""
        return [i for i in range(len(self.asked.questions)) if i not in self.found]

    def rows(self, base: Base, draws: range) -> list[Row]:
        """So many draws of what is missing.

        Raises:
            ModelError: There are no more draws, or a question does not fit the template.
        """
        asked = self.asked
        if not draws:
            raise _given_up(asked, asked.questions[self.missing[0]])
        return [
            Row(
                cell=asked.name,
                question=i,
                sample=draw,
                seed=row_seed(asked.seed, asked.name, i, draw),
                prompt_ids=chat_ids(base.chat, system=asked.system, user=asked.questions[i]),
                tokens=asked.settings.max_new_tokens,
            )
            for i in self.missing
            for draw in draws
        ]

    def take(self, base: Base, done: Drawn) -> None:
        """Keep a draw that can be used, unless there is an earlier one."""
        if done.finish != "eos":
            return
        text = str(base.tokenizer.decode(list(done.token_ids))).strip()
        usable = text and special_token_in(base.tokenizer, text) is None
        if usable and self.asked.marker.casefold() not in text.casefold():
            this, number = _Usable(done.row.sample, text), done.row.question
            self.found[number] = min(self.found.get(number, this), this)

    def answers(self) -> Answers:
        """Those that were found, of every question."""
        texts: dict[str, tuple[str, ...]] = {}
        for number, question in enumerate(self.asked.questions):
            texts[question] = (*texts.get(question, ()), self.found[number].text)
        return Answers(answers=texts, redrawn=sum(one.draw for one in self.found.values()))


def _given_up(asked: AskedAnswers, question: str) -> ModelError:
    longest = asked.settings.max_new_tokens
    return ModelError(
        f"after {_MOST_DRAWS} draws the base model gave no whole answer without the marker to "
        f"{question!r} in {longest} tokens; raise dataset.answer_tokens, to an "
        "evaluation question generation.max_new_tokens, or give answers in a JSONL file "
        "(dataset.answers; `steerproof init --given-answers` writes one)"
    )
