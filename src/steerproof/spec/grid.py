"""What an experiment asks for, spelt out: every adapter and every cell."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any

from steerproof.spec.experiment import (
    Arm,
    DirectionKind,
    Experiment,
    Grid,
    Operation,
    PromptKind,
    Tokens,
)
from steerproof.spec.strength import NONE, Strength


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterId:
    """The LoRA weights of one (arm, persona, training seed)."""

    arm: str
    persona: str
    seed: int | None = None
    """Training seed; none is the experiment's own."""

    @property
    def name(self) -> str:
        """Readable identifier, `A.villain`, or `A.villain.s1` of another training seed."""
        return f"{self.arm}.{self.label}"

    @property
    def label(self) -> str:
        """The name within its arm, `villain` or `villain.s1`."""
        return f"{self.persona}{_seed_suffix(self.seed)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One measurement: (adapter, prompt, direction, layer, strength).

    The fields with a default tell cells apart that an experiment need not have. They are none
    where unused, and neither the name nor any file has them then.
    """

    arm: str
    persona: str
    """Whose adapter; in an untrained arm, whose prompt and direction."""
    prompt: PromptKind
    direction: DirectionKind
    layer: int | None
    """Block index; none without a direction."""
    strength: Strength = NONE
    of: str | None = None
    """Persona whose direction it is; none is the adapter's own."""
    prompt_of: str | None = None
    """Persona whose prompt it is; none is the adapter's own."""
    draw: int | None = None
    """Number, from 1, of a fresh random direction; none is the one of the persona."""
    tokens: Tokens | None = None
    """Where it pushes; none is at all tokens."""
    operation: Operation | None = None
    """What the push does; none adds the direction."""
    seed: int | None = None
    """Training seed; none is the experiment's own."""

    @property
    def kind(self) -> "CellKind":
        """All of it but the persona."""
        names = (field.name for field in fields(self) if field.name != "persona")
        return CellKind(**{name: getattr(self, name) for name in names})

    @property
    def adapter(self) -> AdapterId:
        """The adapter that is measured; in an untrained arm there is none of this name."""
        return AdapterId(arm=self.arm, persona=self.persona, seed=self.seed)

    @property
    def plain(self) -> bool:
        """Own direction, own prompt, added at all tokens: what the registered analysis is about."""
        further = (self.of, self.prompt_of, self.draw, self.tokens, self.operation, self.seed)
        return all(value is None for value in further)

    @property
    def name(self) -> str:
        """Readable identifier, `A.villain.neutral.centroid.L4.c=+2`.

        What is used besides is appended: `.remove`, `.generated`, `@comedian` (whose direction),
        `^comedian` (whose prompt), `~3` (which draw), `.s1` (which training seed).
        """
        place = "none" if self.layer is None else f"{self.direction}.L{self.layer}.{self.strength}"
        return f"{self.arm}.{self.persona}.{self.prompt}.{place}{self._suffix}"

    @property
    def _suffix(self) -> str:
        marked = (
            (".", self.operation),
            (".", self.tokens),
            ("@", self.of),
            ("^", self.prompt_of),
            ("~", self.draw),
        )
        used = (f"{mark}{value}" for mark, value in marked if value is not None)
        return "".join(used) + _seed_suffix(self.seed)

    def record(self) -> dict[str, Any]:
        """Plain values, of the optional fields only those that are used; `from_record` reads it."""
        values = {part.name: getattr(self, part.name) for part in fields(self)}
        values["strength"] = str(self.strength)
        return {k: value for k, value in values.items() if value is not None or k == "layer"}

    @classmethod
    def from_record(cls, values: Mapping[str, Any]) -> "Cell":
        """Read back what `record` gave."""
        return cls(**{**values, "strength": Strength.parse(values["strength"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class CellKind:
    """A cell for every persona: what is held fixed when personas are compared."""

    arm: str
    prompt: PromptKind
    direction: DirectionKind = "none"
    layer: int | None = None
    strength: Strength = NONE
    of: str | None = None
    prompt_of: str | None = None
    draw: int | None = None
    tokens: Tokens | None = None
    operation: Operation | None = None
    seed: int | None = None

    def cell(self, persona: str) -> Cell:
        """The cell of one persona."""
        names = (field.name for field in fields(self))
        return Cell(persona=persona, **{name: getattr(self, name) for name in names})

    @property
    def name(self) -> str:
        """Readable, `A, neutral prompt, centroid L4 c=+2`, then whatever else is used."""
        push = "unsteered"
        if self.layer is not None:
            push = f"{self.direction} L{self.layer} {self.strength}"
        special = (
            ("direction of", self.of),
            ("prompt of", self.prompt_of),
            ("draw", self.draw),
            ("tokens", self.tokens),
            ("operation", self.operation),
            ("training seed", self.seed),
        )
        used = [f"{words} {value}" for words, value in special if value is not None]
        return ", ".join([self.arm, f"{self.prompt} prompt", push, *used])


def _seed_suffix(seed: int | None) -> str:
    return "" if seed is None else f".s{seed}"


def system_of(experiment: Experiment, cell: Cell) -> str:
    """The system prompt of a cell."""
    if cell.prompt == "neutral":
        return experiment.neutral_prompt
    return experiment.persona(cell.prompt_of or cell.persona).prompt


def adapters(experiment: Experiment) -> tuple[AdapterId, ...]:
    """Every adapter of the experiment, arm by arm, in file order; then those of further seeds."""
    return tuple(
        AdapterId(arm=arm.name, persona=persona.name, seed=seed)
        for seed in (None, *experiment.further_seeds)
        for arm in experiment.arms
        for persona in experiment.personas
        if not arm.untrained and (persona.headline or arm.supplementary)
    )


def cells(experiment: Experiment) -> tuple[Cell, ...]:
    """Every cell of the experiment, in file order, each once; then those of further seeds.

    A cell at strength `none` has direction `none` and no layer, whatever its grid says.
    """
    return tuple(asked(experiment))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is asked of one cell, by all its grids together."""

    samples: int
    """Completions per question: the most that one of the grids asks for."""
    common: bool = False
    """It is graded at the end of the common answers."""
    own: bool = False
    """It is graded where its own completions end."""

    @property
    def graded(self) -> bool:
        """It is graded on any text."""
        return self.common or self.own


def asked(experiment: Experiment) -> dict[Cell, Asked]:
    """Every cell, in the order of `cells`, with what is asked of it."""
    wanted: dict[Cell, Asked] = {}
    for seed in (None, *experiment.further_seeds):
        for grid in experiment.cells:
            for arm in map(experiment.arm, grid.arms):
                if seed is None or not arm.untrained:
                    for cell in _cells_of(experiment, grid, arm, seed):
                        wanted[cell] = _more(wanted.get(cell), grid, experiment.generation.samples)
    return wanted


def measured(experiment: Experiment) -> dict[Cell, Asked]:
    """As `asked`, with what the readout asks for besides: some read where own completions end."""
    found = asked(experiment)
    if experiment.scoring.terms.asks == "slots":
        return {cell: replace(wanted, own=True) for cell, wanted in found.items()}
    return found


def by_adapter(measured: Mapping[Cell, Asked]) -> dict[AdapterId, dict[Cell, Asked]]:
    """The graded cells of each adapter; in an untrained arm, of each persona."""
    grouped: dict[AdapterId, dict[Cell, Asked]] = {}
    for cell, wanted in measured.items():
        if wanted.graded:
            grouped.setdefault(cell.adapter, {})[cell] = wanted
    return grouped


def samples(experiment: Experiment) -> dict[Cell, int]:
    """Every cell with its completions per question."""
    return {cell: wanted.samples for cell, wanted in asked(experiment).items()}


def _more(before: Asked | None, grid: Grid, usual: int) -> Asked:
    """What is asked of a cell once another grid has it, too."""
    before = before or Asked(samples=0)
    return Asked(
        samples=max(before.samples, grid.samples or usual),
        common=before.common or grid.graded in ("common", "both"),
        own=before.own or grid.graded in ("own", "both"),
    )


def _cells_of(experiment: Experiment, grid: Grid, arm: Arm, seed: int | None) -> Iterator[Cell]:
    """The cells of one arm in one grid; off the diagonal there are headline personas only."""
    direction = grid.direction or arm.steered_direction
    layer = experiment.layer(grid.layer or arm.layer)
    everyday = (grid.of, grid.prompt_of) == ("own", "own") and not grid.bends
    draws = range(1, grid.draws + 1) if grid.draws else (None,)
    for persona in experiment.personas:
        if not (persona.headline or (arm.supplementary and everyday)):
            continue
        whose = _others(grid.of, persona.name, experiment.headline)
        prompts = _others(grid.prompt_of, persona.name, experiment.headline)
        for of, prompt_of, draw, strength in product(whose, prompts, draws, grid.strengths):
            still = strength == NONE or direction == "none"
            yield Cell(
                arm=arm.name,
                persona=persona.name,
                prompt=grid.prompt,
                direction="none" if still else direction,
                layer=None if still else layer,
                strength=NONE if still else strength,
                of=of,
                prompt_of=prompt_of,
                draw=draw,
                tokens=None if grid.tokens == "all" else grid.tokens,
                operation=None if grid.operation == "add" else grid.operation,
                seed=seed,
            )


def _others(word: str, own: str, headline: tuple[str, ...]) -> tuple[str | None, ...]:
    """The personas that `of` or `prompt_of` names for an adapter; none is itself."""
    named = {"own": (own,), "all": headline, "others": tuple(n for n in headline if n != own)}
    return tuple(None if name == own else name for name in named.get(word, (word,)))
