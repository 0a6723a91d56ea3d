"""An adapter in training: its plan, its optimiser, and what it has seen."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from steerproof.engine.batches import StepRows, cosine_rate, step_plan
from steerproof.engine.jobs import AdapterJob, Recipe, TrainedAdapter, TrainedPush
from steerproof.engine.lora.carried import Room
from steerproof.engine.lora.weights import LoraWeights
from steerproof.errors import ModelError
from steerproof.model.steering import Push
from steerproof.spec.seeds import derived_seed


def used_pushes(job: AdapterJob) -> list[Push]:
    """The pushes of its examples, in order of first appearance."""
    pushes = dict.fromkeys(example.push for example in job.examples)
    return [push for push in pushes if push is not None]


@dataclass(slots=True, kw_only=True)
class TrainingProgress:
    """What an adapter has seen so far."""

    losses: list[float] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)
    firings: int = 0
    tokens: int = 0
    seconds: float = 0.0


@dataclass(slots=True, kw_only=True)
class Resident:
    """An adapter that has a slot."""

    job: AdapterJob
    slot: int
    plan: list[tuple[int, ...]]
    """Example indices of every step."""
    parameters: list[nn.Parameter]
    """All its weights, as one vector a device; each has a gradient."""
    optimiser: torch.optim.AdamW
    push_slots: Mapping[Push | None, int]
    """An example's push -> this adapter's own steering slot."""
    room: tuple[Room, ...] = ()
    """Where its weights will be read to; made ready while it trains."""
    seen: TrainingProgress = field(default_factory=TrainingProgress)
    pushed: dict[Push, int] = field(default_factory=dict)
    """Push -> token positions that were to be pushed."""

    @classmethod
    def admitted(
        cls,
        job: AdapterJob,
        slot: int,
        recipe: Recipe,
        parameters: list[nn.Parameter],
        push_slots: Mapping[Push, int],
    ) -> "Resident":
        """Before its first step.

        Args:
            job: What to train.
            slot: Its slot in the adapter pool.
            recipe: How.
            parameters: All its weights as one vector a device, each of which has a gradient.
            push_slots: The steering slots of its pushes.
        """
        return cls(
            job=job,
            slot=slot,
            plan=step_plan(job.seed, len(job.examples), recipe.epochs, recipe.rows_per_step),
            parameters=parameters,
            optimiser=torch.optim.AdamW(parameters, weight_decay=recipe.weight_decay, fused=True),
            push_slots={None: 0, **push_slots},
        )

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.seen.losses)

    @property
    def has_ended(self) -> bool:
        """Whether every step is done."""
        return self.step == len(self.plan)

    def rows(self, step: int) -> StepRows:
        """What a step learns from."""
        indices = self.plan[step]
        examples = tuple(self.job.examples[i] for i in indices)
        return StepRows(
            slot=self.slot,
            rows=indices,
            examples=examples,
            push_slots=tuple(self.push_slots[example.push] for example in examples),
            dropout_keys=tuple(derived_seed("dropout", self.job.seed, step, i) for i in indices),
        )

    def learn(self, recipe: Recipe) -> None:
        """Apply the gradient that a step left in its parameters."""
        rate = cosine_rate(self.step, len(self.plan), recipe.warmup)
        self.optimiser.param_groups[0]["lr"] = recipe.learning_rate * rate
        self.optimiser.step()

    def learned(self, loss: float, norm: float, recipe: Recipe) -> ModelError | None:
        """Take down what a step was.

        Args:
            loss: Of the step.
            norm: L2 norm of the gradient before it was clipped.
            recipe: How.

        Returns:
            Why it cannot go on; None when it learned.
        """
        step, total, seen = self.step, len(self.plan), self.seen
        if not (abs(loss) < float("inf") and norm < float("inf")):  # NaN is not below anything.
            return ModelError(
                f"adapter {self.job.key}: loss {loss} and gradient norm {norm} at step"
                f" {step + 1} of {total}; lower the learning rate {recipe.learning_rate}"
            )
        for example in (self.job.examples[i] for i in self.plan[step]):
            seen.tokens += example.length
            if example.push is not None:
                self.pushed[example.push] = self.pushed.get(example.push, 0) + example.length
        seen.losses.append(loss)
        seen.gradient_norms.append(norm)
        return None

    def result(self, weights: LoraWeights, audits: tuple[TrainedPush, ...]) -> TrainedAdapter:
        """What it became."""
        return TrainedAdapter(
            key=self.job.key,
            weights=weights,
            losses=tuple(self.seen.losses),
            gradient_norms=tuple(self.seen.gradient_norms),
            pushes=audits,
            firings=self.seen.firings,
            tokens=self.seen.tokens,
            seconds=self.seen.seconds,
        )
