"""Error rates: the simulated truth, the real decision code, and what is counted."""

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import scipy.stats

from steerproof.decide.analysis.analyze import analyze
from steerproof.decide.analysis.rates import CellCounts, RateTable
from steerproof.decide.analysis.resampling import Resampling, rates
from steerproof.decide.analysis.rule import outcomes
from steerproof.decide.analysis.statistics import spearman
from steerproof.decide.review import power
from steerproof.decide.review.power import (
    Trial,
    coverage,
    detectable,
    judge,
    operating_characteristics,
    to_json,
    trial_of,
)
from steerproof.decide.review.simulation import Design, Margin, RateModel, pearson_of, simulate
from steerproof.spec.grid import CellKind
from steerproof.spec.judging import AnalysisSettings
from tests.decide.tables import TEN, cell_of, steered, ten_personas
from tools.power_figures import error_rates, error_table, size_table, sizes
from tools.power_study import REGISTERED, with_tables

DOCS = Path(__file__).parents[2] / "docs"
QUICK = Trial(simulations=60, iterations=200, covered=20)


@pytest.fixture(scope="module")
def quick():
    return operating_characteristics(QUICK, (0.0, 0.9))


def rate_of(cells, design):
    total = np.full(cells.shape[:2], float(design.samples))
    return rates(power.counts_of(cells, total))


def test_the_copula_gives_the_asked_rank_correlation():
    design = Design(personas=3000, questions=1, samples=100_000)
    model = RateModel(question_spread=0.0, cluster_spread=0.0)
    for rho in (-0.5, 0.0, 0.8):
        tables = simulate(design, model, rho, 2, np.random.default_rng(1))
        found = scipy.stats.spearmanr(
            rate_of(tables.bridge, design)[:, 0], rate_of(tables.steered, design)[:, 0]
        ).statistic
        assert found == pytest.approx(rho, abs=0.04)


def test_the_ends_of_the_copula_are_perfect_orders():
    assert (pearson_of(1.0), pearson_of(0.0)) == (pytest.approx(1.0), 0.0)
    assert pearson_of(-1.0) == pytest.approx(-1.0)


def test_medians_floors_and_samples_are_those_of_the_model():
    design = Design(personas=2000, questions=2, samples=50)
    model = RateModel(
        bridge=Margin(median=0.4, spread=0.8), question_spread=0.0, cluster_spread=0.0, floor=0.3
    )
    tables = simulate(design, model, 0.0, 1, np.random.default_rng(2))
    bridge = rate_of(tables.bridge, design)[:, 0]
    assert np.median(bridge) == pytest.approx(0.4, abs=0.02)
    # P(logit < logit .3) = Phi((logit .3 - logit .4) / .8) = Phi(-0.552) = 0.290 never fire.
    assert np.mean(bridge == 0) == pytest.approx(0.29, abs=0.03)
    assert tables.bridge.max() <= 50


def test_question_effects_cluster_completions():
    design = Design(personas=200, questions=400, samples=5)
    tables = simulate(
        design, RateModel(question_spread=0.0, cluster_spread=1.5), 0.0, 1, np.random.default_rng(3)
    )
    plain = simulate(
        design, RateModel(question_spread=0.0, cluster_spread=0.0), 0.0, 1, np.random.default_rng(3)
    )
    assert tables.bridge.var(axis=1).mean() > 1.5 * plain.bridge.var(axis=1).mean()


