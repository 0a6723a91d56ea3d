import numpy as np
import pytest
import scipy.stats

from steerproof.decide.analysis.gates import (
    TextQuality,
    attainable_rho,
    coherent,
    control,
    equal_dose,
    install_of,
    installed,
    neutral,
)
from steerproof.decide.analysis.reliability import reliability
from steerproof.spec.judging import AnswerSettings
from tests.decide.trials import BRIDGE, ORGANISM, SMOLLM2, pushes_of, texts_of, values_of

LIMITS = AnswerSettings()
NEUTRAL = ("C", "neutral", "none", "", "none")


def rates(run, kind):
    return values_of(run, kind).mean(axis=1)


def test_the_organisms_prompted_adapters_know_their_persona():
    gate = installed(rates(ORGANISM, BRIDGE), rates(ORGANISM, NEUTRAL), LIMITS, "C")
    assert gate.passed
    assert gate.numbers.difference == pytest.approx(0.954, abs=0.0005)
    assert gate.numbers.lower == pytest.approx(0.909, abs=0.0005)
    assert gate.numbers.personas == 10


def test_those_of_the_real_model_have_learnt_nobody():
    gate = installed(rates(SMOLLM2, BRIDGE), rates(SMOLLM2, NEUTRAL), LIMITS, "C")
    assert gate.passed is False
    assert gate.fatal
    assert gate.numbers.difference == pytest.approx(0.006, abs=0.0005)
    assert gate.numbers.lower == pytest.approx(-0.038, abs=0.0005)
    assert gate.numbers.upper == pytest.approx(0.050, abs=0.0005)
    assert gate.numbers.not_installed == 1
    assert "0.52" in gate.finding
    assert "0.51" in gate.finding


def test_the_bounds_of_an_install_are_those_of_scipys_one_sided_t_test():
    own, others = rates(SMOLLM2, BRIDGE), rates(SMOLLM2, NEUTRAL)
    found = install_of(own, others, LIMITS)
    lower = scipy.stats.ttest_rel(own, others, alternative="greater").confidence_interval(0.95)
    upper = scipy.stats.ttest_rel(own, others, alternative="less").confidence_interval(0.95)
    assert found.bounds.lower == pytest.approx(lower.low)
    assert found.bounds.upper == pytest.approx(upper.high)


def test_a_strong_mean_of_few_personas_is_not_installed():
    own = np.array([1.0] * 7 + [0.05] * 3)
    found = install_of(own, np.zeros(10), LIMITS)
    assert found.bounds.lower > 0.20
    assert not found.installed
    assert not found.absent


@pytest.mark.parametrize(
    ("difference", "least", "most"), [(0.01, 0, 0.01), (0.28, 0.4, 0.85), (0.7, 0.99, 1.0)]
)
def test_how_often_an_arm_is_called_installed(difference, least, most):
    rng = np.random.default_rng(0)
    true = np.clip(difference + 0.1 * rng.standard_normal((10, 400)), 0, 1)
    own = rng.binomial(20, np.clip(0.1 + true, 0, 1)) / 20
    others = rng.binomial(200, 0.1, size=(10, 400)) / 200
    assert least <= install_of(own, others, LIMITS).installed.mean() <= most


def test_the_organisms_rankings_leave_nothing_to_attain():
    bridge, steered = (
        reliability(values_of(ORGANISM, kind))
        for kind in (BRIDGE, ("A", "neutral", "centroid", "3", "c=+2"))
    )
    gate = attainable_rho(bridge, steered, 20, LIMITS, "c=+2")
    assert gate.passed is False
    assert gate.numbers.attainable == 0.0
    assert gate.numbers.questions_needed is None
    assert "no number of questions" in gate.remedy


def test_the_real_models_need_more_questions():
    bridge, steered = (
        reliability(values_of(SMOLLM2, kind))
        for kind in (BRIDGE, ("A", "neutral", "centroid", "21", "c=+2"))
    )
    gate = attainable_rho(bridge, steered, 20, LIMITS, "c=+2")
    assert gate.passed is False
    assert gate.numbers.attainable == pytest.approx(0.66, abs=0.005)
    assert "44 questions" in gate.remedy


def text(kind: str) -> TextQuality:
    ended, whole = texts_of(kind)
    return TextQuality(ended=ended, coherent=whole, completions=1000)


def test_at_c_2_the_organisms_text_is_gone_and_at_the_trained_ratio_whole():
    still = {arm: text(f"{arm} neutral.none") for arm in ("A", "C")}
    broken = {
        "A": text("A neutral.centroid.L3.c=+2"),
        "A-iso": text("A-iso neutral.isotropic.L3.c=+2"),
        "C": text("C neutral.centroid.L3.c=+2"),
    }
    gate = coherent(broken, still, LIMITS, "c=+2")
    assert gate.passed is False
    assert gate.numbers.arms["A"].ended == pytest.approx(0.211)
    assert gate.numbers.arms["A"].coherent == pytest.approx(0.150)
    whole = {
        "A": text("A neutral.centroid.L3.ratio=+0.2"),
        "C": text("C neutral.centroid.L3.ratio=+0.2"),
    }
    assert coherent(whole, still, LIMITS, "ratio=+0.2").passed


def test_one_broken_arm_fails_the_gate_and_no_record_leaves_it_open():
    fine, poor = (TextQuality(ended=e, coherent=e, completions=100) for e in (1.0, 0.85))
    gate = coherent({"A": fine, "C": poor}, {"A": fine, "C": fine}, LIMITS, "c=+2")
    assert gate.passed is False
    assert gate.numbers.largest_loss == pytest.approx(0.15)
    unknown = coherent({}, {}, LIMITS, "c=+2")
    assert unknown.passed is None
    assert "no record" in unknown.finding


@pytest.mark.parametrize(
    ("run", "layer", "spread", "rho"),
    [(ORGANISM, "3", 1.54, -0.39), (SMOLLM2, "21", 2.65, 0.939)],
)
def test_c_2_is_a_different_dose_for_every_persona(run, layer, spread, rho):
    steered = rates(run, ("A", "neutral", "centroid", layer, "c=+2"))
    gate = equal_dose(pushes_of(run, layer, "c=+2"), steered, LIMITS, "c=+2")
    assert gate.passed is False
    assert gate.numbers.spread == pytest.approx(spread, abs=0.01)
    assert gate.numbers.rho_rate_push == pytest.approx(rho, abs=0.005)
    assert gate.numbers.dose_ranked == (run == SMOLLM2)
    same = equal_dose(pushes_of(run, layer, "ratio=+0.2"), steered, LIMITS, "ratio=+0.2")
    assert same.passed
    assert same.numbers.rho_rate_push is None


def test_an_unknown_push_is_not_an_equal_one():
    gate = equal_dose(None, np.arange(4.0), LIMITS, "c=+2")
    assert gate.passed is None
    assert gate.fatal


def test_warnings_name_the_persona_that_is_nearest():
    near = neutral({"villain": -0.58, "poet": 0.2}, 0.5)
    assert (near.passed, near.fatal) == (False, False)
    assert "villain" in near.finding
    assert control({"villain": 0.13}, LIMITS, "isotropic").passed
    assert control({"villain": -0.86}, LIMITS, "in_subspace").passed is False
    assert control(None, LIMITS, "isotropic").passed is None
