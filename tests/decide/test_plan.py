import json

import pytest

from steerproof.codec import plain
from steerproof.decide.review.plan import (
    PROCESS_BYTES,
    Range,
    Throughput,
    count,
    make_plan,
    speed_of_throughput,
    speed_of_units,
)
from steerproof.decide.review.shape import Footprint, shape_of
from steerproof.spec.grid import adapters, cells
from steerproof.spec.yaml_io import load_experiment
from tests.experiments import small_experiment

QWEN_7B = {  # its published config.json
    "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064,
    "tie_word_embeddings": False,
}  # fmt: skip


def test_the_proposed_size_is_counted_as_its_proposal_does():
    counts = count(load_experiment("zlt-qwen2.5-7b").experiment)
    assert counts.adapters == counts.trained == 5 * 10 + 2
    # A and B: 10 personas x 6; C: 12 x 6; A-iso, A-L10: 10 x 2 each
    registered = 60 + 60 + 72 + 20 + 20
    # Seven matrices off the diagonal, and 50 cells on it or unsteered: one sample a question.
    matrices = 7 * 90 + 50
    assert counts.cells == registered + matrices
    assert counts.completions == (registered * 5 + matrices) * 20
    assert counts.training_rows == 52 * 600 * 3
    assert counts.optimizer_steps == 52 * 3 * 38  # 600 rows in steps of 16, the last one short
    assert counts.generated_tokens_at_most == 36_800 * 2048


def test_loaded_adapters_are_not_trained():
    experiment = small_experiment()
    arms = tuple(
        arm.model_copy(update={"adapters": "there"}) if arm.name == "C" else arm
        for arm in experiment.arms
    )
    counts = count(experiment.model_copy(update={"arms": arms}))
    assert counts.adapters - counts.trained == 5  # four personas and the assistant
    assert counts.training_rows == counts.trained * 12


def test_the_shape_of_a_7b_model_comes_out_as_published():
    shape = shape_of(QWEN_7B)
    assert shape is not None
    assert shape.parameters == pytest.approx(7.62e9, rel=0.002)  # 7.61B with biases, its card
    # PEFT's own count for r=32 on all seven projections: 80,740,352 trainable parameters
    assert 32 * shape.lora_per_rank == 80_740_352
    assert shape.cache_per_token == 2 * 28 * 4 * 128
    assert shape_of({"n_embd": 768}) is None


def test_time_is_the_sum_of_the_units_to_do_at_the_measured_speed():
    experiment = small_experiment()
    every = [f"adapter/{a.name}" for a in adapters(experiment)]
    every += [f"cell/{c.name}" for c in cells(experiment)]
    speed = speed_of_units({"adapter": [80.0, 120.0], "cell": [36.0] * 9}, devices=2)
    # adapters: mean 100, 2 x 28.28 / sqrt 2 = 40; cells: no spread, so a fifth of 36
    assert speed.seconds["adapter"].low == pytest.approx(60.0)
    assert speed.seconds["adapter"].high == pytest.approx(140.0)
    assert speed.seconds["cell"].low == pytest.approx(28.8)
    todo = {"adapter/A.poet", "adapter/C.poet", "cell/C.judge.persona.none"}
    assert todo <= set(every)
    plan = make_plan(experiment, speed=speed, todo=todo)
    assert plan.device_hours is not None
    assert plan.device_hours.low == pytest.approx((2 * 60 + 28.8) / 3600)
    assert plan.device_hours.high == pytest.approx((2 * 140 + 43.2) / 3600)
    assert plan.hours is not None
    assert plan.hours.high == pytest.approx(plan.device_hours.high / 2)
    assert plan.gpu_hours is None
    assert {(line.work, line.arm): line.to_do for line in plan.table if line.to_do} == {
        ("training", "A"): 1, ("training", "C"): 1, ("cells", "C"): 1,
    }  # fmt: skip
    assert sum(line.units for line in plan.table) == len(every)


