"""Does the pool do what it says? A fixed text, scored steered, unsteered, and one row at a time.

Steering that silently does nothing is the commonest failure of tools of this kind. A canary per
cell scores one text through the pool, among the rows of all other cells. Its log-probabilities must
be those of that row alone, and what the push changes in them must be what it changes alone. An
adapter must change something.

The truth is a plain pass of the row alone in float32. In half precision the pool is rounded in
other places than the row alone is, but not more: it may be as far from the truth as the row alone
in half precision is, times `_FACTOR`. A push that changes less than `_VISIBLE` times what rounding
does is too small to be verified here: that is recorded, and no error.

Rounding has long tails: of the 900 cells of a run three were 3.0 to 3.2 times as far off as the row
alone, all for one unsteered row that they share. So in half precision a cell that fails is asked
again, with the halves of the text exchanged, and has failed when it fails twice. What a pool does
wrong it does in any text.

Measured on SmolLM2-135M with trained adapters, in bfloat16 on a CPU, texts of 10 to 29 tokens: the
pool was 0.4 to 1.3 times as far from the truth as the row alone, and what a push changed 0.5 to 1.4
times. Pushes of ratio 0.2 changed 2.5 to 20 times what rounding did.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

import torch
from torch import Tensor

from steerproof.engine.alone import log_probs_alone
from steerproof.engine.exact import HALF, in_float32
from steerproof.engine.forced import decoded_log_probs
from steerproof.engine.lora.weights import LoraWeights
from steerproof.engine.rows import Row
from steerproof.engine.subject import Subject, subject_of
from steerproof.errors import ModelError, SteeringError, SteerproofError
from steerproof.model.base import Base
from steerproof.model.chat import text_ids
from steerproof.model.push import Push

_FACTOR = 3.0
"""So many times as far from the truth as the row alone may the pool be."""
_VISIBLE = 5.0
"""A push that changes so many times what rounding does is verified: a quarter of it, or another
one, is then further from it than `_FACTOR` allows."""
_ROUNDING = {torch.float64: 3e-7, torch.float32: 3e-4}
"""Where the row alone is the truth itself: nats, root mean square, ten times what was seen."""
_LEAST_ADAPTERS, _ADAPTER_BYTES = 16, 2 << 30
"""Adapters that are there in float32 at once: so many, or as many as have so many bytes."""
_LEAST_TOKENS = 24

Seen = Literal["none", "verified", "too small to verify here"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """What the fixed text showed for one cell, in nats, root mean square over its tokens."""

    cell: str
    mean_log_prob: float
    """Per token, through the pool, with the cell's push."""
    error: float
    """How far the pool is from the truth."""
    rounding: float
    """How far from the truth the row alone is, or, if that is more, half of all rows are."""
    push: Seen
    """Whether the cell's push was seen; none for a cell without one."""
    change: float | None
    """What the push truly changes; None for a cell without one."""
    follows: float | None
    """Share of that change that the pool shows: 1 is all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scores:
    """A text's log-probabilities under one row, `[tokens]` each."""

    pooled: Tensor
    alone: Tensor
    truth: Tensor

    def __sub__(self, other: "_Scores") -> "_Scores":
        return _Scores(
            pooled=self.pooled - other.pooled,
            alone=self.alone - other.alone,
            truth=self.truth - other.truth,
        )

    @property
    def error(self) -> float:
        return _size(self.pooled - self.truth)

    @property
    def rounding(self) -> float:
        return _size(self.alone - self.truth)


def fixed_text(base: Base, texts: Sequence[str]) -> tuple[int, ...]:
    """Token ids of the first of some texts, joined until chance has little room left.

    With about ten tokens a sound pool looks up to 1.5 times as far off as it is.
    """
    ids: tuple[int, ...] = ()
    for count in range(1, len(texts) + 1):
        ids = text_ids(base.tokenizer, " ".join(texts[:count]))
        if len(ids) >= _LEAST_TOKENS:
            break
    return ids


