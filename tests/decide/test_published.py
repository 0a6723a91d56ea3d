"""Numbers that others published, recomputed from their data."""

import csv
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from steerproof.decide.analysis.analyze import analyze
from steerproof.decide.analysis.rates_csv import read_rates
from steerproof.decide.analysis.records import Analysis
from steerproof.decide.analysis.rule import Verdict
from steerproof.decide.analysis.statistics import spearman
from steerproof.spec.yaml_io import load_experiment

DATA = Path(__file__).parents[1] / "data" / "issue246_cosine_vs_firing.csv"


@pytest.mark.parametrize(
    ("layer", "published"),
    [
        (20, -0.7394549559641986),
        (15, -0.8098792374845986),
        (10, -0.7112852433560386),
        (25, -0.6760731025958387),
    ],
)
def test_cosine_to_the_assistant_against_firing_over_twelve_personas(layer, published):
    with DATA.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rate = np.array([int(row["fired"]) / int(row["total"]) for row in rows])
    cosine = np.array([float(row[f"cosine_to_assistant_l{layer}"]) for row in rows])
    assert len(rows) == 12
    assert spearman(cosine, rate) == pytest.approx(published, abs=1e-12)
    assert scipy.stats.spearmanr(cosine, rate).statistic == pytest.approx(published, abs=1e-12)


@pytest.fixture(scope="module")
def parent_run() -> Analysis:
    experiment = load_experiment("published-267").experiment
    table = read_rates(DATA.with_name("issue267_rates.csv"), experiment)
    return analyze(table, experiment, arm="C")


def test_the_parent_runs_correlations_and_leave_one_out_ranges(parent_run):
    arm = parent_run.arms["C"]
    assert arm.primary.rho == pytest.approx(-0.3631466999048845, abs=1e-12)
    assert arm.primary.leave_one_out == pytest.approx(
        (-0.5069418790697555, -0.2556038601690775), abs=1e-12
    )
    assert arm.co_primary is not None
    assert arm.co_primary.rho == pytest.approx(-0.09118583155200968, abs=1e-12)
    assert arm.co_primary.leave_one_out == pytest.approx(
        (-0.30125786715206027, 0.20083857810137354), abs=1e-12
    )


def test_the_parent_runs_kills_and_the_numbers_that_decided_them(parent_run):
    kills = parent_run.arms["C"].kills
    assert {name: kill.fired for name, kill in kills.items()} == {
        "uniform_zero": False,
        "baseline_rate_driven": False,
        "sign_inverted": True,
        "no_correlation": True,
        "direction_not_specific": False,
    }
    numbers = {key: value for kill in kills.values() for key, value in kill.numbers.items()}
    half_width = numbers.pop("wilson_half_width")
    assert half_width == pytest.approx(0.02105364680713248, abs=1e-6)  # published with z = 1.96
    assert numbers == pytest.approx(
        {
            "max_rate": 0.34,
            "rho_baseline_steered": 0.6917637567037023,
            "rho_baseline_bridge": -0.4863244349440517,
            "n_inverted": 10,
            "n": 10,
            "rho": -0.3631466999048845,
            "rho_direction": -0.3631466999048845,
            "rho_isotropic": -0.6146647426600895,
            "mean_rate_direction": 0.068,
            "mean_rate_isotropic": 0.133,
        },
        abs=1e-12,
    )


def test_the_parent_run_is_refuted_by_its_inverted_sign(parent_run):
    # The published outcome: "Sign-inverted bucket".
    assert (parent_run.outcome, parent_run.verdict) == ("sign_inverted", Verdict.REFUTED)
    assert parent_run.reading.startswith("prompt-trained adapters")
    assert "only totals" in (parent_run.arms["C"].primary.reason or "")
    assert parent_run.arms["C"].primary.interval is None
