"""The grid of cells as a table: personas down, arm x prompt x strength across."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby

from steerproof.board.cell_rates import CellRate
from steerproof.spec.experiment import Experiment
from steerproof.spec.grid import Cell
from steerproof.spec.strength import Strength

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

    arm: str
    prompt: str
    direction: str
    layer: int | None
    strength: Strength

    @property
    def label(self) -> str:
        """The strength, short: `c+2`, `r−0.2`."""
        return str(self.strength).replace("ratio=", "r").replace("c=", "c").replace("-", "−")

    @property
    def title(self) -> str:
        """The whole of it in words."""
        push = "unsteered" if self.layer is None else f"{self.direction} L{self.layer}"
        return f"arm {self.arm}, {self.prompt} prompt, {push}, strength {self.strength}"


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
        experiment: gives the order of arms and personas.
        cells: every cell that is asked for.
        rates: what is known of each, by name.
    """
    found = {(_column(cell), cell.persona): cell for cell in cells}
    order = {arm.name: place for place, arm in enumerate(experiment.arms)}
    kinds = sorted(
        dict.fromkeys(column for column, _ in found),
        key=lambda c: (order[c.arm], c.prompt != "neutral"),
    )
    personas = [p for p in experiment.personas if any((k, p.name) in found for k in kinds)]
    return Matrix(
        arms=tuple(_arm_bands(kinds)),
        prompts=tuple(
            Band(title=prompt, detail="", width=len(list(group)))
            for (_, prompt), group in groupby(kinds, key=lambda c: (c.arm, c.prompt))
        ),
        columns=tuple(kinds),
        rows=tuple(
            (p.name, p.headline, tuple(_square(found.get((k, p.name)), rates) for k in kinds))
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


def _column(cell: Cell) -> Column:
    return Column(
        arm=cell.arm,
        prompt=cell.prompt,
        direction=cell.direction,
        layer=cell.layer,
        strength=cell.strength,
    )


def _arm_bands(kinds: Iterable[Column]) -> Iterable[Band]:
    for arm, group in groupby(kinds, key=lambda c: c.arm):
        columns = list(group)
        pushes = dict.fromkeys(f"{c.direction} L{c.layer}" for c in columns if c.layer is not None)
        yield Band(title=arm, detail=", ".join(pushes), width=len(columns))
