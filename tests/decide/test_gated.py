"""How often gates, inversion and kills are right on simulated tables; the study has more."""

import numpy as np
import pytest

from steerproof.decide.analysis.kills_v2 import not_specific, sign_inverted_p
from steerproof.decide.review.gated import GatedPoint, GatedTrial, gated_point, kill_rates
from steerproof.decide.review.power import Trial
from steerproof.decide.review.simulation import Margin, RateModel

GOOD = RateModel(bridge=Margin(median=0.42, spread=1.2), steered=Margin(median=0.30, spread=1.2))


def point(model: RateModel, rho: float, simulations: int = 200) -> GatedPoint:
    trial = Trial(model=model, simulations=simulations, iterations=200, covered=0)
    return gated_point(GatedTrial(trial=trial, draws=200), rho)


def test_with_a_constant_bridge_the_rig_cannot_answer_and_the_registered_rule_refutes():
    found = point(RateModel(bridge=Margin(median=0.42, spread=0.0)), 0.0)
    assert found.gated["CANNOT ANSWER"] >= 0.97
    assert found.gated["REFUTED"] <= 0.01
    assert found.registered["REFUTED"] >= 0.80


def test_a_flat_bridge_cannot_answer_either():
    flat = RateModel(
        bridge=Margin(median=0.52, spread=0.2), steered=Margin(median=0.86, spread=0.7)
    )
    assert point(flat, 1.0).gated["CANNOT ANSWER"] >= 0.90


@pytest.mark.parametrize("model", [RateModel(), GOOD], ids=["published-like", "good rig"])
def test_a_perfect_relation_is_not_refuted(model):
    found = point(model, 1.0)
    assert found.gated["REFUTED"] <= 0.015
    assert found.gate_alone_refuted <= 0.06


@pytest.mark.parametrize("model", [RateModel(), GOOD], ids=["published-like", "good rig"])
def test_a_correlation_at_the_threshold_is_seldom_refuted(model):
    assert point(model, 0.6).gated["REFUTED"] <= 0.09


def test_no_relation_is_refuted_more_often_the_better_the_rig():
    published, good = point(RateModel(), 0.0), point(GOOD, 0.0)
    assert published.gated["REFUTED"] >= 0.40
    assert good.gated["REFUTED"] >= 0.62
    assert good.gated["SUPPORTED"] <= 0.08


def test_the_registered_sign_inverted_is_a_coin_and_the_second_version_is_not():
    model = RateModel(prompted=Margin(median=0.6, spread=0.6), prompt_gain=0.0)
    found = kill_rates(Trial(model=model), 600)
    assert found.sign_inverted == pytest.approx(0.5, abs=0.10)
    assert found.sign_inverted_v2 <= 0.07


def test_a_push_that_lowers_the_rate_fires_the_second_version():
    model = RateModel(prompted=Margin(median=0.6, spread=0.6), prompt_gain=-0.8)
    assert kill_rates(Trial(model=model), 100).sign_inverted_v2 >= 0.9


def test_signed_rank_p_is_one_where_nothing_changes():
    same = np.full((10, 3), 0.4)
    assert sign_inverted_p(same, same) == pytest.approx(np.ones(3))


@pytest.mark.parametrize(("gap", "most"), [(0.10, 0.07), (0.3, 0.0)])
def test_a_direction_that_does_better_is_seldom_called_unspecific(gap, most):
    rng = np.random.default_rng(0)
    bridge = rng.random((10, 500))
    direction = np.clip(0.5 + gap + 0.08 * rng.standard_normal((10, 500)), 0, 1)
    random = np.clip(0.5 + 0.08 * rng.standard_normal((10, 500)), 0, 1)
    found = not_specific(direction, random, bridge, margin=0.1, rho_margin=2.0)
    assert found.fired.mean() <= most


def test_a_random_direction_that_does_as_well_is_found_out():
    rng = np.random.default_rng(1)
    bridge, rates = rng.random((10, 300)), 0.5 + 0.05 * rng.standard_normal((10, 300))
    random = rates + 0.03 * rng.standard_normal((10, 300))
    found = not_specific(rates, random, bridge, margin=0.1, rho_margin=2.0)
    assert found.fired.mean() >= 0.95
