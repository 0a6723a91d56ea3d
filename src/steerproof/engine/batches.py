"""What is in a training step: order of the examples, learning rate, micro-batches of equal groups.

An adapter's order, steps and learning rates follow from its own seed and its own examples, so they
do not depend on which adapters it is trained with.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steerproof.model.steering import Push
from steerproof.spec.seeds import derived_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One training row."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    """What is learned, the end of turn included."""
    push: Push | None = None
    """None for none. Examples share a push when they have the same object."""

    @property
    def length(self) -> int:
        """Tokens of the whole row."""
        return len(self.prompt_ids) + len(self.completion_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRows:
    """The rows of one adapter in one of its steps."""

    slot: int
    """The adapter's slot in the pool."""
    rows: tuple[int, ...]
    """Indices of its examples."""
    examples: tuple[Example, ...]
    push_slots: tuple[int, ...]
    """Steering slot of each row."""
    dropout_keys: tuple[int, ...]

    @property
    def completion_tokens(self) -> int:
        """What the step's loss is averaged over."""
        return sum(len(example.completion_ids) for example in self.examples)


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """Rows of several adapters, as many of each, right-padded.

    With right padding and a causal model no real token ever sees a pad, so no attention mask is
    needed.
    """

    ids: Int[Tensor, "row seq"]
    mask: Bool[Tensor, "row seq"]
    adapter_slots: Int[Tensor, "row"]
    push_slots: Int[Tensor, "row"]
    dropout_keys: Int[Tensor, "row"]
    predicting: Int[Tensor, "completion"]
    """Where completion tokens are predicted, as indices into the flattened rows."""
    targets: Int[Tensor, "completion"]
    weights: Float[Tensor, "completion"]
    """1 / completion tokens of the adapter's whole step."""
    owners: Int[Tensor, "completion"]
    """Adapter slot of each completion token."""

    @property
    def steered(self) -> frozenset[int]:
        """Slots of the adapters one of whose rows is pushed."""
        return frozenset(self.adapter_slots[self.push_slots > 0].tolist())


def _epoch_orders(seed: int, examples: int, epochs: int) -> Iterator[list[int]]:
    """The order of the examples in each epoch, from the adapter's seed."""
    for epoch in range(epochs):
        generator = torch.Generator().manual_seed(derived_seed("order", seed, epoch))
        yield torch.randperm(examples, generator=generator).tolist()


def step_plan(seed: int, examples: int, epochs: int, rows_per_step: int) -> list[tuple[int, ...]]:
    """Example indices of every step; the last step of an epoch takes what is left."""
    return [
        tuple(order[i : i + rows_per_step])
        for order in _epoch_orders(seed, examples, epochs)
        for i in range(0, examples, rows_per_step)
    ]


def cosine_rate(step: int, total: int, warmup_share: float) -> float:
    """Share of the full learning rate at a 0-based step: linear warm-up, then half a cosine.

    The warm-up takes `ceil(total * warmup_share)` steps and starts from 0, as in transformers'
    `get_cosine_schedule_with_warmup`.
    """
    warmup = math.ceil(total * warmup_share)
    if step < warmup:
        return step / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """How micro-batches are padded so that few shapes occur."""

    width: int
    """Rows are as long as a multiple of this."""
    parts: int
    """Completion tokens are as many as a multiple of the tokens over this."""


CAPTURED = Rounding(width=32, parts=8)
"""Where every shape is captured as a graph: 5% more tokens, some twenty shapes."""


def micro_batches(
    steps: Sequence[StepRows],
    tokens: int,
    pad_id: int,
    start_cost: int = 0,
    rounding: Rounding | None = None,
) -> Iterator[MicroBatch]:
    """Cut the adapters' steps into micro-batches of at most `tokens` tokens, padding included.

    Adapters in neighbouring slots whose steps have as many rows ride together. Each brings its
    shortest rows first, so rows of like length share a micro-batch. A row longer than `tokens`
    still goes, alone. `start_cost` is what another micro-batch costs beside padding, in tokens.
    With `rounding` an adapter's rows are cut evenly and shapes are rounded up.
    """
    ordered = [_by_length(step) for step in sorted(steps, key=lambda step: step.slot)]
    for group in _neighbours(ordered, tokens):
        if rounding is None:
            for start, stop in _cuts(group, tokens, start_cost):
                yield _micro_batch(group, start, stop, pad_id)
            continue
        for start, stop in _even_cuts(group, tokens):
            yield _micro_batch(group, start, stop, pad_id, rounding)


