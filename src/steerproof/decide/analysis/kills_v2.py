"""Two kills with error control, beside the registered ones of the same names.

The registered `sign_inverted` counts personas: without any effect, half of them fall. The
registered `direction_not_specific` takes a thousand completions for independent. Here the persona
is the unit, and a kill fires only where its claim is shown at 5%, whatever the number of samples.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from steerproof.decide.analysis.bounds import Bounds, equivalence, mean_bounds
from steerproof.decide.analysis.permutation import paired_test
from steerproof.decide.analysis.statistics import spearman

Rates = Float[np.ndarray, "personas *batch"]
Batch = Float[np.ndarray, "*batch"]

LEVEL = 0.05
"""Largest p of a kill that fires."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotSpecific:
    """Whether a random direction is shown to do as well."""

    rho_difference: Batch
    """rho(direction) - rho(random), both against the bridge."""
    difference: Bounds
    """Mean rate of the direction minus that of the random one, Student's t over personas."""
    p: Batch
    """Two one-sided tests that the mean rates are equivalent within the margin."""
    fired: np.ndarray
    """Equivalent mean rates, and no more rank correlation: True or False."""


def sign_inverted_p(prompted: Rates, prompted_steered: Rates) -> Batch:
    """One-sided exact signed-rank p that pushing lowers the rate, the persona prompt on.

    Args:
        prompted: Rate under the persona prompt.
        prompted_steered: The same with the push along the direction.

    Returns:
        1 where no persona changes.
    """
    drops = np.asarray(prompted - prompted_steered)
    flat = drops.reshape(len(drops), -1)
    found = [paired_test(flat[:, k]).signed_rank_p for k in range(flat.shape[1])]
    values = np.array([1.0 if p is None else p for p in found])
    return values.reshape(drops.shape[1:])


def not_specific(
    direction: Rates, random: Rates, bridge: Rates, *, margin: float, rho_margin: float
) -> NotSpecific:
    """Whether a random direction of the same size does as well, in rate and in ranking.

    Args:
        direction: Steered rates.
        random: Rates under the random direction.
        bridge: The reference ranking.
        margin: Mean rates closer than this are equivalent.
        rho_margin: The direction must have this much more rank correlation to be specific.
    """
    ranks = np.asarray(spearman(direction, bridge) - spearman(random, bridge))
    p = equivalence(np.asarray(direction - random), margin)
    return NotSpecific(
        rho_difference=ranks,
        difference=mean_bounds(np.asarray(direction - random)),
        p=p,
        fired=np.asarray((p <= LEVEL) & (ranks < rho_margin)),
    )
