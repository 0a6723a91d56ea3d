"""The analysis of whole tables: verdicts, controls, and what happens when something is missing."""

import json
import math

import numpy as np
import pytest
import scipy.stats

from steerproof.codec import plain
from steerproof.decide.analysis.analyze import analyze
from steerproof.decide.analysis.records import ControlArm, SignCheck
from steerproof.decide.analysis.rule import Outcome, Verdict
from steerproof.errors import ExperimentError
from steerproof.spec.grid import CellKind
from steerproof.spec.judging import AnalysisSettings
from steerproof.spec.strength import Strength
from tests.decide.tables import (
    FLAT,
    RISING,
    SHUFFLED,
    TEN,
    steered,
    supported,
    table,
    ten_personas,
)

NAN = math.nan
C2 = Strength.parse("c=+2")
PRIMARY = steered("A", "c=+2")
BRIDGE = CellKind(arm="C", prompt="persona")
FALLING = RISING[::-1]


def analysed(changes=None, *, drop=(), questions=True, arm=None, geometry=None, **fields):
    kinds = {**supported(), **(changes or {})}
    kept = {kind: rates for kind, rates in kinds.items() if kind not in drop}
    experiment = ten_personas(AnalysisSettings(iterations=1000, **fields))
    return analyze(table(kept, questions=questions), experiment, arm=arm, geometry=geometry)


def without(rates, *places):
    return tuple(NAN if i in places else rate for i, rate in enumerate(rates))


def test_a_table_with_all_that_the_hypothesis_asks_for_supports_it():
    found = analysed()
    assert found.verdict is Verdict.SUPPORTED
    assert found.reading.startswith("training gap")
    assert found.magnitude_bound is False
    assert "rho = 1.00" in found.reason
    assert [name for name, kill in found.arms["A"].kills.items() if kill.fired is not False] == []
    for role in ("baseline", "isotropic"):
        control = found.controls.arms[role]
        assert isinstance(control, ControlArm)
        assert control.ok is True


def test_point_estimates_agree_with_scipy():
    found = analysed({PRIMARY: SHUFFLED}).arms["A"].primary
    expected = scipy.stats.spearmanr(SHUFFLED, RISING).statistic
    assert found.rho == pytest.approx(expected, abs=1e-12)
    tau = scipy.stats.kendalltau(SHUFFLED, RISING).statistic
    assert found.kendall_tau == pytest.approx(tau, abs=1e-12)
    left_out = [
        scipy.stats.spearmanr(np.delete(SHUFFLED, i), np.delete(RISING, i)).statistic
        for i in range(10)
    ]
    assert found.leave_one_out == pytest.approx((min(left_out), max(left_out)), abs=1e-12)


def test_the_json_has_the_promised_shape():
    shape = plain(analysed(geometry={"1": {p: i / 10 for i, p in enumerate(TEN)}}))
    assert {"arms", "controls", "geometry", "verdict", "reading"} <= shape.keys()
    arm = shape["arms"]["A"]
    assert {"primary", "co_primary", "kills", "passes"} <= arm.keys()
    promised = {"strength", "rho", "interval", "reason", "leave_one_out", "permutation_p"}
    assert promised <= arm["primary"].keys()
    assert promised <= arm["co_primary"].keys()
    numbers = {name: kill.keys() - {"fired", "reason"} for name, kill in arm["kills"].items()}
    assert numbers == {
        "uniform_zero": {"max_rate"},
        "baseline_rate_driven": {"rho_baseline_steered", "rho_baseline_bridge"},
        "sign_inverted": {"n_inverted", "n"},
        "no_correlation": {"rho"},
        "direction_not_specific": {
            "rho_direction",
            "rho_isotropic",
            "mean_rate_direction",
            "mean_rate_isotropic",
            "wilson_half_width",
        },
    }
    assert arm["primary"]["strength"] == "c=+2"
    assert shape["verdict"] == "SUPPORTED"
    assert json.loads(json.dumps(shape, allow_nan=False)) == shape


