"""Confounds and the graded ranking, against formulas and code that share nothing with them."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from steerproof.decide.analysis.analyze import analyze
from steerproof.decide.analysis.answer_records import Confound, GradedRanking
from steerproof.decide.analysis.answers import answer
from steerproof.decide.analysis.case import Case, case_of
from steerproof.decide.analysis.confounds import (
    LENGTH,
    SIZE,
    confounds,
    needed,
    partial_correlation,
)
from steerproof.decide.analysis.graded import graded_rankings, margins_of
from steerproof.decide.analysis.rates import RateTable
from steerproof.decide.analysis.rig import Rig
from steerproof.decide.report.inputs import ReportInputs
from steerproof.decide.report.page import page
from steerproof.decide.report.view import confound_rows, outcome_rows
from steerproof.spec.experiment import Persona
from steerproof.spec.grid import Cell, CellKind
from steerproof.spec.judging import AnalysisSettings
from steerproof.spec.strength import Strength
from tests.decide.tables import TEN, cell_of, steered, supported, table, ten_personas
from tests.decide.test_report import spoken
from tests.decide.trials import BRIDGE, SMOLLM2, experiment_of, pushes_of, rig_of, values_of
from tests.decide.trials import TEN as REAL

C2, RATIO = Strength.parse("c=+2"), Strength.parse("ratio=+0.2")


@pytest.mark.parametrize("held", [1, 2])
def test_a_partial_correlation_is_that_of_the_inverse_correlation_matrix(held):
    rng = np.random.default_rng(held)
    columns = rng.integers(0, 6, size=(2 + held, 10)).astype(float)  # with ties
    inverse = np.linalg.inv(np.corrcoef([stats.rankdata(column) for column in columns]))
    expected = -inverse[0, 1] / np.sqrt(inverse[0, 0] * inverse[1, 1])
    assert partial_correlation(columns[0], columns[1], list(columns[2:])) == pytest.approx(expected)


def test_a_side_that_only_repeats_the_confound_has_none():
    size = np.arange(10.0)
    assert partial_correlation(size**2, np.flip(size), [size]) is None


def test_the_size_that_is_needed_is_where_the_test_has_p_of_a_twentieth():
    for held, shown in ((0, 0.63), (1, 0.67), (2, 0.71)):
        r, freedom = needed(10, held), 8 - held
        assert r == pytest.approx(shown, abs=0.005)
        t = r * np.sqrt(freedom / (1 - r * r))
        assert 2 * stats.t.sf(t, freedom) == pytest.approx(0.05)
    assert needed(4, 2) is None


def by_name(found: tuple[Confound, ...]) -> dict[tuple[str, ...], Confound]:
    return {one.names: one for one in found}


def test_the_real_models_rates_follow_the_size_of_the_push():
    """Rates and sizes read by the csv and json modules alone, correlated by scipy."""
    asked = experiment_of(SMOLLM2)
    found, _ = read(SMOLLM2)
    one = by_name(found)[(SIZE,)]
    rates = values_of(SMOLLM2, ("A", "neutral", "centroid", "21", "c=+2")).mean(axis=1)
    bridge, size = values_of(SMOLLM2, BRIDGE).mean(axis=1), pushes_of(SMOLLM2, "21", "c=+2")
    assert one.with_steered == pytest.approx(stats.spearmanr(rates, size).statistic)
    assert one.with_steered == pytest.approx(0.94, abs=0.005)
    assert one.with_bridge == pytest.approx(stats.spearmanr(bridge, size).statistic)
    assert one.with_bridge == pytest.approx(-0.32, abs=0.005)
    assert one.partial == pytest.approx(-0.28, abs=0.005)
    assert one.rho == pytest.approx(-0.389, abs=0.001)
    lengths = [len(persona.prompt) for persona in asked.personas if persona.headline]
    length = by_name(found)[(LENGTH,)]
    assert (length.least, length.most) == (min(lengths), max(lengths))


def read(run) -> tuple[tuple[Confound, ...], Case]:
    from tests.decide.trials import table_with_matrices

    case = case_of(table_with_matrices(run), experiment_of(run))
    assert case.personas == REAL
    return confounds(case, rig_of(run), "A", (C2,)), case


def case(**changes: object) -> Case:
    return case_of(table(supported()), ten_personas(AnalysisSettings(iterations=100), **changes))


def test_prompts_of_one_length_order_nothing_and_are_held_with_nothing():
    alone = case()  # `You are p0.` to `You are p9.`
    found = confounds(alone, Rig(), "A", (C2,))
    assert [one.names for one in found] == [(LENGTH,), (SIZE,)]  # the table pushes all alike
    assert found[0].partial is None
    assert "the same for every persona" in found[0].reason


def test_a_persona_without_a_rate_leaves_the_comparison_out():
    kinds = supported()
    kinds[steered("A", "c=+2")] = (np.nan, *kinds[steered("A", "c=+2")][1:])
    holed = case_of(table(kinds), ten_personas(AnalysisSettings(iterations=100)))
    assert confounds(holed, Rig(), "A", (C2,)) == ()


# The graded ranking.


def margins(
    order: np.ndarray, kind: CellKind, *, noise: float, seed: int
) -> dict[Cell, np.ndarray]:
    """Margins at twenty questions: a persona's place in the order, in nats, and noise."""
    rng = np.random.default_rng(seed)
    return {
        cell_of(kind, name): place + noise * rng.standard_normal(20)
        for name, place in zip(TEN, order, strict=True)
    }


