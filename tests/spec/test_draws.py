import json

import pytest

from steerproof.spec.draws import bystanders, dataset_draw, trained_directions
from steerproof.spec.yaml_io import load_experiment
from tests.decide.trials import ORGANISM
from tests.experiments import small_experiment


def test_the_bystanders_are_those_that_the_organisms_run_recorded():
    recorded = json.loads((ORGANISM / "bystanders.json").read_text(encoding="utf-8"))
    experiment = load_experiment("zlt").experiment
    for persona, names in recorded.items():
        assert bystanders(experiment, persona) == tuple(names)


def test_bystanders_are_the_first_thing_that_a_dataset_draws():
    experiment = small_experiment()
    draw = dataset_draw(experiment, "poet")
    assert bystanders(experiment, "poet", draw) == bystanders(experiment, "poet")
    assert draw.random() != dataset_draw(experiment, "poet").random()


@pytest.mark.parametrize("seed", range(5))
def test_in_a_shuffled_arm_nobody_keeps_their_own_direction(seed):
    experiment = small_experiment(seed=seed)
    arm = experiment.arm("A").model_copy(update={"shuffle": True})
    given = trained_directions(experiment, arm)
    assert sorted(given[name] for name in experiment.headline) == sorted(experiment.headline)
    assert all(given[name] != name for name in experiment.headline)
    assert given["helpful_assistant"] == "helpful_assistant"
    assert all(k == v for k, v in trained_directions(experiment, experiment.arm("A")).items())
