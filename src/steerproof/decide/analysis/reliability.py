"""How much of a ranking is signal: Hoyt's alpha, and the correlation that it leaves attainable.

Every persona is asked the same questions, so persona and question are crossed and the shared
difficulty of a question drops out of the error. Hoyt read the reliability of the persona means off
that table's analysis of variance; it equals Cronbach's alpha (1951), the mean over all split
halves. Its interval is Feldt's (1965; formula as in Feldt, Woodruff and Salih 1987). Spearman and
Brown's prophecy says what more questions would do, Spearman's attenuation what ceiling
unreliability puts on a correlation.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from steerproof.decide.analysis.distributions import CONFIDENCE, f_quantile

Values = Float[np.ndarray, "personas questions *batch"]
"""One number per persona and question: a rate over its samples, or a graded outcome."""
Batch = Float[np.ndarray, "*batch"]

_MOST_QUESTIONS = 2_000
"""More questions than this are called out of reach."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """Share of the variance of persona means that is not noise, with its interval."""

    alpha: Batch
    """Hoyt's alpha; negative where personas differ less than noise alone would make them, NaN
    where all their means are equal."""
    low: Batch
    """Feldt's lower bound."""
    high: Batch
    """Feldt's upper bound."""

    @property
    def signal(self) -> Batch:
        """Alpha as a share of variance: no signal where it is negative or undefined."""
        return np.asarray(np.maximum(np.nan_to_num(self.alpha, nan=0.0), 0.0))


def reliability(values: Values) -> Reliability:
    """Hoyt's alpha of the persona means over these questions.

    `alpha = 1 - MS_error / MS_persona` of the two-way layout without replication.

    Args:
        values: At least two personas and two questions; NaN where one is missing.

    Returns:
        Alpha and its interval; NaN where a value is missing or all means are equal.
    """
    personas, questions = values.shape[:2]
    centred = values.mean(axis=1) - values.mean(axis=(0, 1))
    between = np.asarray(questions * np.sum(centred**2, axis=0) / (personas - 1))
    freedom = (personas - 1) * (questions - 1)
    error = np.asarray(np.sum(additive_residuals(values) ** 2, axis=(0, 1)) / freedom)
    flat = between <= 1e-12
    noise = np.asarray(np.where(flat, np.nan, error / np.where(flat, 1.0, between)))
    tail = (1 - CONFIDENCE) / 2
    wide, narrow = (f_quantile(q, personas - 1, freedom) for q in (1 - tail, tail))
    return Reliability(
        alpha=np.asarray(1 - noise),
        low=np.asarray(1 - noise * wide),
        high=np.asarray(1 - noise * narrow),
    )


def additive_residuals(values: Values) -> Values:
    """What is left of each value when its persona and its question are taken out."""
    rows = values.mean(axis=1, keepdims=True)
    columns = values.mean(axis=0, keepdims=True)
    return np.asarray(values - rows - columns + values.mean(axis=(0, 1), keepdims=True))


def attainable(bridge: Reliability, steered: Reliability) -> Batch:
    """Correlation that two rankings as noisy as these show when their true orders are one.

    Spearman's attenuation, `sqrt(alpha_bridge * alpha_steered)`; a negative alpha counts as 0.
    """
    return np.asarray(np.sqrt(bridge.signal * steered.signal))


def lengthened(alpha: Batch, times: Float[np.ndarray, "..."] | float) -> Float[np.ndarray, "..."]:
    """Reliability with so many times the questions: Spearman and Brown's prophecy."""
    return np.asarray(times * alpha / (1 + (times - 1) * alpha))


def questions_needed(
    bridge: Reliability, steered: Reliability, questions: int, wanted: float
) -> int | None:
    """Fewest questions with which the attainable correlation reaches `wanted`.

    Args:
        bridge: Reliability of the bridge over `questions` questions.
        steered: The same of the steered rates.
        questions: Number of questions that both were measured with.
        wanted: Attainable correlation that is asked for.

    Returns:
        None where no number up to `_MOST_QUESTIONS` would do, as where an alpha is not positive.
    """
    counts = np.arange(1, _MOST_QUESTIONS + 1)
    times = counts / questions
    reached = np.sqrt(lengthened(bridge.signal, times) * lengthened(steered.signal, times))
    enough = counts[reached >= wanted]
    return int(enough[0]) if len(enough) else None
