"""Rank correlation and rates, on plain arrays.

Personas are axis 0 everywhere; any further axes (resamples, simulations) are computed at once.
NaN marks what is missing or undefined inside this package; records turn it into `null` and a
reason.
"""

import numpy as np
from jaxtyping import Float, Int

from steerproof.decide.analysis.distributions import normal_quantile

_PairSums = tuple[Float[np.ndarray, "*batch"], Float[np.ndarray, "*batch"]]


def centred_ranks(
    values: Float[np.ndarray, "personas *batch"],
) -> Int[np.ndarray, "personas *batch"]:
    """Twice the average rank, centred: `#(j: x_j < x_i) - #(j: x_j > x_i)`.

    This equals `2 * rank - (n + 1)` with average ranks for ties, is an integer, and sums to
    zero, so rank correlations are ratios of exact integers. A missing value (NaN) compares with
    nothing: it gets 0 and the others are ranked among themselves.

    Args:
        values: One value per persona; NaN where missing.

    Returns:
        Centred ranks, of the same shape.
    """
    count = len(values)
    ranks = np.zeros(values.shape, dtype=np.int8 if count <= 128 else np.int32)
    for i in range(1, count):
        for j in range(i):
            order = (values[i] > values[j]).astype(ranks.dtype)
            order -= values[i] < values[j]
            ranks[i] += order
            ranks[j] -= order
    return ranks.astype(np.int32)


def average_ranks(
    values: Float[np.ndarray, "personas *batch"],
) -> Float[np.ndarray, "personas *batch"]:
    """Ranks from 1, ties sharing the mean of the ranks they span."""
    return (centred_ranks(values) + (len(values) + 1)) / 2


def spearman(
    left: Float[np.ndarray, "personas *left"], right: Float[np.ndarray, "personas *right"]
) -> Float[np.ndarray, "..."]:
    """Spearman's rank correlation with average ranks, over the personas present in both.

    The batch axes broadcast. Numerator and denominator are exact integers until one square root
    and one division, so that a correlation of exactly 0.6 compares as 0.6.

    Args:
        left: One value per persona; NaN where missing.
        right: The same, for the other quantity.

    Returns:
        Correlations of shape `broadcast(*left, *right)`; NaN where a side is constant.
    """
    left_missing, right_missing = np.isnan(left), np.isnan(right)
    if left_missing.any() or right_missing.any():
        left, right = np.broadcast_arrays(left, right)
        absent = np.isnan(left) | np.isnan(right)
        left, right = np.where(absent, np.nan, left), np.where(absent, np.nan, right)
    return rank_correlation(centred_ranks(left), centred_ranks(right))


def rank_correlation(
    left: Int[np.ndarray, "personas *left"], right: Int[np.ndarray, "personas *right"]
) -> Float[np.ndarray, "..."]:
    """The correlation of two sets of centred ranks; NaN where either is all zero."""
    left, right = left.astype(np.int32, copy=False), right.astype(np.int32, copy=False)
    product = _sum_of_products(left, right)
    norm = _sum_of_products(left, left).astype(float) * _sum_of_products(right, right)
    undefined = norm == 0
    rho = product / np.sqrt(np.where(undefined, 1.0, norm))
    return np.asarray(np.where(undefined, np.nan, rho))


def _sum_of_products(
    left: Int[np.ndarray, "personas *left"], right: Int[np.ndarray, "personas *right"]
) -> Int[np.ndarray, "..."]:
    """`sum_i left_i * right_i`, exact, without building the whole product."""
    total = np.zeros(np.broadcast_shapes(left.shape[1:], right.shape[1:]), dtype=np.int64)
    for a, b in zip(left, right, strict=True):
        total += a * b
    return total


def kendall_tau(
    left: Float[np.ndarray, " personas"], right: Float[np.ndarray, " personas"]
) -> float:
    """Kendall's tau-b: concordant minus discordant pairs, corrected for ties; NaN if constant."""
    x = np.sign(left[:, None] - left[None, :])
    y = np.sign(right[:, None] - right[None, :])
    norm = np.sum(x * x) * np.sum(y * y)
    return float(np.sum(x * y) / np.sqrt(norm)) if norm else float("nan")


def is_constant(values: Float[np.ndarray, "personas *batch"]) -> np.ndarray:
    """Whether all values that are present are equal; False where none is present."""
    present = ~np.isnan(values)
    low = np.where(present, values, np.inf).min(axis=0)
    high = np.where(present, values, -np.inf).max(axis=0)
    return np.asarray(low == high)


def wilson_interval(
    fired: Float[np.ndarray, "*batch"], total: Float[np.ndarray, "*batch"], confidence: float
) -> _PairSums:
    """Wilson's score interval of a binomial proportion.

    Args:
        fired: Successes.
        total: Trials, at least 1.
        confidence: Two-sided level.

    Returns:
        Lower and upper bound.
    """
    z = normal_quantile(0.5 + confidence / 2)
    rate = fired / total
    shrink = 1 + z * z / total
    centre = (rate + z * z / (2 * total)) / shrink
    half = wilson_half_width(fired, total, confidence)
    return np.asarray(np.maximum(centre - half, 0.0)), np.asarray(np.minimum(centre + half, 1.0))


def wilson_half_width(
    fired: Float[np.ndarray, "*batch"], total: Float[np.ndarray, "*batch"], confidence: float
) -> Float[np.ndarray, "*batch"]:
    """Half the width of Wilson's score interval (before it is clipped to [0, 1])."""
    z = normal_quantile(0.5 + confidence / 2)
    rate = fired / total
    spread = np.sqrt(rate * (1 - rate) / total + z * z / (4 * total * total))
    return np.asarray(z / (1 + z * z / total) * spread)


def mean_rate(values: Float[np.ndarray, "personas *batch"]) -> Float[np.ndarray, "*batch"]:
    """Unweighted mean over the personas that are present; NaN if there is none."""
    present = ~np.isnan(values)
    count = present.sum(axis=0)
    total = np.where(present, values, 0.0).sum(axis=0)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def pooled_half_width(
    values: Float[np.ndarray, "personas *batch"],
    total: Float[np.ndarray, " personas"],
    confidence: float,
) -> Float[np.ndarray, "*batch"]:
    """Wilson half-width of the completions of all personas together; NaN if there is none."""
    trials = np.where(np.isnan(values), 0.0, total.reshape(-1, *[1] * (values.ndim - 1)))
    fired = np.asarray(np.where(np.isnan(values), 0.0, values * trials).sum(axis=0))
    trials = np.asarray(trials.sum(axis=0))
    half = wilson_half_width(fired, np.asarray(np.maximum(trials, 1.0)), confidence)
    return np.asarray(np.where(trials > 0, half, np.nan))


def logistic(logits: Float[np.ndarray, "*batch"] | float) -> Float[np.ndarray, "*batch"]:
    """The rate whose log odds are these: `1 / (1 + exp(-x))`."""
    with np.errstate(over="ignore"):  # exp(800) is infinite, and its rate 0
        return np.asarray(1 / (1 + np.exp(-logits)))


def logit(rates: Float[np.ndarray, "*batch"] | float) -> Float[np.ndarray, "*batch"]:
    """Log odds of rates strictly between 0 and 1."""
    rates = np.asarray(rates, dtype=float)
    return np.asarray(np.log(rates / (1 - rates)))


def defined(value: float | np.ndarray) -> float | None:
    """A number as results hold it: None for NaN."""
    return None if np.isnan(value) else float(value)
