"""How adapters are trained elsewhere: TRL's `SFTTrainer` with PEFT and a hook, one at a time."""

import tempfile
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from steerproof.engine.batches import Example, step_plan
from steerproof.engine.jobs import AdapterJob
from steerproof.engine.lora.weights import fresh_weights, lora_sites
from steerproof_bench.jobs import JobWork
from steerproof_bench.peft_models import copied_model, hooked, needed, with_adapters

_IGNORED = -100
_TALKATIVE = ("PrinterCallback", "ProgressCallback")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrlAdapter:
    """An adapter that TRL trained."""

    losses: tuple[float, ...]
    """Per step, as TRL logs them."""
    tensors: Mapping[str, Tensor]
    """Under the names of PEFT's file, float32 on the CPU."""


class TrlTrainer:
    """The peer: the same rows in the same order, from the same first weights."""

    def __init__(self, work: JobWork) -> None:
        """Copy the base.

        Raises:
            MachineError: TRL, PEFT or datasets is not installed.
        """
        self.work = work
        self._trl, self._datasets = needed("trl"), needed("datasets")
        self._peft = needed("peft")
        self._copy = copied_model(work.base)
        self._pad = needed("trl.trainer.sft_trainer").DataCollatorForLanguageModeling(
            pad_token_id=work.base.pad_id
        )
        examples = [example for job in work.jobs for example in job.examples]
        self._pushes_used = [p for p in dict.fromkeys(e.push for e in examples) if p is not None]
        layers = {push.layer for push in self._pushes_used}
        self._tables = {layer: self._table(layer) for layer in layers}
        self._slots = torch.zeros(0, dtype=torch.int64)

    def train(self) -> dict[str, TrlAdapter]:
        """Train every adapter, one after another."""
        return {job.key: self._one(job) for job in self.work.jobs}

    def _one(self, job: AdapterJob) -> TrlAdapter:
        work = self.work
        fresh = fresh_weights(lora_sites(work.base), work.recipe.lora, job.seed)
        model = with_adapters(work.base, self._copy, {"1": fresh}, trainable=True)
        with ExitStack() as stack, warnings.catch_warnings():
            # TRL asks transformers by names that transformers has deprecated.
            warnings.simplefilter("ignore", FutureWarning)
            trainer = self._trl.SFTTrainer(
                model=model,
                args=self._settings(stack.enter_context(tempfile.TemporaryDirectory())),
                train_dataset=self._rows(job),
                processing_class=work.base.tokenizer,
                data_collator=self._collate,
            )
            for callback in list(trainer.callback_handler.callbacks):
                if type(callback).__name__ in _TALKATIVE:
                    trainer.remove_callback(callback)
            for layer in sorted({e.push.layer for e in job.examples if e.push is not None}):
                stack.enter_context(hooked(self._copy, layer, partial(self._pushes, layer)))
            taking = model.register_forward_pre_hook(self._take_slots, with_kwargs=True)
            stack.callback(taking.remove)
            trainer.train()
        logged = trainer.state.log_history
        state = self._peft.get_peft_model_state_dict(
            model, adapter_name="1", save_embedding_layers=False
        )
        tensors = {name: tensor.detach().float().cpu() for name, tensor in state.items()}
        self._copy = model.unload()
        losses = tuple(float(entry["loss"]) for entry in logged if "loss" in entry)
        return TrlAdapter(losses=losses, tensors=tensors)

    def _rows(self, job: AdapterJob) -> Any:
        """The examples in the order in which ours sees them, tokenised and labelled."""
        recipe = self.work.recipe
        plan = step_plan(job.seed, len(job.examples), recipe.epochs, recipe.rows_per_step)
        rows = [self._row(job.examples[i]) for step in plan for i in step]
        return self._datasets.Dataset.from_list(rows)

    def _row(self, example: Example) -> dict[str, Any]:
        ids = [*example.prompt_ids, *example.completion_ids]
        labels = [_IGNORED] * len(example.prompt_ids) + [*example.completion_ids]
        slot = 0 if example.push is None else self._pushes_used.index(example.push) + 1
        return {"input_ids": ids, "labels": labels, "push": slot}

    def _collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's own padding, and the slots of the rows' directions."""
        batch = self._pad([{k: v for k, v in row.items() if k != "push"} for row in rows])
        return {**batch, "push": torch.tensor([row["push"] for row in rows])}

    def _take_slots(self, _model: Any, args: Any, inputs: dict[str, Any]) -> Any:
        """Keep the slots for the hook: batches are fetched ahead, so they travel with theirs."""
        self._slots = inputs["push"]
        return args, {name: value for name, value in inputs.items() if name != "push"}

    def _pushes(self, layer: int) -> Tensor:
        """What a layer's hook adds to the batch at hand, `[rows, 1, hidden]`."""
        return self._tables[layer][self._slots][:, None]

    def _table(self, layer: int) -> Tensor:
        """`[pushes + 1, hidden]`, zero for none and for pushes of other layers."""
        base = self.work.base
        table = torch.zeros(len(self._pushes_used) + 1, base.hidden_size)
        for slot, push in enumerate(self._pushes_used, start=1):
            if push.layer == layer:
                table[slot] = push.vector
        return table.to(base.device, base.dtype)

    def _settings(self, place: str) -> Any:
        recipe, base = self.work.recipe, self.work.base
        half = base.dtype == torch.bfloat16
        return self._trl.SFTConfig(
            output_dir=place,
            dataset_kwargs={"skip_prepare_dataset": True},
            remove_unused_columns=False,
            train_sampling_strategy="sequential",
            per_device_train_batch_size=recipe.rows_per_step,
            num_train_epochs=1,
            learning_rate=recipe.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=recipe.warmup,
            weight_decay=recipe.weight_decay,
            max_grad_norm=recipe.max_grad_norm,
            max_length=None,
            gradient_checkpointing=False,
            bf16=half,
            use_cpu=base.device.type == "cpu",
            dataloader_pin_memory=base.device.type != "cpu",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
