import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from steerproof.codec import plain
from steerproof.decide.analysis.calibration import (
    Calibration,
    LayerCalibration,
    PersonaCalibration,
)
from steerproof.decide.review.evidence import Evidence, Objection, unknown
from steerproof.decide.review.objections import objections
from steerproof.decide.review.objections_design import similarity
from steerproof.spec.experiment import Arm, Experiment, Grid, Questions
from steerproof.spec.judging import AnalysisSettings
from tests.experiments import small_experiment

THINGS = ("sea", "sky", "hill", "road", "farm", "lake", "wood", "park", "mill", "port")
EVALUATION = tuple(f"Why is the {thing} here?" for thing in THINGS)
CLEAN_QUESTIONS = Questions(
    evaluation=EVALUATION,
    training=("What is tea?", "How do I knit?"),
    directions=("Sing?", "Run?"),
)
B_TESTED = AnalysisSettings(
    arm="B", isotropic_arm="B-iso", contrast_arm=None, estimand="these_personas"
)


def clean(**changes: Any) -> Experiment:
    """An experiment that nothing is to be said against once its adapters have several seeds."""
    fields: dict[str, Any] = {
        "questions": CLEAN_QUESTIONS,
        "arms": (
            Arm(name="B", prompt="persona", direction="centroid", ratio=0.2),
            Arm(name="C", prompt="persona"),
            Arm(name="B-iso", prompt="persona", direction="isotropic", ratio=0.2),
        ),
        "cells": (
            Grid(arms=("B", "C", "B-iso"), prompt="neutral", strengths=("none", "c=+2")),
            Grid(arms=("B", "C"), prompt="persona", strengths=("none", "c=+2")),
        ),
        "analysis": B_TESTED,
    }
    return small_experiment(**{**fields, **changes})


def raised(experiment: Experiment, **known: Any) -> dict[str, Objection]:
    evidence = Evidence(**{"training_seeds": 3, **known})
    found = objections(experiment, evidence=evidence, with_power=False)
    for objection in found:
        assert any(letter.isdigit() for letter in objection.finding), objection
        assert objection.remedy
        assert objection.numbers
    return {objection.code: objection for objection in found}


NAMES = ("pirate", "poet", "judge", "baker")


def geometry(
    nearer: Mapping[tuple[str, str], float] | None = None, **changes: float
) -> Calibration:
    """Calibration of four personas at the primary layer, good in every way.

    At c=+2 each is pushed by a ratio of 0.4; the pirate differs by `changes`, and some
    personas are `nearer` to each other.
    """
    sound = PersonaCalibration(norm=4.0, split_half=0.95, neutral_cosine=0.1, reference_cosine=0.0)
    near = dict(nearer or {})
    cosines = {a: {b: near.get((a, b), 1.0 if a == b else -0.3) for b in NAMES} for a in NAMES}
    measured = LayerCalibration(
        layer=1,
        module="model.layers.1",
        hidden_states_index=2,
        questions=4,
        h_bar=20.0,
        personas={**dict.fromkeys(NAMES, sound), "pirate": replace(sound, **changes)},
        neutral_cosine_max=0.1,
        cosines=cosines,
    )
    return {1: measured}


def test_nothing_is_said_against_a_clean_design():
    assert raised(clean()) == {}
    known = {
        "calibration": geometry(),
        "bystanders": {"pirate": ("poet",), "poet": ("judge",), "judge": ("baker",)},
        "bridge": {"pirate": 0.2, "poet": 0.4, "judge": 0.5, "baker": 0.7},
        "truncated": 0.02,
    }
    # Four personas have at most four distinct rates: that alone is objected to.
    assert set(raised(clean(), **known)) == {"flat_bridge"}


