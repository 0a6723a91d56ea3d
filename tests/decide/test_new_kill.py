"""A kill is added in one place: what one record says appears everywhere a kill is told."""

from dataclasses import replace

import numpy as np
import pytest

from steerproof.decide.analysis import kills
from steerproof.decide.analysis.analyze import analyze
from steerproof.decide.analysis.flags import flag
from steerproof.decide.analysis.kills import ArmRates, Criterion, Kill
from steerproof.decide.analysis.rule import Verdict, outcomes, verdict_of
from steerproof.decide.report.page import page
from steerproof.decide.report.view import kill_rows
from steerproof.decide.review.objections_design import design_objections
from steerproof.spec.grid import CellKind
from steerproof.spec.judging import AnalysisSettings
from steerproof.spec.registration import markdown
from steerproof.spec.strength import Strength
from tests.decide import report_example as example
from tests.spec.test_lock import changed, lock_of

C2 = Strength.parse("c=+2")


def _prompt_is_idle(arm: ArmRates, analysis: AnalysisSettings) -> Kill:
    least = np.asarray(arm.prompted.min(axis=0))
    return Kill(
        fired=flag(least <= analysis.thresholds.rho, unknown=np.isnan(least)),
        numbers={"least_prompted": least},
    )


NEW = Criterion(
    name="prompt_is_idle",
    meaning="the persona prompt does not fire the marker in some persona",
    fires_when=lambda analysis: f"a prompted rate is <= {analysis.thresholds.rho:g}",
    judge=_prompt_is_idle,
    cells=lambda arm: (arm.prompted, CellKind(arm="B", prompt="persona", strength=C2)),
    numbers={"least_prompted": "smallest prompted rate"},
    rests_on_rho=False,
    precedence=0,
    reading="idle: nothing was there to steer",
)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    example.inputs()  # kept between tests: analysed before the new kill is there
    monkeypatch.setattr(kills, "REGISTERED", (*kills.REGISTERED, NEW))


def test_it_takes_part_in_the_rule_before_the_others_of_its_sort():
    assert outcomes()[:3] == ("missing_personas", "prompt_is_idle", "uniform_zero")
    assert verdict_of("prompt_is_idle") is Verdict.REFUTED


def test_it_decides_an_analysis_and_gives_its_reading():
    given = example.inputs()
    judged = analyze(given.rates, given.experiment)
    assert (judged.outcome, judged.verdict) == ("prompt_is_idle", Verdict.REFUTED)
    assert "kill fired: prompt_is_idle" in judged.reason
    assert judged.reading == NEW.reading
    assert judged.tested.kills["prompt_is_idle"].numbers["least_prompted"] is not None


def test_it_stands_in_the_registration_text():
    text = markdown(lock_of(changed()), kills=kills.conditions)
    assert "| prompt\\_is\\_idle | a prompted rate is \\<= 0.6 |" in text


def test_it_is_told_in_the_report_with_its_condition_and_its_numbers():
    given = example.inputs()
    given = replace(given, analysis=analyze(given.rates, given.experiment))
    row = next(row for row in kill_rows(given, "A") if row.name == "prompt_is_idle")
    assert (row.meaning, row.state) == (NEW.meaning, "fired")
    assert row.limit == "a prompted rate is ≤ 0.6"
    assert row.numbers[0][0] == "smallest prompted rate"
    assert f"That is: {NEW.meaning}." in page(given, {})


def test_the_reviewer_says_when_a_design_does_not_measure_it():
    objections = {o.code: o for o in design_objections(example.experiment(), 1, None)}
    finding = objections["unmeasured_kills"].finding
    assert "1 of 6 kills cannot be decided" in finding
    assert "prompt_is_idle (persona prompt at c=+2 in arm B)" in finding


def test_an_analysis_from_before_it_is_shown_without_it():
    earlier = example.inputs()
    shown = [row.name for row in kill_rows(earlier, "A")]
    assert shown == [criterion.name for criterion in kills.REGISTERED[:-1]]
