"""What a unit is asked for, as a record: `graph/inputs.py` writes it, its stage reads it here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from steerproof.codec import from_values
from steerproof.run.driver.worker import Task
from steerproof.run.graph.ids import UnitId
from steerproof.spec.experiment import Experiment, Generation
from steerproof.spec.grid import Cell
from steerproof.spec.slices import partial_experiment

R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sliced:
    """A part of the experiment, and nothing else of it."""

    experiment: Mapping[str, Any]
    """The fields that the unit's key holds."""

    @property
    def part(self) -> Experiment:
        """Those fields as an experiment in which every other is absent."""
        return partial_experiment(self.experiment)


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectionsInputs(Sliced):
    """Directions and calibration of one layer."""

    layer: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswersInputs(Sliced):
    """Answers of the base model, or of a file."""

    common: int = 0
    """Answers to each evaluation question that graded cells share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetInputs(Sliced):
    """The training rows of one persona."""

    persona: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterInputs(Sliced):
    """The weights of one (arm, persona, training seed)."""

    persona: str
    training_seed: int | None = None
    """None is the experiment's own."""
    files: Mapping[str, str] = field(default_factory=dict)
    """sha256 of an adapter that was trained elsewhere, by file name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seeded:
    """What is drawn anew while a unit is made."""

    seed: int
    """The experiment's."""
    data_seed: int | None = None
    """Root of fresh random directions; None is the experiment's seed."""

    @property
    def drawing_seed(self) -> int:
        """Root of fresh random directions."""
        return self.seed if self.data_seed is None else self.data_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class CellInputs(_Seeded):
    """One measurement."""

    cell: Cell
    system: str
    """System prompt of every question."""
    questions: tuple[str, ...]
    generation: Generation
    early_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreInputs(Sliced):
    """The marks of every cell."""

    file: str | None = None
    """sha256 of the file that completions are marked by; None where there is none, or not yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotCell:
    """One cell that is read where answers end."""

    cell: Cell
    system: str
    trained: bool
    """It has an adapter, for which the base model must not stand in."""
    common: bool
    """Read on the answers that all cells share."""
    own: bool
    """Read on its own completions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotsInputs(_Seeded):
    """The slots of one adapter's cells."""

    cells: tuple[SlotCell, ...]
    questions: tuple[str, ...]
    marker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the work needs and the result does not depend on."""

    name: str
    """The base model as the experiment calls it."""
    path: str
    """Where it is."""
    revision: str | None
    dtype: str
    device: str
    system_role: Literal["system", "user"]
    template_options: Mapping[str, str | int | float | bool]
    """What the chat template is given besides."""
    directory: Path
    """Where the experiment's relative paths start."""


def inputs_of(task: Task, kind: type[R]) -> R:
    """What a task asks for.

    Raises:
        IntegrityError: Its inputs are another kind's.
    """
    return inputs_from(task.inputs, kind, task.unit)


def inputs_from(values: Mapping[str, Any], kind: type[R], unit: UnitId) -> R:
    """What a unit was asked for, as its recipe has it.

    Raises:
        IntegrityError: It is another kind's.
    """
    return from_values(kind, values, f"the inputs of {unit}")


def context_of(task: Task) -> Context:
    """Where a task finds what it needs."""
    return from_values(Context, task.context, f"the context of {task.unit}")
