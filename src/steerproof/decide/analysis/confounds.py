"""What else could order the personas: how long their prompts are, and how long their directions.

A steered rate that follows the size of the push ranks sizes. The rank correlation that is left when
a confound is held fixed is the partial one: of the residuals of ranks on the confound's ranks. With
ten personas it must exceed 0.67 in size to be told from nothing (0.71 with both held), so it
describes, and neither rescues nor sinks a verdict.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from steerproof.decide.analysis.answer_records import Confound
from steerproof.decide.analysis.case import Case, rates_of
from steerproof.decide.analysis.distributions import t_quantile
from steerproof.decide.analysis.kinds import steered_kind
from steerproof.decide.analysis.rig import Rig, push_sizes
from steerproof.decide.analysis.statistics import average_ranks, defined, is_constant, spearman
from steerproof.spec.strength import Strength

PerPersona = Float[np.ndarray, " personas"]

LENGTH, SIZE = "prompt length", "norm of the direction"
"""Characters of the system prompt; size of one unit of `c`, over the baseline residual norm."""
_UNIT = Strength(kind="c", number=1.0)


def confounds(
    case: Case, rig: Rig, arm: str, strengths: tuple[Strength, ...]
) -> tuple[Confound, ...]:
    """The ranking at each strength with each confound held fixed, and with all of them.

    Args:
        case: The table under its experiment.
        rig: Its calibration has the sizes of the directions; a table may give them as well.
        arm: The tested arm.
        strengths: Those to look at, each once.
    """
    bridge = rates_of(case, case.bridge)
    measured = _measured(case, rig, arm)
    varying = {name: sizes for name, sizes in measured.items() if not is_constant(sizes)}
    suspects = []
    for strength in strengths:
        steered = rates_of(case, steered_kind(case.experiment, arm, strength))
        if np.isnan(steered).any() or np.isnan(bridge).any():
            continue
        for names in (*((name,) for name in measured), tuple(varying)):
            if len(names) == 1 or len(varying) > 1:
                suspects.append(_held(names, measured, steered, bridge, str(strength)))
    return tuple(suspects)


def _measured(case: Case, rig: Rig, arm: str) -> dict[str, PerPersona]:
    """What is known of each persona before any completion exists."""
    experiment = case.experiment
    prompts = {persona.name: persona.prompt for persona in experiment.personas}
    suspects = {LENGTH: np.array([float(len(prompts[name])) for name in case.personas])}
    sizes = push_sizes(case, rig, steered_kind(experiment, arm, _UNIT))
    return suspects if sizes is None else {**suspects, SIZE: sizes}


def _held(
    names: tuple[str, ...],
    measured: dict[str, PerPersona],
    steered: PerPersona,
    bridge: PerPersona,
    strength: str,
) -> Confound:
    """The correlation of steered and prompted rates with these held fixed."""
    held = [measured[name] for name in names]
    alone = held[0] if len(held) == 1 else None
    constant = alone is not None and bool(is_constant(alone))
    partial = partial_correlation(steered, bridge, held)
    reason = None
    if constant:
        reason = "the same for every persona: it orders nothing"
    elif partial is None:
        reason = "with it held fixed, a side does not vary"
    return Confound(
        names=names,
        strength=strength,
        least=None if alone is None else float(alone.min()),
        most=None if alone is None else float(alone.max()),
        with_steered=None if alone is None else defined(spearman(steered, alone)),
        with_bridge=None if alone is None else defined(spearman(bridge, alone)),
        rho=defined(spearman(steered, bridge)),
        partial=None if constant else partial,
        needed=needed(len(steered), len(held)),
        reason=reason,
    )


def partial_correlation(
    left: PerPersona, right: PerPersona, held: Sequence[PerPersona]
) -> float | None:
    """Spearman's partial correlation: Pearson's of the residuals of ranks on the held ranks.

    Args:
        left: One value per persona.
        right: The same.
        held: What is held fixed.

    Returns:
        None where a side has no variation left.
    """
    ranks = [average_ranks(values) for values in (left, right, *held)]
    design = np.column_stack([np.ones(len(left)), *ranks[2:]])
    rest = [one - design @ np.linalg.lstsq(design, one, rcond=None)[0] for one in ranks[:2]]
    lengths = [float(np.linalg.norm(one)) for one in rest]
    if min(lengths) < 1e-9 * len(left):
        return None
    return float(rest[0] @ rest[1] / (lengths[0] * lengths[1]))


def needed(personas: int, held: int) -> float | None:
    """Size of a partial correlation with p = 0.05, two-sided: `t / sqrt(t^2 + n - 2 - k)`."""
    freedom = personas - 2 - held
    if freedom < 1:
        return None
    t = t_quantile(0.975, freedom)
    return t / float(np.sqrt(t * t + freedom))
