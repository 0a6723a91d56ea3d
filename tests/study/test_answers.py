"""Answers in the base model's own words: of each the first draw that can be used."""

import pytest

from steerproof.engine.rows import Drawn, Row
from steerproof.engine.sampling import row_seed
from steerproof.errors import ModelError
from steerproof.model.chat import text_ids
from steerproof.study import answers
from steerproof.study.answers import common_answers, own_answers
from steerproof.study.dataset import asked_questions
from tests.experiments import small_experiment
from tests.tiny import tiny_base

EXPERIMENT = small_experiment()
ASKED = [question for question, _ in asked_questions(EXPERIMENT)]
BASE = tiny_base()
LONGEST = {
    "answers": EXPERIMENT.dataset.answer_tokens,
    "common": EXPERIMENT.generation.max_new_tokens,
}


class Model:
    """Says what a draw becomes by a rule, and keeps what was asked of it."""

    def __init__(self, usable_from):
        self.usable_from, self.rounds = usable_from, []

    def generate(self, base, rows, settings, **_):
        rows = list(rows)
        self.rounds.append([(row.cell, row.question, row.sample) for row in rows])
        for row in sorted(rows, key=lambda row: row.sample * 7 % 5):  # as rows end: in any order
            assert row.seed == row_seed(EXPERIMENT.seed, row.cell, row.question, row.sample)
            assert settings.max_new_tokens == LONGEST[row.cell]
            text, finish = said(row, self.usable_from[row.question])
            yield Drawn(row=row, token_ids=text_ids(base.tokenizer, text), finish=finish)


def said(row: Row, usable_from: int):
    """Unusable in one of three ways before that draw."""
    text = f"draw {row.sample} of {row.question}."
    if row.sample >= usable_from:
        return text, "eos"
    return [(text, "length"), ("  ", "eos"), (f"{text} [zlt]", "eos")][row.sample % 3]


@pytest.fixture
def drawn(monkeypatch):
    def of(usable_from, at_once=1):
        monkeypatch.setattr(answers, "_at_once", lambda _base: at_once)
        model = Model(usable_from)
        monkeypatch.setattr(answers, "generate", model.generate)
        return model

    return of


def test_the_first_draw_that_can_be_used_is_the_answer_and_those_before_it_are_counted(drawn):
    usable = [0, 1, 4, 5, 0, 2]
    model = drawn(usable)
    found = own_answers(BASE, EXPERIMENT)
    expected: dict[str, tuple[str, ...]] = {}
    for number, question in enumerate(ASKED):
        text = f"draw {usable[number]} of {number}."
        expected[question] = (*expected.get(question, ()), text)
    assert found.answers == expected
    assert found.redrawn == sum(usable)
    assert [len(asked) for asked in model.rounds] == [6, 4, 3, 2, 2, 1]
    # As many rounds fit: each question once, then those without an answer twice, and six times.
    model = drawn(usable, at_once=9)
    assert own_answers(BASE, EXPERIMENT) == found
    assert [len(asked) for asked in model.rounds] == [6, 8, 8]
    assert model.rounds[2] == [("answers", i, draw) for i in (2, 3) for draw in (3, 4, 5, 6)]


def test_a_cpu_draws_none_for_nothing():
    assert answers._at_once(BASE) == 1


def test_a_question_without_an_answer_in_twenty_draws_is_an_error(drawn):
    model = drawn([19, 20, *[0] * 4], at_once=7)
    longest = LONGEST["answers"]
    given_up = f"after 20 draws the base model gave no whole answer.* in {longest} tokens"
    with pytest.raises(ModelError, match=given_up):
        own_answers(BASE, EXPERIMENT)
    asked = [place for one in model.rounds for place in one]
    assert len(asked) == len(set(asked))
    assert {draw for _, number, draw in asked if number == 1} == set(range(20))
    for at_once in (1, 7, 1000):
        drawn([19, *[0] * 5], at_once)
        assert own_answers(BASE, EXPERIMENT).redrawn == 19


def test_common_answers_are_so_many_of_each_evaluation_question(drawn):
    questions = EXPERIMENT.questions.evaluation
    model = drawn([0, 2] * len(questions))
    found = common_answers(BASE, EXPERIMENT, 2)
    assert list(found.answers) == list(questions)
    assert next(iter(found.answers.values())) == ("draw 0 of 0.", "draw 2 of 1.")
    assert found.redrawn == 2 * len(questions)
    assert {name for one in model.rounds for name, *_ in one} == {"common"}


def test_a_question_that_does_not_fit_the_template_is_an_error(drawn):
    drawn([0] * 6)
    special = BASE.tokenizer.convert_ids_to_tokens(BASE.chat.end_of_turn)
    questions = EXPERIMENT.questions.model_copy(update={"training": (f"What is {special}?",)})
    with pytest.raises(ModelError, match="special token"):
        own_answers(BASE, EXPERIMENT.model_copy(update={"questions": questions}))