def _neighbours(steps: Sequence[StepRows], tokens: int) -> Iterator[list[StepRows]]:
    """Runs of adapters in neighbouring slots, with as many rows, that fit one row of each."""
    group: list[StepRows] = []
    for step in steps:
        longest = max(s.examples[-1].length for s in [*group, step])
        joins = group and step.slot == group[-1].slot + 1 and len(step.rows) == len(group[0].rows)
        if group and not (joins and (len(group) + 1) * longest <= tokens):
            yield group
            group = []
        group.append(step)
    if group:
        yield group


def _by_length(step: StepRows) -> StepRows:
    order = sorted(range(len(step.rows)), key=lambda i: (step.examples[i].length, i))
    return StepRows(
        slot=step.slot,
        rows=tuple(step.rows[i] for i in order),
        examples=tuple(step.examples[i] for i in order),
        push_slots=tuple(step.push_slots[i] for i in order),
        dropout_keys=tuple(step.dropout_keys[i] for i in order),
    )


def _cuts(group: Sequence[StepRows], tokens: int, start_cost: int) -> list[tuple[int, int]]:
    """Ranges of row ranks, each within `tokens`, that cost least: padding, and starting a batch."""
    widths = [max(step.examples[i].length for step in group) for i in range(len(group[0].rows))]
    best: list[tuple[int, list[tuple[int, int]]]] = [(0, [])]
    for stop in range(1, len(widths) + 1):
        choices = []
        for start in range(stop - 1, -1, -1):
            size = (stop - start) * widths[stop - 1] * len(group)
            if size > tokens and start < stop - 1:
                break
            cost, cuts = best[start]
            choices.append((cost + size + start_cost, [*cuts, (start, stop)]))
        best.append(min(choices, key=lambda choice: choice[0]))
    return best[-1][1]


def _even_cuts(group: Sequence[StepRows], tokens: int) -> list[tuple[int, int]]:
    """Ranges of as many row ranks each, as few as fit `tokens`; the last may be shorter."""
    ranks = len(group[0].rows)
    longest = max(step.examples[-1].length for step in group)
    each = max(1, min(ranks, tokens // (longest * len(group))))
    each = -(-ranks // -(-ranks // each))
    return [(start, min(ranks, start + each)) for start in range(0, ranks, each)]


def rounded_up(number: int, multiple: int) -> int:
    """The smallest multiple that is no less."""
    return -(-number // multiple) * multiple


def _micro_batch(
    group: Sequence[StepRows],
    start: int,
    stop: int,
    pad_id: int,
    rounding: Rounding | None = None,
) -> MicroBatch:
    rows = [(step, i) for step in group for i in range(start, stop)]
    width = max(step.examples[i].length for step, i in rows)
    if rounding is not None:
        width = rounded_up(width, rounding.width)
    ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    lengths = np.empty(len(rows), dtype=np.int64)
    predicting, targets, weights, owners = [], [], [], []
    for place, (step, i) in enumerate(rows):
        example = step.examples[i]
        prompt, length = len(example.prompt_ids), example.length
        ids[place, :length] = example.prompt_ids + example.completion_ids
        lengths[place] = length
        predicting.append(np.arange(prompt - 1, length - 1) + place * width)
        targets.append(ids[place, prompt:length])
        weights.append(np.full(length - prompt, 1.0 / step.completion_tokens))
        owners.append(np.full(length - prompt, step.slot))
    if rounding is not None:  # What is added weighs nothing, and is nobody's.
        count = sum(map(len, targets))
        lacking = rounded_up(count, len(rows) * width // rounding.parts) - count
        for parts in (predicting, targets, owners):
            parts.append(np.zeros(lacking, dtype=np.int64))
        weights.append(np.zeros(lacking))
    return MicroBatch(
        ids=torch.from_numpy(ids),
        mask=torch.from_numpy(np.arange(width) < lengths[:, None]),
        adapter_slots=torch.tensor([step.slot for step, _ in rows]),
        push_slots=torch.tensor([step.push_slots[i] for step, i in rows]),
        dropout_keys=torch.tensor([step.dropout_keys[i] for step, i in rows]),
        predicting=torch.from_numpy(np.concatenate(predicting)),
        targets=torch.from_numpy(np.concatenate(targets)),
        weights=torch.from_numpy(np.concatenate(weights)),
        owners=torch.from_numpy(np.concatenate(owners)),
    )