def canaries(
    subject: Subject, rows: Sequence[Row], text: Sequence[int]
) -> list[Canary | SteerproofError]:
    """Score a text under one row of each cell.

    Args:
        subject: Base, adapters and steering, not attached.
        rows: One per cell; seeds are not used.
        text: Token ids, see `fixed_text`.

    Returns:
        For each row what was seen, or what is wrong with its cell: a `ModelError` where the pool
        computes something else than the row alone or the adapter changes nothing, a
        `SteeringError` where the push does.

    Raises:
        ModelError: The text has no token.
    """
    if not text:
        raise ModelError("a canary needs a text of at least one token")
    shown = _shown(subject, rows, text)
    doubted = [i for i, one in enumerate(shown) if not isinstance(one, Canary)]
    if doubted and subject.base.dtype in HALF:
        half = len(text) // 2
        other = [*text[half:], *text[:half]]
        again = _shown(subject, [rows[i] for i in doubted], other)
        for i, one in zip(doubted, again, strict=True):
            shown[i] = one if isinstance(one, Canary) else shown[i]
    return shown


def _shown(
    subject: Subject, rows: Sequence[Row], text: Sequence[int]
) -> list[Canary | SteerproofError]:
    """What one text shows of each row, see `canaries`."""
    still = [replace(row, push=None) for row in rows]
    scores = _scored_once(subject, [*rows, *still], text)
    pushed, unpushed = scores[: len(rows)], scores[len(rows) :]
    changes = [a - b for a, b in zip(pushed, unpushed, strict=True)]
    exact = _ROUNDING.get(subject.base.dtype)
    usual = exact or _middle([scores.rounding for scores in pushed])
    usual_change = exact or _middle([change.rounding for change in changes])
    silent = _silent(subject, rows, text)
    return [
        _unread(row) if row.adapter in silent else _judged(row, scores, change, usual, usual_change)
        for row, scores, change in zip(rows, pushed, changes, strict=True)
    ]


def _silent(subject: Subject, rows: Sequence[Row], text: Sequence[int]) -> set[LoraWeights | None]:
    """The adapters under which a text is, to the last bit, what it is under the bare base.

    How a row is rounded depends on its place in a pass and on the pass's shape. So all have one
    prompt, and each is compared with the bare base in the same place of another pass.
    """
    shortest = min(rows, key=lambda row: len(row.prompt_ids))
    bare = replace(shortest, adapter=None, push=None)
    adapters = {row.adapter for row in rows} - {None}
    own = [replace(bare, adapter=adapter) for adapter in adapters]
    own.sort(key=subject.adapter_slot)
    scores = log_probs_alone(subject, own, text)
    without = log_probs_alone(subject, [bare] * len(own), text)
    known = zip(own, scores, without, strict=True)
    return {row.adapter for row, one, other in known if torch.equal(one, other)}


def _unread(row: Row) -> ModelError:
    return ModelError(
        f"{row.cell}: the adapter changes nothing in a fixed text: not trained, or not loaded"
    )


def _scored_once(subject: Subject, rows: Sequence[Row], text: Sequence[int]) -> list[_Scores]:
    """Scores of rows; those alike in adapter, prompt and push share theirs.

    Without their pushes most rows are alike, and many are cells of their own as well.
    """
    kinds = [(subject.adapter_slot(row), row.prompt_ids, row.push) for row in rows]
    first: dict[tuple[int, tuple[int, ...], Push | None], Row] = {}
    for kind, row in zip(kinds, rows, strict=True):
        first.setdefault(kind, row)
    scored = dict(zip(first, _scored(subject, list(first.values()), text), strict=True))
    return [scored[kind] for kind in kinds]


def _scored(subject: Subject, rows: Sequence[Row], text: Sequence[int]) -> list[_Scores]:
    pooled = decoded_log_probs(subject, rows, [tuple(text)] * len(rows))
    alone = log_probs_alone(subject, rows, text)
    truth = _true(subject, rows, text) if subject.base.dtype in HALF else alone
    return [
        _Scores(pooled=p, alone=a, truth=t) for p, a, t in zip(pooled, alone, truth, strict=True)
    ]


