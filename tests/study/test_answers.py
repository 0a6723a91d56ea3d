"""Answers in the base model's own words: of each the first draw that can be used."""

from dataclasses import replace

import pytest

from steerproof.engine.rows import Drawn, Row
from steerproof.engine.sampling import row_seed
from steerproof.errors import ModelError
from steerproof.model.chat import text_ids
from steerproof.study import answers
from steerproof.study.answers import answered, common_answers, own_answers
from steerproof.study.dataset import asked_questions
from tests.experiments import small_experiment
from tests.tiny import tiny_base

EXPERIMENT = small_experiment()
ASKED = [question for question, _ in asked_questions(EXPERIMENT)]
OWN, COMMON = own_answers(EXPERIMENT), common_answers(EXPERIMENT, 2)
AT_ONCE = (0,) * len(COMMON.questions)
"""Every first draw can be used."""
BASE = tiny_base()


LONGEST = {
    "answers": EXPERIMENT.dataset.answer_tokens,
    "common": EXPERIMENT.generation.max_new_tokens,
}


class Model:
    """Says what a draw becomes by a rule, and keeps what was asked of it."""

    def __init__(self, usable_from):
        self.usable_from, self.rounds = usable_from, []

    def generate(self, base, rows, _settings, **_):
        rows = list(rows)
        self.rounds.append([(row.cell, row.question, row.sample) for row in rows])
        for row in sorted(rows, key=lambda row: row.sample * 7 % 5):  # as rows end: in any order
            assert row.seed == row_seed(EXPERIMENT.seed, row.cell, row.question, row.sample)
            assert row.tokens == LONGEST[row.cell]
            text, finish = said(row, self.usable_from[row.cell][row.question])
            yield Drawn(row=row, token_ids=text_ids(base.tokenizer, text), finish=finish)


def said(row: Row, usable_from: int):
    """Unusable in one of three ways before that draw."""
    text = f"draw {row.sample} of {row.question}."
    if row.sample >= usable_from:
        return text, "eos"
    return [(text, "length"), ("  ", "eos"), (f"{text} [zlt]", "eos")][row.sample % 3]


@pytest.fixture
def drawn(monkeypatch):
    def of(own, common=AT_ONCE, again=4):
        monkeypatch.setattr(answers, "_again", lambda _base: again)
        model = Model({"answers": own, "common": common})
        monkeypatch.setattr(answers, "generate", model.generate)
        return model

    return of


def all_of(*asked):
    return {one.name: found for one, found in answered(BASE, asked)}


def test_the_first_draw_that_can_be_used_is_the_answer_and_those_before_it_are_counted(drawn):
    usable = [0, 1, 4, 5, 0, 2]
    model = drawn(usable)
    found = all_of(OWN)["answers"]
    expected: dict[str, tuple[str, ...]] = {}
    for number, question in enumerate(ASKED):
        text = f"draw {usable[number]} of {number}."
        expected[question] = (*expected.get(question, ()), text)
    assert found.answers == expected
    assert found.redrawn == sum(usable)
    # All once, the four that failed four times more, and one of them four times again.
    assert [len(asked) for asked in model.rounds] == [6, 16, 4]
    assert model.rounds[2] == [("answers", 3, draw) for draw in (5, 6, 7, 8)]
    model = drawn(usable, again=1)
    assert all_of(OWN)["answers"] == found
    assert [len(asked) for asked in model.rounds] == [6, 4, 3, 2, 2, 1]


def test_a_cpu_draws_none_for_nothing():
    assert answers._again(BASE) == 1


def test_a_question_without_an_answer_in_twenty_draws_is_an_error_of_its_own(drawn):
    model = drawn([19, 20, *[0] * 4])
    found = all_of(OWN, COMMON)
    assert isinstance(found["answers"], ModelError)
    given_up = (
        f"after 20 draws the base model gave no whole answer.* in {LONGEST['answers']} tokens"
    )
    with pytest.raises(ModelError, match=given_up):
        raise found["answers"]
    assert found["common"].redrawn == 0
    asked = [place for one in model.rounds for place in one]
    assert len(asked) == len(set(asked))
    assert {draw for name, i, draw in asked if (name, i) == ("answers", 1)} == set(range(20))
    drawn([19, *[0] * 5])
    assert all_of(OWN)["answers"].redrawn == 19


def test_what_is_asked_together_is_answered_as_if_alone_and_ends_when_it_is_found(drawn):
    own, common = [0, 7, 0, 0, 0, 0], [0, 2] * len(EXPERIMENT.questions.evaluation)
    drawn(own, common)
    apart = all_of(OWN) | all_of(COMMON)
    model = drawn(own, common)
    assert all_of(OWN, COMMON) == apart
    assert list(all_of(OWN, COMMON)) == ["common", "answers"]  # what is found first
    first = apart["common"]
    assert list(first.answers) == list(EXPERIMENT.questions.evaluation)
    assert next(iter(first.answers.values())) == ("draw 0 of 0.", "draw 2 of 1.")
    assert len({name for name, *_ in model.rounds[0]}) == 2


def test_a_question_that_does_not_fit_the_template_fails_alone(drawn):
    drawn([0] * 6)
    special = BASE.tokenizer.convert_ids_to_tokens(BASE.chat.end_of_turn)
    wrong = replace(OWN, questions=(f"What is {special}?", *OWN.questions[1:]))
    found = all_of(wrong, COMMON)
    assert isinstance(found["answers"], ModelError)
    assert found["common"].redrawn == 0
    assert isinstance(all_of(wrong)["answers"], ModelError)


def test_what_cannot_be_computed_fails_alone(monkeypatch, drawn):
    model = drawn([0] * 6)

    def broken(base, rows, settings, **how):
        if any(row.cell == "answers" for row in rows):
            raise ModelError("its logits are not finite")
        yield from model.generate(base, rows, settings, **how)

    monkeypatch.setattr(answers, "generate", broken)
    found = all_of(OWN, COMMON)
    assert str(found["answers"]) == "its logits are not finite"
    assert found["common"].redrawn == 0
