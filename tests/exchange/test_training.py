"""TRL and Transformers train with a direction per row as steerproof itself does."""

import copy
import warnings
from dataclasses import replace
from functools import partial

import pytest
import torch
from datasets import Dataset
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import Trainer, TrainingArguments
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from steerproof.engine.batches import step_plan
from steerproof.engine.lora.weights import fresh_weights, lora_sites
from steerproof.engine.train import train
from steerproof.errors import SteeringError
from steerproof.exchange.training import SteeringCallback, steered_training
from steerproof.model.steering import Push
from steerproof_bench.jobs import job_work
from steerproof_bench.peft_models import with_adapters
from tests.experiments import small_experiment
from tests.tiny import HIDDEN, tiny_base

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def work():
    """One adapter of arm A, whose rows carry directions: three steps of four rows."""
    made = job_work(tiny_base(), small_experiment(), count=7, rows=12, tokens=12, run=None)
    return replace(made, jobs=tuple(job for job in made.jobs if job.key.startswith("A."))[:1])


@pytest.fixture(scope="module")
def ours(work):
    """Losses of steerproof's own training."""
    (trained,) = train(work.base, work.jobs, work.recipe)
    return trained.losses


def pushes_of(work):
    found = [example.push for example in work.jobs[0].examples]
    return [push for push in dict.fromkeys(found) if push is not None]


def rows_of(work):
    """The rows in the order in which steerproof's own training sees them."""
    (job,), recipe, known = work.jobs, work.recipe, [None, *pushes_of(work)]
    plan = step_plan(job.seed, len(job.examples), recipe.epochs, recipe.rows_per_step)
    examples = [job.examples[i] for step in plan for i in step]
    return Dataset.from_list(
        [
            {
                "input_ids": [*one.prompt_ids, *one.completion_ids],
                "labels": [-100] * len(one.prompt_ids) + [*one.completion_ids],
                "push": known.index(one.push),
            }
            for one in examples
        ]
    )


def trainer_of(work, place, rows=None, *, lora=True, kind=SFTTrainer, **more):
    (job,), recipe = work.jobs, work.recipe
    model = copy.deepcopy(work.base.model)
    fresh = fresh_weights(lora_sites(work.base), recipe.lora, job.seed)
    if lora:
        model = with_adapters(work.base, model, {"1": fresh}, trainable=True)
    settings = {
        "output_dir": str(place), "remove_unused_columns": False,
        "train_sampling_strategy": "sequential",
        "per_device_train_batch_size": recipe.rows_per_step, "num_train_epochs": 1,
        "learning_rate": recipe.learning_rate, "lr_scheduler_type": "cosine",
        "warmup_steps": recipe.warmup, "weight_decay": recipe.weight_decay,
        "max_grad_norm": recipe.max_grad_norm, "use_cpu": True, "dataloader_pin_memory": False,
        "logging_steps": 1, "save_strategy": "no", "report_to": "none", "disable_tqdm": True,
        "gradient_checkpointing": False, "bf16": False,
    }  # fmt: skip
    pad = DataCollatorForLanguageModeling(pad_token_id=work.base.pad_id)
    given = {"model": model, "train_dataset": rows or rows_of(work), "data_collator": pad}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind is Trainer:
            return Trainer(args=TrainingArguments(**{**settings, **more}), **given)
        skip = {"dataset_kwargs": {"skip_prepare_dataset": True}, "max_length": None}
        args = SFTConfig(**{**settings, **skip, **more})
        return SFTTrainer(args=args, processing_class=work.base.tokenizer, **given)


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("reentrant", [None, False, True])
def test_trl_with_the_directions_has_the_losses_of_steerproofs_own_training(
    work, ours, tmp_path, reentrant
):
    how = {"use_reentrant": reentrant}
    checkpointing = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": how}
    trainer = trainer_of(work, tmp_path, **({} if reentrant is None else checkpointing))
    collator = trainer.data_collator
    with steered_training(trainer, pushes_of(work)) as steered:
        trainer.train()
    assert losses(trainer) == pytest.approx(ours, abs=1e-4)
    audit = steered.audit()
    assert set(audit.firings.values()) == {3}  # forward passes; recomputation is not counted
    for push, seen in zip(pushes_of(work), audit.slots, strict=True):
        assert seen.push_norm == pytest.approx(float(push.vector.norm()), rel=1e-4)
    assert trainer.data_collator is collator
    assert steered not in trainer.callback_handler.callbacks


def test_without_the_directions_the_losses_are_others(work, ours, tmp_path):
    rows = rows_of(work).remove_columns("push")
    trainer = trainer_of(work, tmp_path, rows)
    trainer.train()
    assert losses(trainer)[0] != pytest.approx(ours[0], abs=1e-3)


