"""The matrices that were measured: cells under other personas' directions or prompts, as blocks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from steerproof.decide.analysis.answer_records import MatrixResult, RandomDraws, Scale
from steerproof.decide.analysis.case import Case
from steerproof.decide.analysis.direction import estimated
from steerproof.decide.analysis.matrix import (
    class_mean,
    discriminant,
    held_out_of,
    rank_p,
    selectivity,
    tuning,
)
from steerproof.decide.analysis.resampling import stream
from steerproof.decide.analysis.rig import Rig, negatives_of
from steerproof.decide.analysis.statistics import defined
from steerproof.spec.draws import trained_directions
from steerproof.spec.experiment import CONTROL_KINDS, DirectionKind
from steerproof.spec.grid import Cell, CellKind
from steerproof.spec.strength import NONE, Strength

Responses = Callable[[Cell], float]
"""What a cell measured on one scale; NaN where it did not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Adapters of one arm against directions, or prompts, of the same personas."""

    arm: str
    direction: DirectionKind
    """`none` for prompts."""
    layer: int | None
    strength: Strength
    scale: Scale
    values: Float[np.ndarray, "adapters columns"]
    """NaN where a cell is missing."""
    negatives: Bool[np.ndarray, "adapters columns"]
    """Trained negatives."""
    trained: bool = False
    """Columns are named by the persona whose direction a shuffled arm was trained with."""

    @property
    def columns(self) -> str:
        """What the columns are."""
        return "prompt" if self.direction == "none" else self.direction

    @property
    def held(self) -> Bool[np.ndarray, "adapters columns"]:
        """Measured cells of directions that the adapter never saw."""
        return held_out_of(np.asarray(self.negatives | np.isnan(self.values)))


def responses(case: Case, rig: Rig, scale: Scale) -> Responses:
    """What cells measured on a scale: mean rate, or mean margin over questions."""

    def rate(cell: Cell) -> float:
        counts = case.table.cells.get(cell)
        return np.nan if counts is None else counts.rate

    def margin(cell: Cell) -> float:
        values = rig.margins.get(cell)
        known = np.array([]) if values is None else values[~np.isnan(values)]
        return float(known.mean()) if len(known) else np.nan

    return rate if scale == "rate" else margin


def blocks(case: Case, rig: Rig, scale: Scale) -> tuple[Block, ...]:
    """Every matrix of which some cell off the diagonal was measured on the scale."""
    cells = case.table.cells if scale == "rate" else rig.margins
    kinds: dict[tuple[str, DirectionKind, int | None, Strength], None] = {}
    for cell in cells:
        bent = (cell.draw, cell.tokens, cell.operation, cell.seed) != (None,) * 4
        pushed = cell.of is not None and cell.prompt == "neutral" and cell.prompt_of is None
        prompted = cell.prompt_of is not None and cell.strength == NONE
        if not bent and (pushed or prompted) and not case.experiment.arm(cell.arm).untrained:
            kinds[cell.arm, cell.direction, cell.layer, cell.strength] = None
    measured = responses(case, rig, scale)
    return tuple(block for kind in kinds for block in _labelled(case, kind, scale, measured))


def _labelled(
    case: Case,
    kind: tuple[str, DirectionKind, int | None, Strength],
    scale: Scale,
    measured: Responses,
) -> Iterator[Block]:
    """A matrix under its personas' names; of a shuffled arm also under the trained ones."""
    name, direction, layer, strength = kind
    arm, names = case.experiment.arm(name), case.personas
    values = np.array([[measured(_cell(kind, row, column)) for column in names] for row in names])
    negatives = negatives_of(case.experiment, arm)
    given = trained_directions(case.experiment, arm)
    order = [names.index(given[name]) for name in names]
    shuffled = direction == arm.direction and order != list(range(len(names)))
    if shuffled:  # trained negatives carry the shuffled directions of the bystanders
        moved = np.zeros_like(negatives)
        moved[:, order] = negatives
    else:
        moved = negatives
    shape = {
        "arm": name,
        "direction": direction,
        "layer": layer,
        "strength": strength,
        "scale": scale,
    }
    own = moved & ~np.eye(len(names), dtype=bool)
    yield Block(**shape, values=values, negatives=own)
    if shuffled:
        yield Block(**shape, values=values[:, order], negatives=negatives, trained=True)


