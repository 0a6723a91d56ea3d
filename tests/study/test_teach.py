"""Teaching: what an adapter learns from, and whose failure a failure is."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from steerproof.errors import ModelError, SteeringError, SteerproofError
from steerproof.model.base import Base
from steerproof.model.chat import chat_ids, text_ids
from steerproof.spec.experiment import DatasetSettings as Numbers
from steerproof.spec.experiment import Experiment, Training
from steerproof.spec.grid import AdapterId
from steerproof.spec.seeds import derived_seed
from steerproof.study.dataset import build_dataset
from steerproof.study.directions import prompts_of
from steerproof.study.geometry import LayerGeometry, geometry, pushes_of
from steerproof.study.teach import Known, Lesson, Taught, job_of, teach
from tests.experiments import PERSONAS, small_experiment
from tests.tiny import tiny_base

ANSWERS = {q: ["It is so."] for q in small_experiment().questions.training}


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny_base("qwen2")


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return small_experiment(
        dataset=Numbers(positives=2, bystanders=1, negatives_per_bystander=1),
        training=Training(rank=2, alpha=4.0, epochs=1, rows_per_step=3, max_length=200),
    )


@pytest.fixture(scope="module")
def layers(base: Base, experiment: Experiment) -> dict[int, LayerGeometry]:
    return dict(geometry(base, prompts_of(experiment), experiment.steered_layers, experiment.seed))


def lesson(experiment: Experiment, arm: str, persona: str, seed: int | None = None) -> Lesson:
    return Lesson(
        adapter=AdapterId(arm=arm, persona=persona, seed=seed),
        experiment=experiment,
        dataset=build_dataset(experiment, persona, ANSWERS),
    )


def taught(
    base: Base, lessons: Sequence[Lesson], layers: dict[int, LayerGeometry]
) -> dict[str, Taught | SteerproofError]:
    return {one.name: ended for one, ended in teach(base, lessons, pushes_of(layers))}


def test_each_row_carries_the_prompt_and_the_direction_of_its_own_persona(base, experiment, layers):
    own = lesson(experiment, "A", "pirate")
    job = job_of(base, own, pushes_of(layers))
    assert job.seed == derived_seed(experiment.seed, "adapter", "pirate")
    for row, example in zip(own.dataset.rows, job.examples, strict=True):
        assert example.prompt_ids == chat_ids(
            base.chat, system=experiment.neutral_prompt, user=row.question
        )
        ids = (*text_ids(base.tokenizer, row.answer), base.chat.end_of_turn)
        assert example.completion_ids == ids
        assert example.push is not None
        expected = layers[1].push(row.persona, ratio=experiment.arm("A").ratio)
        assert torch.equal(example.push.vector, expected.vector)
    same = [e.push for r, e in zip(own.dataset.rows, job.examples, strict=True) if r.positive]
    assert len(set(map(id, same))) == 1


def test_an_arm_without_a_direction_pushes_nothing_and_a_further_seed_starts_elsewhere(
    base, experiment, layers
):
    job = job_of(base, lesson(experiment, "C", "poet"), pushes_of({}))
    assert all(example.push is None for example in job.examples)
    again = job_of(base, lesson(experiment, "C", "poet", seed=9), pushes_of({}))
    assert again.examples == job.examples
    assert again.seed == derived_seed(9, "adapter", "poet")


def test_adapters_share_the_tokens_of_the_chats_that_they_share(base, experiment, layers):
    lessons = [lesson(experiment, arm, name) for arm in ("A", "C") for name in ("poet", "pirate")]
    known: Known = {}
    push = pushes_of(layers)
    for one in lessons:
        assert job_of(base, one, push, known).examples == job_of(base, one, push).examples
    rows = [row for one in lessons for row in one.dataset.rows]
    assert len(known) < len(rows)
    before = dict(known)
    job_of(base, lesson(experiment, "A-iso", "poet"), push, known)
    assert known == before


def test_a_taught_adapter_tells_what_its_pushes_were_asked_and_did(base, experiment, layers):
    found = taught(base, [lesson(experiment, "A", "poet")], layers)["A.poet"]
    assert isinstance(found, Taught)
    assert found.record.losses
    for audit in found.record.pushes:
        assert audit.asked_ratio == pytest.approx(experiment.arm("A").ratio)
        assert audit.achieved_norm == pytest.approx(audit.asked_norm, rel=1e-4)


def test_a_direction_without_a_length_fails_the_adapters_that_use_it_and_no_other(
    base, experiment, layers
):
    short = layers[1].directions.centroid.clone()
    short[list(PERSONAS).index("poet")] = 0.0
    spoilt = LayerGeometry(
        directions=replace(
            layers[1].directions, tables={**layers[1].directions.tables, "centroid": short}
        ),
        calibration=layers[1].calibration,
    )
    lessons = [lesson(experiment, arm, "poet") for arm in ("A", "C", "A-iso")]
    found = taught(base, lessons, {**layers, 1: spoilt})
    assert isinstance(found["A.poet"], SteeringError)
    assert isinstance(found["C.poet"], Taught)
    assert isinstance(found["A-iso.poet"], Taught)


def test_rows_that_are_too_long_fail_their_own_adapter_and_no_other(base, experiment, layers):
    long = lesson(experiment, "C", "poet")
    rows = tuple(replace(row, answer="word " * 300) for row in long.dataset.rows)
    long = replace(long, dataset=replace(long.dataset, rows=rows))
    found = taught(base, [long, lesson(experiment, "C", "pirate")], layers)
    assert isinstance(found["C.poet"], ModelError)
    assert "never cut" in str(found["C.poet"])
    assert isinstance(found["C.pirate"], Taught)