@pytest.mark.parametrize(
    ("changes", "outcome", "verdict", "reading"),
    [
        (
            {PRIMARY: FLAT, steered("A", "ratio=+0.2"): (0.05,) * 10},
            "uniform_zero",
            "REFUTED",
            "direction not expressive enough",
        ),
        ({PRIMARY: SHUFFLED}, "no_correlation", "REFUTED", "direction not expressive enough"),
        (
            {steered("A", "c=+2", "persona"): FLAT},
            "sign_inverted",
            "REFUTED",
            "direction not expressive enough",
        ),
        (
            {CellKind(arm="A", prompt="neutral"): RISING},
            "baseline_rate_driven",
            "REFUTED",
            "direction not expressive enough",
        ),
        (
            {steered("A-iso", "c=+2"): supported()[PRIMARY]},
            "direction_not_specific",
            "REFUTED",
            "not specific",
        ),
        (  # the same ranking at half the rate: no kill, but the control passes the rule
            {steered("A-iso", "c=+2"): tuple(r / 2 for r in RISING)},
            Outcome.ISOTROPIC_PASSES,
            "INCONCLUSIVE",
            "not specific",
        ),
        ({steered("C", "c=+2"): RISING}, Outcome.BASELINE_PASSES, "INCONCLUSIVE", "nothing to"),
    ],
)
def test_each_outcome_has_its_verdict_and_reading(changes, outcome, verdict, reading):
    found = analysed(changes)
    assert (found.outcome, found.verdict) == (outcome, verdict)
    assert found.reading.startswith(reading)
    assert found.reason


def test_a_middling_correlation_is_refuted_only_if_its_interval_says_so():
    # Five apart (50), three apart (18), three neighbours (6): rho = 1 - 6 * 74 / 990 = 0.552.
    order = (5, 2, 1, 4, 3, 0, 9, 8, 7, 6)
    clear = analysed({PRIMARY: tuple(RISING[i] for i in order)})
    assert clear.arms["A"].primary.rho == pytest.approx(1 - 6 * 74 / 990)
    assert (clear.outcome, clear.verdict) == (Outcome.BELOW_THRESHOLD, Verdict.REFUTED)
    close = analysed({PRIMARY: tuple(0.4 + 0.01 * i for i in order)})  # too close to tell apart
    assert close.arms["A"].primary.rho == clear.arms["A"].primary.rho
    assert (close.outcome, close.verdict) == (Outcome.NOT_PASSED, Verdict.INCONCLUSIVE)


def test_a_missing_persona_never_turns_ten_into_nine():
    found = analysed({PRIMARY: without(RISING, 3)})
    primary = found.arms["A"].primary
    assert found.outcome is Outcome.MISSING_PERSONAS
    assert found.verdict is Verdict.INCONCLUSIVE
    assert (primary.n, primary.missing, primary.rho) == (9, ("p3",), 1.0)
    assert (primary.interval, primary.passes) == (None, None)
    assert primary.reason is not None
    assert "n = 9 of 10: no rate for p3" in primary.reason
    assert "p3" in found.reason
    assert found.arms["A"].kills["no_correlation"].fired is None


def test_a_missing_bridge_is_a_missing_persona_too():
    found = analysed({BRIDGE: without(RISING, 0)})
    assert found.outcome is Outcome.MISSING_PERSONAS
    assert found.bridge["p0"] is None


def test_an_arm_without_cells_is_reported_as_such():
    kinds = [kind for kind in supported() if kind.arm == "A"]
    found = analysed(drop=kinds)
    assert found.arms["A"].primary.n == 0
    assert "no cells of A, neutral prompt, centroid L1 c=+2" in found.reason


def test_totals_give_point_estimates_and_kills_and_say_why_there_is_no_interval():
    found = analysed(questions=False)
    primary = found.arms["A"].primary
    assert primary.rho == 1
    assert primary.permutation_p == pytest.approx(2 / math.factorial(10))
    assert (primary.interval, primary.undefined_resamples) == (None, None)
    assert primary.reason is not None
    assert "only totals" in primary.reason
    assert found.outcome is Outcome.NO_INTERVAL
    assert found.arms["A"].kills["direction_not_specific"].fired is False
    killed = analysed({PRIMARY: SHUFFLED}, questions=False)
    assert killed.outcome == "no_correlation"


