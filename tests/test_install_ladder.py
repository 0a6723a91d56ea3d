"""The recipe is chosen by install alone: no push, no other arm, the first rung that passes."""

import json
import re
from pathlib import Path

import pytest
from scipy import stats

from steerproof.run.graph.environment import Place
from steerproof.run.graph.units import experiment_graph
from steerproof.spec.grid import NONE, cells
from steerproof.spec.yaml_io import load_experiment
from tools.install_ladder import RUNGS, Installed, gate, prompt_only, unsteered

ROOT = Path(__file__).parents[1]


def installed(*differences):
    rest = {"trained_negative": 0.0, "held_out": 0.0, "neutral": 0.0}
    return [
        Installed(persona=f"p{i}", own=0.5, difference=value, **rest)
        for i, value in enumerate(differences)
    ]


def test_the_gate_is_a_one_sided_t_bound_and_a_count_of_personas():
    differences = [0.3, 0.5, 0.2, 0.6, 0.4, 0.3, 0.5, 0.2, 0.05, 0.4]
    found = gate(installed(*differences))
    interval = stats.ttest_1samp(differences, 0.0).confidence_interval(0.90)
    assert found["lower"] == pytest.approx(interval.low)
    assert found["upper"] == pytest.approx(interval.high)
    assert found["personas"] == 9
    assert found["passes"]
    assert not gate(installed(*[0.9] * 7, 0.0, 0.0, 0.0))["passes"]  # three have not learnt it
    assert not gate(installed(*[0.19, 0.2, 0.21] * 3, 0.2))["passes"]  # the bound is below 0.20


def test_a_rung_trains_arm_c_alone_and_pushes_nothing():
    experiment = load_experiment("zlt").experiment
    rung = prompt_only(experiment, 1e-3, 6)
    assert (rung.training.learning_rate, rung.training.epochs) == (1e-3, 6)
    assert rung.training.rank == experiment.training.rank
    measured = cells(rung)
    assert {cell.arm for cell in measured} == {"C"}
    assert {cell.strength for cell in measured} == {NONE}
    assert len(measured) == 10 * (1 + 9 + 1)
    graph = unsteered(experiment_graph(rung, Place(directory=ROOT)))
    kinds = {unit.kind for unit in graph.units}
    assert kinds == {"answers", "dataset", "adapter", "cell", "score"}
    assert len([unit for unit in graph.units if unit.kind == "adapter"]) == 10


def test_the_page_holds_the_ladder_that_is_climbed():
    page = (ROOT / "docs/results/zlt-smollm2/ladder.md").read_text("utf-8")
    rows = re.findall(r"^\| \d \| (\S+) \| (\d+) \| (\d+) \|", page, re.MULTILINE)
    assert [(float(rate), int(epochs)) for rate, epochs, _ in rows] == list(RUNGS)
    experiment = load_experiment("zlt-smollm2").experiment
    data = experiment.dataset
    count = data.positives + data.bystanders * data.negatives_per_bystander
    per_step = experiment.training.rows_per_step
    assert [int(steps) for *_, steps in rows] == [-(-count * e // per_step) for _, e in RUNGS]
    assert json.dumps(data.answer_tokens) in page
