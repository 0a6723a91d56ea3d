"""Which cells an analysis is about: the reference ranking, an arm's own cells, its random ones."""

from collections.abc import Collection

from steerproof.decide.analysis.kills import ArmCells
from steerproof.spec.experiment import Experiment, PromptKind
from steerproof.spec.grid import CellKind
from steerproof.spec.strength import NONE, Strength


def bridge_kind(experiment: Experiment) -> CellKind:
    """The reference ranking: persona prompt, unsteered, in the bridge arm."""
    return CellKind(arm=experiment.analysis.bridge_arm, prompt="persona")


def steered_kind(
    experiment: Experiment, arm: str, strength: Strength, prompt: PromptKind = "neutral"
) -> CellKind:
    """An arm under its own direction, at its own layer; unsteered at strength `none`."""
    if strength == NONE:
        return CellKind(arm=arm, prompt=prompt)
    return CellKind(
        arm=arm,
        prompt=prompt,
        direction=experiment.arm(arm).steered_direction,
        layer=experiment.layer(experiment.arm(arm).layer),
        strength=strength,
    )


def arm_cells(experiment: Experiment, arm: str, measured: Collection[CellKind]) -> ArmCells:
    """The cells that an arm's kills look at.

    Args:
        experiment: Names the strengths, the bridge and the control arm.
        arm: The arm that is judged.
        measured: Kinds of cell that the table has, or that the experiment asks for.
    """
    strength = experiment.analysis.primary_strength
    steered = steered_kind(experiment, arm, strength)
    own = (arm, "neutral", steered.direction, steered.layer)
    strengths = dict.fromkeys(
        kind.strength
        for kind in measured
        if (kind.arm, kind.prompt, kind.direction, kind.layer) == own
    )
    return ArmCells(
        bridge=bridge_kind(experiment),
        steered=steered,
        unsteered=steered_kind(experiment, arm, NONE),
        prompted=steered_kind(experiment, arm, NONE, "persona"),
        prompted_steered=steered_kind(experiment, arm, strength, "persona"),
        sweep=tuple(steered_kind(experiment, arm, other) for other in strengths),
        isotropic=_isotropic_kind(experiment, arm, measured),
    )


def _isotropic_kind(
    experiment: Experiment, arm: str, measured: Collection[CellKind]
) -> CellKind | None:
    """The random direction that an arm's own is compared with, at the primary strength.

    The arm's own isotropic cells where there are any, else the control arm of the experiment.
    None for an arm that is itself steered with a random direction, or without a control arm.
    """
    if experiment.arm(arm).steered_direction == "isotropic":
        return None
    strength = experiment.analysis.primary_strength
    own = CellKind(
        arm=arm,
        prompt="neutral",
        direction="isotropic",
        layer=experiment.layer(experiment.arm(arm).layer),
        strength=strength,
    )
    if own in measured:
        return own
    control = experiment.analysis.isotropic_arm
    return None if control is None else steered_kind(experiment, control, strength)
