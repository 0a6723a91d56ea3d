"""Does the pool do what it says? A fixed text, scored steered, unsteered, and one row at a time.

Steering that silently does nothing is the commonest failure of tools of this kind. A canary per
cell scores one text through the pool, among the rows of all other cells: its log-probabilities
must differ from those without the push, and agree with a plain forward pass of that row alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from steerproof.collect.cache import attending
from steerproof.collect.generation import attached
from steerproof.collect.memory import bytes_per_token, free_bytes, new_pool
from steerproof.collect.rows import Batch, Row, Subject, check_slots
from steerproof.errors import ModelError, SteeringError

_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
_HALF_TOLERANCE = 0.5
"""Of bfloat16 and float16: a logit near 30 is rounded by up to 0.06, several times over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """What the fixed text showed for one cell; differences in nats, the largest over its tokens."""

    cell: str
    mean_log_prob: float
    """Per token, through the pool, with the cell's push."""
    change: float | None
    """Difference that the push makes; None for a cell without one."""
    error: float
    """Difference from a plain forward pass of this row alone."""


def canaries(subject: Subject, rows: Sequence[Row], text: Sequence[int]) -> list[Canary]:
    """Score a text under one row of each cell.

    Args:
        subject: base, adapters and steering, not attached.
        rows: one per cell; seeds are not used.
        text: token ids of the text, at least one.

    Raises:
        SteeringError: a push changes nothing beyond the numerical difference between the pool and
            a row alone.
        ModelError: the pool and a row alone differ by more than the tolerance of the number type
            (1e-3 nats in float32, 0.5 in bfloat16).
    """
    if not text:
        raise ModelError("a canary needs a text of at least one token")
    texts = [tuple(text)] * len(rows)
    pooled = log_probs(subject, rows, texts)
    still = log_probs(subject, [replace(row, push=0) for row in rows], texts)
    found = []
    for row, with_push, without in zip(rows, pooled, still, strict=True):
        alone = log_probs_alone(subject, row, text)
        change = _difference(with_push, without) if row.push else None
        error = _difference(with_push, alone)
        found.append(
            Canary(
                cell=row.cell,
                mean_log_prob=float(with_push.mean()),
                change=change,
                error=error,
            )
        )
        _check(found[-1], subject.base.dtype)
    return found


def log_probs(
    subject: Subject, rows: Sequence[Row], texts: Sequence[Sequence[int]]
) -> list[Tensor]:
    """Log-probabilities of given texts after the rows' prompts, all rows in one pool.

    Args:
        subject: base, adapters and steering, not attached.
        rows: where each text stands; seeds are not used.
        texts: token ids, at least one each.

    Returns:
        For each row, float32 `[tokens]`, at temperature 1 and without a nucleus.
    """
    check_slots(subject, rows)
    longest = max(len(r.prompt_ids) + len(t) for r, t in zip(rows, texts, strict=True))
    # A seed of its own tells the rows apart, whatever the caller's are.
    numbered = [replace(row, seed=i) for i, row in enumerate(rows)]
    found: list[list[Tensor]] = [[] for _ in rows]

    def forced(logits: Tensor, batch: Batch) -> Tensor:
        told = [texts[row.seed] for row in batch.rows]
        drawn = [len(batch.branches[owner].tokens) for owner in batch.owners.tolist()]
        # A row that has ended stays in the batch for a few steps: it is fed its last token.
        given = [t[min(n, len(t) - 1)] for t, n in zip(told, drawn, strict=True)]
        tokens = torch.tensor(given, device=logits.device)
        scores = logits.float().log_softmax(dim=1)[batch.owners].gather(1, tokens[:, None])[:, 0]
        for score, row, n in zip(scores.cpu(), batch.rows, drawn, strict=True):
            if n < len(texts[row.seed]):
                found[row.seed].append(score)
        return tokens

    columns = free_bytes(subject.base) // bytes_per_token(subject, longest)
    with attached(subject):
        pool = new_pool(subject, longest, len(rows), columns)
        with attending(subject.base.model, pool.cache):
            pool.admit([[row] for row in numbered])
            while pool.rows:
                for branch in pool.step(forced):
                    if len(branch.tokens) == len(texts[branch.rows[0].seed]):
                        pool.end(branch)
    return [torch.stack(scores) for scores in found]


@torch.inference_mode()
def log_probs_alone(subject: Subject, row: Row, text: Sequence[int]) -> Tensor:
    """The reference: one plain forward pass of prompt and text, without cache or neighbours.

    Returns:
        float32 `[tokens]`.
    """
    base = subject.base
    ids = torch.tensor([[*row.prompt_ids, *text]], device=base.device)
    with attached(subject):
        if subject.adapters is not None:
            subject.adapters.route(torch.tensor([row.adapter]))
        if subject.steering is not None:
            subject.steering.route(torch.tensor([row.push], device=base.device))
        logits = base.model(input_ids=ids, use_cache=False).logits[0]
    at = logits[len(row.prompt_ids) - 1 : -1].float().log_softmax(dim=1)
    return at.gather(1, torch.tensor(list(text), device=base.device)[:, None])[:, 0].cpu()


def _difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def _check(canary: Canary, dtype: torch.dtype) -> None:
    tolerance = _TOLERANCE.get(dtype, _HALF_TOLERANCE)
    if not canary.error <= tolerance:
        raise ModelError(
            f"{canary.cell}: in the pool a fixed text differs by {canary.error:.3g} nats from the"
            f" same row alone, allowed are {tolerance:g}: the pool computes something else"
        )
    if canary.change is not None and not canary.change > 2 * canary.error:
        raise SteeringError(
            f"{canary.cell}: the push changes a fixed text by {canary.change:.3g} nats, no more"
            f" than rounding does ({canary.error:.3g}): the direction was not added"
        )
