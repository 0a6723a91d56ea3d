"""Other ways to push: at some tokens only, and with the direction taken out instead of added.

Each is compared, persona by persona, with the cell that differs in that alone: a push at some
tokens with the push at all of them, a removal with no push at all under the same prompt.
"""

from dataclasses import replace

import numpy as np

from steerproof.decide.analysis.answer_records import OtherPush
from steerproof.decide.analysis.bounds import mean_bounds
from steerproof.decide.analysis.case import Case, lacking, rates_of
from steerproof.decide.analysis.direction import estimated
from steerproof.spec.grid import CellKind
from steerproof.spec.strength import NONE


def other_pushes(case: Case) -> tuple[OtherPush, ...]:
    """Every kind of cell that pushes at some tokens, or removes; along the adapter's own direction.

    Args:
        case: The table under its experiment.
    """
    kinds = dict.fromkeys(
        cell.kind
        for cell in case.table.cells
        if (cell.tokens, cell.operation) != (None, None)
        and (cell.of, cell.prompt_of, cell.draw, cell.seed) == (None,) * 4
        and cell.persona in case.personas
    )
    return tuple(_compared(case, kind) for kind in kinds)


def compared_with(kind: CellKind) -> CellKind:
    """The kind of cell that differs from this one in the way it is pushed, and in nothing else."""
    if kind.operation is None:
        return replace(kind, tokens=None)
    return CellKind(arm=kind.arm, prompt=kind.prompt, strength=NONE)


def _compared(case: Case, kind: CellKind) -> OtherPush:
    against = compared_with(kind)
    rates, usual = rates_of(case, kind), rates_of(case, against)
    difference = rates - usual
    reason = "; ".join(filter(None, (lacking(case, kind), lacking(case, against)))) or None
    return OtherPush(
        arm=kind.arm,
        kind=kind.name,
        against=against.name,
        rate=None if np.isnan(rates).any() else float(rates.mean()),
        usual=None if np.isnan(usual).any() else float(usual.mean()),
        difference=None if reason else estimated(mean_bounds(difference)),
        reason=reason,
    )
