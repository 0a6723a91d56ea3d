"""The rule and the order of outcomes, one condition at a time."""

import numpy as np
import pytest

from steerproof.decide.analysis.kills import Kill
from steerproof.decide.analysis.rule import (
    ControlFlags,
    Outcome,
    Seen,
    Verdict,
    decide,
    outcomes,
    passes,
    verdict_of,
)
from steerproof.spec.judging import AnalysisSettings

ANALYSIS = AnalysisSettings()
NAN = float("nan")
KILLS = (
    "uniform_zero",
    "baseline_rate_driven",
    "sign_inverted",
    "no_correlation",
    "direction_not_specific",
)


def seen(**changes) -> Seen:
    fields = {
        "rho": 0.8,
        "low": 0.3,
        "high": 0.95,
        "undefined_share": 0.0,
        "complete": True,
        "flat": False,
    }
    return Seen(**{name: np.asarray(value) for name, value in {**fields, **changes}.items()})


def outcome(kill=None, isotropic=0.0, baseline=0.0, **changes) -> str:
    found = {name: (kill or {}).get(name, 0.0) for name in KILLS}
    code = decide(
        seen(**changes),
        {name: Kill(fired=np.asarray(value), numbers={}) for name, value in found.items()},
        ControlFlags(isotropic_passes=np.asarray(isotropic), baseline_passes=np.asarray(baseline)),
        ANALYSIS,
    )
    return outcomes()[int(code)]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 1),
        ({"rho": 0.6}, 1),
        ({"rho": 0.59}, 0),
        ({"low": 0.0}, 0),
        ({"low": 1e-9}, 1),
        ({"low": NAN, "high": NAN}, NAN),  # totals only
        ({"rho": 0.5, "low": NAN, "high": NAN}, 0),  # no interval could help
        ({"undefined_share": 0.02}, NAN),
        ({"undefined_share": 0.01}, 1),
        ({"rho": NAN, "low": NAN, "high": NAN, "flat": True}, 0),
        ({"rho": NAN, "low": NAN, "high": NAN}, NAN),  # the bridge is constant
        ({"complete": False}, NAN),
        ({"complete": False, "rho": 0.1}, NAN),
    ],
)
def test_an_arm_passes_at_the_threshold_with_a_lower_bound_above_zero(changes, expected):
    np.testing.assert_equal(float(passes(seen(**changes), ANALYSIS)), expected)


@pytest.mark.parametrize(
    ("changes", "expected", "verdict"),
    [
        ({}, Outcome.SUPPORTED, Verdict.SUPPORTED),
        ({"complete": False}, Outcome.MISSING_PERSONAS, Verdict.INCONCLUSIVE),
        ({"undefined_share": 0.02}, Outcome.UNDEFINED_RESAMPLES, Verdict.INCONCLUSIVE),
        ({"rho": NAN, "low": NAN, "high": NAN}, Outcome.UNDEFINED_RHO, Verdict.INCONCLUSIVE),
        ({"low": NAN, "high": NAN}, Outcome.NO_INTERVAL, Verdict.INCONCLUSIVE),
        ({"low": -0.1}, Outcome.NOT_PASSED, Verdict.INCONCLUSIVE),
        ({"rho": 0.5}, Outcome.NOT_PASSED, Verdict.INCONCLUSIVE),
        ({"rho": 0.5, "high": 0.59}, Outcome.BELOW_THRESHOLD, Verdict.REFUTED),
        ({"rho": 0.5, "high": 0.6}, Outcome.NOT_PASSED, Verdict.INCONCLUSIVE),
        ({"isotropic": 1.0}, Outcome.ISOTROPIC_PASSES, Verdict.INCONCLUSIVE),
        ({"isotropic": NAN}, Outcome.ISOTROPIC_UNDECIDED, Verdict.INCONCLUSIVE),
        ({"baseline": 1.0}, Outcome.BASELINE_PASSES, Verdict.INCONCLUSIVE),
        ({"baseline": NAN}, Outcome.BASELINE_UNDECIDED, Verdict.INCONCLUSIVE),
        ({"kill": {"sign_inverted": NAN}}, Outcome.KILL_UNDECIDED, Verdict.INCONCLUSIVE),
        *(({"kill": {name: 1.0}}, name, Verdict.REFUTED) for name in KILLS),
    ],
)
def test_one_thing_wrong_decides_the_verdict(changes, expected, verdict):
    found = outcome(**changes)
    assert (found, verdict_of(found)) == (expected, verdict)


def test_a_missing_persona_outweighs_every_kill():
    assert outcome(complete=False, kill={"sign_inverted": 1.0}) is Outcome.MISSING_PERSONAS


def test_a_kill_that_counts_rates_needs_no_rho():
    flat = {"rho": NAN, "low": NAN, "high": NAN, "flat": True, "undefined_share": 1.0}
    kill = {"uniform_zero": 1.0, "no_correlation": NAN}
    assert outcome(kill=kill, **flat) == "uniform_zero"


def test_a_kill_that_rests_on_rho_waits_for_a_stable_rho():
    found = outcome(rho=0.2, low=NAN, high=NAN, undefined_share=0.3, kill={"no_correlation": 1.0})
    assert found is Outcome.UNDEFINED_RESAMPLES


def test_a_kill_fires_on_totals_alone():
    found = outcome(rho=0.2, low=NAN, high=NAN, kill={"no_correlation": 1.0})
    assert found == "no_correlation"


def test_a_fired_kill_decides_although_another_is_open():
    kill = {"direction_not_specific": NAN, "no_correlation": 1.0}
    assert outcome(rho=0.1, kill=kill) == "no_correlation"


def test_many_tables_are_decided_at_once():
    rho = np.array([0.8, 0.5, 0.8])
    many = Seen(
        rho=rho,
        low=rho - 0.3,
        high=rho + 0.05,
        undefined_share=np.zeros(3),
        complete=np.array([True, True, False]),
        flat=np.zeros(3, dtype=bool),
    )
    found = {name: Kill(fired=np.zeros(3), numbers={}) for name in KILLS}
    controls = ControlFlags(isotropic_passes=np.zeros(3), baseline_passes=np.zeros(3))
    codes = decide(many, found, controls, ANALYSIS)
    assert [outcomes()[c] for c in codes] == [
        Outcome.SUPPORTED,
        Outcome.BELOW_THRESHOLD,
        Outcome.MISSING_PERSONAS,
    ]