def test_a_constant_rate_has_no_rho_and_a_reason():
    found = analysed({PRIMARY: (0.3,) * 10})
    primary = found.arms["A"].primary
    assert (primary.rho, primary.passes) == (None, False)
    assert primary.reason is not None
    assert "every steered rate is 0.3" in primary.reason
    assert found.outcome is Outcome.UNDEFINED_RHO
    assert found.arms["A"].kills["no_correlation"].reason is not None


def test_a_constant_bridge_leaves_everything_open():
    found = analysed({BRIDGE: (0.5,) * 10})
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.arms["A"].passes is None


def test_too_many_undefined_resamples_are_inconclusive_whatever_rho_says():
    # One persona fired on one question of twenty: (19/20)^20 = 36% of the resamples miss it.
    barely = (*FLAT[:9], 0.01)
    found = analysed({PRIMARY: barely})
    primary = found.arms["A"].primary
    assert primary.rho == pytest.approx(0.522, abs=1e-3)
    assert primary.undefined_share == pytest.approx(0.358, abs=0.05)
    assert (primary.interval, primary.undefined_resamples is not None) == (None, True)
    assert found.outcome is Outcome.UNDEFINED_RESAMPLES
    assert "resamples had no rho" in found.reason


def test_without_isotropic_cells_the_hypothesis_cannot_be_supported():
    isotropic = [kind for kind in supported() if kind.arm == "A-iso"]
    found = analysed(drop=isotropic)
    assert found.outcome is Outcome.KILL_UNDECIDED
    kill = found.arms["A"].kills["direction_not_specific"]
    assert kill.fired is None
    assert kill.reason is not None
    assert "no cells of A-iso" in kill.reason


def test_the_arms_own_isotropic_cells_come_before_the_control_arm():
    own = CellKind(arm="A", prompt="neutral", direction="isotropic", layer=1, strength=C2)
    found = analysed({own: supported()[PRIMARY]})
    kill = found.arms["A"].kills["direction_not_specific"]
    assert (kill.numbers["rho_isotropic"], kill.fired) == (1.0, True)
    partly = analysed({own: without(RISING, 1)}).arms["A"].kills["direction_not_specific"]
    assert partly.fired is None


def test_the_baseline_must_have_been_measured():
    found = analysed(drop=[steered("C", "c=+2")])
    assert found.outcome is Outcome.BASELINE_UNDECIDED
    assert "arm C cannot be judged" in found.reason


def test_a_pass_at_one_strength_only_is_magnitude_bound():
    other = steered("A", "ratio=+0.2")
    assert analysed({other: tuple(r / 2 for r in SHUFFLED)}).magnitude_bound is True
    only_small = analysed({PRIMARY: SHUFFLED})
    assert only_small.magnitude_bound is True
    assert only_small.verdict is Verdict.REFUTED
    assert analysed(drop=[other]).magnitude_bound is None


def test_the_sign_check_counts_personas_whose_rate_drops():
    up = tuple(0.3 for _ in TEN)
    down = (0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.3, 0.4)
    found = analysed({steered("A", "ratio=+0.2"): up, steered("A", "ratio=-0.2"): down})
    check = found.controls.sign_check
    assert isinstance(check, SignCheck)
    assert (check.n, check.n_lower, check.n_higher, check.n_equal) == (10, 8, 1, 1)
    # Nine non-zero differences: sign test P(>= 8 of 9) = 10 / 512. Sizes: eight of 0.2 (ranks
    # 5.5) and one of 0.1 (rank 1, negative): only the flips that keep all eight up: 2 / 512.
    assert check.sign_p == pytest.approx(10 / 512)
    assert check.signed_rank_p == pytest.approx(2 / 512)
    assert check.holds is True