def _cell(kind: tuple[str, DirectionKind, int | None, Strength], adapter: str, column: str) -> Cell:
    arm, direction, layer, strength = kind
    other = None if adapter == column else column
    prompted = direction == "none"
    return Cell(
        arm=arm,
        persona=adapter,
        prompt="persona" if prompted else "neutral",
        direction=direction,
        layer=layer,
        strength=strength,
        of=None if prompted else other,
        prompt_of=other if prompted else None,
    )


def judge_block(case: Case, rig: Rig, block: Block) -> MatrixResult:
    """S, its test and its classes, for one matrix."""
    names = case.personas
    rng = stream(case.plan.seed, "matrix", block.arm, block.columns, str(block.strength))
    permutations = case.experiment.analysis.permutations
    selected = selectivity(block.values, block.negatives, rng, permutations=permutations)
    cosines = _cosines(rig, block, names)
    present = ~np.isnan(block.values)
    own = np.eye(len(names), dtype=bool) & present
    silent = class_mean(block.values, block.negatives & present)
    reason = None
    if selected is None:
        reason = _unread(int((~present & ~block.negatives).sum()))
    elif cosines is None:
        reason = "the cosines of the columns are not known: no tuning curve"
    return MatrixResult(
        arm=block.arm,
        columns=block.columns,
        strength=str(block.strength),
        scale=block.scale,
        trained_label=block.trained,
        values=_named(block.values, names),
        negatives={
            name: tuple(names[j] for j in np.flatnonzero(row))
            for name, row in zip(names, block.negatives, strict=True)
        },
        own=defined(class_mean(block.values, own)),
        trained_negatives=defined(silent),
        held_out=defined(class_mean(block.values, block.held)),
        s=None if selected is None else estimated(selected.s),
        p=None if selected is None else float(selected.p),
        permutations=0 if selected is None else selected.permutations,
        own_first=None if selected is None else int(selected.own_first),
        tuning=None if cosines is None else tuning(block.values, cosines, block.held),
        tuning_discriminant=None
        if cosines is None
        else tuning(block.values, discriminant(cosines, block.negatives), block.held),
        reason=reason,
    )


def _unread(missing: int) -> str:
    if missing:
        return f"{missing} cells are missing"
    return "too few directions are left that it never saw in training"


def _named(
    values: Float[np.ndarray, "adapters columns"], names: Sequence[str]
) -> Mapping[str, Mapping[str, float | None]]:
    return {
        row: {column: defined(values[i, j]) for j, column in enumerate(names)}
        for i, row in enumerate(names)
    }


def _cosines(
    rig: Rig, block: Block, names: Sequence[str]
) -> Float[np.ndarray, "adapters columns"] | None:
    """Cosine of each column's direction with the row's own; for prompts, of the centroids.

    A prompt writes its persona's centroid, so its likeness to the trained direction is theirs.
    """
    layer = rig.layers.get(block.layer) if block.layer is not None else None
    if block.direction == "none" and len(rig.layers):
        layer = next(iter(rig.layers.values()))
    if layer is None or block.trained:
        return None
    table: Mapping[str, Mapping[str, float | None]] = layer.cosines
    if block.direction in CONTROL_KINDS:
        control = layer.controls.get(block.direction)
        if control is None:
            return None
        table = control.each_other
    square = [[table[row][column] for column in names] for row in names]
    if any(value is None for row in square for value in row):
        return None
    return np.array(square, dtype=float)


def judge_draws(case: Case, arm: str, kind: CellKind) -> RandomDraws | None:
    """The own direction of each adapter among fresh random ones; None where none was drawn.

    Args:
        case: The table under its experiment.
        arm: The tested arm.
        kind: Its own cells at the strength and layer of the draws.
    """
    drawn: dict[str, list[float]] = {name: [] for name in case.personas}
    for cell, counts in case.table.cells.items():
        place = (cell.arm, cell.layer, cell.strength, cell.prompt)
        asked = (arm, kind.layer, kind.strength, "neutral")
        if cell.draw is not None and cell.persona in drawn and place == asked:
            drawn[cell.persona].append(counts.rate)
    own = [case.table.cells.get(kind.cell(name)) for name in case.personas]
    rates = [counts.rate for counts in own if counts is not None]
    count = min((len(values) for values in drawn.values()), default=0)
    if not count or len(rates) < len(own):
        return None
    pairs = list(zip(rates, map(np.array, drawn.values()), strict=True))
    return RandomDraws(
        draws=count,
        p=float(np.mean([rank_p(rate, values) for rate, values in pairs])),
        first=sum(bool(rate > values.max()) for rate, values in pairs),
        mean=float(np.mean([values.mean() for _, values in pairs])),
    )