def graded(rig: Rig) -> tuple[GradedRanking, ...]:
    return graded_rankings(case(), rig, "A", (C2, RATIO))


BRIDGE_KIND = CellKind(arm="C", prompt="persona")


def test_an_order_that_rates_cannot_show_is_found_in_the_margins():
    """Where every true margin is far above 0, every rate is 1."""
    order = 20 + np.arange(10.0)
    own = margins(order, BRIDGE_KIND, noise=1.0, seed=0)
    own |= margins(order, steered("A", "ratio=+0.2"), noise=1.0, seed=1)
    (found,) = graded(Rig(own_margins=own))
    assert (found.text, found.strength, found.questions) == ("own", "ratio=+0.2", (20, 20))
    assert found.attainable > 0.9
    assert found.rho == pytest.approx(1, abs=0.05)
    assert found.interval[1] == 1
    assert found.interval[0] > 0.6
    reverse = own | margins(-order, steered("A", "ratio=+0.2"), noise=1.0, seed=1)
    (against,) = graded(Rig(own_margins=reverse))
    assert against.p_threshold < 0.01
    assert against.interval[1] < -0.6


def test_margins_without_an_order_exclude_little():
    own = margins(np.zeros(10), BRIDGE_KIND, noise=1.0, seed=3)
    own |= margins(np.zeros(10), steered("A", "c=+2"), noise=1.0, seed=4)
    (found,) = graded(Rig(own_margins=own))
    assert found.attainable < 0.6
    assert found.p_threshold > 0.05


def test_both_kinds_of_text_are_told_apart():
    order = np.arange(10.0)
    cells = margins(order, BRIDGE_KIND, noise=1.0, seed=0)
    cells |= margins(order, steered("A", "c=+2"), noise=1.0, seed=1)
    found = graded(Rig(own_margins=cells, margins=cells))
    assert [one.text for one in found] == ["own", "common"]
    assert found[0].alpha_bridge == found[1].alpha_bridge


def test_a_question_that_one_persona_was_cut_at_is_left_out_for_all():
    cells = margins(np.arange(10.0), BRIDGE_KIND, noise=1.0, seed=0)
    kept = margins_of(case(), cells, BRIDGE_KIND)
    cells[cell_of(BRIDGE_KIND, "p3")][[2, 5]] = np.nan
    cells[cell_of(BRIDGE_KIND, "p4")][5] = np.nan
    assert np.array_equal(margins_of(case(), cells, BRIDGE_KIND), np.delete(kept, [2, 5], axis=1))
    del cells[cell_of(BRIDGE_KIND, "p4")]
    assert margins_of(case(), cells, BRIDGE_KIND) is None


def test_text_that_was_cut_by_length_is_said_and_not_ranked():
    cells = margins(np.arange(10.0), BRIDGE_KIND, noise=1.0, seed=0)
    broken = margins(np.arange(10.0), steered("A", "c=+2"), noise=1.0, seed=1)
    for i, name in enumerate(TEN):
        broken[cell_of(steered("A", "c=+2"), name)][i : i + 10] = np.nan
    (found,) = graded(Rig(own_margins=cells | broken))
    assert found.questions == (20, 1)
    assert (found.rho, found.interval, found.attainable) == (None, None, None)
    assert "cut by length" in found.reason


def test_both_tables_are_in_the_answers_and_in_the_report():
    asked = ten_personas(
        AnalysisSettings(iterations=100),
        personas=(
            *(Persona(name=name, prompt="x" * (7 + i)) for i, name in enumerate(TEN)),
            Persona(name="helpful_assistant", prompt="You help.", headline=False),
        ),
    )
    cells = margins(np.arange(10.0), BRIDGE_KIND, noise=1.0, seed=0)
    cells |= margins(np.arange(10.0), steered("A", "c=+2"), noise=1.0, seed=1)
    rates: RateTable = table(supported())
    registered = analyze(rates, asked)
    found = answer(rates, asked, registered, Rig(own_margins=cells))
    assert found.graded[0].rho == pytest.approx(1, abs=0.05)
    assert found.confounds[0].with_steered == pytest.approx(1)
    shown = spoken(
        page(ReportInputs(experiment=asked, rates=rates, analysis=registered, answers=found), {})
    )
    for rows in (outcome_rows(found), confound_rows(found)):
        for row in rows:
            assert "".join(row) in shown
    assert "ratesc=+2" in shown
    assert "margins, own completionsc=+2" in shown
    assert "prompt length7 to 16c=+2" in shown
    bare = dataclasses.replace(found, graded=(), confounds=())
    without = page(
        ReportInputs(experiment=asked, rates=rates, analysis=registered, answers=bare), {}
    )
    assert "margins, own" not in without
