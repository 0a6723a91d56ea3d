"""Each criterion at its threshold, on ten personas whose numbers can be checked by hand."""

import dataclasses

import numpy as np
import pytest

from steerproof.decide.analysis.kills import ArmRates, Kill, kills
from steerproof.spec.judging import AnalysisSettings

UP = np.arange(10.0) / 10
NAN = np.full(10, np.nan)


def arm(**changes) -> ArmRates:
    """An arm that no criterion fires on."""
    fields = {
        "bridge": UP,
        "steered": UP,
        "unsteered": np.zeros(10),
        "prompted": UP,
        "prompted_steered": UP,
        "sweep": UP[None],
        "isotropic": UP[::-1].copy(),
        "steered_total": np.full(10, 100.0),
        "isotropic_total": np.full(10, 100.0),
    }
    return ArmRates(**{**fields, **changes})


def kill(name: str, **changes) -> Kill:
    return kills(arm(**changes), AnalysisSettings())[name]


def missing(values: np.ndarray, count: int = 1) -> np.ndarray:
    changed = values.copy()
    changed[:count] = np.nan
    return changed


def swapped(*pairs: tuple[int, int]) -> np.ndarray:
    changed = UP.copy()
    for i, j in pairs:
        changed[[i, j]] = changed[[j, i]]
    return changed


def test_an_arm_that_follows_the_bridge_is_not_killed():
    assert {name: float(k.fired) for name, k in kills(arm(), AnalysisSettings()).items()} == {
        "uniform_zero": 0,
        "baseline_rate_driven": 0,
        "sign_inverted": 0,
        "no_correlation": 0,
        "direction_not_specific": 0,
    }


def test_uniform_zero_needs_every_steered_cell_at_or_below_the_rate():
    low = np.full((2, 10), 0.05)
    assert kill("uniform_zero", sweep=low).fired == 1
    low[1, 3] = 0.06
    found = kill("uniform_zero", sweep=low)
    assert found.fired == 0
    assert found.numbers["max_rate"] == 0.06


def test_uniform_zero_is_open_only_if_the_missing_cell_could_save_the_arm():
    assert np.isnan(kill("uniform_zero", sweep=missing(np.zeros(10))[None]).fired)
    assert kill("uniform_zero", sweep=missing(UP)[None]).fired == 0
    assert np.isnan(kill("uniform_zero", sweep=np.zeros((0, 10))).fired)


def test_baseline_rate_driven_needs_both_correlations():
    # Swapping the ends 0 and 9: sum d^2 = 2 * 81, rho = 1 - 6 * 162 / 990 = 0.018.
    assert kill("baseline_rate_driven", unsteered=UP).fired == 1
    ends = swapped((0, 9))
    assert kill("baseline_rate_driven", unsteered=UP, steered=ends).fired == 0
    assert kill("baseline_rate_driven", unsteered=UP, bridge=ends).fired == 0


def test_baseline_rate_driven_at_its_thresholds():
    # Sum d^2 = 66 gives exactly 0.6: four apart twice and two neighbours.
    to_bridge = swapped((0, 4), (5, 9), (1, 2))
    found = kill("baseline_rate_driven", unsteered=UP, bridge=to_bridge)
    assert found.numbers["rho_baseline_bridge"] == 0.6
    assert found.fired == 1
    # Five apart and four apart twice: 2 * 25 = 50, rho = 0.697: below 0.7.
    found = kill("baseline_rate_driven", unsteered=UP, steered=swapped((0, 5)))
    assert found.numbers["rho_baseline_steered"] == pytest.approx(1 - 300 / 990)
    assert found.fired == 0


def test_a_constant_unsteered_rate_drives_nothing():
    found = kill("baseline_rate_driven", unsteered=np.full(10, 0.2))
    assert found.fired == 0
    assert np.isnan(found.numbers["rho_baseline_bridge"])


def test_an_unmeasured_unsteered_rate_leaves_the_criterion_open():
    assert np.isnan(kill("baseline_rate_driven", unsteered=NAN).fired)
    assert np.isnan(kill("baseline_rate_driven", unsteered=missing(UP)).fired)


