"""The ranking on margins: the bridge and the steered cells compared without a ceiling.

A rate of 1 ranks nobody; the margin at the end of an answer goes on. What is done with it is what
is done with rates: alpha, the correlation it leaves attainable, and the inversion. It decides
nothing, for the gates on the rig hold for it as well, but it says whether saturation alone hid an
order. Margins of the base model are never subtracted: two arms would correlate through them.
"""

import numpy as np
from jaxtyping import Float

from steerproof.decide.analysis.answer_records import GradedRanking
from steerproof.decide.analysis.beside import beside
from steerproof.decide.analysis.case import Case
from steerproof.decide.analysis.inversion import invert, noise_of, observed_rho
from steerproof.decide.analysis.kinds import steered_kind
from steerproof.decide.analysis.reliability import attainable, reliability
from steerproof.decide.analysis.resampling import stream
from steerproof.decide.analysis.rig import Margins, Rig
from steerproof.decide.analysis.slots import TextKind
from steerproof.spec.grid import CellKind
from steerproof.spec.strength import Strength

_LEAST_QUESTIONS = 5
"""With fewer questions that every persona answered, alpha says nothing."""


def graded_rankings(
    case: Case, rig: Rig, arm: str, strengths: tuple[Strength, ...]
) -> tuple[GradedRanking, ...]:
    """The ranking on margins, at each strength and on each kind of text that was read.

    Args:
        case: The table under its experiment.
        rig: Holds the margins.
        arm: The tested arm.
        strengths: Those to compare at, each once.
    """
    read: tuple[tuple[TextKind, Margins], ...] = (
        ("own", rig.own_margins),
        ("common", rig.margins),
    )
    kinds = [steered_kind(case.experiment, arm, strength) for strength in strengths]
    wanted: list[tuple[TextKind, Margins, CellKind]] = [
        (text, measured, kind) for kind in kinds for text, measured in read
    ]
    found = beside(lambda one: _compared(case, *one), wanted)
    return tuple(ranking for ranking in found if ranking is not None)


def _compared(
    case: Case, text: TextKind, measured: Margins, kind: CellKind
) -> GradedRanking | None:
    """One comparison; None where a side has no text of the kind at all."""
    bridge, steered = (margins_of(case, measured, one) for one in (case.bridge, kind))
    if bridge is None or steered is None:
        return None
    questions = (bridge.shape[1], steered.shape[1])
    reason = _unranked(bridge, steered)
    if reason is not None:
        return GradedRanking(
            text=text, strength=str(kind.strength), questions=questions, reason=reason
        )
    first, second = reliability(bridge), reliability(steered)
    rng = stream(case.plan.seed, "inversion", text, kind.name)
    draws = case.experiment.answers.draws
    left, right = (noise_of(values, draws=draws, rng=rng) for values in (bridge, steered))
    inversion = invert(
        left,
        right,
        float(observed_rho(bridge, steered)),
        threshold=case.experiment.analysis.thresholds.rho,
        rng=rng,
    )
    return GradedRanking(
        text=text,
        strength=str(kind.strength),
        questions=questions,
        alpha_bridge=float(first.alpha),
        alpha_steered=float(second.alpha),
        attainable=float(attainable(first, second)),
        rho=inversion.rho,
        interval=inversion.interval,
        p_threshold=inversion.p_below,
    )


def _unranked(bridge: np.ndarray, steered: np.ndarray) -> str | None:
    """Why two tables of margins have no rank correlation; None where they have."""
    fewest = min(bridge.shape[1], steered.shape[1])
    if fewest < _LEAST_QUESTIONS:
        return (
            f"every persona has a margin on {fewest} questions, and {_LEAST_QUESTIONS} are needed: "
            "the other texts were cut by length"
        )
    return "a constant has no ranking" if np.isnan(observed_rho(bridge, steered)) else None


def margins_of(
    case: Case, measured: Margins, kind: CellKind
) -> Float[np.ndarray, "personas kept"] | None:
    """Margins of all headline personas, on the questions on which each of them has one.

    A text that was cut by length has no slot. Leaving its question out for everybody keeps personas
    and questions crossed, which alpha and the noise of a mean rest on.

    Returns:
        Nats; None where a persona's cell was not graded on this kind of text.
    """
    rows = [measured.get(kind.cell(name)) for name in case.personas]
    known = [row for row in rows if row is not None]
    if not known or len(known) < len(rows):
        return None
    values = np.array(known)
    return values[:, ~np.isnan(values).any(axis=0)]
