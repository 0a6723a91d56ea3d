"""Student's t over personas: the bounds of a mean whose unit is the persona, not the completion."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from steerproof.decide.analysis.distributions import CONFIDENCE, t_quantile, t_tail

Batch = Float[np.ndarray, "*batch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """A mean over personas and what it may be; NaN with fewer than two personas."""

    mean: Batch
    """Of what was measured."""
    error: Batch
    """Standard error, with n - 1 degrees of freedom."""
    lower: Batch
    """One-sided lower bound: the true mean is above it with `CONFIDENCE`."""
    upper: Batch
    """One-sided upper bound."""
    low: Batch
    """Lower end of the two-sided interval."""
    high: Batch
    """Upper end of the two-sided interval."""


def mean_bounds(values: Float[np.ndarray, "personas *batch"]) -> Bounds:
    """Student's t bounds of the mean of one number per persona, NaN if one is missing."""
    count = len(values)
    mean = np.asarray(values.mean(axis=0))
    if count < 2:
        return bounds_around(mean, np.full_like(mean, np.nan), 1)
    error = np.asarray(values.std(axis=0, ddof=1) / np.sqrt(count))
    return bounds_around(mean, error, count - 1)


def bounds_around(mean: Batch, error: Batch, freedom: int) -> Bounds:
    """Bounds of an estimate with a standard error of so many degrees of freedom."""
    one_sided, two_sided = (t_quantile(q, freedom) for q in (CONFIDENCE, (1 + CONFIDENCE) / 2))
    return Bounds(
        mean=mean,
        error=error,
        lower=np.asarray(mean - one_sided * error),
        upper=np.asarray(mean + one_sided * error),
        low=np.asarray(mean - two_sided * error),
        high=np.asarray(mean + two_sided * error),
    )


def equivalence(
    values: Float[np.ndarray, "personas *batch"], margin: float
) -> Float[np.ndarray, "*batch"]:
    """Larger p of two one-sided t tests that the mean lies within `-margin .. margin`.

    At 0.05 or below the mean is zero for all that matters (Schuirmann 1987). NaN where the values
    do not vary and lie on the margin, or where one is missing.
    """
    bounds = mean_bounds(values)
    distance = np.asarray(margin - np.abs(bounds.mean))
    with np.errstate(divide="ignore", invalid="ignore"):
        return t_tail(np.asarray(distance / bounds.error), len(values) - 1)