DESIGNS: dict[str, tuple[dict[str, Any], str]] = {
    "double_use": (
        {"questions": CLEAN_QUESTIONS.model_copy(update={"directions": "evaluation"})},
        "10 of 10 evaluation questions",
    ),
    "repeated_questions": (
        {
            "questions": CLEAN_QUESTIONS.model_copy(
                update={"training": ("Then why is the sea here?", "How do I knit?")}
            )
        },
        "1 training questions nearly repeat",
    ),
    "constant_direction": (
        {"dataset": small_experiment().dataset.model_copy(update={"negatives": "source"})},
        "all 12 rows",
    ),
    "fixed_personas": (
        {"analysis": B_TESTED.model_copy(update={"estimand": "personas_in_general"})},
        "4 fixed personas",
    ),
    "confounded_arms": (
        {"analysis": B_TESTED.model_copy(update={"baseline_arm": "D"}), "arms": (
            *clean().arms, Arm(name="D", prompt="neutral", direction="isotropic", ratio=0.1))},
        "differ in 3 things: prompt, direction, ratio",
    ),
    "arm_without_signal": (
        {"arms": (*clean().arms, Arm(name="D", prompt="neutral"))},
        "arm D trains with the neutral prompt and 0 directions",
    ),
    "beyond_cliff": (
        {"cells": (*clean().cells,
                   Grid(arms=("B",), prompt="neutral", strengths=("ratio=-0.8",)))},
        "ratio=-0.8 push with up to 0.80",
    ),
    "unmeasured_kills": (
        {"cells": (Grid(arms=("B", "C", "B-iso"), prompt="neutral", strengths=("c=+2",)),
                   Grid(arms=("C",), prompt="persona", strengths=("none",)))},
        "2 of 5 kills",
    ),
    "few_questions": (
        {"questions": CLEAN_QUESTIONS.model_copy(update={"evaluation": EVALUATION[:9]})},
        "9 evaluation questions",
    ),
    "few_orders": (
        {"cells": (*clean().cells,
                   Grid(arms=("B",), prompt="neutral", strengths=("c=+2",), of="all"))},
        "whether adapters read their own direction stays unknown",
    ),
}  # fmt: skip


@pytest.mark.parametrize("code", DESIGNS)
def test_a_weak_design_is_objected_to_with_its_number(code):
    changes, words = DESIGNS[code]
    found = raised(clean(**changes))
    assert set(found) == {code}
    assert words in found[code].finding


def test_one_training_seed_is_objected_to_only_where_something_is_trained():
    assert "one_seed" in raised(clean(), training_seeds=1)
    loaded = tuple(arm.model_copy(update={"adapters": "there"}) for arm in clean().arms)
    known = frozenset(arm.name for arm in loaded)
    assert raised(clean(arms=loaded), training_seeds=1, prompts_known=known) == {}


def test_adapters_that_do_not_say_their_prompts_are_objected_to():
    experiment = clean()
    arms = tuple(
        arm.model_copy(update={"adapters": "there"} if arm.name != "C" else {})
        for arm in experiment.arms
    )
    found = raised(clean(arms=arms), prompts_known=frozenset({"B"}))
    assert "1 arm(s) (B-iso)" in found["adapters_of_unknown_prompts"].finding
    assert found["adapters_of_unknown_prompts"].severity == "serious"
    assert "adapters_of_unknown_prompts" not in raised(experiment)


def test_an_arm_between_two_confounded_ones_softens_the_objection():
    experiment = small_experiment(questions=CLEAN_QUESTIONS)
    found = raised(experiment)["confounded_arms"]  # A and C; B has the prompt and the direction
    assert found.severity == "note"
    assert found.numbers == {"differences": ["prompt", "direction"], "between": ["B"]}
    without = experiment.model_copy(
        update={
            "arms": tuple(arm for arm in experiment.arms if arm.name != "B"),
            "cells": tuple(
                grid.model_copy(update={"arms": tuple(arm for arm in grid.arms if arm != "B")})
                for grid in experiment.cells
            ),
        }
    )
    assert raised(without)["confounded_arms"].severity == "serious"


MEASURED: dict[str, tuple[dict[str, Any], str]] = {
    "beyond_cliff": (
        {"calibration": geometry(norm=6.1)},
        "1 of 4 personas beyond a ratio of 0.6, where text broke in the published run: pirate 0.61",
    ),
    "neutral_too_close": ({"calibration": geometry(neutral_cosine=-0.51)}, "pirate -0.51"),
    "unreliable_centroid": ({"calibration": geometry(split_half=0.79)}, "pirate 0.79"),
    "truncation": ({"truncated": 0.11}, "11% of completions reach 8 tokens"),
    "flat_bridge": (
        {"bridge": {"pirate": 0.0, "poet": 0.0, "judge": 0.5, "baker": 1.0}},
        "3 distinct rates (1 tied pairs) and 1 of 4 personas between 0.05 and 0.95",
    ),
}


