"""The organism's recorded run over three training seeds: what is said follows from its files."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from steerproof.codec import plain
from steerproof.decide.analysis.answers import conclude
from steerproof.decide.analysis.matrix import selectivity
from steerproof.decide.analysis.rates_csv import read_rates
from steerproof.decide.analysis.rig import negatives_of
from steerproof.spec.yaml_io import load_experiment, shipped
from tests.decide.recorded import differing

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "zlt"
VERDICT = json.loads((RESULTS / "verdict.json").read_text("utf-8"))
PAGE = " ".join((RESULTS / "README.md").read_text("utf-8").replace("\n> ", " ").split())


def test_the_experiment_is_the_shipped_one_with_its_training_seeds_said():
    usual = shipped()["zlt"].read_text("utf-8").splitlines()
    asked = (RESULTS / "experiment.yaml").read_text("utf-8").splitlines()
    place = usual.index("seed: 0") + 1
    assert asked == [*usual[:place], "seeds: [0, 1, 2]", *usual[place:]]


def test_the_committed_rates_give_the_committed_verdict():
    experiment = load_experiment(str(RESULTS / "experiment.yaml")).experiment
    table = read_rates(RESULTS / "rates.csv", experiment)
    analysis, answers = conclude(table, experiment)
    again = json.loads(json.dumps(plain(analysis)))
    known = set(again) - {"geometry", "comparisons"}  # the cosines are in no rate table
    kept = {name: VERDICT[name] for name in again if name in known}
    assert list(differing({name: again[name] for name in kept}, kept)) == []
    told = VERDICT["answers"]
    assert answers.ranking.answer == told["ranking"]["answer"]
    assert answers.direction.reads == told["direction"]["reads"] == "reads its own direction"
    assert answers.seeds.mean == pytest.approx(told["seeds"]["mean"])
    assert answers.seeds.subject == told["seeds"]["subject"]
    for again_seed, told_seed in zip(answers.seeds.results, told["seeds"]["results"], strict=True):
        assert (again_seed.seed, again_seed.s, again_seed.p) == (
            told_seed["seed"], told_seed["s"], told_seed["p"],
        )  # fmt: skip


def test_the_page_says_what_the_run_found():
    for line in VERDICT["answers"]["lines"]:
        assert line in PAGE
    seeds = VERDICT["answers"]["seeds"]
    assert f"{seeds['mean']:.2f}" in PAGE
    assert seeds["subject"] in PAGE
    for one in seeds["results"]:
        rho = "none" if one["rho"] is None else f"{one['rho']:+.2f}"
        assert (
            f"| {one['seed']} | {rho} | {one['s']:.2f} | {one['p']:.4f} | {one['reads']} |" in PAGE
        )


def test_what_was_asked_of_the_seeds_is_met():
    """S of arm A 0.75 to 0.88 with p at most 0.001 in each, and the bridge's order below 0.5."""
    seeds = VERDICT["answers"]["seeds"]
    assert [one["seed"] for one in seeds["results"]] == [0, 1, 2]
    for one in seeds["results"]:
        assert one["p"] <= 0.001
        assert 0.75 <= one["s"] <= 0.88
    assert seeds["subject"] == "these adapters"


def test_in_margins_the_prompt_trained_arm_leans_to_its_own_direction_with_every_seed():
    """S of arm C on common answers, 0.8 to 1.6 nats, read here without the run's own reader."""
    experiment = load_experiment(str(RESULTS / "experiment.yaml")).experiment
    names, negatives = experiment.headline, negatives_of(experiment, experiment.arm("C"))
    table = pq.read_table(RESULTS / "slots.parquet").to_pandas()
    common = table[table.text == "common.0"]
    margins = (common.z_marker - common.z_end).groupby(common.cell).mean()
    told = []
    for suffix in ("", ".s1", ".s2"):
        cells = np.array(
            [
                [
                    margins[
                        f"C.{a}.neutral.centroid.L3.ratio=+0.2{'' if a == b else f'@{b}'}{suffix}"
                    ]
                    for b in names
                ]
                for a in names
            ]
        )
        found = selectivity(cells, negatives, np.random.default_rng(0))
        assert found is not None
        assert float(found.p) <= 0.001
        assert 0.8 <= float(found.s.mean) <= 1.6
        told.append(f"{float(found.s.mean):.2f}")
    assert f"{told[0]}, {told[1]} and {told[2]} nats" in PAGE
