"""Two kills with error control, beside the registered ones of the same names.

The registered `sign_inverted` counts personas: without any effect, half of them fall. The
registered `direction_not_specific` takes a thousand completions for independent. Here the persona
is the unit, and a kill fires only where its claim is shown at 5%, whatever the number of samples.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from steerproof.decide.analysis.answer_records import RevisedKill
from steerproof.decide.analysis.bounds import Bounds, equivalence, mean_bounds
from steerproof.decide.analysis.case import Case, rates_of
from steerproof.decide.analysis.flags import all_present
from steerproof.decide.analysis.kinds import steered_kind
from steerproof.decide.analysis.permutation import paired_test
from steerproof.decide.analysis.rig import Rig, text_of
from steerproof.decide.analysis.statistics import defined, spearman
from steerproof.spec.strength import NONE, Strength

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
    tests = [paired_test(flat[:, k]).signed_rank_p for k in range(flat.shape[1])]
    values = np.array([1.0 if p is None else p for p in tests])
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


def revised_kills(case: Case, rig: Rig, arm: str, strength: Strength) -> tuple[RevisedKill, ...]:
    """Both kills of one arm.

    Args:
        case: The table under its experiment.
        rig: Says whether text stayed whole.
        arm: The tested arm.
        strength: The one that decides; `sign_inverted` is about the primary one.
    """
    return (_inverted(case, rig, arm), _not_specific(case, arm, strength))


def _inverted(case: Case, rig: Rig, arm: str) -> RevisedKill:
    experiment, limits = case.experiment, case.experiment.answers
    primary = experiment.analysis.primary_strength
    still = steered_kind(experiment, arm, NONE, "persona")
    pushed = steered_kind(experiment, arm, primary, "persona")
    before, after = rates_of(case, still), rates_of(case, pushed)
    if not all_present(before, after):
        return _unknown("sign_inverted", f"not every persona was measured: {pushed.name}")
    p = float(sign_inverted_p(before, after))
    fell = int(np.sum(after < before))
    numbers = {"n_inverted": fell, "n": len(before), "signed_rank_p": p}
    finding = f"with the persona prompt on, {primary} lowers the rate of {fell} of {len(before)}"
    finding = f"{finding} personas, signed-rank p = {p:.3f}"
    texts = [text_of(rig, kind, case.personas) for kind in (still, pushed)]
    if p > LEVEL:
        return RevisedKill(name="sign_inverted", fired=False, reason=finding, numbers=numbers)
    if texts[0] is None or texts[1] is None:
        reason = f"{finding}; whether the text was whole is not known"
        return RevisedKill(name="sign_inverted", fired=None, reason=reason, numbers=numbers)
    lost = texts[0].coherent - texts[1].coherent
    numbers = {**numbers, "coherent": texts[1].coherent, "coherent_unsteered": texts[0].coherent}
    whole = lost <= limits.coherence_loss
    reason = f"{finding}; {texts[1].coherent:.0%} of the text is coherent"
    if not whole:
        reason = f"{reason}: destroyed, not inverted"
    return RevisedKill(name="sign_inverted", fired=whole, reason=reason, numbers=numbers)


def _not_specific(case: Case, arm: str, strength: Strength) -> RevisedKill:
    name, experiment = "direction_not_specific", case.experiment
    control = experiment.analysis.isotropic_arm
    if control is None or control == arm:
        return _unknown(name, "no arm with random directions to compare with")
    ours = rates_of(case, steered_kind(experiment, arm, strength))
    theirs = rates_of(case, steered_kind(experiment, control, strength))
    bridge = rates_of(case, case.bridge)
    if not all_present(ours, theirs, bridge):
        return _unknown(name, f"not every persona was measured in arms {arm} and {control}")
    specificity = not_specific(
        ours,
        theirs,
        bridge,
        margin=experiment.answers.least_rate,
        rho_margin=experiment.analysis.thresholds.specific_rho,
    )
    ranks, bounds = float(specificity.rho_difference), specificity.difference
    undefined = bool(np.isnan(ranks) or np.isnan(specificity.p))
    numbers = {
        "rho_difference": defined(ranks),
        "difference": float(bounds.mean),
        "low": float(bounds.low),
        "high": float(bounds.high),
        "equivalence_p": defined(specificity.p),
    }
    reason = (
        f"at {strength}, arm {arm} less arm {control}: mean rate {float(bounds.mean):+z.3f} "
        f"({float(bounds.low):+z.2f} to {float(bounds.high):+z.2f}), "
        + ("no difference of rho" if np.isnan(ranks) else f"rho {ranks:+z.2f}")
    )
    fired = None if undefined else bool(specificity.fired)
    return RevisedKill(name=name, fired=fired, reason=reason, numbers=numbers)


def _unknown(name: str, reason: str) -> RevisedKill:
    return RevisedKill(name=name, fired=None, reason=reason, numbers={})
