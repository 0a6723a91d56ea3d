"""The recorded run on a real model: what is committed follows from the rates that are committed."""

import json
from pathlib import Path

import pytest

from steerproof.codec import plain
from steerproof.decide.analysis.answers import conclude
from steerproof.decide.analysis.rates_csv import read_rates
from steerproof.spec.yaml_io import load_experiment
from tests.decide.recorded import differing

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "zlt-smollm2"
ONE_CARD = RESULTS.with_name("zlt-smollm2-one-card")


def test_the_committed_rates_give_the_committed_verdict():
    experiment = load_experiment("zlt-smollm2").experiment
    recorded = json.loads((RESULTS / "verdict.json").read_text("utf-8"))
    table = read_rates(RESULTS / "rates.csv", experiment)
    analysis, answers = conclude(table, experiment)
    again = json.loads(json.dumps(plain(analysis)))
    known = set(again) - {"geometry", "comparisons"}  # the cosines are in no rate table
    kept = {name: recorded[name] for name in again if name in known}
    assert list(differing({name: again[name] for name in kept}, kept)) == []
    assert answers.ranking.answer == recorded["answers"]["ranking"]["answer"] == "CANNOT ANSWER"
    reads = recorded["answers"]["direction"]["reads"]
    assert answers.direction.reads == reads == "reads its own direction"
    assert (
        answers.direction.tested.s.value == recorded["answers"]["direction"]["tested"]["s"]["value"]
    )
    said = (RESULTS / "README.md").read_text("utf-8").replace("\n> ", " ")
    for line in recorded["answers"]["lines"]:
        assert line in said


def test_the_page_of_the_run_on_one_card_says_what_was_recorded():
    recorded = json.loads((ONE_CARD / "verdict.json").read_text("utf-8"))
    said = (ONE_CARD / "README.md").read_text("utf-8").replace("\n> ", " ")
    for line in recorded["answers"]["lines"]:
        assert line in said
    ran = json.loads((ONE_CARD / "run.json").read_text("utf-8"))
    assert ran["failed_units"] == 0
    assert ran["runs"][0]["cards"] == "1 x NVIDIA H100 80GB HBM3"


@pytest.mark.nightly
def test_the_rates_of_the_run_on_one_card_give_its_answers():
    experiment = load_experiment("zlt-smollm2").experiment.model_copy(update={"seeds": None})
    recorded = json.loads((ONE_CARD / "verdict.json").read_text("utf-8"))
    _, answers = conclude(read_rates(ONE_CARD / "rates.csv", experiment), experiment)
    kept = recorded["answers"]
    assert answers.registered == kept["registered"] == "REFUTED"
    assert answers.ranking.answer == kept["ranking"]["answer"] == "CANNOT ANSWER"
    assert answers.direction.reads == kept["direction"]["reads"] == "reads its own direction"
    assert answers.direction.tested.s.value == kept["direction"]["tested"]["s"]["value"]
    # The same seed again: another registered verdict, the same answer on the direction.
    _, again = conclude(read_rates(ONE_CARD / "again" / "rates.csv", experiment), experiment)
    assert again.registered == "INCONCLUSIVE"
    assert again.ranking.answer == "CANNOT ANSWER"
    assert again.direction.reads == answers.direction.reads
    assert again.direction.tested.s.value == pytest.approx(0.51, abs=0.005)
