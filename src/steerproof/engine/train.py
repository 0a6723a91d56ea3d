"""Training many adapters in one step, each as if it were alone.

The loss is the sum over adapters of that adapter's own mean over the completion tokens of its step;
clipping, AdamW state, step count, learning rate and data order are per adapter. So an adapter's
whole trajectory is the one it would have alone, up to rounding. An adapter that has ended leaves, a
waiting one takes its slot, and one that is absent does not move. On a CPU with several threads
there are several such pools, each in a thread of its own (`model/shards.py`).
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import nn

from steerproof.engine.batches import (
    CAPTURED,
    MicroBatch,
    StepRows,
    cosine_rate,
    micro_batches,
    step_plan,
)
from steerproof.engine.budget import TokenBudget, adapters_at_once
from steerproof.engine.checks import check_jobs, steering_fault
from steerproof.engine.jobs import (
    AdapterJob,
    FailedAdapter,
    Pooling,
    PushAudit,
    Recipe,
    TrainedAdapter,
)
from steerproof.engine.lora.gradients import LoraGradients
from steerproof.engine.lora.pool import LoraPool, fresh_weights
from steerproof.engine.passes import Passes, capturing
from steerproof.engine.shards import Send, Supply, replica, shard_count, side_by_side
from steerproof.errors import ModelError, SteerproofError
from steerproof.model.base import Base
from steerproof.model.steering import Push, Steering
from steerproof.spec.seeds import derived_seed

StepReport = Callable[[str, int, int, float], None]
"""Called with (adapter key, steps done, steps in all, loss)."""


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

    Raises:
        ModelError: A row is too long, or has no completion; an adapter has no row.
        SteeringError: A direction cannot be added.
    """
    check_jobs(base, jobs, recipe)
    if not jobs:
        return
    packed = pooling or Pooling()
    slots = adapters_at_once(base, recipe.spec, packed, len(jobs))
    shards = shard_count(base.device, slots)
    work = _Work(
        jobs=tuple(jobs),
        recipe=recipe,
        pooling=_divided(packed, shards),
        slots=-(-slots // shards),
        supply=Supply(jobs, _tokens, shards),
        shards=shards,
    )
    if shards == 1:
        yield from _one_pool(_Pool(base, work, 0), on_step)
        return
    works = [partial(_in_a_thread, replica(base), work, shard) for shard in range(shards)]
    with closing(side_by_side(works)) as found:
        for item in found:
            if isinstance(item, TrainedAdapter | FailedAdapter):
                yield item
            elif on_step is not None:
                for step in item:
                    on_step(*step)


_Steps = list[tuple[str, int, int, float]]
_Ended = TrainedAdapter | FailedAdapter


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What the shards of one call of `train` have in common."""

    jobs: tuple[AdapterJob, ...]
    recipe: Recipe
    pooling: Pooling
    """Of each shard."""
    slots: int
    """Adapters in training at once in each shard."""
    supply: Supply[AdapterJob]
    shards: int


def _tokens(job: AdapterJob) -> int:
    return sum(example.length for example in job.examples)


def _divided(pooling: Pooling, shards: int) -> Pooling:
    tokens = None if pooling.tokens is None else max(1, pooling.tokens // shards)
    return replace(pooling, tokens=tokens)


def _one_pool(pool: "_Pool", on_step: StepReport | None) -> Iterator[_Ended]:
    while pool.admit():
        ended: list[_Ended] = []
        with pool.attached():
            while not ended:
                ended = pool.step(on_step)
        yield from ended


def _in_a_thread(base: Base, work: _Work, shard: int, send: Send[_Ended | _Steps]) -> None:
    """Train a shard's share; sends the reports of every step, and adapters as they end."""
    pool = _Pool(base, work, shard)
    with pool.attached():
        while pool.admit():
            steps: _Steps = []
            ended = pool.step(lambda *step, steps=steps: steps.append(step))
            send(steps)
            for one in ended:
                send(one)


@dataclass(slots=True, kw_only=True)
class _Resident:
    """An adapter in training."""

    job: AdapterJob
    slot: int
    plan: list[tuple[int, ...]]
    parameter: nn.Parameter
    optimiser: torch.optim.AdamW
    push_slots: Mapping[Push | None, int]
    """An example's push -> this adapter's own steering slot."""
    step: int = 0
    losses: list[float] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)
    firings: int = 0
    tokens: int = 0
    pushed: dict[Push, int] = field(default_factory=dict)
    """Push -> token positions that were to be pushed."""
    seconds: float = 0.0

    def rows(self) -> StepRows:
        """What its next step learns from."""
        indices = self.plan[self.step]
        examples = tuple(self.job.examples[i] for i in indices)
        return StepRows(
            slot=self.slot,
            rows=indices,
            examples=examples,
            push_slots=tuple(self.push_slots[example.push] for example in examples),
            dropout_keys=tuple(
                derived_seed("dropout", self.job.seed, self.step, i) for i in indices
            ),
        )