def _true(subject: Subject, rows: Sequence[Row], text: Sequence[int]) -> list[Tensor]:
    """The rows alone in float32, a few adapters at a time: they are twice as wide there."""
    order = sorted(range(len(rows)), key=lambda i: subject.adapter_slot(rows[i]))
    slots = sorted({subject.adapter_slot(row) for row in rows})
    truth: dict[int, Tensor] = {}
    with in_float32(subject.base) as base:
        count = _adapters_at_once(rows)
        for start in range(0, len(slots), count):
            chosen = set(slots[start : start + count])
            places = [i for i in order if subject.adapter_slot(rows[i]) in chosen]
            mine = [rows[i] for i in places]
            wide = subject_of(base, mine, audit_every=1)
            truth.update(zip(places, log_probs_alone(wide, mine, text), strict=True))
    return [truth[i] for i in range(len(rows))]


def _adapters_at_once(rows: Sequence[Row]) -> int:
    """Few passes are many rows each: weights are widened anew in every one."""
    adapters = {row.adapter for row in rows if row.adapter is not None}
    sizes = [4 * sum(t.numel() for t in adapter.tensors.values()) for adapter in adapters]
    return max(_LEAST_ADAPTERS, _ADAPTER_BYTES // max(sizes, default=1))


def _judged(
    row: Row, scores: _Scores, change: _Scores, usual: float, usual_change: float
) -> Canary | SteerproofError:
    """What a row showed; `usual` and `usual_change` are what rounding does to half of all rows."""
    rounding = _larger(scores.rounding, usual)
    if not scores.error <= _FACTOR * rounding:
        return ModelError(
            f"{row.cell}: in the pool a fixed text differs by {scores.error:.3g} nats from the same"
            f" row alone, and rounding explains {rounding:.3g}, at most {_FACTOR:g} times as much:"
            " the pool computes something else"
        )
    seen: Seen = "none"
    size = follows = None
    if row.push is not None:
        size, follows = _size(change.truth), _share(change.pooled, change.truth)
        noise = _larger(change.rounding, usual_change)
        wrong = _wrong_push(row.cell, change, size, noise)
        if wrong is not None:
            return wrong
        seen = "verified" if size >= _VISIBLE * noise else "too small to verify here"
    return Canary(
        cell=row.cell,
        mean_log_prob=float(scores.pooled.mean()),
        error=scores.error,
        rounding=rounding,
        push=seen,
        change=size,
        follows=follows,
    )


def _wrong_push(cell: str, change: _Scores, size: float, noise: float) -> SteeringError | None:
    """The error that the pool's push is none, or another one; None where rounding explains it."""
    if not change.pooled.any():
        return SteeringError(
            f"{cell}: the push changes nothing in a fixed text, and alone it changes it by"
            f" {size:.3g} nats: the direction was not added, or is too small for this number type"
        )
    if size >= _VISIBLE * noise and change.error > _FACTOR * noise:
        return SteeringError(
            f"{cell}: the push changes a fixed text by {_size(change.pooled):.3g} nats in the pool"
            f" and by {size:.3g} alone, and the two differ by {change.error:.3g}, where rounding"
            f" explains {noise:.3g}, at most {_FACTOR:g} times as much: the direction was not added"
            " as it should be"
        )
    return None


def _size(nats: Tensor) -> float:
    """Root mean square over the tokens."""
    return float(nats.double().square().mean().sqrt())


def _share(change: Tensor, expected: Tensor) -> float | None:
    """The factor that takes one change nearest to the other; None where nothing was to change."""
    size = float(expected.double().square().sum())
    return float((change.double() * expected.double()).sum()) / size if size else None


def _middle(sizes: Sequence[float]) -> float:
    """Their median; NaN counts as none, for what is not a number tells nothing about rounding."""
    return median([size for size in sizes if size == size] or [0.0])


def _larger(own: float, usual: float) -> float:
    """The larger one, where the own is a number."""
    return max(own, usual) if own == own else usual