@pytest.mark.parametrize("code", MEASURED)
def test_a_measurement_that_spoils_the_claim_is_objected_to(code):
    known, words = MEASURED[code]
    found = raised(clean(), **known)
    uneven = {"unequal_dose"} if code == "beyond_cliff" else set()  # one is pushed much harder
    assert set(found) == {code} | uneven
    assert words in found[code].finding


def test_numbers_exactly_at_the_limits_are_let_pass():
    at_limits = geometry(norm=5.0, neutral_cosine=0.5, split_half=0.8)
    assert raised(clean(), calibration=at_limits, truncated=0.1) == {}
    assert set(raised(clean(), calibration=geometry(norm=6.0))) == {"unequal_dose"}


def test_a_push_that_differs_between_personas_is_noted_with_what_decides_instead():
    found = raised(clean(), calibration=geometry(norm=5.1))["unequal_dose"]
    assert found.severity == "note"
    assert "decide at a ratio" in found.remedy


def test_bystanders_that_are_closer_for_some_personas_are_weighed_against_the_bridge():
    calibration = geometry(nearer={("pirate", "poet"): 0.5, ("poet", "judge"): 0.2})
    drawn = {"pirate": ("poet",), "poet": ("judge",), "judge": ("baker",), "baker": ("pirate",)}
    known = {"calibration": calibration, "bystanders": drawn}
    alone = raised(clean(), **known)["uneven_bystanders"]
    assert alone.severity == "note"
    assert "from -0.30 (judge) to +0.50 (pirate)" in alone.finding
    # Ranks of closeness 4, 3, 1.5, 1.5; of the bridge 4, 3, 2, 1: r = 4.5 / sqrt(4.5 * 5)
    bridge = {"pirate": 0.8, "poet": 0.6, "judge": 0.4, "baker": 0.2}
    both = raised(clean(), **known, bridge=bridge)["uneven_bystanders"]
    assert both.severity == "serious"
    assert both.numbers["rho_bridge"] == pytest.approx(4.5 / (4.5 * 5) ** 0.5)
    flat = raised(clean(), **known, bridge=dict.fromkeys(bridge, 0.5))["uneven_bystanders"]
    assert flat.numbers["rho_bridge"] is None


def test_power_is_objected_to_with_few_personas_and_not_with_many():
    def codes(experiment: Experiment) -> dict[str, Objection]:
        return {objection.code: objection for objection in objections(experiment)}

    few = codes(clean())["low_power"]
    assert few.severity == "serious"
    assert few.numbers["power_at"]["0.8"] < 0.8
    names = [f"p{i}" for i in range(30)]
    template = clean().personas[0]
    many = clean(
        personas=(
            *(template.model_copy(update={"name": n, "prompt": n}) for n in names),
            clean().personas[-1],
        ),
        questions=CLEAN_QUESTIONS.model_copy(
            update={"evaluation": tuple(f"Question {i}?" for i in range(10))}
        ),
        generation=small_experiment().generation.model_copy(update={"samples": 30}),
    )
    assert "low_power" not in codes(many)


def test_the_coverage_of_the_registered_interval_is_simulated_for_the_objection():
    open_claim = clean(analysis=B_TESTED.model_copy(update={"estimand": None}))
    found = {o.code: o for o in objections(open_claim)}["fixed_personas"]
    assert found.severity == "note"
    assert 0 < found.numbers["coverage"] < 0.9  # far from the 95% that it says


def test_similarity_is_the_share_of_common_words():
    assert similarity("What is rain?", "what IS, rain") == 1.0
    assert similarity("What is rain?", "What is snow?") == 2 / 4
    assert similarity("a b", "c d") == 0.0


def test_what_is_not_measured_yet_is_named_and_not_objected_to():
    notes = unknown(clean(), Evidence())
    assert len(notes) == 4
    known = Evidence(calibration=geometry(), bystanders={}, bridge={"pirate": 0.5}, truncated=0.0)
    assert unknown(clean(), known) == ()
    assert len(unknown(clean(), replace(known, truncated=None))) == 1


def test_objections_are_plain_json_with_the_serious_ones_first():
    worst = clean(**{k: v for code in ("fixed_personas", "few_questions")
                     for k, v in DESIGNS[code][0].items()})  # fmt: skip
    listed = json.loads(json.dumps(plain(objections(worst, with_power=False))))
    assert [one["severity"] for one in listed] == ["serious", "note", "note"]
    assert set(listed[0]) == {"code", "severity", "finding", "remedy", "numbers"}
