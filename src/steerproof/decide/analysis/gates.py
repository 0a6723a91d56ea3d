"""The gates: what the rig must have shown before a ranking of personas can be answered at all.

A gate that fails says which number failed, what it had to be, and what would mend it. One whose
numbers were not measured is unknown, with the reason: None, never passed. Installed, attainable,
coherent and equal dose are fatal to the ranking; the neutral prompt and the controls are warnings.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from steerproof.decide.analysis.bounds import Bounds, mean_bounds
from steerproof.decide.analysis.gate_numbers import (
    NOT_MEASURED,
    ArmText,
    AttainableNumbers,
    CoherentNumbers,
    CosineNumbers,
    DoseNumbers,
    GateNumbers,
    InstalledNumbers,
)
from steerproof.decide.analysis.reliability import (
    Reliability,
    attainable,
    questions_needed,
)
from steerproof.decide.analysis.statistics import defined, spearman
from steerproof.spec.judging import AnswerSettings

Rates = Float[np.ndarray, "personas *batch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One condition on the rig."""

    name: str
    """`installed`, `attainable`, `coherent`, `equal_dose`, `neutral` or `control`."""
    passed: bool | None
    """None where it was not measured."""
    fatal: bool
    """Where it fails, the ranking cannot be answered; otherwise it is a warning."""
    finding: str
    """What was found, with its number; for an unknown gate, why it is unknown."""
    limit: str
    """What it had to be."""
    remedy: str
    """What would mend it."""
    numbers: GateNumbers = NOT_MEASURED
    """The numbers that decided."""
    at: str = ""
    """The strength that it is about; empty for a gate on no strength."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Install:
    """Whether the prompted adapters learnt for whom to fire, over any batch of tables."""

    difference: Rates
    """Rate under the own persona prompt minus the mean rate under the others."""
    bounds: Bounds
    """Of the mean difference, Student's t over personas."""
    enough: Bool[np.ndarray, "*batch"]
    """So many personas differ by the least that counts."""
    installed: Bool[np.ndarray, "*batch"]
    """The lower bound and enough personas reach their limits."""
    absent: Bool[np.ndarray, "*batch"]
    """The upper bound is below the limit: shown not to be installed."""


def install_of(own: Rates, others: Rates, limits: AnswerSettings) -> Install:
    """How much more a prompted adapter fires under its own persona's prompt.

    Args:
        own: Rate of each persona's adapter under its own prompt, unsteered.
        others: Its mean rate under other personas' prompts and the neutral one.
        limits: Thresholds.
    """
    difference = np.asarray(own - others)
    bounds = mean_bounds(difference)
    needed = np.ceil(limits.installed_share * len(own) - 1e-9)
    enough = np.sum(difference >= limits.installed_each - 1e-12, axis=0) >= needed
    return Install(
        difference=difference,
        bounds=bounds,
        enough=np.asarray(enough),
        installed=np.asarray(enough & (bounds.lower >= limits.installed)),
        absent=np.asarray(bounds.upper < limits.installed),
    )


def installed(
    own: Rates, others: Rates, limits: AnswerSettings, arm: str, prompts: int = 1
) -> Gate:
    """G1: the adapters whose prompted rates are the bridge learnt whom to fire for.

    Args:
        own: Rate of each persona's adapter under its own prompt, unsteered.
        others: Its mean rate under other prompts.
        limits: Thresholds.
        arm: Whose adapters they are.
        prompts: How many other prompts; a single one is the neutral prompt.
    """
    if np.isnan(own).any() or np.isnan(others).any():
        return unknown(
            "installed",
            f"arm {arm} was not measured under its own and another prompt for every persona",
            limit=_install_limit(limits),
        )
    install = install_of(own, others, limits)
    many = int(np.sum(install.difference >= limits.installed_each - 1e-12))
    state = "not installed" if install.absent else "installed" if install.installed else "not shown"
    bounds = install.bounds
    compared = "the neutral one" if prompts == 1 else "others"
    return Gate(
        name="installed",
        passed=bool(install.installed),
        fatal=True,
        finding=f"arm {arm}, unsteered: {own.mean():.2f} under the own persona's prompt, "
        f"{others.mean():.2f} under {compared}; difference {float(bounds.mean):z.3f} "
        f"({float(bounds.lower):z.2f} to {float(bounds.upper):z.2f}), {many} of {len(own)} "
        f"personas by {limits.installed_each:g}: {state}",
        limit=_install_limit(limits),
        remedy="train the prompted arm until it knows its persona (more steps, a higher rate, "
        "more rows), chosen by this number alone",
        numbers=InstalledNumbers(
            own=float(own.mean()),
            others=float(others.mean()),
            difference=float(bounds.mean),
            lower=float(bounds.lower),
            upper=float(bounds.upper),
            low=float(bounds.low),
            high=float(bounds.high),
            prompts=prompts,
            personas=many,
            not_installed=int(install.absent),
        ),
    )


