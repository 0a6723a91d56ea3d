"""Does the pool do what it says? A fixed text, scored steered, unsteered, and one row at a time.

Steering that silently does nothing is the commonest failure of tools of this kind. A canary per
cell scores one text through the pool, among the rows of all other cells: its log-probabilities
must differ from those without the push, and agree with a plain forward pass of that row alone.

In half precision the two are rounded in other places, and the larger a logit the more. That may
hide a small push in the log-probabilities, but not in what the push changes: with and without it
the pool rounds alike. So that is held to what the push changes for the row alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from steerproof.engine.rows import Row
from steerproof.engine.score import log_probs, log_probs_alone
from steerproof.engine.subject import Subject
from steerproof.errors import ModelError, SteeringError

_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
"""Nats between the pool and a row alone."""
_HALF_TOLERANCE, _HALF_SHARE = 0.5, 0.1
"""The same in bfloat16 and float16, or this share of a log-probability if it is more. A model of 7
billion random weights was off by up to 0.77, and by 0.05 of what the log-probability was."""
_FOLLOWS = (0.5, 1.5)
"""Share of the push's change that must be seen; 0.96 to 1.03 in that model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """What the fixed text showed for one cell; differences in nats, the largest over its tokens."""

    cell: str
    mean_log_prob: float
    """Per token, through the pool, with the cell's push."""
    change: float | None
    """Difference that the push makes; None for a cell without one."""
    follows: float | None
    """Share of the change it makes to the row alone that it makes in the pool: 1 is all of it."""
    error: float
    """Difference from a plain forward pass of this row alone."""


def canaries(subject: Subject, rows: Sequence[Row], text: Sequence[int]) -> list[Canary]:
    """Score a text under one row of each cell.

    Args:
        subject: base, adapters and steering, not attached.
        rows: one per cell; seeds are not used.
        text: token ids of the text, at least one.

    Raises:
        SteeringError: a push changes nothing, or something else than it does to a row alone.
        ModelError: the pool and a row alone differ by more than the tolerance of the number type
            (1e-3 nats in float32; in bfloat16 0.5, or a tenth of the log-probability).
    """
    if not text:
        raise ModelError("a canary needs a text of at least one token")
    texts = [tuple(text)] * len(rows)
    pooled = log_probs(subject, rows, texts)
    still = log_probs(subject, [replace(row, push=None) for row in rows], texts)
    found = []
    for row, with_push, without in zip(rows, pooled, still, strict=True):
        alone = log_probs_alone(subject, row, text)
        change = follows = None
        if row.push is not None:
            moved = alone - log_probs_alone(subject, replace(row, push=None), text)
            change, follows = _difference(with_push, without), _share(with_push - without, moved)
        found.append(
            Canary(
                cell=row.cell,
                mean_log_prob=float(with_push.mean()),
                change=change,
                follows=follows,
                error=_difference(with_push, alone),
            )
        )
        _check(found[-1], float(((with_push - alone).abs() / _allowed(alone, subject)).max()))
    return found


def _difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def _share(change: Tensor, expected: Tensor) -> float | None:
    """The factor that takes one change nearest to the other; None where nothing was to change."""
    size = float(expected.double().square().sum())
    return float((change.double() * expected.double()).sum()) / size if size else None


def _allowed(alone: Tensor, subject: Subject) -> Tensor:
    """How far each log-probability may be from that of the row alone."""
    tolerance = _TOLERANCE.get(subject.base.dtype)
    if tolerance is not None:
        return torch.full_like(alone, tolerance)
    return (_HALF_SHARE * alone.abs()).clamp(min=_HALF_TOLERANCE)


def _check(canary: Canary, excess: float) -> None:
    """Check what was seen; `excess` is the largest error as a multiple of what is allowed."""
    if not excess <= 1.0:
        raise ModelError(
            f"{canary.cell}: in the pool a fixed text differs by {canary.error:.3g} nats from the"
            f" same row alone, {excess:.3g} times what is allowed: the pool computes something else"
        )
    if canary.change is None:
        return
    if canary.change == 0.0 or canary.follows is None:
        raise SteeringError(
            f"{canary.cell}: the push changes a fixed text by {canary.change:.3g} nats in the pool"
            " or alone: the direction was not added, or is too small for this number type"
        )
    least, most = _FOLLOWS
    if not least <= canary.follows <= most:
        raise SteeringError(
            f"{canary.cell}: the push changes a fixed text by {canary.change:.3g} nats, and"
            f" {canary.follows:.3g} times what it does to the row alone; {least:g} to {most:g} are"
            " allowed: the direction was not added as it should be"
        )