def test_the_sign_check_says_what_is_missing():
    check = analysed(drop=[steered("A", "ratio=-0.2")]).controls.sign_check
    assert isinstance(check, SignCheck)
    assert (check.n, check.holds, check.mean_negative) == (0, None, None)
    assert check.reason is not None


def test_an_arm_compared_with_itself_differs_by_exactly_nothing():
    # Only because both sides are resampled on the same questions.
    same = {steered("C", "c=+2"): supported()[PRIMARY]}
    compared = analysed(same).comparisons.steered_vs_baseline_arm
    assert compared is not None
    assert compared.rho_difference_interval == (0.0, 0.0)
    assert compared.mean_difference_interval == (0.0, 0.0)
    assert compared.rho_between == 1.0


def test_both_readings_of_the_question_are_reported_and_one_bears_the_load():
    found = analysed(load_bearing="steered_vs_prompted")
    first = found.comparisons.steered_vs_baseline_arm
    second = found.comparisons.steered_vs_prompted
    assert first is not None
    assert second is not None
    assert (first.load_bearing, second.load_bearing) == (False, True)
    assert second.mean_left == pytest.approx(0.4)
    assert second.right == "A, persona prompt, unsteered"


def test_arms_with_other_questions_are_not_paired():
    data = dict(table(supported()).cells)
    changed = next(c for c in data if (c.arm, c.persona, c.strength) == ("C", "p0", C2))
    renamed = data[changed].questions
    assert renamed is not None
    full = table(supported())
    cells = {
        cell: (
            type(counts)(
                coefficient=counts.coefficient,
                questions=tuple(f"q{q}" for q in renamed),
                fired=counts.fired,
                total=counts.total,
            )
            if cell == changed
            else counts
        )
        for cell, counts in full.cells.items()
    }
    found = analyze(type(full)(cells=cells), ten_personas(AnalysisSettings(iterations=200)))
    compared = found.comparisons.steered_vs_baseline_arm
    assert compared is not None
    assert compared.mean_difference is not None
    assert compared.mean_difference_interval is None
    assert compared.reason is not None
    assert "not paired" in compared.reason


def test_another_arm_can_be_put_to_the_rule():
    found = analysed({steered("C", "c=+2"): RISING}, arm="C")
    assert found.arm == "C"
    assert found.controls.baseline is None
    assert found.verdict is Verdict.SUPPORTED
    assert found.reading.startswith("nothing to explain")
    failing = analysed(arm="C")
    assert failing.outcome == "uniform_zero"
    assert failing.reading.startswith("prompt-trained adapters")


def test_an_arm_that_does_not_exist_is_an_error():
    with pytest.raises(ExperimentError, match="arm 'Z' is not one of A, B, C, A-iso, A-L10"):
        analysed(arm="Z")


def test_geometry_correlates_each_layer_with_the_bridge():
    cosines = {"0": dict(zip(TEN, RISING, strict=True)), "1": dict(zip(TEN, FALLING, strict=True))}
    cosines["2"] = dict.fromkeys(TEN[:4], 0.5)
    found = analysed(geometry=cosines).geometry
    assert found is not None
    assert [found.layers[k].rho for k in ("0", "1", "2")] == [1.0, -1.0, None]
    assert found.layers["2"].n == 4
    assert found.layers["2"].reason is not None
    assert analysed().geometry is None


def test_incomplete_cells_are_noted():
    short = table({BRIDGE: RISING})
    experiment = ten_personas(AnalysisSettings(iterations=100))
    assert analyze(short, experiment).notes == ()
    full = dict(short.cells)
    cell, counts = next(iter(full.items()))
    assert counts.questions is not None
    full[cell] = type(counts)(
        coefficient=0.0,
        questions=counts.questions[:-1],
        fired=counts.fired[:-1],
        total=counts.total[:-1],
    )
    (note,) = analyze(type(short)(cells=full), experiment).notes
    assert "1 of 10 cells do not have the 100 completions" in note
