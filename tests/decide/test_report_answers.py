"""The first screen of a report with the three answers: the organism's run, and a real one."""

from dataclasses import replace

import pytest

from steerproof.decide.analysis.analyze import analyze
from steerproof.decide.analysis.answer_records import Reads
from steerproof.decide.analysis.answer_words import three_lines
from steerproof.decide.analysis.answers import answer
from steerproof.decide.report.answers import against, cards
from steerproof.decide.report.figures import Drawing
from steerproof.decide.report.figures.answered import answered, matrix_values
from steerproof.decide.report.inputs import ReportInputs
from steerproof.decide.report.page import page
from tests.decide.test_report import spoken
from tests.decide.trials import (
    ORGANISM,
    SMOLLM2,
    TEN,
    experiment_of,
    rig_of,
    table_with_matrices,
)


def inputs_of(run) -> ReportInputs:
    experiment, table, rig = experiment_of(run), table_with_matrices(run), rig_of(run)
    registered = analyze(table, experiment)
    return ReportInputs(
        experiment=experiment,
        rates=table,
        analysis=registered,
        answers=answer(table, experiment, registered, rig),
        calibration=rig.layers,
    )


@pytest.fixture(scope="module")
def organism() -> ReportInputs:
    return inputs_of(ORGANISM)


@pytest.fixture(scope="module")
def smollm2() -> ReportInputs:
    return inputs_of(SMOLLM2)


def test_the_three_answers_come_first_each_with_its_word_and_its_line(organism):
    shown = cards(organism)
    assert [card.word for card in shown] == ["REFUTED", "CANNOT ANSWER", "READS ITS OWN DIRECTION"]
    assert [card.tone for card in shown] == ["refuted", "inconclusive", "supported"]
    text = spoken(page(organism, {}))
    places = []
    for card, line in zip(
        shown, three_lines(organism.answers, organism.analysis, organism.experiment), strict=True
    ):
        assert card.text.startswith(line.replace("_", " "))
        places.append(text.index(f"{card.word} {card.plain} {card.text}"))
    assert places == sorted(places)
    assert places[-1] < text.index("What that means.") < text.index("What was tested")


def test_each_answer_is_first_said_without_a_word_of_statistics(organism, smollm2):
    first, ranking, direction = (card.plain for card in cards(organism))
    assert first == "By the rule that was fixed beforehand, the claim fails."
    assert ranking.endswith("this run could not have shown.")
    assert "trained with (100% of answers)" in direction
    assert "other personas (20% of answers)" in direction
    assert "was not asked" in cards(smollm2)[2].plain
    words = ("rho", "interval", "bridge", "S =", " p ", "centroid", "nats", "negative")
    for given in (organism, smollm2):
        for outcome in Reads:
            assert given.answers is not None
            if (outcome is Reads.NOT_MEASURED) != (given is smollm2):
                continue  # its words need a matrix, or that there is none
            changed = replace(given.answers.direction, reads=outcome)
            answers = replace(given.answers, direction=changed)
            for card in cards(replace(given, answers=answers)):
                assert card.plain.endswith(".")
                assert not any(word in card.plain for word in words), card.plain


def test_a_matrix_from_which_nothing_follows_says_why_and_not_that_there_is_none(organism):
    answers = organism.answers
    assert answers is not None
    assert answers.direction.tested is not None
    unread = replace(answers.direction.tested, s=None, p=None, reason="3 cells are missing")
    changed = replace(answers.direction, reads=Reads.NOT_MEASURED, tested=unread)
    card = cards(replace(organism, answers=replace(answers, direction=changed)))[2]
    assert card.plain.endswith("cannot be said: 3 cells are missing.")


def test_what_was_not_measured_is_called_so(smollm2):
    assert [card.word for card in cards(smollm2)] == ["REFUTED", "CANNOT ANSWER", "NOT MEASURED"]
    assert answered(smollm2) == {}
    assert 'href="#matrix"' not in page(smollm2, {})


def test_a_gate_that_fails_stands_against_the_result_once_with_its_remedy(organism, smollm2):
    for given in (organism, smollm2):
        gates = [point for point in against(given) if point.what.startswith("Gate")]
        assert len({gate.what for gate in gates}) == len(gates) > 1
        assert all(gate.remedy for gate in gates)


def test_the_matrix_of_the_first_screen_is_that_of_the_answers(organism):
    tested = organism.answers.direction.tested
    assert tested is not None
    values = matrix_values(organism, tested)
    assert values.personas == TEN
    for i, row in enumerate(TEN):
        assert values.values[i].tolist() == [tested.values[row][column] for column in TEN]
        negatives = {TEN[j] for j in range(10) if values.negatives[i, j]}
        assert negatives == set(tested.negatives[row])
    layer = organism.calibration[organism.experiment.layers.primary]
    assert values.cosines is not None
    assert values.cosines[2, 5] == layer.cosines[TEN[2]][TEN[5]]
    html = page(organism, dict(answered(organism)))
    assert html.index('id="figure-matrix"') < html.index('id="tested"')
    assert "arm Acentroidratio=+0.2" in spoken(html)


def test_without_a_calibration_the_matrix_stands_alone(organism):
    bare = replace(organism, calibration={})
    drawn = answered(bare)
    assert list(drawn) == ["matrix"]
    assert isinstance(drawn["matrix"], Drawing)
