"""Adapters times pushes: measured in one pool, checked, and counted."""

from collections.abc import Iterable, Sequence

import pyarrow as pa

from steerproof.decide.analysis.rates import RateRow
from steerproof.door.adapter import AnyAdapter, name_of, weights_of
from steerproof.door.tables import rate_table
from steerproof.errors import ExperimentError, SteerproofError
from steerproof.model.base import Base
from steerproof.model.push import Push
from steerproof.spec.experiment import Generation
from steerproof.spec.grid import Cell
from steerproof.spec.strength import NONE, Strength
from steerproof.study.measure import AskedCell
from steerproof.study.measure import measure as measure_cells
from steerproof.study.measured import MeasuredCell
from steerproof.study.rating import rate_rows
from steerproof.study.readouts.marker import mark_of, rule


def measure(
    base: Base,
    questions: Sequence[str],
    *,
    adapters: Sequence[AnyAdapter] = (None,),
    pushes: Sequence[Push | None] = (None,),
    system: str | None = None,
    samples: int = 5,
    seed: int = 0,
    max_new_tokens: int = 256,
    temperature: float = 1.0,
    top_p: float = 0.95,
) -> list[MeasuredCell]:
    """Ask every adapter every question under every push; check that each push did what it should.

    Args:
        base: The model.
        questions: The user messages.
        adapters: Adapters, or directories of them; None is the bare model.
        pushes: None is no push.
        system: System prompt; None is the empty one.
        samples: Completions of each question.
        seed: Root of every draw.
        max_new_tokens: A completion of that length ends with finish reason `length`.
        temperature: Divisor of the logits.
        top_p: Mass of the nucleus.

    Returns:
        One cell for each adapter and push, adapter by adapter. Its `cell.arm` is the adapter's
        name, its `cell.persona` whose direction the push is along.

    Raises:
        SteerproofError: A cell could not be measured; the message says which, and why.
    """
    settings = Generation(
        samples=samples, temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens
    )
    cells: dict[Cell, AskedCell] = {}
    for adapter in adapters:
        weights = weights_of(base, adapter)
        for number, push in enumerate(pushes):
            cell = _cell(name_of(adapter), push, number)
            if cell in cells:
                raise ExperimentError(f"{cell.name} is asked for twice; give adapters other names")
            cells[cell] = AskedCell(
                cell=cell,
                system=system or "",
                questions=tuple(questions),
                samples=samples,
                seed=seed,
                early_tokens=max_new_tokens,
                adapter=weights,
                push=push,
            )
    measured: dict[Cell, MeasuredCell] = {}
    for asked, outcome in measure_cells(base, list(cells.values()), settings):
        if isinstance(outcome, SteerproofError):
            raise outcome
        measured[asked.cell] = outcome
    return [measured[cell] for cell in cells]


def _cell(arm: str, push: Push | None, number: int) -> Cell:
    """What a measurement is called: by the adapter, whose direction, the layer and the strength."""
    if push is None:
        return Cell(arm=arm, persona="none", prompt="neutral", direction="none", layer=None)
    strength = _strength(push)
    return Cell(
        arm=arm,
        persona=push.name or f"push-{number}",
        prompt="neutral",
        direction="centroid",
        layer=push.layer,
        strength=strength,
        tokens=None if push.tokens == "all" else push.tokens,
        operation="remove" if push.removes else None,
    )


def _strength(push: Push) -> Strength:
    """How hard, as a table says it; a vector of no known direction is pushed once."""
    if push.removes:
        return Strength(kind="c", number=push.removes)
    if push.ratio is not None:
        return Strength(kind="ratio", number=push.ratio) if push.ratio else NONE
    return Strength(kind="c", number=push.coefficient or 1.0)


def rates(
    cells: Iterable[MeasuredCell], marker: str, *, near_marker: str | None = None
) -> pa.Table:
    """How often each cell fired, question by question.

    Args:
        cells: From `measure`.
        marker: Fires where it is a case-insensitive substring of a completion.
        near_marker: Regular expression of a near miss; None derives it from the marker.

    Returns:
        The columns of `rates.csv`; `.to_pandas()` gives a data frame.
    """
    known = rule(marker, near_marker)
    rows: list[RateRow] = []
    for measured in cells:
        marks = [mark_of(done, known) for done in measured.completions]
        rows += rate_rows(measured.cell, measured.coefficient or 0.0, marks)
    return rate_table(rows)