def test_sign_inverted_fires_at_half_of_the_personas():
    def drop(count: int) -> Kill:
        lower = UP + 0.1
        lower[:count] = UP[:count] - 0.05
        return kill("sign_inverted", prompted_steered=lower)

    assert drop(4).fired == 0
    assert drop(5).fired == 1
    assert (drop(5).numbers["n_inverted"], drop(5).numbers["n"]) == (5, 10)


def test_an_equal_rate_is_not_inverted():
    assert kill("sign_inverted", prompted_steered=UP.copy()).numbers["n_inverted"] == 0


def test_sign_inverted_with_missing_personas_is_decided_only_when_they_cannot_matter():
    inverted = UP - 0.01
    assert kill("sign_inverted", prompted_steered=missing(inverted, 5)).fired == 1
    assert np.isnan(kill("sign_inverted", prompted_steered=missing(inverted, 6)).fired)
    assert kill("sign_inverted", prompted_steered=missing(UP, 4)).fired == 0
    assert np.isnan(kill("sign_inverted", prompted_steered=missing(UP, 5)).fired)
    assert np.isnan(kill("sign_inverted", prompted_steered=NAN).numbers["n_inverted"])


def test_no_correlation_fires_below_the_threshold_and_not_at_it():
    # Sum d^2 = 99 would be 0.4; 98 = 2 * 49 gives 0.406 and 100 = 2 * (49 + 1) gives 0.394.
    assert kill("no_correlation", steered=swapped((0, 7))).fired == 0
    found = kill("no_correlation", steered=swapped((0, 7), (8, 9)))
    assert found.numbers["rho"] == pytest.approx(1 - 600 / 990)
    assert found.fired == 1


def test_no_correlation_is_open_without_a_rho_or_without_all_personas():
    assert np.isnan(kill("no_correlation", steered=np.full(10, 0.3)).fired)
    found = kill("no_correlation", steered=missing(UP[::-1].copy()))
    assert np.isnan(found.fired)
    assert found.numbers["rho"] == -1  # the nine that are there


def test_direction_not_specific_needs_the_same_ranking_and_the_same_rate():
    assert kill("direction_not_specific", isotropic=UP.copy()).fired == 1
    # Mean rates 0.45 of 1000 each: half-width 1.96 * sqrt(.45 * .55 / 1000) = 0.031.
    assert kill("direction_not_specific", isotropic=UP + 0.029).fired == 1
    assert kill("direction_not_specific", isotropic=UP + 0.033).fired == 0
    # Sum d^2 of 8 and 32: rho 0.048 and 0.194 below 1.
    assert kill("direction_not_specific", isotropic=swapped((0, 2))).fired == 1
    assert kill("direction_not_specific", isotropic=swapped((0, 4))).fired == 0
    assert kill("direction_not_specific").fired == 0


def test_direction_not_specific_reports_what_it_compared():
    numbers = kill("direction_not_specific", isotropic=UP / 2).numbers
    assert numbers["mean_rate_direction"] == pytest.approx(0.45)
    assert numbers["mean_rate_isotropic"] == pytest.approx(0.225)
    assert numbers["rho_isotropic"] == 1
    assert numbers["wilson_half_width"] == pytest.approx(0.03077, abs=1e-4)


def test_without_isotropic_cells_specificity_is_open():
    found = kill("direction_not_specific", isotropic=NAN, isotropic_total=np.zeros(10))
    assert np.isnan(found.fired)
    assert np.isnan(found.numbers["wilson_half_width"])


def test_criteria_of_many_tables_at_once_equal_one_at_a_time():
    rng = np.random.default_rng(2)
    names = [f.name for f in dataclasses.fields(ArmRates) if "total" not in f.name]
    drawn = {name: rng.integers(0, 5, (10, 40)) / 20 for name in names}
    drawn["sweep"] = rng.integers(0, 3, (2, 10, 40)) / 20
    together = kills(arm(**drawn), AnalysisSettings())
    for i in range(40):
        alone = kills(arm(**{n: v[..., i] for n, v in drawn.items()}), AnalysisSettings())
        for name, one in alone.items():
            np.testing.assert_equal(together[name].fired[i], float(one.fired))
