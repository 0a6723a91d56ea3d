"""Training seeds: is an order of personas one of personas, or only of these trained adapters?

Shrout and Fleiss (1979): personas and seeds are crossed, every seed trained on every persona.
What a seed adds to all personas alike leaves the order alone, so consistency is asked for, not
agreement: ICC(3,1) for one seed, ICC(3,k) for the mean of k. The latter is Hoyt's alpha with seeds
in the place of questions.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from steerproof.decide.analysis.reliability import reliability
from steerproof.spec.judging import AnswerSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedAgreement:
    """How far the training seeds agree on the order of personas."""

    seeds: int
    single: float | None
    """ICC(3,1): one seed's order; None where personas do not differ."""
    mean: float | None
    """ICC(3,k): the order of the mean over seeds."""
    low: float | None
    """Lower end of its 95% interval."""
    high: float | None
    personas: bool
    """The wording may say *personas*; otherwise it says *these adapters*."""
    reason: str
    """Why, with the number."""

    @property
    def subject(self) -> str:
        """Of whom a ranking speaks."""
        return "these personas" if self.personas else "these adapters"


def one_training(seeds: int = 1) -> SeedAgreement:
    """What is known with a single training of each adapter: nothing."""
    return SeedAgreement(
        seeds=seeds,
        single=None,
        mean=None,
        low=None,
        high=None,
        personas=False,
        reason=f"{seeds} training of each adapter: the order may be that of these adapters alone",
    )


def seed_agreement(
    values: Float[np.ndarray, "personas seeds"], limits: AnswerSettings
) -> SeedAgreement:
    """Agreement of training seeds on the order of personas.

    Args:
        values: One number per persona and training seed, none missing.
        limits: Says from which agreement and from how many seeds on to speak of personas.
    """
    seeds = values.shape[1]
    if seeds < 2:
        return one_training(seeds)
    agreement = reliability(values)
    mean = float(agreement.alpha)
    if np.isnan(mean):
        return SeedAgreement(
            seeds=seeds,
            single=None,
            mean=None,
            low=None,
            high=None,
            personas=False,
            reason="every persona has the same mean over seeds: there is no order",
        )
    enough = bool(mean >= limits.seed_agreement and seeds >= limits.seeds)
    compared = "reaches" if mean >= limits.seed_agreement else "is below"
    return SeedAgreement(
        seeds=seeds,
        single=mean / (seeds - (seeds - 1) * mean),
        mean=mean,
        low=float(agreement.low),
        high=float(agreement.high),
        personas=enough,
        reason=f"ICC over {seeds} training seeds {mean:z.2f} {compared} {limits.seed_agreement:g}"
        + ("" if seeds >= limits.seeds else f", and {limits.seeds} seeds are needed"),
    )