def _install_limit(limits: AnswerSettings) -> str:
    return (
        f"difference with a one-sided 95% lower bound of {limits.installed:g} or more, and "
        f"{limits.installed_each:g} or more for {limits.installed_share:.0%} of the personas"
    )


def attainable_rho(
    bridge: Reliability, steered: Reliability, questions: int, limits: AnswerSettings, strength: str
) -> Gate:
    """G2: the two rankings hold enough signal for a perfect relation to show."""
    value = float(attainable(bridge, steered))
    wanted = limits.attainable
    more = questions_needed(bridge, steered, questions, wanted)
    passed = value >= wanted
    remedy = "" if passed else "no number of questions would do: spread the rates first"
    if more is not None and not passed:
        remedy = f"{more} questions instead of {questions} would do"
    alphas = f"alpha {_alpha(bridge)} (bridge) and {_alpha(steered)} ({strength})"
    return Gate(
        name="attainable",
        passed=passed,
        fatal=True,
        finding=f"a perfect relation would show a correlation of {value:z.2f}: {alphas}",
        limit=f"{wanted:g} or more",
        remedy=remedy,
        numbers=AttainableNumbers(
            attainable=value,
            alpha_bridge=defined(bridge.alpha),
            alpha_bridge_low=defined(bridge.low),
            alpha_bridge_high=defined(bridge.high),
            alpha_steered=defined(steered.alpha),
            alpha_steered_low=defined(steered.low),
            alpha_steered_high=defined(steered.high),
            questions=questions,
            questions_needed=more,
        ),
        at=strength,
    )


def _alpha(reliable: Reliability) -> str:
    alpha = defined(reliable.alpha)
    return "none, since every persona has the same rate" if alpha is None else f"{alpha:.2f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TextQuality:
    """What the completions of one arm's cells are like, marker aside."""

    ended: float
    """Share that ended by themselves, before the token limit."""
    coherent: float
    """Share that ended and do not repeat themselves."""
    completions: int


def coherent(
    steered: Mapping[str, TextQuality],
    unsteered: Mapping[str, TextQuality],
    limits: AnswerSettings,
    strength: str,
) -> Gate:
    """G3: pushing leaves the text whole.

    Args:
        steered: By arm, at the strength: the tested arm, its control, the prompted arm.
        unsteered: By arm, without a push; an arm without one is held to the first arm's.
        limits: Thresholds.
        strength: At which the arms are steered.
    """
    limit = (
        f"at most {limits.coherence_loss:g} fewer coherent completions than unsteered, in each arm"
    )
    pairs = {
        arm: (text, unsteered.get(arm) or next(iter(unsteered.values()), None))
        for arm, text in steered.items()
    }
    judged = {arm: (text, still) for arm, (text, still) in pairs.items() if still is not None}
    if not judged or len(judged) < len(pairs):
        return unknown("coherent", f"no record of how completions end at {strength}", limit=limit)
    arms = {
        arm: ArmText(ended=text.ended, coherent=text.coherent, unsteered=still.coherent)
        for arm, (text, still) in judged.items()
    }
    largest = max(text.lost for text in arms.values())
    broken = largest > limits.coherence_loss + 1e-12
    shown = "; ".join(
        f"arm {arm}: {text.ended:.0%} end, {text.coherent:.0%} coherent ({text.unsteered:.0%} "
        "unsteered)"
        for arm, text in arms.items()
    )
    return Gate(
        name="coherent",
        passed=not broken,
        fatal=True,
        finding=f"at {strength}, {shown}",
        limit=limit,
        remedy="" if not broken else "push less: decide at the ratio that was trained",
        numbers=CoherentNumbers(largest_loss=largest, limit=limits.coherence_loss, arms=arms),
        at=strength,
    )


