"""Two arms beside each other, of one experiment or of two: the same axes, and what was found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from steerproof.board import drawings, entries, recipe, runs
from steerproof.board.answers import Answer, answers_of, correlation
from steerproof.board.cell_rates import CellRate, cell_rates
from steerproof.board.context import Board, EntryRun, find_entry, locked_by, run_of
from steerproof.board.views import plain_cells
from steerproof.errors import ExperimentError
from steerproof.run.artefacts.verdict import VerdictHead
from steerproof.spec.grid import Cell


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """An arm of a run."""

    number: int
    arm: str
    title: str
    """Of the run's entry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One arm of a comparison."""

    run: EntryRun
    arm: str
    rates: Mapping[str, CellRate]
    """Of every cell of the run."""
    head: VerdictHead | None
    """The run's verdict; none yet."""

    @property
    def title(self) -> str:
        """`#342 arm A`."""
        return f"#{self.run.entry.number} arm {self.arm}"

    @property
    def recipe(self) -> str:
        """Model, seed and training."""
        return recipe.in_full(self.run.experiment)

    @property
    def answers(self) -> tuple[Answer, ...]:
        """What the run found."""
        return answers_of(self.head)

    def correlation(self, prompt: str, strength: str) -> str:
        """The arm's registered correlation with the bridge; empty where it was not judged."""
        if self.head is None or prompt != "neutral" or self.arm not in self.head.arms:
            return ""
        return correlation(self.head.arms[self.arm].at(strength))


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Two sides, persona by persona."""

    chart: Markup
    rows: tuple[tuple[str, tuple[tuple[CellRate | None, CellRate | None, str], ...]], ...]
    """Persona, then per side: its bridge, its rate, the address name of its cell."""


def arm_choices(board: Board) -> dict[str, Choice]:
    """Every arm that can be compared, by its key in an address: `342:A`."""
    choices: dict[str, Choice] = {}
    for entry in entries.entries(board.file):
        locked = locked_by(entry)
        for arm in locked.arms if locked else ():
            key = f"{entry.number}:{arm.name}"
            choices[key] = Choice(number=entry.number, arm=arm.name, title=entry.title)
    return choices


def side(board: Board, choice: Choice) -> Side:
    """One side of a comparison."""
    run = run_of(find_entry(board, choice.number))
    if run is None:  # it was there when the choices were listed
        raise ExperimentError(f"the run of #{choice.number} cannot be read any more")
    rates = cell_rates(run.directory, run.cells, run.experiment)
    head = runs.condition(run.directory).head
    return Side(run=run, arm=choice.arm, rates=rates, head=head)


def shared_kinds(sides: Sequence[Side]) -> dict[str, tuple[str, str]]:
    """Prompt and strength that every side has, by name."""
    common: dict[str, tuple[str, str]] | None = None
    for one in sides:
        mine = {
            f"{cell.prompt} prompt, {cell.strength}": (cell.prompt, str(cell.strength))
            for cell in plain_cells(one.run)
            if cell.arm == one.arm
        }
        common = mine if common is None else {k: v for k, v in common.items() if k in mine}
    return common or {}


def usual_kind(kinds: Mapping[str, tuple[str, str]]) -> str:
    """The steered cells under the neutral prompt, if both have them."""
    steered = [name for name, (prompt, s) in kinds.items() if prompt == "neutral" and s != "none"]
    return next(iter([*steered, *kinds]), "")


def compare(sides: Sequence[Side], kind: tuple[str, str]) -> Compared:
    """Rates of both sides against the bridge of their own experiment, on the same axes."""
    personas = list(dict.fromkeys(p.name for one in sides for p in one.run.experiment.personas))
    table = [[_measured(one, persona, kind) for one in sides] for persona in personas]
    panels = tuple(
        (
            one.title,
            tuple(
                (persona, _counts(row[place][0]), _counts(row[place][1]))
                for persona, row in zip(personas, table, strict=True)
                if _scored(row[place][0]) and _scored(row[place][1])
            ),
        )
        for place, one in enumerate(sides)
    )
    rows = tuple(
        (persona, tuple(row))
        for persona, row in zip(personas, table, strict=True)
        if any(rate for _, rate, _ in row)
    )
    return Compared(chart=drawings.compared(panels, f"{kind[0]} prompt, {kind[1]}"), rows=rows)


def _scored(cell: CellRate | None) -> bool:
    return cell is not None and cell.rate is not None


def _counts(cell: CellRate | None) -> tuple[int, int]:
    assert cell is not None
    return cell.fired or 0, cell.total or 1


def _measured(
    one: Side, persona: str, kind: tuple[str, str]
) -> tuple[CellRate | None, CellRate | None, str]:
    bridge_arm = one.run.experiment.analysis.bridge_arm
    bridge = _rate_of(one, bridge_arm, persona, ("persona", "none"))
    rate = _rate_of(one, one.arm, persona, kind)
    return bridge[0], rate[0], rate[1]


def _rate_of(
    one: Side, arm: str, persona: str, kind: tuple[str, str]
) -> tuple[CellRate | None, str]:
    def asked(cell: Cell) -> bool:
        return (cell.arm, cell.persona, cell.prompt, str(cell.strength)) == (arm, persona, *kind)

    name = next((cell.name for cell in plain_cells(one.run) if asked(cell)), None)
    return (None, "") if name is None else (one.rates[name], name)
