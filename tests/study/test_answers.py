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


class Model:
    """Says what a draw becomes by a rule, and keeps what was asked of it."""

    def __init__(self, usable_from):
        self.usable_from, self.rounds = usable_from, []

    def generate(self, base, rows, _settings, **_):
        rows = list(rows)
        self.rounds.append([(row.question, row.sample) for row in rows])
        for row in sorted(rows, key=lambda row: row.sample * 7 % 5):  # as rows end: in any order
            assert row.seed == row_seed(EXPERIMENT.seed, row.cell, row.question, row.sample)
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
    def of(usable_from):
        model = Model(usable_from)
        monkeypatch.setattr(answers, "generate", model.generate)
        return model

    return of


def test_the_first_draw_that_can_be_used_is_the_answer_and_those_before_it_are_counted(drawn):
    usable = [0, 1, 4, 5, 0, 2][: len(ASKED)]
    model = drawn(usable)
    found = own_answers(tiny_base(), EXPERIMENT)
    expected: dict[str, tuple[str, ...]] = {}
    for number, question in enumerate(ASKED):
        text = f"draw {usable[number]} of {number}."
        expected[question] = (*expected.get(question, ()), text)
    assert found.answers == expected
    assert found.redrawn == sum(usable)
    # All once, the four that failed four times more, and one of them once more.
    assert [len(asked) for asked in model.rounds] == [6, 16, 4]
    assert model.rounds[2] == [(3, draw) for draw in (5, 6, 7, 8)]


def test_a_question_without_an_answer_in_twenty_draws_is_an_error_and_no_draw_is_made_twice(drawn):
    model = drawn([19, 20, *[0] * 4])
    with pytest.raises(ModelError, match="after 20 draws the base model gave no whole answer"):
        own_answers(tiny_base(), EXPERIMENT)
    asked = [place for one in model.rounds for place in one]
    assert len(asked) == len(set(asked))
    assert {draw for number, draw in asked if number == 1} == set(range(20))
    drawn([19, *[0] * 5])
    assert own_answers(tiny_base(), EXPERIMENT).redrawn == 19


def test_common_answers_are_drawn_by_their_own_name_and_so_many_to_each_question(drawn):
    drawn([0, 2] * len(EXPERIMENT.questions.evaluation))
    found = common_answers(tiny_base(), EXPERIMENT, 2)
    assert list(found.answers) == list(EXPERIMENT.questions.evaluation)
    assert next(iter(found.answers.values())) == ("draw 0 of 0.", "draw 2 of 1.")
