from dataclasses import replace

import pytest
import torch

from steerproof.errors import ModelError, SteerproofError
from steerproof_bench import training
from steerproof_bench.comparison import to_json
from steerproof_bench.jobs import job_work
from steerproof_bench.training import compare
from steerproof_bench.trl_training import TrlAdapter, TrlTrainer
from tests.experiments import small_experiment
from tests.tiny import tiny_base


def work(**changes):
    """Three adapters of three arms on a tiny model, three steps of four rows."""
    sizes = {"count": 3, "rows": 12, "tokens": 12, "run": None, **changes}
    return job_work(tiny_base(), small_experiment(), **sizes)


def test_the_adapters_are_of_all_arms_and_their_rows_carry_their_own_directions():
    made = work(count=7)
    assert {job.key.split(".")[0] for job in made.jobs} == {"A", "B", "C", "A-iso", "A-L10"}
    steered = {
        job.key.split(".")[0]: {e.push is not None for e in job.examples} for job in made.jobs
    }
    assert steered["A"] == {True}
    assert steered["C"] == {False}
    assert {e.push.layer for job in made.jobs for e in job.examples if e.push} == {0, 1}


def test_trl_trains_the_same_adapters_from_the_same_weights():
    made = work()
    ours, theirs = training._pooled(made), TrlTrainer(made).train()
    for key, mine in ours.items():
        assert len(mine.losses) == made.steps == 3
        assert theirs[key].losses == pytest.approx(mine.losses, abs=2e-5)
        assert set(theirs[key].tensors) == set(mine.weights.tensors)
        for name, tensor in mine.weights.tensors.items():
            torch.testing.assert_close(theirs[key].tensors[name], tensor, atol=2e-4, rtol=0)


def test_trl_without_the_directions_learns_something_else(monkeypatch):
    made = work()
    peer = TrlTrainer(made)
    monkeypatch.setattr(peer, "_tables", {n: torch.zeros_like(t) for n, t in peer._tables.items()})
    mine = training._pooled(made)
    with pytest.raises(ModelError, match="step 1: TRL's loss is"):
        training._check(made, mine, peer.train())


def test_the_comparison_has_the_peer_and_the_ratio_last():
    found = to_json(compare(work(), repeats=1, growth=(1, 2)))
    assert [peer["name"][:4] for peer in found["peers"]] == ["trl "]
    assert list(found)[-1] == "ratio"
    assert found["ratio"] == found["peers"][0]["ratio"]
    assert 0 <= found["peers"][0]["difference"] < 1e-3
    assert {"step_seconds_1_adapters", "step_seconds_2_adapters"} <= set(found["numbers"])


def test_losses_apart_are_an_error():
    made = work(count=1)
    ours = training._pooled(made)
    key = made.jobs[0].key
    near = ours[key].losses
    for losses, says in [
        ((near[0] + 0.01, *near[1:]), "step 1: TRL's loss"),
        ((*near[:2], near[2] + 0.1), "step 3: TRL's loss"),
        (near[:2], "2 steps by TRL, ours took 3"),
    ]:
        theirs = {key: TrlAdapter(losses=losses, tensors=ours[key].weights.tensors)}
        with pytest.raises(ModelError, match=says):
            training._check(made, ours, theirs)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rows": 6}, "6 rows are not whole steps of 4 rows"),
        ({"rows": 400}, "400 rows asked for; there are 1 to 12"),
        ({"count": 0}, "0 adapters asked for"),
    ],
)
def test_a_number_that_cannot_be_had_is_an_error(changes, says):
    with pytest.raises(SteerproofError, match=says):
        work(**changes)


def test_the_recipe_has_one_epoch_and_no_dropout():
    made = job_work(
        tiny_base(),
        small_experiment(training=small_experiment().training.model_copy(update={"dropout": 0.1})),
        count=1, rows=4, tokens=8, run=None,
    )  # fmt: skip
    assert replace(made.recipe, learning_rate=0.0).dropout == 0.0
    assert made.recipe.epochs == 1