def test_a_trainer_of_transformers_takes_the_callback_and_its_collator(work, ours, tmp_path):
    steered = SteeringCallback(pushes_of(work))
    trainer = trainer_of(work, tmp_path, kind=Trainer)
    trainer.data_collator = steered.collator(trainer.data_collator)
    trainer.add_callback(steered)
    trainer.train()
    assert losses(trainer) == pytest.approx(ours, abs=1e-4)
    assert steered.audit().slots[0].positions > 0


def test_the_hooks_are_gone_after_an_error(work, tmp_path):
    trainer = trainer_of(work, tmp_path)
    blocks = trainer.model.base_model.model.model.layers

    def fail(*_):
        raise RuntimeError("the disk is gone")

    trainer.training_step = fail
    with pytest.raises(RuntimeError, match="the disk"), steered_training(trainer, pushes_of(work)):
        trainer.train()
    assert not any(block._forward_hooks for block in blocks)
    assert not trainer.model._forward_pre_hooks


@pytest.mark.parametrize(
    ("setting", "says"),
    [("remove_unused_columns", "remove_unused_columns=False"), ("torch_compile", "compiled block")],
)
def test_what_cannot_be_done_right_is_refused(work, tmp_path, setting, says):
    trainer = trainer_of(work, tmp_path)
    setattr(trainer.args, setting, True)
    with pytest.raises(SteeringError, match=says), steered_training(trainer, pushes_of(work)):
        trainer.train()


def test_rows_that_say_nothing_or_too_much_are_refused(work, tmp_path):
    rows = rows_of(work)
    for changed, says in [
        (rows.remove_columns("push"), "4 of 4 rows have no column 'push'"),
        (rows.map(lambda _: {"push": 9}), r"holds \[9\]"),
        (rows.map(lambda _: {"push": 0}), "holds 0 alone"),
    ]:
        trainer = trainer_of(work, tmp_path, changed)
        with pytest.raises(SteeringError, match=says), steered_training(trainer, pushes_of(work)):
            trainer.train()


def test_a_callback_without_its_collator_and_packed_rows_are_refused(work, tmp_path):
    trainer = trainer_of(work, tmp_path, rows_of(work).remove_columns("push"))
    trainer.add_callback(SteeringCallback(pushes_of(work)))
    with pytest.raises(SteeringError, match=r"collator\(\)"):
        trainer.train()
    trainer = trainer_of(work, tmp_path)
    inner = trainer.data_collator

    def packed(rows):
        batch = inner(rows)
        return {name: value.reshape(1, -1) for name, value in batch.items()}

    trainer.data_collator = packed
    with pytest.raises(SteeringError, match="packed"), steered_training(trainer, pushes_of(work)):
        trainer.train()


def test_a_push_that_the_residuals_precision_swallows_is_an_error(work, tmp_path):
    weak = [Push(layer=1, vector=torch.full((HIDDEN,), 1e-7)) for _ in pushes_of(work)]
    trainer = trainer_of(work, tmp_path)
    with pytest.raises(SteeringError, match="swallows"), steered_training(trainer, weak):
        trainer.train()


@pytest.fixture
def recomputed(monkeypatch):
    """Blocks that are recomputed with all their hooks, as some libraries checkpoint them."""

    def call(block, *args, **given):
        whole = partial(nn.Module.__call__, block, **given)
        return checkpoint(whole, *args, use_reentrant=True) if block.training else whole(*args)

    monkeypatch.setattr(Qwen2DecoderLayer, "__call__", call)


def trained_with_inputs_that_require_gradients(work, place):
    trainer = trainer_of(work, place)
    trainer.model.enable_input_require_grads()
    return trainer


def test_a_recomputed_block_is_pushed_alike_and_not_counted(work, ours, tmp_path, recomputed):
    trainer = trained_with_inputs_that_require_gradients(work, tmp_path)
    with steered_training(trainer, pushes_of(work)) as steered:
        trainer.train()
    assert losses(trainer) == pytest.approx(ours, abs=1e-4)
    assert set(steered.audit().firings.values()) == {3}


def test_a_block_recomputed_for_an_earlier_pass_is_refused(work, tmp_path, recomputed):
    trainer = trained_with_inputs_that_require_gradients(work, tmp_path)
    inner = trainer.compute_loss

    def twice(model, inputs, **more):
        loss = inner(model, dict(inputs), **more)
        with torch.no_grad():
            inner(model, inputs, **more)
        return loss

    trainer.compute_loss = twice
    with (
        pytest.raises(SteeringError, match="routed since"),
        steered_training(trainer, pushes_of(work)),
    ):
        trainer.train()


def test_a_context_in_which_nothing_was_trained_is_an_error(work, tmp_path):
    with (
        pytest.raises(SteeringError, match="not called"),
        steered_training(trainer_of(work, tmp_path), pushes_of(work)),
    ):
        pass
