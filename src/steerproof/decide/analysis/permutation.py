"""Exact tests by counting: no normal approximation, valid for ten personas and for ties."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from steerproof.decide.analysis.statistics import centred_ranks

_EXACT_PERSONAS = 12
"""Up to here all n! orders are counted; above, orders are drawn."""
_EXACT_PAIRS = 24
"""Up to here all 2**n sign flips are counted by convolution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PermutationTest:
    """How often a random pairing of personas gives a correlation at least this large."""

    p: float
    """Two-sided: share of orders with `|rho|` at least the observed one."""
    method: str
    """`exact` (all n! orders counted) or `monte-carlo` ((b + 1) / (m + 1))."""


def permutation_test(
    left: Float[np.ndarray, " personas"],
    right: Float[np.ndarray, " personas"],
    *,
    permutations: int,
    rng: np.random.Generator,
) -> PermutationTest | None:
    """Test Spearman's rho against all pairings of the personas.

    Args:
        left: One value per persona, none missing.
        right: The other quantity.
        permutations: Orders to draw when there are too many personas to count all.
        rng: Source of those orders; unused by the exact count.

    Returns:
        The test, or None where a side is constant and rho is undefined.
    """
    x, y = centred_ranks(left), centred_ranks(right)
    if not x.any() or not y.any():
        return None
    observed = abs(int(np.sum(x.astype(np.int64) * y)))
    if len(x) <= _EXACT_PERSONAS:
        orders, bound = pairing_counts(x, y)
        values = np.abs(np.arange(-bound, bound + 1))
        return PermutationTest(
            p=float(orders[values >= observed].sum() / orders.sum()), method="exact"
        )
    drawn = rng.permuted(np.tile(x, (permutations, 1)), axis=1).astype(np.int64) @ y
    exceeding = int(np.sum(np.abs(drawn) >= observed))
    return PermutationTest(p=(exceeding + 1) / (permutations + 1), method="monte-carlo")


def pairing_counts(
    left: Int[np.ndarray, " personas"], right: Int[np.ndarray, " personas"]
) -> tuple[Float[np.ndarray, " values"], int]:
    """How many of the n! pairings give each value of `sum_i left_i * right_(order i)`.

    Counted over subsets of `right` already used (2**n states) instead of over n! orders: ten
    personas take milliseconds. Counts stay below 2**53 and are exact.

    Returns:
        Counts for the values `-bound ... bound`, and `bound`.
    """
    count = len(left)
    bound = int(np.sum(np.sort(np.abs(left)).astype(np.int64) * np.sort(np.abs(right))))
    width = 2 * bound + 1
    table = np.zeros((1 << count, width))
    table[0, bound] = 1.0
    subsets = np.arange(1 << count)
    used = np.bitwise_count(subsets)
    for place, x in enumerate(left.tolist()):
        for j, y in enumerate(right.tolist()):
            before = subsets[(used == place) & (subsets >> j & 1 == 0)]
            shift = x * y
            kept = table[before, max(0, -shift) : width - max(0, shift)]
            table[before | 1 << j, max(0, shift) : width - max(0, -shift)] += kept
    return table[-1], bound


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedTest:
    """Is one quantity larger than another, persona by persona?"""

    n_greater: int
    """Personas whose difference is positive."""
    n_less: int
    """Personas whose difference is negative."""
    n_equal: int
    """Personas without a difference; they leave both tests."""
    sign_p: float | None
    """One-sided exact sign test of more positive than negative differences."""
    signed_rank_p: float | None
    """One-sided exact Wilcoxon signed-rank test of positive differences."""


def paired_test(differences: Float[np.ndarray, " personas"]) -> PairedTest:
    """Exact one-sided sign and signed-rank tests that the differences are positive.

    Both flip the signs of the non-zero differences in all 2**n ways. Tied sizes share ranks.

    Raises:
        ValueError: More differences than can be counted exactly.
    """
    moved = differences[differences != 0]
    if len(moved) > _EXACT_PAIRS:
        raise ValueError(f"{len(moved)} paired differences; exact tests take up to {_EXACT_PAIRS}")
    greater = moved > 0
    sizes = (centred_ranks(np.abs(moved)) + len(moved) + 1).astype(np.int64)
    return PairedTest(
        n_greater=int(greater.sum()),
        n_less=int((~greater).sum()),
        n_equal=int(len(differences) - len(moved)),
        sign_p=_flip_p(np.ones(len(moved), dtype=np.int64), greater) if len(moved) else None,
        signed_rank_p=_flip_p(sizes, greater) if len(moved) else None,
    )


def _flip_p(sizes: Int[np.ndarray, " pairs"], positive: np.ndarray) -> float:
    """Share of all sign flips whose sum of positive sizes is at least the observed one."""
    counts = np.ones(1)
    for size in sizes:
        longer = np.zeros(len(counts) + int(size))
        longer[: len(counts)] += counts
        longer[int(size) :] += counts
        counts = longer
    return float(counts[int(sizes[positive].sum()) :].sum() / counts.sum())
