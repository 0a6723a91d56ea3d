"""What the adapters read: the outcome that a set of matrices has, by bounds over personas.

A difference smaller than the experiment's `least_rate` (or `least_nats`) does not matter: an
outcome is said where one-sided 95% bounds are beyond it, else it is undecided.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from steerproof.decide.analysis.answer_records import (
    Carries,
    Contrast,
    Estimate,
    MatrixResult,
    Reads,
    Scale,
)
from steerproof.decide.analysis.bounds import Bounds, mean_bounds
from steerproof.spec.judging import AnswerSettings

Adapters = Float[np.ndarray, " adapters"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Classes:
    """Mean response of each adapter to each class of push; None where it was not measured."""

    own: Adapters
    held_out: Adapters | None
    """Directions of personas that it never saw; None where some adapter has none."""
    negatives: Adapters | None
    """Directions that it was trained to be silent at."""
    random: Adapters | None
    """Random directions on which it was not trained."""
    unsteered: Adapters | None


def contrasts(classes: Classes) -> tuple[Contrast, ...]:
    """Differences of the classes that were measured."""
    pairs = {
        "own - unsteered": (classes.own, classes.unsteered),
        "random - unsteered": (classes.random, classes.unsteered),
        "held out - random": (classes.held_out, classes.random),
        "held out - negatives": (classes.held_out, classes.negatives),
    }
    return tuple(
        Contrast(name=name, estimate=estimated(mean_bounds(np.asarray(left - right))))
        for name, (left, right) in pairs.items()
        if left is not None and right is not None
    )


def estimated(bounds: Bounds) -> Estimate:
    """Bounds of one number as a record."""
    return Estimate(
        value=float(bounds.mean),
        interval=(float(bounds.low), float(bounds.high)),
        lower=float(bounds.lower),
        upper=float(bounds.upper),
    )


def _least_of(scale: Scale, limits: AnswerSettings) -> float:
    """The smallest difference that matters on a scale."""
    return limits.least_rate if scale == "rate" else limits.least_nats


def selective(matrix: MatrixResult | None, limits: AnswerSettings) -> bool | None:
    """Whether each adapter answers to its own column; None where that was not measured."""
    if matrix is None or matrix.s is None or matrix.p is None:
        return None
    return matrix.p <= limits.matrix_p and matrix.s.lower > _least_of(matrix.scale, limits)


def reads(
    matrix: MatrixResult | None, effects: tuple[Contrast, ...], limits: AnswerSettings
) -> Reads:
    """The outcome of the tested arm.

    Args:
        matrix: The tested arm under its own kind of direction.
        effects: Its contrasts.
        limits: Thresholds.
    """
    if matrix is None or matrix.s is None:
        return Reads.NOT_MEASURED
    if selective(matrix, limits):
        return Reads.OWN
    least = _least_of(matrix.scale, limits)
    subspace = least * limits.subspace_rate / limits.least_rate
    by_name = {contrast.name: contrast.estimate for contrast in effects}
    nothing = by_name.get("own - unsteered")
    alike = matrix.s.upper < least
    outcomes = (
        (Reads.SUBSPACE, alike and _above(by_name.get("held out - random"), subspace)),
        (Reads.NEGATIVES, alike and _above(by_name.get("held out - negatives"), least)),
        (Reads.ANY, alike and _larger(by_name.get("random - unsteered"), least)),
        (Reads.NONE, nothing is not None and nothing.upper < least),
    )
    return next((outcome for outcome, holds in outcomes if holds), Reads.UNDECIDED)


def _above(estimate: Estimate | None, least: float) -> bool:
    return estimate is not None and estimate.lower > least


def _larger(estimate: Estimate | None, least: float) -> bool:
    return estimate is not None and estimate.value > least and estimate.lower > 0


def carries(
    tested: MatrixResult | None, control: MatrixResult | None, limits: AnswerSettings
) -> Carries:
    """Whether an arm that never saw a persona prompt fires under its own persona's.

    Args:
        tested: Prompt matrix of the tested arm, unsteered.
        control: Prompt matrix of the arm trained with random directions.
        limits: Thresholds.
    """
    ours, theirs = selective(tested, limits), selective(control, limits)
    if tested is None or ours is None:
        return Carries.NOT_MEASURED
    if ours:
        return Carries.BOTH if theirs else Carries.YES
    least = _least_of(tested.scale, limits)
    small = tested.s is not None and tested.s.upper < least
    return Carries.NO if small else Carries.UNDECIDED


def supports(
    tested: MatrixResult | None, baseline: MatrixResult | None, limits: AnswerSettings
) -> bool | None:
    """Whether the matrix bears a SUPPORTED of the title's question.

    The tested arm must be selective, and the arm trained on prompts alone must not be, or less by
    what matters.
    """
    ours = selective(tested, limits)
    if tested is None or tested.s is None or ours is None:
        return None
    if not ours:
        return False
    if baseline is None or baseline.s is None:
        return None
    least = _least_of(tested.scale, limits)
    return baseline.s.upper < least or tested.s.value - baseline.s.value > least
