"""The grid of cells as a table: personas down, arm x prompt x strength across."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby

from steerproof.board.cell_rates import CellRate
from steerproof.spec.experiment import Experiment
from steerproof.spec.grid import Cell, CellKind

_SIGNS = {"running": "…", "failed": "✕", "interrupted": "!", "damaged": "✕", "done": "·"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Square:
    """One cell of the table."""

    name: str
    """The cell's name, its address on the board."""
    text: str
    """The rate, or a sign of its state."""
    style: str
    """CSS classes."""
    label: str
    """All of it in words, for a screen reader and a pointer."""
    done: bool
    """There are completions to look at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A kind of cell, the same for every persona."""

    kind: CellKind

    @property
    def label(self) -> str:
        """The strength, short: `c+2`, `r−0.2`."""
        return str(self.kind.strength).replace("ratio=", "r").replace("c=", "c").replace("-", "−")

    @property
    def title(self) -> str:
        """The whole of it in words."""
        kind = self.kind
        push = "unsteered" if kind.layer is None else f"{kind.direction} L{kind.layer}"
        return f"arm {kind.arm}, {kind.prompt} prompt, {push}, strength {kind.strength}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """Neighbouring columns that share a heading."""

    title: str
    detail: str
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """The table with its headings."""

    arms: tuple[Band, ...]
    prompts: tuple[Band, ...]
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, bool, tuple[Square | None, ...]], ...]
    """Persona, whether it takes part in rankings, and its squares (none: not asked for)."""


def matrix(experiment: Experiment, cells: Iterable[Cell], rates: Mapping[str, CellRate]) -> Matrix:
    """Lay the cells out.

    Args:
        experiment: Gives the order of arms and personas.
        cells: Every cell that is asked for.
        rates: What is known of each, by name.
    """
    asked = {(cell.kind, cell.persona): cell for cell in cells}
    order = {arm.name: place for place, arm in enumerate(experiment.arms)}
    kinds = sorted(
        dict.fromkeys(kind for kind, _ in asked),
        key=lambda c: (order[c.arm], c.prompt != "neutral"),
    )
    personas = [p for p in experiment.personas if any((k, p.name) in asked for k in kinds)]
    return Matrix(
        arms=tuple(_arm_bands(kinds)),
        prompts=tuple(
            Band(title=prompt, detail="", width=len(list(group)))
            for (_, prompt), group in groupby(kinds, key=lambda c: (c.arm, c.prompt))
        ),
        columns=tuple(Column(kind=kind) for kind in kinds),
        rows=tuple(
            (p.name, p.headline, tuple(_square(asked.get((k, p.name)), rates) for k in kinds))
            for p in personas
        ),
    )


def square(name: str, known: CellRate) -> Square:
    """What is known of a cell, as a square."""
    rate = known.rate
    if rate is not None:
        label = f"{name}: {known.fired} of {known.total} fired, rate {rate:.2f}"
        style = f"rate-{round(rate * 10)}"
        return Square(name=name, text=f"{rate:.2f}", style=style, label=label, done=True)
    words = {"done": "finished, no completions", "waiting": "not measured yet"}
    state = words.get(known.state, known.state)
    style = "missing failed" if known.state in ("failed", "damaged") else "missing"
    text = _SIGNS.get(known.state, "")
    label = f"{name}: {state}" + (f": {known.error.splitlines()[-1]}" if known.error else "")
    return Square(name=name, text=text, style=style, label=label, done=False)


def _square(cell: Cell | None, rates: Mapping[str, CellRate]) -> Square | None:
    return None if cell is None else square(cell.name, rates[cell.name])


def _arm_bands(kinds: Iterable[CellKind]) -> Iterable[Band]:
    for arm, group in groupby(kinds, key=lambda c: c.arm):
        own = list(group)
        pushes = dict.fromkeys(f"{c.direction} L{c.layer}" for c in own if c.layer is not None)
        yield Band(title=arm, detail=", ".join(pushes), width=len(own))