def test_simulated_tables_are_decided_exactly_as_real_ones():
    # The same counts, once as a batch of simulations and once as a rate table each.
    experiment = ten_personas(AnalysisSettings(iterations=300), seed=17)
    trial = trial_of(experiment)
    assert (trial.design.personas, trial.design.questions, trial.design.samples) == (10, 20, 5)
    model = RateModel(
        baseline=Margin(median=0.02, spread=0.5), isotropic=Margin(median=0.1, spread=1.0)
    )
    tables = simulate(trial.design, model, 0.85, 12, np.random.default_rng(5))
    plan = Resampling(seed=experiment.seed, iterations=300)
    judged = judge(tables, trial, plan, covered=12)
    kinds = {
        CellKind(arm="C", prompt="persona"): tables.bridge,
        CellKind(arm="A", prompt="neutral"): tables.unsteered,
        CellKind(arm="A", prompt="persona"): tables.prompted,
        steered("A", "c=+2"): tables.steered,
        steered("A", "c=+2", "persona"): tables.prompted_steered,
        steered("C", "c=+2"): tables.baseline,
        steered("A-iso", "c=+2"): tables.isotropic,
    }
    for i in range(12):
        cells = {
            cell_of(kind, persona): CellCounts(
                coefficient=0.0,
                questions=tuple(str(q) for q in range(20)),
                fired=tuple(int(f) for f in fired[p, :, i]),
                total=(5,) * 20,
            )
            for kind, fired in kinds.items()
            for p, persona in enumerate(TEN)
        }
        found = analyze(RateTable(cells=cells), experiment)
        primary = found.arms["A"].primary
        assert found.outcome == outcomes()[judged.outcome[i]]
        assert primary.interval == (judged.interval.low[i], judged.interval.high[i])
        assert primary.two_level == pytest.approx(
            (judged.two_level.low[i], judged.two_level.high[i]), abs=1e-12
        )
        for name, kill in found.arms["A"].kills.items():
            np.testing.assert_equal(
                float(judged.kills[name][i]), np.nan if kill.fired is None else kill.fired
            )
    assert len({outcomes()[code] for code in judged.outcome}) > 1


def test_shares_add_up_and_follow_the_truth(quick):
    null, strong = quick.points
    for point in quick.points:
        assert sum(point.verdicts.values()) == pytest.approx(1.0)
        assert sum(point.outcomes.values()) == pytest.approx(1.0)
    assert quick.false_supported == null.verdicts["SUPPORTED"] < 0.2
    assert strong.verdicts["SUPPORTED"] > 0.4 > null.verdicts["SUPPORTED"]
    assert null.kills["no_correlation"] > 0.6 > strong.kills["no_correlation"]


def test_the_number_of_threads_changes_no_error_rate(quick, monkeypatch):
    monkeypatch.setattr(power, "_THREADS", 3)
    assert operating_characteristics(QUICK, (0.0, 0.9)) == quick


def test_one_true_correlation_is_simulated_alike_among_others(quick):
    alone = operating_characteristics(QUICK, (0.9,))
    assert alone.points[0] == quick.points[1]


def test_error_rates_are_json(quick):
    text = json.dumps(to_json(quick), allow_nan=False)
    assert json.loads(text)["points"][0]["rho"] == 0.0


def test_only_the_two_level_interval_speaks_of_personas_in_general():
    # 150 intervals: an honest 95% one covers at least 0.90 with near certainty, and the one that
    # keeps its personas fixed covers about 0.6.
    trial = Trial(simulations=150, iterations=300, covered=150)
    (point,) = operating_characteristics(trial, (0.4,)).points
    shares = (point.registered_measured, point.two_level_general, point.registered_general)
    these, general, wrong = (found.share or 0.0 for found in shares)
    assert these > 0.88
    assert general > 0.90
    assert wrong < 0.75
    assert point.two_level_general.width is not None
    assert point.registered_general.width is not None
    assert point.two_level_general.width > 2 * point.registered_general.width


def test_the_registered_interval_covers_the_truth_of_its_own_personas_far_too_seldom():
    # It takes the bridge as known: about 0.75 with the true rates at 0, about 0.4 near 1.
    trial = Trial(simulations=300, iterations=300, covered=0)
    low, high = operating_characteristics(trial, (0.0, 0.95)).points
    assert low.registered_these.share == pytest.approx(0.76, abs=0.08)
    assert high.registered_these.share == pytest.approx(0.38, abs=0.08)
    assert low.registered_measured.share > 0.9


