"""The direction's answer: every matrix that was measured, and what they say together."""

from collections.abc import Sequence

import numpy as np

from steerproof.decide.analysis.answer_records import (
    BaseRates,
    DirectionAnswer,
    Estimate,
    MatrixResult,
    Scale,
    SignCounts,
)
from steerproof.decide.analysis.blocks import Block, blocks, judge_block, judge_draws
from steerproof.decide.analysis.case import Case, rates_of
from steerproof.decide.analysis.direction import (
    Classes,
    carries,
    contrasts,
    estimated,
    reads,
    supports,
)
from steerproof.decide.analysis.kinds import steered_kind
from steerproof.decide.analysis.matrix import contrast, fraction, held_out_means
from steerproof.decide.analysis.rig import Rig
from steerproof.spec.strength import NONE, Strength


def answer_direction(case: Case, rig: Rig, arm: str, strength: Strength) -> DirectionAnswer:
    """What the tested arm reads, in rates; margins stand beside them.

    Args:
        case: The table under its experiment.
        rig: Cosines and margins.
        arm: The tested arm.
        strength: The one that decides.
    """
    experiment, limits = case.experiment, case.experiment.answers
    measured = [*blocks(case, rig, "rate"), *blocks(case, rig, "margin")]
    results = {id(block): judge_block(case, rig, block) for block in measured}
    trained = experiment.arm(arm).training_strength
    wanted = strength if trained == NONE else trained

    def find(name: str | None, columns: str, scale: Scale = "rate") -> Block | None:
        fitting = [b for b in measured if (b.arm, b.columns, b.scale) == (name, columns, scale)]
        fitting = [b for b in fitting if not b.trained and b.strength in (wanted, NONE)]
        return fitting[0] if fitting else None

    def result(block: Block | None) -> MatrixResult | None:
        return None if block is None else results[id(block)]

    own, analysis = find(arm, experiment.arm(arm).steered_direction), experiment.analysis
    tested, baseline = result(own), result(find(analysis.baseline_arm, "centroid"))
    compared = () if own is None else contrasts(_classes(case, own, find(arm, "isotropic")))
    said = reads(tested, compared, limits)
    control = analysis.isotropic_arm
    part = _fraction(
        find(analysis.bridge_arm, "centroid", "margin"),
        find(analysis.bridge_arm, "prompt", "margin"),
        case,
    )
    return DirectionAnswer(
        reads=said,
        carries=carries(result(find(arm, "prompt")), result(find(control, "prompt")), limits),
        supports=supports(tested, baseline, limits),
        tested=tested,
        matrices=tuple(results.values()),
        contrasts=compared,
        draws=judge_draws(case, arm, steered_kind(experiment, arm, wanted)),
        base=_base(case),
        signs=_signs(case, arm),
        fraction=part if isinstance(part, Estimate) else None,
        fraction_reason=part if isinstance(part, str) else None,
    )


def _classes(case: Case, own: Block, random: Block | None) -> Classes:
    """Mean response of each adapter to each class of push."""
    unsteered = rates_of(case, steered_kind(case.experiment, own.arm, NONE))
    silent = own.negatives & ~np.isnan(own.values)
    whole = random is not None and not np.isnan(random.values).any()
    return Classes(
        own=own.values.diagonal().copy(),
        held_out=held_out_means(own.values, own.held) if own.held.any(axis=1).all() else None,
        negatives=held_out_means(own.values, silent) if silent.any(axis=1).all() else None,
        random=random.values.mean(axis=1) if random is not None and whole else None,
        unsteered=None if np.isnan(unsteered).any() else unsteered,
    )


def _fraction(direction: Block | None, prompt: Block | None, case: Case) -> Estimate | str:
    """How much of the prompt's effect the direction alone has, or why that is not said."""
    least = case.experiment.answers.prompt_nats
    if direction is None or prompt is None:
        return "margins under other directions and prompts were not measured"
    held = np.asarray(direction.held & prompt.held)
    missing = (
        np.isnan(direction.values.diagonal()).any() or np.isnan(prompt.values.diagonal()).any()
    )
    if missing or not held.any(axis=1).all():
        return "some margins are missing"
    s = float(contrast(prompt.values, held).mean())
    if s <= least:
        return f"the prompt's own selectivity is {s:z.1f} nats, and {least:g} are needed"
    return estimated(fraction(direction.values, prompt.values, held))


def _base(case: Case) -> BaseRates | None:
    """What the untrained model does under any push or prompt."""
    untrained = {arm.name for arm in case.experiment.arms if arm.untrained}
    counts = [c for cell, c in case.table.cells.items() if cell.arm in untrained]
    if not counts:
        return None
    return BaseRates(
        fired=sum(sum(c.fired) for c in counts), total=sum(sum(c.total) for c in counts)
    )


def _signs(case: Case, arm: str) -> SignCounts | None:
    """Rates against, without and along the own direction; None where one was not measured."""
    analysis = case.experiment.analysis
    strengths: Sequence[Strength | None] = (
        analysis.negative_strength,
        NONE,
        analysis.co_primary_strength,
    )
    rates = [
        np.full(1, np.nan) if s is None else rates_of(case, steered_kind(case.experiment, arm, s))
        for s in strengths
    ]
    if any(np.isnan(values).any() for values in rates):
        return None
    against, still, along = rates
    return SignCounts(
        against=float(against.mean()),
        unsteered=float(still.mean()),
        along=float(along.mean()),
        ordered=int(np.sum((against < still) & (still < along))),
        personas=len(still),
    )