def equal_dose(ratios: Rates | None, steered: Rates, limits: AnswerSettings, strength: str) -> Gate:
    """G4: every persona is pushed alike, so that the size of the push does not order the rates.

    Args:
        ratios: Size of each persona's push relative to the baseline residual norm; None if
            unknown.
        steered: Rates at the strength.
        limits: Thresholds.
        strength: At which the personas are steered.
    """
    limit = f"largest push at most {limits.dose_ratio:g} times the smallest"
    if ratios is None or np.isnan(ratios).any():
        reason = f"the size of the push at {strength} is not known for every persona"
        return unknown("equal_dose", reason, limit=limit)
    sizes = np.abs(ratios)
    spread = float(sizes.max() / sizes.min())
    rho = defined(spearman(steered, sizes))
    ordered = rho is not None and abs(rho) >= limits.dose_rho and spread > 1 + 1e-6
    passed = spread <= limits.dose_ratio
    order = "" if rho is None else f"; rank correlation of rate and push {rho:z.2f}"
    return Gate(
        name="equal_dose",
        passed=passed,
        fatal=True,
        finding=f"{strength} pushes by a ratio of {sizes.min():.2f} to {sizes.max():.2f}, "
        f"{spread:.2f} times{order}",
        limit=limit,
        remedy="" if passed else "decide at a ratio, which is the same push for every persona",
        numbers=DoseNumbers(
            smallest=float(sizes.min()),
            largest=float(sizes.max()),
            spread=spread,
            rho_rate_push=rho if spread > 1 + 1e-6 else None,
            dose_ranked=int(ordered),
        ),
        at=strength,
    )


def neutral(cosines: Mapping[str, float], allowed: float) -> Gate:
    """G5: the neutral prompt is not near one persona; a warning, since it cancels in the matrix."""
    limit = f"largest |cosine| at most {allowed:g}"
    if not cosines:
        return unknown("neutral", "no calibration of the directions", limit=limit, fatal=False)
    worst = max(cosines, key=lambda name: abs(cosines[name]))
    passed = abs(cosines[worst]) <= allowed
    return Gate(
        name="neutral",
        passed=passed,
        fatal=False,
        finding=f"the neutral prompt's cosine with {worst} is {cosines[worst]:+z.2f}, the largest",
        limit=limit,
        remedy="" if passed else "choose another neutral_prompt",
        numbers=CosineNumbers(cosine=cosines[worst]),
    )


def control(cosines: Mapping[str, float] | None, limits: AnswerSettings, kind: str) -> Gate:
    """G6: a control direction has little of the direction it controls for.

    Args:
        cosines: Of each persona's control with its own centroid; None if they were not stored.
        limits: Thresholds.
        kind: One of `CONTROL_KINDS`.
    """
    limit = f"largest |cosine| with the own centroid at most {limits.control_cosine:g}"
    if not cosines:
        reason = f"the cosines of the {kind} directions with the centroids are not stored"
        return unknown("control", reason, limit=limit, fatal=False)
    worst = max(cosines, key=lambda name: abs(cosines[name]))
    passed = abs(cosines[worst]) <= limits.control_cosine
    return Gate(
        name="control",
        passed=passed,
        fatal=False,
        finding=f"{kind}: the largest cosine with the own centroid is {cosines[worst]:+z.2f} "
        f"({worst})",
        limit=limit,
        remedy="" if passed else "draw the control again without its own centroid's part",
        numbers=CosineNumbers(cosine=cosines[worst]),
    )


def unknown(name: str, reason: str, *, limit: str, fatal: bool = True) -> Gate:
    """A gate whose numbers were not measured."""
    return Gate(
        name=name,
        passed=None,
        fatal=fatal,
        finding=f"not known: {reason}",
        limit=limit,
        remedy="measure it",
    )