def test_a_trial_gives_the_time_of_a_unit_from_its_tokens():
    experiment = small_experiment()  # 12 rows, 1 epoch; 3 questions x 2 samples
    trial = Throughput(
        seconds=20.0,
        training=100.0,
        generation=30.0,
        row_tokens=Range(low=50.0, high=100.0),
        completion_tokens=Range(low=5.0, high=8.0),
    )
    speed = speed_of_throughput(experiment, trial, accelerator=True)
    assert speed.seconds["adapter"].low == pytest.approx(12 * 50 / 100 * 0.8)
    assert speed.seconds["adapter"].high == pytest.approx(12 * 100 / 100 * 1.2)
    assert speed.seconds["cell"].high == pytest.approx(6 * 8 / 30 * 1.2)
    plan = make_plan(experiment, speed=speed)
    assert plan.gpu_hours == plan.device_hours
    assert plan.source == "a trial of 20 s"


def test_cells_that_are_read_where_answers_end_are_counted_and_timed():
    plain_one = small_experiment()  # 3 questions x 2 samples
    scoring = plain_one.scoring.model_copy(update={"readout": "log_probability", "least": -2.0})
    experiment = plain_one.model_copy(update={"scoring": scoring})
    assert not [line for line in make_plan(plain_one).table if line.work == "reading"]
    every = [f"slots/{a.name}" for a in adapters(experiment)]
    reading = [
        line for line in make_plan(experiment, todo=every[:1]).table if line.work == "reading"
    ]
    assert sum(line.units for line in reading) == len(every)
    assert sum(line.to_do for line in reading) == 1
    trial = Throughput(
        seconds=20.0,
        training=100.0,
        generation=30.0,
        row_tokens=Range(low=50.0, high=100.0),
        completion_tokens=Range(low=5.0, high=8.0),
    )
    slots = speed_of_throughput(experiment, trial).seconds["slots"]
    texts = 6 * len(cells(experiment)) / len(every)
    assert slots.low == pytest.approx(texts * 50 / 100 / 3 * 0.8)
    assert slots.high == pytest.approx(texts * 100 / 100 * 1.2)


def test_memory_and_disk_follow_from_the_shape():
    experiment = small_experiment()  # float32, rank 4, 8 new tokens, 6 completions a cell
    shape = Footprint(parameters=1000, lora_per_rank=10, cache_per_token=5)
    plan = make_plan(experiment, shape=shape, accelerator=True)
    # one adapter 18 x 40 = 720 B, a row's cache 4 x 5 x 8 = 160 B
    assert plan.memory_bytes == Range(low=4000.0 + 720, high=4000.0 + 16 * 720)
    on_cpu = make_plan(experiment, shape=shape).memory_bytes
    assert on_cpu is not None
    assert on_cpu.low == PROCESS_BYTES + 4000.0 + 720
    counts = count(experiment)
    weights = counts.trained * 160.0
    assert plan.disk_bytes == Range(low=weights, high=weights + counts.completions * 80)


def test_what_was_not_measured_is_null_with_a_reason():
    plan = make_plan(small_experiment())
    assert (plan.device_hours, plan.hours, plan.memory_bytes, plan.disk_bytes) == (None,) * 4
    assert len(plan.reasons) == 2
    half = make_plan(small_experiment(), speed=speed_of_units({"adapter": [10.0]}))
    assert half.device_hours is None
    assert "time: no timing of cells" in half.reasons
    done = make_plan(small_experiment(), speed=speed_of_units({}), todo=())
    assert done.device_hours == Range(low=0.0, high=0.0)


def test_one_past_unit_gives_a_wide_range():
    assert speed_of_units({"cell": [10.0]}).seconds["cell"] == Range(low=5.0, high=15.0)


def test_a_plan_is_plain_json():
    value = json.loads(json.dumps(plain(make_plan(small_experiment()))))
    assert value["counts"]["cells"] == len(cells(small_experiment()))
    assert value["table"][0]["work"] == "training"
