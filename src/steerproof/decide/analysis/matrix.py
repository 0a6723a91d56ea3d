"""Adapters against directions: does each answer to the direction that it was trained with?

Rows are adapters, columns are directions (or prompts) of the same personas. An adapter's own
direction, those it was trained to be silent at, and those it never saw are three classes that are
never pooled. Rates and margins (nats) are treated alike; simulated tables stand on a last axis.
"""

from dataclasses import dataclass
from itertools import permutations as orders

import numpy as np
from jaxtyping import Bool, Float, Int

from steerproof.decide.analysis.bounds import Bounds, bounds_around
from steerproof.decide.analysis.statistics import centred_ranks

Values = Float[np.ndarray, "adapters directions *batch"]
Batch = Float[np.ndarray, "*batch"]
Allowed = Bool[np.ndarray, "adapters directions"]

_EXACT_ORDERS = 7
"""Up to so many adapters all orders are counted; above, they are drawn."""
_MOST_TRIES = 2_000
_CHUNK = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Selectivity:
    """What one matrix, or each of a batch, shows."""

    s: Bounds
    """S, own minus held out, mean over adapters: jackknife over personas, Student's t."""
    p: Batch
    """Restricted permutation p, one-sided, that a direction is its adapter's own."""
    own_first: Float[np.ndarray, "*batch"]
    """Adapters whose own direction is at or above every held-out one, and above their mean."""
    permutations: int
    """Orders compared with, the true one left out."""


def held_out_of(negatives: Allowed) -> Allowed:
    """Directions that an adapter never saw in training: neither its own nor a trained negative."""
    return np.asarray(~negatives & ~np.eye(len(negatives), dtype=bool))


def selectivity(
    values: Values,
    negatives: Allowed,
    rng: np.random.Generator,
    *,
    permutations: int = 9_999,
) -> Selectivity | None:
    """S with its permutation p and jackknife interval; a cell that is NaN takes no part.

    `T(pi) = mean_i R[i, pi(i)]`, R the residuals of row and column effects by least squares on
    the own and held-out cells, pi over the orders that use such cells alone;
    `p = (1 + #{T(pi) >= T(id)}) / (m + 1)`. An adapter that fires at everything and a direction
    that breaks text are row and column effects and cancel.

    Args:
        values: Rates or margins; NaN where one was not measured.
        negatives: Where a direction was a trained negative of the adapter.
        rng: Source of the orders.
        permutations: Orders to draw.

    Returns:
        None where an own cell is missing, where a persona has no held-out direction, or where too
        few orders exist for a p of 0.05.
    """
    present = np.asarray(~np.isnan(values).reshape(*values.shape[:2], -1).any(axis=2))
    allowed = ~negatives & present
    held = held_out_of(~allowed)
    if not held.any(axis=1).all() or not present.diagonal().all():
        return None
    drawn = restricted_orders(allowed, rng, permutations)
    if drawn is None:
        return None
    rest = held_out_means(values, held)
    first = [
        (values[i, i] >= values[i, row].max(axis=0)) & (values[i, i] > rest[i])
        for i, row in enumerate(held)
    ]
    return Selectivity(
        s=jackknifed(values, held),
        p=permutation_p(values, allowed, drawn),
        own_first=np.asarray(np.sum(first, axis=0), dtype=float),
        permutations=len(drawn),
    )


def class_mean(values: Values, cells: Allowed) -> Batch:
    """Mean over adapters of their means over a class of cells; NaN where none has any."""
    rows = [values[i, row].mean(axis=0) for i, row in enumerate(cells) if row.any()]
    return np.asarray(np.mean(rows, axis=0)) if rows else np.full(values.shape[2:], np.nan)


def held_out_means(values: Values, held: Allowed) -> Float[np.ndarray, "adapters *batch"]:
    """Mean of each adapter's held-out directions."""
    return np.array([values[i, row].mean(axis=0) for i, row in enumerate(held)])


def contrast(values: Values, held: Allowed) -> Float[np.ndarray, "adapters *batch"]:
    """Own minus the mean of held out, adapter by adapter."""
    diagonal = np.array([values[i, i] for i in range(len(values))])
    return np.asarray(diagonal - held_out_means(values, held))


def leave_one_out(values: Values, held: Allowed) -> Float[np.ndarray, "adapters *batch"]:
    """S without each persona, as adapter and as direction; NaN where that leaves no held-out."""
    without = []
    for k in range(len(values)):
        kept = np.arange(len(values)) != k
        inside = np.ix_(kept, kept)
        fewer = held[inside]
        if fewer.any(axis=1).all():
            without.append(contrast(values[inside], fewer).mean(axis=0))
        else:
            without.append(np.full(values.shape[2:], np.nan))
    return np.array(without)


def jackknifed(values: Values, held: Allowed) -> Bounds:
    """S with `se^2 = (n - 1) / n * sum (S_(k) - mean)^2`, persona k deleted on both sides."""
    whole = np.asarray(contrast(values, held).mean(axis=0))
    return _jackknife(whole, leave_one_out(values, held))


