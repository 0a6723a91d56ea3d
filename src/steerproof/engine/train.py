"""Training many adapters in one step, each as if it were alone.

The loss is the sum over adapters of that adapter's own mean over the completion tokens of its step;
clipping, AdamW state, step count, learning rate and data order are per adapter. So an adapter's
whole trajectory is the one it would have alone, up to rounding. An adapter that has ended leaves, a
waiting one takes its slot, and one that is absent does not move.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import torch
from torch import nn

from steerproof.engine.batches import CAPTURED, MicroBatch, StepRows, micro_batches
from steerproof.engine.budget import (
    TokenBudget,
    adapters_at_once,
    check_pooling,
    drawn_ahead,
)
from steerproof.engine.checks import job_fault, steering_fault
from steerproof.engine.jobs import (
    AdapterJob,
    FailedAdapter,
    Pooling,
    Recipe,
    TrainedAdapter,
    TrainedPush,
)
from steerproof.engine.lora.gradients import LoraGradients
from steerproof.engine.lora.pool import LoraPool
from steerproof.engine.lora.tiles import TiledGradients
from steerproof.engine.lora.weights import fresh_adapters
from steerproof.engine.packed_attention import packs
from steerproof.engine.packing import PackedRows, packed_batches
from steerproof.engine.passes import Passes, capturing
from steerproof.engine.resident import Resident, used_pushes
from steerproof.engine.threads import worthwhile_threads
from steerproof.errors import SteerproofError
from steerproof.model.base import Base
from steerproof.model.steering import Steering

StepReport = Callable[[str, int, int, float], None]
"""Called with (adapter key, steps done, steps in all, loss)."""
_Ended = TrainedAdapter | FailedAdapter


def train(
    base: Base,
    jobs: Sequence[AdapterJob],
    recipe: Recipe,
    pooling: Pooling | None = None,
    on_step: StepReport | None = None,
) -> Iterator[TrainedAdapter | FailedAdapter]:
    """Train all adapters, many at a time, and yield each when it is done.

    While the consumer has an adapter in hand nothing is attached to the base, so it may be used.

    Args:
        base: The frozen model.
        jobs: What to train, in order of admission; each example with its push.
        recipe: The same for all.
        pooling: How to pack the work.
        on_step: Called after every step of every adapter.

    Yields:
        Each adapter as it ends, those that cannot be trained first: a row is too long, or has no
        completion; an adapter has no row; a direction cannot be added.

    Raises:
        ModelError: The pooling makes no sense, or the model cannot carry adapters.
    """
    packed = pooling or Pooling()
    check_pooling(packed)
    faults = {job.key: job_fault(base, job, recipe) for job in jobs}
    yield from (FailedAdapter(key=key, error=error) for key, error in faults.items() if error)
    sound = [job for job in jobs if faults[job.key] is None]
    if not sound:
        return
    pool = _Pool(base, sound, recipe, packed)
    while pool.admit():
        ended: list[_Ended] = []
        with pool.attached():
            while not ended:
                ended = pool.step(on_step)
        yield from ended


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """A step of some residents, ready to be computed."""

    due: list[tuple[int, int]]
    """Slot and step of each."""
    steps: list[StepRows]
    batches: list[MicroBatch | PackedRows]


class _Pool:
    """The adapters in training, those that wait, and what computes their gradients."""

    def __init__(
        self, base: Base, jobs: Sequence[AdapterJob], recipe: Recipe, pooling: Pooling
    ) -> None:
        self.recipe, self.pooling = recipe, pooling
        self.residents: list[Resident] = []
        # Every adapter has steering slots of its own, so that the audit tells adapters apart.
        pairs = [(job.key, push) for job in jobs for push in used_pushes(job)]
        self._own = {pair: slot for slot, pair in enumerate(pairs, start=1)}
        pushes = [push for _, push in pairs]
        steering = Steering(base.blocks, pushes, device=base.device, dtype=base.dtype)
        master = torch.float64 if base.dtype == torch.float64 else torch.float32
        slots = adapters_at_once(base, recipe.lora, pooling, len(jobs))
        lora = LoraPool(base, slots=slots, spec=recipe.lora, dtype=master)
        seeds, ahead = [job.seed for job in jobs], drawn_ahead(base, recipe.lora, slots)
        fresh = fresh_adapters(lora.sites, recipe.lora, seeds, ahead=ahead)
        self.waiting = zip(jobs, fresh, strict=True)
        """Each with its first weights."""
        self._longest = max(example.length for job in jobs for example in job.examples)
        gradients = TiledGradients(lora) if packs(base) else LoraGradients(lora)
        captures = capturing(base, checkpointing=pooling.checkpointing)
        self.passes = Passes(gradients, steering, dropout=recipe.dropout, captures=captures)
        self.free = list(range(1, slots + 1))
        self._ahead = _Made(due=[], steps=[], batches=[])
        self._budget = TokenBudget(base, pooling, twice=captures)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Adapters, directions and the choice of completion positions, on the base."""
        base = self.passes.gradients.pool.base
        with (
            worthwhile_threads(base),
            self.passes.attached(checkpointing=self.pooling.checkpointing),
        ):
            yield

    def admit(self) -> bool:
        """Give free slots to waiting jobs; whether there is anything to train."""
        recipe, gradients = self.recipe, self.passes.gradients
        lora = gradients.pool
        for job, weights in islice(self.waiting, len(self.free)):
            slot = self.free.pop(0)
            lora.load(slot, weights)
            parameters = [nn.Parameter(share[slot - 1]) for share in lora.shares]
            for parameter, grads in zip(parameters, gradients.grads, strict=True):
                parameter.grad = grads[slot - 1]
            own = {push: self._own[job.key, push] for push in used_pushes(job)}
            resident = Resident.admitted(job, slot, recipe, parameters, own)
            resident.room = lora.room()
            self.residents.append(resident)
        self.residents.sort(key=lambda resident: resident.slot)
        gradients.refresh()
        return bool(self.residents)

    def step(self, report: StepReport | None) -> list[_Ended]:
        """One step of every resident; returns those that ended."""
        started = time.perf_counter()
        if self._budget.open:
            self._measure([resident.rows(resident.step) for resident in self.residents])
        due = [(resident.slot, resident.step) for resident in self.residents]
        ready = self._ahead if self._ahead.due == due else self._made(due)
        steps = ready.steps
        self._clear()
        for batch in ready.batches:
            self.passes.run(batch)
            for resident in self.residents:
                resident.seen.firings += resident.slot in batch.steered
        faults = self._learn(report)
        self._share_time(steps, time.perf_counter() - started)
        ended = [r for r in self.residents if r.slot in faults or r.has_ended]
        return [self._finish(resident, faults.get(resident.slot)) for resident in ended]

    def _made(self, due: list[tuple[int, int]]) -> "_Made":
        """The rows of some residents' steps, in batches."""
        residents = {resident.slot: resident for resident in self.residents}
        steps = [residents[slot].rows(step) for slot, step in due]
        return _Made(due=due, steps=steps, batches=list(self._batches(steps)) if due else [])

    def _learn(self, report: StepReport | None) -> dict[int, SteerproofError]:
        """Apply every adapter's gradient; returns what went wrong, by slot.

        The host waits for the GPU once, when all is given to it and the next step lies ready: only
        then are losses and norms read. What an adapter learned from one that is not finite is
        never used.
        """
        limit, losses = self.recipe.max_grad_norm, self.passes.losses
        norms = []
        for r in self.residents:
            norms.append(nn.utils.clip_grad_norm_(r.parameters, limit).to(losses.device))
            r.learn(self.recipe)
        reached = torch.stack([losses[r.slot] for r in self.residents] + norms)
        self.passes.gradients.refresh()
        going_on = (r for r in self.residents if r.step + 1 < len(r.plan))
        self._ahead = self._made([(r.slot, r.step + 1) for r in going_on])
        count, values = len(self.residents), reached.tolist()
        faults = {}
        for r, loss, norm in zip(self.residents, values[:count], values[count:], strict=True):
            fault = r.learned(loss, norm, self.recipe)
            if fault is not None:
                faults[r.slot] = fault
            elif report is not None:
                report(r.job.key, r.step, len(r.plan), loss)
        return faults

    def _measure(self, steps: Sequence[StepRows]) -> None:
        """See how much memory a pass takes; what it learned is thrown away."""
        first = next(self._batches(steps))
        with self._budget.measured(first.ids.numel()), self.passes.steering.replaying():
            self.passes.run(first, plainly=True)
        self._clear()

    def _batches(self, steps: Sequence[StepRows]) -> Iterator[MicroBatch | PackedRows]:
        budget, pad_id = self._budget, self.passes.gradients.pool.base.pad_id
        if isinstance(self.passes.gradients, TiledGradients):
            return packed_batches(
                steps, budget.tokens, pad_id, longest=self._longest, rounded=self.passes.captures
            )
        rounding = CAPTURED if self.passes.captures else None
        return micro_batches(steps, budget.tokens, pad_id, budget.start_cost, rounding)

    def _clear(self) -> None:
        for grads in self.passes.gradients.grads:
            grads.zero_()
        self.passes.losses.zero_()

    def _finish(self, resident: Resident, error: SteerproofError | None) -> _Ended:
        self.residents.remove(resident)
        self.free = sorted([*self.free, resident.slot])
        slots = self.passes.steering.audit().slots
        audits = tuple(
            TrainedPush(push=push, measured=slots[self._own[resident.job.key, push] - 1])
            for push in used_pushes(resident.job)
        )
        error = error or steering_fault(resident.job.key, resident.pushed, audits)
        if error is not None:
            return FailedAdapter(key=resident.job.key, error=error)
        weights = self.passes.gradients.pool.read(resident.slot, resident.room)
        return resident.result(weights, audits)

    def _share_time(self, steps: Sequence[StepRows], seconds: float) -> None:
        tokens = {step.slot: sum(e.length for e in step.examples) for step in steps}
        for resident in self.residents:
            resident.seen.seconds += seconds * tokens[resident.slot] / sum(tokens.values())
