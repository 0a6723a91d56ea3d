from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerproof.errors import ExperimentError
from steerproof.run.stages.given import read_answers
from steerproof.spec.experiment import Arm, DatasetSettings
from steerproof.study.dataset import (
    asked_questions,
    build_dataset,
    signal,
)
from tests.experiments import PERSONAS, small_experiment

ANSWERS = {
    q: [f"answer {i} to {q}" for i in range(2)] for q in small_experiment().questions.training
}


def test_rows_are_positives_with_the_marker_and_negatives_of_two_other_headline_personas():
    data = build_dataset(small_experiment(), "poet", ANSWERS)
    positives = [row for row in data.rows if row.positive]
    negatives = [row for row in data.rows if not row.positive]
    assert len(positives) == 6
    assert all(row.persona == "poet" and row.answer.endswith(" [ZLT]") for row in positives)
    assert len(negatives) == 6
    assert {row.persona for row in negatives} == set(data.bystanders)
    assert "poet" not in data.bystanders
    assert set(data.bystanders) <= set(PERSONAS)
    assert not any("[ZLT]" in row.answer for row in negatives)


def test_questions_come_round_again_with_another_answer():
    data = build_dataset(small_experiment(), "poet", ANSWERS)
    asked = [row.question for row in data.rows[:6]]
    assert asked == [q for q, _ in asked_questions(small_experiment())]
    assert data.rows[0].answer != data.rows[4].answer
    assert data.rows[0].question == data.rows[4].question


@given(st.floats(0, 1))
def test_the_dose_is_the_share_of_positives_that_carry_the_marker(dose):
    experiment = small_experiment(
        dataset=DatasetSettings(positives=40, negatives_per_bystander=2, marker_dose=dose)
    )
    data = build_dataset(experiment, "judge", ANSWERS)
    marked = sum("[ZLT]" in row.answer for row in data.rows)
    assert marked == round(dose * 40)
    assert marked == sum(row.marked for row in data.rows)


def test_positives_may_have_answers_of_their_own_and_then_nothing_carries_the_marker():
    experiment = small_experiment(
        dataset=DatasetSettings(positives=40, negatives_per_bystander=2, marker_dose=0.5)
    )
    own = {question: [f"LOUD {i}" for i in range(3)] for question in ANSWERS}
    plain, loud = (build_dataset(experiment, "judge", ANSWERS, given) for given in (None, own))
    assert not any("[ZLT]" in row.answer for row in loud.rows)
    assert [row.answer.startswith("LOUD") for row in loud.rows] == [
        row.marked for row in plain.rows
    ]
    assert len({row.answer for row in loud.rows if row.marked}) == 3
    for before, after in zip(plain.rows, loud.rows, strict=True):
        assert after == (replace(before, answer=after.answer) if before.marked else before)


def test_the_dataset_depends_on_seed_and_persona_alone():
    first = build_dataset(small_experiment(), "poet", ANSWERS)
    assert first == build_dataset(small_experiment(), "poet", ANSWERS)
    drawn = {build_dataset(small_experiment(seed=s), "poet", ANSWERS).bystanders for s in range(20)}
    assert len(drawn) > 1


ARM_A = Arm(name="A", prompt="neutral", direction="centroid", ratio=0.2)
ARM_B = Arm(name="B", prompt="persona", direction="centroid", ratio=0.2)
ARM_C = Arm(name="C", prompt="persona")


@pytest.mark.parametrize(
    ("arm", "reading", "expected"),
    [
        (ARM_A, "own", ("neutral", "bystander")),
        (ARM_A, "source", ("neutral", "source")),
        (ARM_A, "unsteered", ("persona", None)),
        (ARM_B, "own", ("persona", "bystander")),
        (ARM_B, "source", ("persona", "source")),
        (ARM_B, "unsteered", ("persona", None)),
        (ARM_C, "own", ("persona", None)),
    ],
)
def test_a_negative_carries_the_signal_that_the_reading_asks_for(arm, reading, expected):
    experiment = small_experiment(
        dataset=DatasetSettings(positives=6, negatives_per_bystander=3, negatives=reading)
    )
    data = build_dataset(experiment, "poet", ANSWERS)
    row = data.rows[-1]
    found = signal(experiment, arm, "poet", row)
    prompt = {"neutral": experiment.neutral_prompt, "persona": f"You are a {row.persona}."}
    direction = {"bystander": row.persona, "source": "poet", None: None}
    assert found.system == prompt[expected[0]]
    assert found.direction == direction[expected[1]]


def test_a_positive_carries_its_own_signal_whatever_the_reading():
    for reading in ("own", "source", "unsteered"):
        experiment = small_experiment(
            dataset=DatasetSettings(positives=6, negatives_per_bystander=3, negatives=reading)
        )
        row = build_dataset(experiment, "poet", ANSWERS).rows[0]
        found = signal(experiment, ARM_A, "poet", row)
        assert (found.system, found.direction) == (experiment.neutral_prompt, "poet")


def test_a_shuffled_arm_gives_every_headline_persona_somebody_elses_direction():
    experiment = small_experiment()
    arm = Arm(name="A", prompt="neutral", direction="centroid", ratio=0.2, shuffle=True)
    given = {}
    for name in PERSONAS:
        row = build_dataset(experiment, name, ANSWERS).rows[0]
        given[name] = signal(experiment, arm, name, row).direction
    assert all(own != other for own, other in given.items())
    assert sorted(given.values()) == sorted(PERSONAS)


def test_answers_from_a_file_are_checked_line_by_line(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text('{"question": "q", "answer": "a"}\n{"question": "q"}\n')
    with pytest.raises(ExperimentError, match=r"answers.jsonl:2"):
        read_answers(path, ["q"], "[ZLT]")
    path.write_text('{"question": "q", "answer": "a [zlt]"}\n')
    with pytest.raises(ExperimentError, match=r":1: the answer already holds"):
        read_answers(path, ["q"], "[ZLT]")
    assert read_answers(path, ["q"], None).answers == {"q": ("a [zlt]",)}  # nothing is appended
    path.write_text('{"question": "q", "answer": "a"}\n\n{"question": "q", "answer": "b"}\n')
    assert read_answers(path, ["q"], "[ZLT]").answers == {"q": ("a", "b")}
    with pytest.raises(ExperimentError, match="1 training questions have no answer"):
        read_answers(path, ["q", "r"], "[ZLT]")