@pytest.mark.nightly
def test_coverage_agrees_with_its_promise_over_many_experiments():
    trial = Trial(simulations=2000, iterations=1000, covered=2000)
    (point,) = operating_characteristics(trial, (0.4,)).points
    promised = scipy.stats.binom(2000, 0.95).interval(0.999)
    these = point.registered_measured
    assert these.share is not None
    assert these.share * these.n == pytest.approx(np.mean(promised), abs=0.03 * 2000)
    assert point.two_level_general.share is not None
    assert point.two_level_general.share >= 0.94
    assert point.registered_general.share is not None
    assert point.registered_general.share < 0.75


@pytest.mark.nightly
def test_a_true_null_is_rarely_supported():
    found = operating_characteristics(Trial(simulations=2000, covered=0), (0.0,))
    assert found.false_supported is not None
    assert found.false_supported <= scipy.stats.binom(2000, 0.05).ppf(0.999) / 2000


def test_coverage_counts_only_what_is_defined():
    low, high = np.array([0.0, 0.5, np.nan, 0.1]), np.array([1.0, 0.6, np.nan, 0.2])
    found = coverage(low, high, np.array([0.5, 0.5, 0.5, np.nan]))
    assert (found.share, found.n, found.width) == (1.0, 2, pytest.approx(0.55))
    assert coverage(low[2:3], high[2:3], np.array([0.5])).share is None


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ([0.1, 0.4, 0.9], 0.5 + 0.5 * (0.8 - 0.4) / (0.9 - 0.4)),
        ([0.85, 0.9, 0.95], 0.0),
        ([0.1, 0.2, 0.7], None),
        ([0.1, 0.8, 0.75], 0.5),
    ],
)
def test_the_smallest_detectable_correlation_lies_where_the_power_is_reached(shares, expected):
    assert detectable([0.0, 0.5, 1.0], shares, 0.8) == (
        None if expected is None else pytest.approx(expected)
    )


def test_what_cannot_be_detected_has_a_reason():
    found = operating_characteristics(QUICK, (0.0,))
    assert found.minimum_detectable_rho is None
    assert found.reason is not None
    assert "up to a true correlation of 0" in found.reason


def test_shares_are_drawn_and_tabulated(quick):
    for picture in (error_rates(quick), sizes({"Personas": {"10": quick, "other": quick}})):
        root = ElementTree.fromstring(picture.svg)
        assert root.tag.endswith("svg")
        assert "SUPPORTED" in picture.svg
    assert error_table(quick).count("\n") == 3
    table = size_table({"ten": quick})
    assert f"{100 * quick.points[0].verdicts['SUPPORTED']:.1f}%" in table
    page = with_tables(
        "a\n<!-- errors:begin -->\nold\n<!-- errors:end -->\nb\n", {REGISTERED: quick}
    )
    assert "old" not in page
    assert page.endswith("<!-- errors:end -->\nb\n")


def test_the_page_shows_the_numbers_of_the_last_study():
    data = json.loads((DOCS / "data" / "power.json").read_text(encoding="utf-8"))
    page = (DOCS / "statistics.md").read_text(encoding="utf-8")
    for name, found in data.items():
        (line,) = (row for row in page.splitlines() if row.startswith(f"| {name} |"))
        least = found["minimum_detectable_rho"]
        assert line.endswith(f"| {'none up to 0.95' if least is None else f'{least:.2f}'} |")
        null = found["points"][0]["verdicts"]["SUPPORTED"]
        assert f"| {100 * null:.1f}% ± " in line


def test_the_truth_of_the_personas_at_hand_is_their_true_rates():
    tables = simulate(Design(), RateModel(), 0.5, 3, np.random.default_rng(8))
    judged = judge(tables, Trial(), Resampling(seed=0, iterations=50), covered=0)
    bridge = rate_of(tables.bridge, Design())
    np.testing.assert_array_equal(judged.measured, spearman(tables.true_steered, bridge))
    true = spearman(tables.true_steered, tables.true_bridge)
    np.testing.assert_array_equal(judged.these, true)
    assert judged.two_level.low.shape == (0,)
