"""The rig's standing test: a planted ranking is found, and a shuffled one is not."""

import json
import os
import threading
import time
from pathlib import Path

import pytest

from benchmarks import controls
from benchmarks.controls import (
    CONTROLS,
    run,
    run_all,
    share_cores,
    shares,
    supported,
    with_seed,
)
from steerproof.spec.yaml_io import shipped
from tools.answers_study import with_tables
from tools.controls_table import controls_tables

PAGE = Path(__file__).parents[2] / "docs" / "statistics.md"
COMMITTED = PAGE.parent / "data" / "controls.json"


NEGATIVE = 40
"""Runs of the shuffled control that are committed."""


def committed() -> dict:
    return json.loads(COMMITTED.read_bytes())


def test_the_committed_controls_passed_where_they_must_and_failed_where_they_must():
    """Made by the command that the file names; too long for every day (see the last test)."""
    table = committed()
    runs = table["runs"]
    seeds = {name: sorted(r["seed"] for r in runs if r["control"] == name) for name in CONTROLS}
    assert seeds == dict(zip(CONTROLS, map(list, (range(10), range(NEGATIVE))), strict=True))
    assert table["shares"] == shares(runs)
    assert table["supported"] == supported(runs)
    found, shuffled = table["shares"]["positive-control"], table["shares"]["negative-control"]
    assert found["passes"] >= 8
    assert shuffled["interval"][1] < found["interval"][0], "the rig cannot tell the two apart"
    for one in runs:
        decided = one["rho"] is not None and one["interval"] is not None
        passes = decided and one["rho"] >= 0.6 and one["interval"][0] > 0 and not one["kills"]
        assert one["passes"] == passes, one


def test_what_the_matrix_does_to_both_controls():
    """A false SUPPORTED of the registered rule is none with it, and a true one stays."""
    runs = {(one["control"], one["seed"]): one for one in committed()["runs"]}
    eighth = runs["negative-control", 8]
    assert eighth["verdict"] == "SUPPORTED"
    assert eighth["answers"]["ranking"] != "SUPPORTED"
    for (control, _), one in runs.items():
        both = (one["verdict"] == "SUPPORTED", one["answers"]["ranking"] == "SUPPORTED")
        assert both[0] == both[1] if control == "positive-control" else not both[1]
        by = {m["trained_label"]: m for m in one["answers"]["matrices"]}
        if control == "negative-control":
            assert by[False]["p"] > 0.05
            assert by[True]["p"] <= 0.001
            assert 0.40 <= by[True]["s"]["value"] <= 0.55
        else:
            assert one["answers"]["reads"] == "reads its own direction"


def test_the_page_says_what_the_committed_runs_say():
    table, text = committed(), PAGE.read_text("utf-8")
    assert with_tables(text, {"controls": controls_tables(table)}) == text
    assert "<!-- controls:begin -->" in text
    old, new = (table["supported"]["negative-control"][rule] for rule in ("registered", "answers"))
    words = " ".join(text.split())
    low, high = old["interval"]
    assert f"of {NEGATIVE} shuffled runs are SUPPORTED" in words
    assert f"{low:.3f} to {high:.3f}): one in seven" in words
    assert f"({new['supported']} of {NEGATIVE}; at most {new['interval'][1]:.3f})" in words
    assert f"control {old['supported']} are ({low:.1%} to {high:.1%}, exact" in words
    seeds = [
        one["seed"]
        for one in table["runs"]
        if one["control"] == "negative-control" and one["verdict"] == "SUPPORTED"
    ]
    assert f"(seeds {', '.join(map(str, seeds[:-1]))} and {seeds[-1]};" in words


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


@pytest.fixture
def five_cores(monkeypatch):
    """Cores 0, 2, 3, 5 and 7; what each thread was given is kept by its name."""
    given = {}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {7, 0, 2, 3, 5})
    monkeypatch.setattr(
        os, "sched_setaffinity", lambda _, c: given.setdefault(threading.current_thread().name, c)
    )
    return given


def test_jobs_have_cores_of_their_own(five_cores):
    assert share_cores(1) == [{0, 2, 3, 5, 7}]
    assert share_cores(2) == [{0, 2}, {3, 5}]
    assert share_cores(5) == [{0}, {2}, {3}, {5}, {7}]
    for jobs in (0, 6):
        with pytest.raises(SystemExit, match=f"--jobs {jobs}: from 1 to 5"):
            share_cores(jobs)


def test_jobs_at_once_give_the_table_of_one_after_another(five_cores, monkeypatch, tmp_path):
    asked = [("negative-control", seed) for seed in range(4)]
    second_done = threading.Event()

    def one(control, seed, place):
        assert place == tmp_path / f"{control}-{seed}"
        if seed == 0:  # ends after a later one, which thus ran beside it
            assert second_done.wait(20)
        if seed == 1:
            second_done.set()
        return {"control": control, "seed": seed}

    monkeypatch.setattr(controls, "run", one)
    *_, together = run_all(asked, tmp_path, 2)
    assert sorted(map(sorted, five_cores.values())) == [[0, 2], [3, 5]]
    *_, alone = run_all(asked, tmp_path, 1)
    assert together == alone == [{"control": c, "seed": seed} for c, seed in asked]


def test_after_a_failed_run_none_is_begun(five_cores, monkeypatch, tmp_path):
    begun = []

    def one(_control, seed, _place):
        begun.append(seed)
        if seed == 1:
            raise OSError("no room")
        if seed > 1:
            time.sleep(0.1)  # the failure is noticed meanwhile
        return {"seed": seed}

    monkeypatch.setattr(controls, "run", one)
    seen = []
    with pytest.raises(OSError, match="no room"):
        seen.extend(run_all([("positive-control", seed) for seed in range(50)], tmp_path, 1))
    assert seen == [[{"seed": 0}]]
    assert len(begun) < 50


@pytest.mark.nightly
@pytest.mark.parametrize("control", CONTROLS)
def test_a_control_gives_what_was_committed(tmp_path, control):
    committed = json.loads(COMMITTED.read_bytes())["runs"]
    (before,) = [one for one in committed if (one["control"], one["seed"]) == (control, 0)]
    now = run(control, 0, tmp_path)
    assert (now["passes"], now["verdict"]) == (before["passes"], before["verdict"])
    # Not equal to the last digit on another machine: matrix products round as they like.
    assert now["rho"] == pytest.approx(before["rho"], abs=0.15)