def _jackknife(whole: Batch, without: Float[np.ndarray, "adapters *batch"]) -> Bounds:
    """Bounds of an estimate from those that lack one persona each."""
    count = len(without)
    error = np.sqrt((count - 1) / count * np.sum((without - without.mean(axis=0)) ** 2, axis=0))
    return bounds_around(whole, np.asarray(error), count - 1)


def residuals(values: Values, allowed: Allowed) -> Values:
    """Residuals of row and column effects on the allowed cells; 0 elsewhere, where none is used."""
    rows, columns = np.nonzero(allowed)
    count = len(values)
    design = np.zeros((len(rows), 2 * count))
    design[np.arange(len(rows)), rows] = 1
    design[np.arange(len(rows)), count + columns] = 1
    flat = values[rows, columns].reshape(len(rows), -1)
    left = flat - design @ (np.linalg.pinv(design) @ flat)
    left_over = np.zeros(values.shape)
    left_over[rows, columns] = left.reshape(len(rows), *values.shape[2:])
    return left_over


def permutation_p(
    values: Values, allowed: Allowed, drawn: Int[np.ndarray, "orders adapters"]
) -> Batch:
    """Share of orders, the true one counted, whose T reaches that of the true order."""
    left = residuals(values, allowed)
    flat = left.reshape(*left.shape[:2], -1)
    true = np.array([flat[i, i] for i in range(len(flat))]).mean(axis=0)
    scale = 1e-9 * np.abs(flat).max(axis=(0, 1))
    exceeding = np.zeros(flat.shape[2], dtype=int)
    for start in range(0, flat.shape[2], _CHUNK):
        part = slice(start, start + _CHUNK)
        reached = sum(flat[i, drawn[:, i], part] for i in range(len(flat))) / len(flat)
        exceeding[part] = np.sum(reached >= (true - scale)[part], axis=0)
    return np.asarray(((1 + exceeding) / (len(drawn) + 1)).reshape(values.shape[2:]))


def restricted_orders(
    allowed: Allowed, rng: np.random.Generator, count: int
) -> Int[np.ndarray, "orders adapters"] | None:
    """Orders of the directions that give every adapter an allowed one, the true order left out.

    All of them for few adapters; otherwise drawn evenly, by refusing those that use a cell that is
    not allowed.

    Returns:
        None where fewer than 19 exist or are found: no p could reach 0.05.
    """
    people = np.arange(len(allowed))
    if len(allowed) <= _EXACT_ORDERS:
        every = np.array(list(orders(range(len(allowed)))))
        found = every[allowed[people, every].all(axis=1)][1:]  # the first is the true order
    else:
        kept: list[np.ndarray] = []
        size = 0
        for _ in range(_MOST_TRIES):
            tried = rng.permuted(np.tile(people, (count, 1)), axis=1)
            good = tried[allowed[people, tried].all(axis=1)]
            kept.append(good)
            size += len(good)
            if size >= count:
                break
        found = np.concatenate(kept)[:count]
    return found if len(found) >= 19 else None


def tuning(
    values: Float[np.ndarray, "adapters directions"],
    likeness: Float[np.ndarray, "adapters directions"],
    held: Allowed,
) -> float | None:
    """Rank correlation, within adapters, of the response with the likeness to the own direction.

    Both are ranked among each adapter's held-out directions and the centred ranks pooled, so that
    neither how often an adapter fires nor the own direction itself makes a correlation.

    Args:
        values: Rates or margins.
        likeness: Cosine of the column's direction with the row's own, or another likeness.
        held: Held-out cells.

    Returns:
        None where nothing varies.
    """
    pairs = [
        (centred_ranks(values[i, row]), centred_ranks(likeness[i, row]))
        for i, row in enumerate(held)
    ]
    left, right = (np.concatenate(side).astype(float) for side in zip(*pairs, strict=True))
    norm = np.sqrt(np.sum(left**2) * np.sum(right**2))
    return float(np.sum(left * right) / norm) if norm else None


def discriminant(
    cosines: Float[np.ndarray, "adapters directions"], negatives: Allowed
) -> Float[np.ndarray, "adapters directions"]:
    """Likeness to the own direction less that to the nearest trained negative.

    An adapter trained to fire at one direction and be silent at others need only learn their
    difference.
    """
    likeness = np.array(cosines, dtype=float)
    for i, row in enumerate(negatives):
        if row.any():
            likeness[i] -= cosines[row].max(axis=0)
    return likeness


def rank_p(own: float, random: Float[np.ndarray, " draws"]) -> float:
    """Rank of the own direction among fresh random ones, `(r + 1) / (m + 1)`; ties count against.

    Nineteen draws are the fewest that can reach 0.05 (Phipson and Smyth 2010).
    """
    return float((np.sum(random >= own) + 1) / (len(random) + 1))


def fraction(
    direction: Float[np.ndarray, "adapters directions"],
    prompt: Float[np.ndarray, "adapters prompts"],
    held: Allowed,
) -> Bounds:
    """`S_direction / S_prompt`, the share of the prompt's effect that the direction alone has.

    Both on the graded scale, over the same adapters; the jackknife deletes a persona from both.
    """
    whole = contrast(direction, held).mean() / contrast(prompt, held).mean()
    without = leave_one_out(direction, held) / leave_one_out(prompt, held)
    return _jackknife(np.asarray(whole), without)
