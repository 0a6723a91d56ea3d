"""Training seeds: is an order of personas one of personas, or only of these trained adapters?

Shrout and Fleiss (1979): personas and seeds are crossed, every seed trained on every persona.
What a seed adds to all personas alike leaves the order alone, so consistency is asked for, not
agreement: ICC(3,1) for one seed, ICC(3,k) for the mean of k. The latter is Hoyt's alpha with seeds
in the place of questions.
"""

import numpy as np
from jaxtyping import Float

from steerproof.decide.analysis.answer_records import SeedAnswer
from steerproof.decide.analysis.reliability import reliability
from steerproof.spec.judging import AnswerSettings

_ADAPTERS = "these adapters"


def one_training(seeds: int = 1) -> SeedAnswer:
    """What is known with a single training of each adapter: nothing."""
    reason = f"{seeds} training of each adapter: the order may be that of these adapters alone"
    return SeedAnswer(subject=_ADAPTERS, reason=reason)


def seed_agreement(
    values: Float[np.ndarray, "personas seeds"], limits: AnswerSettings
) -> SeedAnswer:
    """Agreement of training seeds on the order of personas.

    Args:
        values: One number per persona and training seed, none missing.
        limits: Says from which agreement and from how many seeds on to speak of personas.
    """
    seeds = values.shape[1]
    if seeds < 2:
        return one_training(seeds)
    mean = float(reliability(values).alpha)
    if np.isnan(mean):
        reason = "every persona has the same mean over seeds: there is no order"
        return SeedAnswer(subject=_ADAPTERS, reason=reason)
    enough = bool(mean >= limits.seed_agreement and seeds >= limits.seeds)
    compared = "reaches" if mean >= limits.seed_agreement else "is below"
    return SeedAnswer(
        subject="these personas" if enough else _ADAPTERS,
        single=mean / (seeds - (seeds - 1) * mean),
        mean=mean,
        reason=f"ICC over {seeds} training seeds {mean:z.2f} {compared} {limits.seed_agreement:g}"
        + ("" if seeds >= limits.seeds else f", and {limits.seeds} seeds are needed"),
    )
