"""What must hold before an adapter is trained, and after."""

from collections.abc import Mapping, Sequence

from steerproof.engine.jobs import AdapterJob, Recipe, TrainedPush
from steerproof.engine.lora.weights import LoraWeights, Site, check_keys, not_finite
from steerproof.errors import ModelError, SteeringError, SteerproofError
from steerproof.model.base import Base
from steerproof.model.steering import Push, SlotAudit, check_pushes
from steerproof.spec.strength import PUSH_TOLERANCE


def steering_fault(
    key: str, pushed: Mapping[Push, int], audits: Sequence[TrainedPush]
) -> SteeringError | None:
    """Compare what arrived in the residual stream with what was asked for.

    Args:
        key: The adapter.
        pushed: Push -> token positions that were to be pushed.
        audits: What was measured.
    """
    for number, audit in enumerate(audits, start=1):
        name = f"adapter {key}, direction {number}, layer {audit.measured.layer}"
        fault = arrival_fault(name, audit.asked_norm, pushed.get(audit.push, 0), audit.measured)
        if fault is not None:
            return fault
    return None


def arrival_fault(
    name: str, asked: float | None, positions: int, seen: SlotAudit
) -> SteeringError | None:
    """Compare one push that arrived with what was asked for.

    Args:
        name: What messages call the push.
        asked: Norm asked for; None for a removal, whose size depends on the residual.
        positions: Token positions that were to be pushed.
        seen: What was measured.
    """
    if seen.positions != positions:
        return SteeringError(
            f"{name}: pushed {seen.positions} token positions, {positions} asked for"
        )
    norm = seen.push_norm
    if asked is not None and (norm is None or abs(norm - asked) > PUSH_TOLERANCE * asked):
        return SteeringError(
            f"{name}: the push that arrived has norm {norm}, {asked} asked for; more than"
            f" {PUSH_TOLERANCE:.0%} off, so the residual's precision swallows it"
        )
    return None


def job_fault(base: Base, job: AdapterJob, recipe: Recipe) -> SteerproofError | None:
    """Why an adapter cannot be trained, if it cannot: every row must be learned from whole."""
    if not job.examples:
        return ModelError(f"adapter {job.key} has no training rows")
    longest = min(recipe.max_length, base.chat.context)
    for i, example in enumerate(job.examples):
        row = f"adapter {job.key}, row {i}"
        if example.length > longest:
            return ModelError(
                f"{row} has {example.length} tokens, at most {longest} fit (max_length"
                f" {recipe.max_length}, context {base.chat.context}); a row is never cut"
            )
        if not example.prompt_ids or not example.completion_ids:
            return ModelError(f"{row} has an empty prompt or completion")
    for push in dict.fromkeys(example.push for example in job.examples):
        fault = None if push is None else push_fault(base, push)
        if fault is not None:
            return SteeringError(f"adapter {job.key}: {fault}")
    return None


def adapter_fault(sites: Sequence[Site], weights: LoraWeights) -> ModelError | None:
    """Why an adapter cannot be put on the layers `sites`, if it cannot."""
    try:
        check_keys(sites, weights)
    except ModelError as error:
        return error
    bad = not_finite(weights)
    if bad:
        return ModelError(f"the adapter holds NaN or infinite numbers in {bad[:3]}: train it anew")
    return None


def push_fault(base: Base, push: Push) -> SteeringError | None:
    """Why a push cannot be added to this base, if it cannot."""
    try:
        check_pushes([push], len(base.blocks))
    except SteeringError as error:
        return error
    widths = {len(part.vector) for part in push.parts} - {base.hidden_size}
    if widths:
        return SteeringError(f"a push of width {widths.pop()} for a residual of {base.hidden_size}")
    return None