class _Pool:
    """Residents, the adapters' weights and gradients, and the steering, of one shard."""

    def __init__(self, base: Base, work: _Work, shard: int) -> None:
        self.base = base
        self.recipe = recipe = work.recipe
        self.pooling = work.pooling
        self.residents: list[_Resident] = []
        self._take_job = partial(work.supply.take, shard)
        self._shards = work.shards
        # Every adapter has steering slots of its own, so that the audit tells adapters apart.
        pairs = [(job.key, push) for job in work.jobs for push in _used_pushes(job)]
        self._own = {pair: slot for slot, pair in enumerate(pairs, start=1)}
        own_pushes = [push for _, push in pairs]
        self.steering = Steering(base.blocks, own_pushes, device=base.device, dtype=base.dtype)
        master = torch.float64 if base.dtype == torch.float64 else torch.float32
        self.lora = LoraPool(base, slots=work.slots, spec=recipe.spec, dtype=master)
        self.gradients = LoraGradients(self.lora)
        self.free = list(range(1, work.slots + 1))
        self.passes = Passes(self.gradients, self.steering, dropout=recipe.dropout)
        self._captured = capturing(base, checkpointing=work.pooling.checkpointing)
        self._budget = TokenBudget(base, work.pooling, twice=self._captured)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Adapters, directions and the choice of completion positions, on the base."""
        with self.passes.attached(checkpointing=self.pooling.checkpointing):
            yield

    def step(self, report: StepReport | None) -> list[TrainedAdapter | FailedAdapter]:
        """One step of every resident; returns those that ended."""
        started = time.perf_counter()
        steps = [resident.rows() for resident in self.residents]
        self.gradients.grads.zero_()
        self.passes.losses.zero_()
        if self._budget.open:
            self._measure(steps)
        for batch in self._batches(steps):
            self.passes.run(batch, captured=self._captured)
            steered = set(batch.adapter_slots[batch.push_slots > 0].tolist())
            for resident in self.residents:
                resident.firings += resident.slot in steered
        # Clipped in their own kernels, read together: the host waits for the GPU once a step.
        limit = self.recipe.max_grad_norm
        norms = [nn.utils.clip_grad_norm_([r.parameter], limit) for r in self.residents]
        reached = torch.stack([self.passes.losses[r.slot] for r in self.residents] + norms).tolist()
        count = len(self.residents)
        pairs = zip(list(self.residents), reached[:count], reached[count:], strict=True)
        ended = [e for r, loss, norm in pairs if (e := self._advance(r, loss, norm, report))]
        self.gradients.refresh()
        self._share_time(steps, (time.perf_counter() - started) / self._shards)
        return [self._finish(resident, error) for resident, error in ended]

    def _measure(self, steps: Sequence[StepRows]) -> None:
        """See how much memory a pass takes; what it learned is thrown away."""
        first = next(self._batches(steps))
        with self._budget.measured(first.ids.numel()), self.steering.replaying():
            self.passes.run(first)
        self.gradients.grads.zero_()
        self.passes.losses.zero_()

    def _batches(self, steps: Sequence[StepRows]) -> Iterator[MicroBatch]:
        budget, rounding = self._budget, CAPTURED if self._captured else None
        return micro_batches(steps, budget.tokens, self.base.pad_id, budget.start_cost, rounding)

    def _advance(
        self, resident: _Resident, loss: float, norm: float, report: StepReport | None
    ) -> tuple[_Resident, SteerproofError | None] | None:
        """Apply one adapter's gradient; returns it when it has ended, with why if it failed."""
        step, total = resident.step, len(resident.plan)
        if not (loss == loss and abs(loss) < float("inf") and norm < float("inf")):
            error = ModelError(
                f"adapter {resident.job.key}: loss {loss} and gradient norm {norm} at step"
                f" {step + 1} of {total}; lower the learning rate {self.recipe.learning_rate}"
            )
            return resident, error
        rate = self.recipe.learning_rate * cosine_rate(step, total, self.recipe.warmup)
        resident.optimiser.param_groups[0]["lr"] = rate
        resident.optimiser.step()
        resident.losses.append(loss)
        resident.gradient_norms.append(norm)
        for example in (resident.job.examples[i] for i in resident.plan[step]):
            resident.tokens += example.length
            if example.push is not None:
                seen = resident.pushed.get(example.push, 0)
                resident.pushed[example.push] = seen + example.length
        resident.step += 1
        if report is not None:
            report(resident.job.key, resident.step, total, loss)
        return (resident, None) if resident.step == total else None

    def admit(self) -> bool:
        """Give free slots to waiting jobs; whether there is anything to train."""
        while self.free and (job := self._take_job(self._load())) is not None:
            slot = self.free.pop(0)
            self.lora.load(slot, fresh_weights(self.lora.sites, self.recipe.spec, job.seed))
            parameter = nn.Parameter(self.lora.weights[slot - 1])
            parameter.grad = self.gradients.grads[slot - 1]
            optimiser = torch.optim.AdamW(
                [parameter], weight_decay=self.recipe.weight_decay, fused=True
            )
            own = {push: self._own[job.key, push] for push in _used_pushes(job)}
            plan = step_plan(
                job.seed, len(job.examples), self.recipe.epochs, self.recipe.rows_per_step
            )
            resident = _Resident(
                job=job,
                slot=slot,
                plan=plan,
                parameter=parameter,
                optimiser=optimiser,
                push_slots={None: 0, **own},
            )
            self.residents.append(resident)
        self.residents.sort(key=lambda resident: resident.slot)
        self.gradients.refresh()
        return bool(self.residents)

    def _load(self) -> int:
        return sum(_tokens(resident.job) for resident in self.residents)

    def _finish(
        self, resident: _Resident, error: SteerproofError | None
    ) -> TrainedAdapter | FailedAdapter:
        self.residents.remove(resident)
        self.free = sorted([*self.free, resident.slot])
        key = resident.job.key
        slots = self.steering.audit().slots
        audits = tuple(
            PushAudit(push=push, measured=slots[self._own[key, push] - 1])
            for push in _used_pushes(resident.job)
        )
        error = error or steering_fault(key, resident.pushed, audits)
        if error is not None:
            return FailedAdapter(key=key, error=error)
        return TrainedAdapter(
            key=key,
            weights=self.lora.read(resident.slot),
            losses=tuple(resident.losses),
            gradient_norms=tuple(resident.gradient_norms),
            pushes=audits,
            firings=resident.firings,
            tokens=resident.tokens,
            seconds=resident.seconds,
        )

    def _share_time(self, steps: Sequence[StepRows], seconds: float) -> None:
        tokens = {step.slot: sum(e.length for e in step.examples) for step in steps}
        for resident in self.residents:
            resident.seconds += seconds * tokens[resident.slot] / sum(tokens.values())


def _used_pushes(job: AdapterJob) -> list[Push]:
    """In order of first appearance."""
    pushes = dict.fromkeys(example.push for example in job.examples)
    return [push for push in pushes if push is not None]
