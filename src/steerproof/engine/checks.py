"""What must hold before an adapter is trained, and after."""

from collections.abc import Mapping, Sequence

from steerproof.engine.jobs import AdapterJob, PushAudit, Recipe
from steerproof.errors import ModelError, SteeringError
from steerproof.model.base import Base
from steerproof.model.steering import Push

PUSH_TOLERANCE = 0.05
"""Largest relative difference between the push asked for and the one that arrived."""


def steering_fault(
    key: str, pushed: Mapping[Push, int], audits: Sequence[PushAudit]
) -> SteeringError | None:
    """Compare what arrived in the residual stream with what was asked for.

    Args:
        key: The adapter.
        pushed: Push -> token positions that were to be pushed.
        audits: What was measured.
    """
    for number, audit in enumerate(audits, start=1):
        name = f"adapter {key}, direction {number}, layer {audit.measured.layer}"
        expected, got = pushed.get(audit.push, 0), audit.measured.positions
        if expected != got:
            return SteeringError(f"{name}: pushed {got} token positions, {expected} asked for")
        arrived = audit.measured.push_norm
        if arrived is None or abs(arrived - audit.asked_norm) > PUSH_TOLERANCE * audit.asked_norm:
            return SteeringError(
                f"{name}: the push that arrived has norm {arrived}, {audit.asked_norm} asked for;"
                f" more than {PUSH_TOLERANCE:.0%} off, so the residual's precision swallows it"
            )
    return None


def check_jobs(base: Base, jobs: Sequence[AdapterJob], recipe: Recipe) -> None:
    """Check that every row can be trained on whole.

    Raises:
        ModelError: A row is too long, or has no completion; an adapter has no row.
    """
    longest = min(recipe.max_length, base.context)
    for job in jobs:
        if not job.examples:
            raise ModelError(f"adapter {job.key} has no training rows")
        for i, example in enumerate(job.examples):
            row = f"adapter {job.key}, row {i}"
            if example.length > longest:
                raise ModelError(
                    f"{row} has {example.length} tokens, at most {longest} fit (max_length"
                    f" {recipe.max_length}, context {base.context}); a row is never cut"
                )
            if not example.prompt_ids or not example.completion_ids:
                raise ModelError(f"{row} has an empty prompt or completion")
