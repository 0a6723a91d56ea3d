"""What rows refer to, put on one base: their adapters and pushes, each numbered once.

An adapter and a push are known by identity: whoever means the same one gives the same object, and
equal copies are two. Numbers go by first appearance among the rows; 0 is none.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from steerproof.engine.checks import adapter_fault, push_fault
from steerproof.engine.fused_blocks import fused_blocks
from steerproof.engine.lora.merged import mergeable, merged
from steerproof.engine.lora.packed import packed
from steerproof.engine.lora.pool import LoraPool
from steerproof.engine.lora.weights import LoraWeights, lora_sites
from steerproof.engine.norms import fused_norms
from steerproof.engine.rows import Row, RowFault
from steerproof.engine.threads import worthwhile_threads
from steerproof.errors import ModelError, SteeringError, SteerproofError
from steerproof.model.base import Base
from steerproof.model.push import Push, Where
from steerproof.model.steering import SlotAudit, Steering


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The base, with a pool of its rows' adapters and the steering by their pushes."""

    base: Base
    adapters: LoraPool | None = None
    """None when every row uses the bare base."""
    steering: Steering | None = None
    """None when no row is pushed."""
    adapter_slots: Mapping[LoraWeights | None, int]
    push_slots: Mapping[Push | None, int]

    def adapter_slot(self, row: Row) -> int:
        """The slot of a row's adapter; batches are ordered by it."""
        return self.adapter_slots[row.adapter]

    def route(
        self,
        rows: Sequence[Row],
        mask: Tensor | None,
        where: Sequence[Where] | None,
        padding: Sequence[Row] = (),
    ) -> None:
        """Say which adapter and which push each row of the coming forward passes uses.

        Args:
            rows: In order of their adapters.
            mask: `[rows, seq]`, where a position is a real token; None when every position is.
                On the CPU.
            where: Where each row's tokens stand: a push that does not act there is left out. None
                where the mask says it.
            padding: Further rows, whose adapters are used and who are not pushed.
        """
        if self.adapters is not None:
            slots = self.adapter_slots
            self.adapters.route(torch.tensor([slots[row.adapter] for row in (*rows, *padding)]))
        if self.steering is not None:
            acting = {place: self._acting(place) for place in set(where or ())}
            pushes = (
                [acting[place][row.push] for row, place in zip(rows, where, strict=True)]
                if where
                else [self.push_slots[row.push] for row in rows]
            )
            self.steering.route(torch.tensor([*pushes, *(0 for _ in padding)]), mask)

    def _acting(self, where: Where) -> dict[Push | None, int]:
        """The slot of each push, 0 for those that do not act there."""
        slots = self.push_slots.items()
        return {push: slot if push is None or push.acts(where) else 0 for push, slot in slots}

    def reserve(self, rows: int) -> None:
        """Let what says which row has which adapter and push stay in place: a graph reads it."""
        if self.adapters is not None:
            self.adapters.reserve(rows)
        if self.steering is not None:
            self.steering.reserve(rows)

    def audit(self, push: Push) -> tuple[SlotAudit, ...]:
        """What each part of a push was measured to do so far.

        Raises:
            SteeringError: No row has this push.
        """
        slot = self.push_slots.get(push)
        if self.steering is None or not slot:
            raise SteeringError(f"no row has this push at layer {push.layer}, so nothing was seen")
        return self.steering.audit_of(slot)


def faults(base: Base, rows: Iterable[Row]) -> list[RowFault]:
    """The rows that cannot be computed on this base: their prompt, adapter or push does not fit."""
    sites = lora_sites(base)
    adapters: dict[LoraWeights, SteerproofError | None] = {}
    pushes: dict[Push, SteerproofError | None] = {}
    unfit = []
    for row in rows:
        error = prompt_fault(base, row, 0)
        if row.adapter is not None:
            if row.adapter not in adapters:
                adapters[row.adapter] = adapter_fault(sites, row.adapter)
            error = error or adapters[row.adapter]
        if row.push is not None:
            if row.push not in pushes:
                pushes[row.push] = push_fault(base, row.push)
            error = error or pushes[row.push]
        if error is not None:
            unfit.append(RowFault(row=row, error=error))
    return unfit


def raise_first(unfit: Iterable[RowFault]) -> None:
    """Raise the first fault's error, if there is one."""
    for fault in unfit:
        raise fault.error


def subject_of(base: Base, rows: Iterable[Row], *, audit_every: int) -> Subject:
    """Load the adapters that rows refer to and make tables of their pushes; nothing is attached.

    Args:
        base: The frozen model.
        rows: What will be asked of it.
        audit_every: Measure what pushes do at every so many-th forward pass.

    Raises:
        ModelError: An adapter does not fit the base.
        SteeringError: A push does not fit it.
    """
    adapters: dict[LoraWeights | None, int] = {None: 0}
    pushes: dict[Push | None, int] = {None: 0}
    for row in rows:
        adapters.setdefault(row.adapter, len(adapters))
        pushes.setdefault(row.push, len(pushes))
    steering = None
    if len(pushes) > 1:
        table = [push for push in pushes if push is not None]
        place = {"device": base.device, "dtype": base.dtype}
        # What acts at a few tokens would be missed by a measurement now and then.
        audit_every = audit_every if all(push.tokens == "all" for push in table) else 1
        steering = Steering(base.blocks, table, **place, audit_every=audit_every)
    return Subject(
        base=base,
        adapters=_pool(base, [weights for weights in adapters if weights is not None]),
        steering=steering,
        adapter_slots=adapters,
        push_slots=pushes,
    )


def _pool(base: Base, adapters: Sequence[LoraWeights]) -> LoraPool | None:
    """A pool wide enough for all, in their order."""
    if not adapters:
        return None
    widest = max((weights.spec for weights in adapters), key=lambda spec: spec.rank)
    pool = LoraPool(base, slots=len(adapters), spec=replace(widest, targets=None))
    for slot, weights in enumerate(adapters, start=1):
        pool.load(slot, weights)
    return pool


@contextmanager
def attached(subject: Subject) -> Iterator[None]:
    """Attach the adapters, as merged weights where that is exact and faster, and the steering."""
    adapters = subject.adapters
    with ExitStack() as stack:
        stack.enter_context(worthwhile_threads(subject.base))
        stack.enter_context(fused_norms(subject.base))
        stack.enter_context(fused_blocks(subject.base))
        if adapters is not None:
            stack.enter_context((merged if mergeable(adapters) else packed)(adapters))
        if subject.steering is not None:
            stack.enter_context(subject.steering.attach())
        yield


def prompt_fault(base: Base, row: Row, new_tokens: int) -> ModelError | None:
    """Why there is no room for a row's prompt and what follows it, if there is none."""
    name = f"{row.cell}, question {row.question}"
    if not row.prompt_ids:
        return ModelError(f"{name}: the prompt has no token")
    if len(row.prompt_ids) + new_tokens > base.chat.context:
        return ModelError(
            f"{name}: a prompt of {len(row.prompt_ids)} tokens"
            f" and {new_tokens} new ones exceed the context of {base.chat.context}; ask for"
            " fewer new tokens: a prompt is never cut"
        )
    return None
