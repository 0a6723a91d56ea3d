"""The rig's standing test: a planted ranking is found, and a shuffled one is not."""

import json
from pathlib import Path

import pytest

from benchmarks.controls import CONTROLS, run, shares, supported, with_seed
from steerproof.spec.yaml_io import shipped

COMMITTED = Path(__file__).parents[2] / "docs" / "data" / "controls.json"


def test_the_committed_controls_passed_where_they_must_and_failed_where_they_must():
    """Made by the command that the file names; too long for every day (see the next test)."""
    table = json.loads(COMMITTED.read_bytes())
    runs = table["runs"]
    seeds = {name: sorted(r["seed"] for r in runs if r["control"] == name) for name in CONTROLS}
    assert seeds == {name: list(range(10)) for name in CONTROLS}
    assert table["shares"] == shares(runs)
    found, shuffled = table["shares"]["positive-control"], table["shares"]["negative-control"]
    assert found["passes"] >= 8
    assert shuffled["interval"][1] < found["interval"][0], "the rig cannot tell the two apart"
    for one in runs:
        decided = one["rho"] is not None and one["interval"] is not None
        passes = decided and one["rho"] >= 0.6 and one["interval"][0] > 0 and not one["kills"]
        assert one["passes"] == passes, one


def test_only_the_seed_is_changed():
    text = shipped()["positive-control"].read_text()
    before, after = text.splitlines(), with_seed(text, 7).splitlines()
    assert [(a, b) for a, b in zip(before, after, strict=True) if a != b] == [
        ("seed: 0", "seed: 7")
    ]


def test_false_alarms_are_counted_under_either_rule_with_exact_bounds():
    answers = {"ranking": "CANNOT ANSWER"}
    runs = [
        {"control": "negative-control", "verdict": verdict, "answers": answers}
        for verdict in ["SUPPORTED"] + ["REFUTED"] * 39
    ]
    found = supported([*runs, {"control": "negative-control", "verdict": "SUPPORTED"}])
    bounds = found["negative-control"]
    assert bounds["registered"] == {"supported": 1, "runs": 40, "interval": [0.0006, 0.1316]}
    assert bounds["answers"] == {"supported": 0, "runs": 40, "interval": [0.0, 0.0881]}


@pytest.mark.nightly
@pytest.mark.parametrize("control", CONTROLS)
def test_a_control_gives_what_was_committed(tmp_path, control):
    committed = json.loads(COMMITTED.read_bytes())["runs"]
    (before,) = [one for one in committed if (one["control"], one["seed"]) == (control, 0)]
    now = run(control, 0, tmp_path)
    assert (now["passes"], now["verdict"]) == (before["passes"], before["verdict"])
    # Not equal to the last digit on another machine: matrix products round as they like.
    assert now["rho"] == pytest.approx(before["rho"], abs=0.15)
