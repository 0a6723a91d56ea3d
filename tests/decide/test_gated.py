"""How often gates, inversion and kills are right on simulated tables; the study has more."""

import json
from pathlib import Path

import numpy as np
import pytest

from steerproof.decide.analysis.kills_v2 import not_specific, sign_inverted_p
from steerproof.decide.review.power import Trial
from steerproof.decide.review.simulation import Margin, RateModel
from tools.answers_study import gated_table, kill_table, power_table, with_tables
from tools.gated import (
    GatedPoint,
    GatedTrial,
    KillRates,
    gated_point,
    kill_rates,
)

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


# The simulations that are committed.

DOCS = Path(__file__).parents[2] / "docs"
STUDY = json.loads((DOCS / "data" / "answers.json").read_bytes())


def test_the_tables_of_the_page_are_those_of_the_committed_simulations():
    page = (DOCS / "statistics.md").read_text("utf-8")
    points = {rig: [GatedPoint(**one) for one in found] for rig, found in STUDY["rigs"].items()}
    kills = {
        float(rate): KillRates(**found) for rate, found in STUDY["kills_without_effect"].items()
    }
    matrix = {
        float(spread): {float(effect): found for effect, found in row.items()}
        for spread, row in STUDY["matrix"].items()
    }
    tables = {
        "gated": gated_table(points),
        "kills": kill_table(kills),
        "matrix-power": power_table(matrix),
    }
    assert all(f"<!-- {name}:begin -->" in page for name in tables)
    assert with_tables(page, tables) == page


def test_the_committed_error_rates_are_those_that_were_asked_for():
    """Six hundred simulations a line; what is asked for is exact, its measurement is not."""
    assert STUDY["simulations"] >= 400
    for rig, points in STUDY["rigs"].items():
        for one in points:
            gated, rho = one["gated"], one["rho"]
            if rig == "constant bridge":
                assert gated["CANNOT ANSWER"] >= 0.97
            elif rig.startswith(("flat", "at the ceiling")):
                assert gated["CANNOT ANSWER"] >= 0.90
            if rho == 1:
                assert gated["REFUTED"] < 0.01
                assert one["gate_alone_refuted"] <= 0.05
            if rho == 0.6:
                assert gated["REFUTED"] <= 0.08
            if one["attainable"] >= 0.5:
                assert 0.92 <= one["inversion_covers_all"] <= 0.99
    none = {rig: points[-1]["gated"]["REFUTED"] for rig, points in STUDY["rigs"].items()}
    assert none["published-like (sd 0.6, 0.9)"] >= 0.45
    assert none["good rig (sd 1.2)"] >= 0.70
    for row in STUDY["matrix"].values():
        assert 0.03 <= row["0"]["power"] <= 0.07
    assert STUDY["matrix"]["1"]["1"]["power"] >= 0.70


def test_version_one_of_sign_inverted_fires_as_often_as_the_page_says():
    fired = {rate: f["sign_inverted"] for rate, f in STUDY["kills_without_effect"].items()}
    usual = [fired[rate] for rate in ("0.3", "0.6", "0.9")]
    said = f"{100 * min(usual):.0f} to {100 * max(usual):.0f} of a hundred experiments"
    assert said in (DOCS / "statistics.md").read_text("utf-8")
    for found in STUDY["kills_without_effect"].values():
        assert found["sign_inverted_v2"] <= 0.055  # its level is 0.05; 2,400 simulations
        assert found["direction_not_specific_v2"] <= 0.05
