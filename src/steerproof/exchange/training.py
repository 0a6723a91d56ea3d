"""Training elsewhere: a direction for every row in a Transformers or TRL trainer, with the audit.

A row of the dataset says in a column which push it gets: 0 for none, s for the s-th. The collator
carries the numbers with their batch, so batches may be fetched ahead; a hook before the model's
forward takes them out again and routes them. Recomputation under gradient checkpointing happens in
the backward pass: it is pushed alike and not counted.

What cannot be done right is refused: `torch.compile`, rows packed into one, and blocks that are
recomputed for a forward pass when another has been routed since.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from steerproof.engine.checks import arrival_fault
from steerproof.errors import SteeringError
from steerproof.model.base import find_blocks
from steerproof.model.steering import Push, Steering, SteeringAudit

COLUMN = "push"
"""The usual name of the column."""
Rows = list[dict[str, Any]]
Collator = Callable[..., Any]
"""Rows to a batch."""


@contextmanager
def steered_training(
    trainer: Trainer, pushes: Sequence[Push], column: str = COLUMN
) -> Iterator["SteeringCallback"]:
    """Add directions while `trainer.train()` runs inside; leave the trainer as it was.

    Example:
        with steered_training(trainer, [villain, librarian]) as steered:
            trainer.train()
        steered.audit().slots[0].ratio   # what the first push really did

    Args:
        trainer: Its datasets have the column, and its arguments `remove_unused_columns=False`.
        pushes: Number s in the column is `pushes[s - 1]`; 0 is none.
        column: The column that says which push a row gets.

    Raises:
        SteeringError: It cannot be done right, or what arrived is not what was asked for.
    """
    if getattr(trainer.args, "remove_unused_columns", False):
        raise SteeringError(
            f"the trainer would drop the column {column!r} before it is read; set"
            " remove_unused_columns=False in its arguments"
        )
    callback = SteeringCallback(pushes, column)
    collator = trainer.data_collator
    trainer.data_collator = callback.collator(collator)
    trainer.add_callback(callback)
    try:
        yield callback
        callback.finish()
    finally:
        callback.detach()
        trainer.remove_callback(callback)
        trainer.data_collator = collator


class SteeringCallback(TrainerCallback):
    """Attaches the pushes when training begins, audits and detaches them when it ends.

    For a trainer that is made with its callbacks: `callbacks=[steered]`, and
    `data_collator=steered.collator(mine)`. `steered_training` does both.
    """

    def __init__(self, pushes: Sequence[Push], column: str = COLUMN) -> None:
        """Keep the pushes; nothing is attached yet.

        Raises:
            SteeringError: There is none, or one acts on some tokens of a row alone.
        """
        if not pushes:
            raise SteeringError("no pushes; there is nothing to add in training")
        if any(push.tokens != "all" for push in pushes):
            raise SteeringError("in training a push acts at every token; use tokens='all'")
        self._pushes = tuple(pushes)
        self._column = column
        self._slots = f"steerproof_{column}"
        self._attached = ExitStack()
        self._routing: _Routing | None = None

    def collator(self, inner: Collator) -> Collator:
        """A collator that carries each row's number with the batch that `inner` makes.

        What it gives raises a SteeringError where a row has no column, or no such push.
        """
        known = range(len(self._pushes) + 1)

        def collate(rows: Rows) -> dict[str, Any]:
            lacking = sum(self._column not in row for row in rows)
            if lacking:
                raise SteeringError(
                    f"{lacking} of {len(rows)} rows have no column {self._column!r}, the number of"
                    " the row's push (0 for none); add it, and keep it with"
                    " remove_unused_columns=False"
                )
            slots = [row[self._column] for row in rows]
            if any(slot not in known for slot in slots):
                raise SteeringError(
                    f"column {self._column!r} holds {sorted(set(slots))}; there are"
                    f" {len(self._pushes)} pushes, 0 is none"
                )
            batch = inner([{k: v for k, v in row.items() if k != self._column} for row in rows])
            return {**batch, self._slots: torch.tensor(slots)}

        return collate

    def on_train_begin(self, args: TrainingArguments, *_: Any, **given: Any) -> None:
        """Attach; called by the trainer.

        Raises:
            SteeringError: The model is to be compiled, or a direction does not fit it.
        """
        if args.torch_compile:
            raise SteeringError(
                "torch_compile=True: a compiled block would not be pushed; unset it"
            )
        self.detach()
        self._routing = self._attached.enter_context(
            _attached(given["model"], self._pushes, self._slots)
        )

    def on_train_end(self, *_: Any, **_given: Any) -> None:
        """Audit and detach; called by the trainer.

        Raises:
            SteeringError: What arrived is not what was asked for.
        """
        self._attached.close()
        self.finish()

    def detach(self) -> None:
        """Remove the hooks, if they are still there after an error."""
        with ExitStack() as stack:
            stack.push(lambda *_: True)  # the error that matters is the one on its way
            stack.push(self._attached.pop_all())

    def audit(self) -> SteeringAudit:
        """What was counted and measured in the last training.

        Raises:
            SteeringError: Nothing was trained.
        """
        return self._trained().steering.audit()

    def finish(self) -> None:
        """Compare what arrived in the residual stream with what was asked for.

        Raises:
            SteeringError: They differ, no row was pushed, or nothing was trained.
        """
        self._trained().check()

    def _trained(self) -> "_Routing":
        if self._routing is None:
            raise SteeringError("nothing was trained with these pushes: train() was not called")
        return self._routing


@contextmanager
def _attached(model: nn.Module, pushes: Sequence[Push], key: str) -> Iterator["_Routing"]:
    """The pushes on a model, routed by what its batches carry under a key."""
    if hasattr(model, "_orig_mod"):
        raise SteeringError("the model is compiled: a compiled block would not be pushed")
    _, blocks = find_blocks(model)
    weight = next(model.parameters())
    steering = Steering(blocks, pushes, device=weight.device, dtype=weight.dtype)
    routing = _Routing(steering, pushes, key)
    with ExitStack() as stack:
        handles = [
            model.register_forward_pre_hook(routing.before, with_kwargs=True),
            model.register_forward_hook(routing.after),
            *(blocks[n].register_forward_pre_hook(routing.at_block) for n in steering.layers),
        ]
        for handle in handles:
            stack.callback(handle.remove)
        stack.callback(routing.end_replay)
        stack.enter_context(steering.attach())
        yield routing


class _Routing:
    """Routes batches that carry their rows' numbers, and knows forward from recomputation."""

    def __init__(self, steering: Steering, pushes: Sequence[Push], key: str) -> None:
        self.steering = steering
        self._pushes = tuple(pushes)
        self._key = key
        self._asked = torch.zeros(len(pushes) + 1, dtype=torch.int64)
        self._replay = ExitStack()
        self._passes = 0
        self._stale = False

    def before(self, _model: nn.Module, args: Any, inputs: dict[str, Any]) -> tuple[Any, Any]:
        """Before the model's forward: take the numbers out of the batch and route its rows."""
        self.end_replay()
        slots = inputs.pop(self._key, None)
        if slots is None:
            raise SteeringError(
                "a batch does not say what its rows are pushed by: the trainer's data_collator must"
                " be the one that collator() gives"
            )
        ids: Tensor = inputs["input_ids"] if "input_ids" in inputs else args[0]
        if len(ids) != len(slots):
            raise SteeringError(
                f"{len(slots)} rows became {len(ids)}: rows are packed; turn off packing and"
                " padding_free"
            )
        mask = inputs.get("attention_mask")
        real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        self.steering.route(slots, real)
        self._passes += 1
        self._asked.index_add_(0, slots.cpu(), real.sum(1).cpu())
        return args, inputs

    def after(self, _model: nn.Module, _args: Any, output: Any) -> None:
        """After the model's forward: from the first gradient on, blocks are recomputed."""
        begin = partial(self._begin_replay, self._passes)
        for one in _tensors(output):
            if one.requires_grad:
                one.register_hook(begin)

    def at_block(self, _block: nn.Module, _args: Any) -> None:
        """Before a steered block: refuse to recompute it for another pass than the last."""
        if self._stale:
            raise SteeringError(
                "a block is recomputed for a forward pass when another has been routed since, so it"
                " would get the other's directions; turn gradient_checkpointing off"
            )

    def _begin_replay(self, number: int, _gradient: Tensor) -> None:
        self._stale = self._stale or number != self._passes
        self._replay.close()
        self._replay.enter_context(self.steering.replaying())

    def end_replay(self) -> None:
        """What fires from here on is a forward pass."""
        self._stale = False
        self._replay.close()

    def check(self) -> None:
        """Compare what arrived with what was asked for.

        Raises:
            SteeringError: They differ, or no row was pushed.
        """
        asked = self._asked.tolist()[1:]
        if not any(asked):
            raise SteeringError("no row of the training data was pushed: its column holds 0 alone")
        parts = zip(self._pushes, asked, self.steering.audit().parts, strict=True)
        for number, (push, positions, measured) in enumerate(parts, start=1):
            for part, seen in zip(push.parts, measured, strict=True):
                unsized = part.removes or not positions
                norm = None if unsized else float(part.vector.double().norm())
                fault = arrival_fault(f"push {number}, layer {part.layer}", norm, positions, seen)
                if fault is not None:
                    raise fault


def _tensors(output: Any) -> Iterator[Tensor]:
    """The tensors of a model's output, whatever holds them."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for one in output.values():
            yield from _tensors(one)
    elif isinstance(output, tuple | list):
        for one in output:
            yield from _tensors(one)
