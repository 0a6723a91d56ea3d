"""Records of the analysis as JSON and back: the same values, the same bytes."""

import json

import pytest

from steerproof.codec import from_values, plain
from steerproof.decide.analysis.analyze import analyze
from steerproof.decide.analysis.rates_csv import read_rates
from steerproof.decide.analysis.records import Analysis, SignCheck
from steerproof.decide.analysis.rule import Verdict
from steerproof.errors import IntegrityError
from steerproof.spec.yaml_io import load_experiment
from tests.decide import report_example as example
from tests.decide.recorded import differing
from tests.decide.test_published import DATA

GOLDEN = DATA.with_name("issue267_analysis.json")


def text_of(analysis: Analysis) -> str:
    """As analysis.json is written."""
    return json.dumps(plain(analysis), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def test_an_analysis_is_that_of_earlier_versions():
    experiment = load_experiment("published-267").experiment
    table = read_rates(DATA.with_name("issue267_rates.csv"), experiment)
    cosines = {"20": {p.name: i / 20 - 0.3 for i, p in enumerate(experiment.personas)}}
    analysis = analyze(table, experiment, arm="C", geometry=cosines)
    earlier = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert list(differing(json.loads(text_of(analysis)), earlier)) == []


def test_an_analysis_of_an_earlier_version_is_read_and_written_as_it_was():
    text = GOLDEN.read_text(encoding="utf-8")
    analysis = from_values(Analysis, json.loads(text), "a")
    assert text_of(analysis) == text
    assert (analysis.verdict, analysis.outcome) == (Verdict.REFUTED, "sign_inverted")
    assert analysis.tested.kills["sign_inverted"].numbers == {"n_inverted": 10, "n": 10}


def test_an_analysis_with_every_part_comes_back_as_the_same_record():
    analysis = example.inputs().analysis
    assert isinstance(analysis.controls.sign_check, SignCheck)
    assert analysis.geometry is not None
    assert analysis.tested.primary.distribution is not None
    assert from_values(Analysis, json.loads(text_of(analysis)), "a") == analysis


def test_what_stands_beside_the_analysis_in_verdict_json_is_left_alone():
    analysis = example.inputs().analysis
    published = {**plain(analysis), "gates": [{"layer": 4}], "lock": "a1b2"}
    assert from_values(Analysis, published, "verdict.json") == analysis


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"verdict": "PROBABLY"}, "verdict.json is no Analysis: verdict"),
        ({"personas": None}, "verdict.json is no Analysis: personas"),
        ({"arms": {"A": {}}}, "verdict.json is no Analysis: arms.A.direction"),
    ],
)
def test_what_is_no_analysis_is_refused_with_the_place(change, message):
    with pytest.raises(IntegrityError, match=message):
        from_values(Analysis, {**plain(example.inputs().analysis), **change}, "verdict.json")
