"""The recorded run on a real model: what is committed follows from the rates that are committed."""

import json
import re
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


def test_as_many_answers_of_two_programs_are_the_same_texts_as_the_page_says():
    told = json.loads((ONE_CARD / "answers.json").read_bytes())["sets"]
    sets = {
        name: [hashes[kind].split() for kind in ("training", "common")]
        for name, hashes in told.items()
    }
    assert all([len(texts) for texts in each] == [200, 20] for each in sets.values())

    def same(one: str, other: str) -> str:
        counts = [
            sum(a == b for a, b in zip(mine, theirs, strict=True))
            for mine, theirs in zip(sets[one], sets[other], strict=True)
        ]
        return ", ".join(map(str, counts))

    earlier, later = "d2014a5, bfloat16", "a97af21, bfloat16, one worker"
    others = [name for name in sets if name.startswith(("the same", "9a56459"))]
    assert len(others) == 4
    assert {same(later, name) for name in others} == {same(earlier, f"{earlier}, again")}
    two = "a97af21, bfloat16, two workers, three training seeds"
    assert same(earlier, two) == "165, 20"
    page = (ONE_CARD / "README.md").read_text("utf-8")
    for line, found in {
        "the same program again, bfloat16": same(earlier, f"{earlier}, again"),
        "the two programs, bfloat16": same(earlier, later),
        "the two programs, float32": same("d2014a5, float32", "a97af21, float32"),
        "the same program, in bfloat16 and in float32": same(earlier, "d2014a5, float32"),
    }.items():
        (shown,) = re.findall(rf"^\| {line} \| \**([\d, ]+?)\** \|$", page, re.MULTILINE)
        assert shown == found, line
