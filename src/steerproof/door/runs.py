"""A finished or unfinished run, read: the verdict, typed, and what it rests on as values."""

from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from steerproof.door.shown import ShownVerdict
from steerproof.door.tables import completion_table, rate_table, rows_of
from steerproof.errors import ExperimentError
from steerproof.run.artefacts import analysis, cell, score, training
from steerproof.run.artefacts.verdict import RunVerdict, verdict_of
from steerproof.run.graph.ids import UnitId
from steerproof.run.graph.names import ANALYSIS, SCORE, adapter_unit, cell_unit, directions_unit
from steerproof.run.graph.survey import recorded
from steerproof.run.store.manifest import StoredUnit
from steerproof.run.store.registration import Registration, read_registration
from steerproof.spec import grid
from steerproof.spec.experiment import DirectionKind, Experiment

if TYPE_CHECKING:  # a verdict and its rates are read without the engine
    from steerproof.door.adapter import Adapter
    from steerproof.exchange.direction import Direction
    from steerproof.study.geometry import LayerGeometry


class Run:
    """A run directory, read only. What has not been done yet is an error that says so."""

    def __init__(self, directory: Path) -> None:
        """Read nothing yet."""
        self.directory = directory

    def __repr__(self) -> str:
        """The directory."""
        return f"Run({str(self.directory)!r})"

    @cached_property
    def _registration(self) -> Registration:
        registration = read_registration(self.directory)
        if registration is None:
            raise ExperimentError(f"{self.directory} holds no registered experiment")
        return registration

    @cached_property
    def _units(self) -> dict[UnitId, StoredUnit]:
        return recorded(self.directory)

    def _unit(self, unit: UnitId) -> StoredUnit:
        if unit not in self._units:
            done = sum(other.kind == unit.kind for other in self._units)
            raise ExperimentError(
                f"{self.directory} has no finished {unit}; of its kind {done} are finished"
            )
        return self._units[unit]

    @property
    def experiment(self) -> Experiment:
        """The experiment as it was locked."""
        return self._registration.experiment

    @property
    def cells(self) -> tuple[grid.Cell, ...]:
        """The cells that have been measured, in the experiment's order."""
        return tuple(one for one in grid.cells(self.experiment) if cell_unit(one) in self._units)

    @property
    def verdict(self) -> RunVerdict:
        """What the run concluded, typed; a notebook shows its head.

        Raises:
            ExperimentError: There is none yet.
        """
        concluded = analysis.from_unit(self._unit(ANALYSIS))
        lock, why = self._registration.lock.sha256, self.experiment.exploratory
        made = verdict_of(concluded, lock, why)
        return ShownVerdict(**{part.name: getattr(made, part.name) for part in fields(RunVerdict)})

    def rates(self) -> pa.Table:
        """The rate table: how often each cell fired, question by question.

        Raises:
            ExperimentError: It has not been counted yet.
        """
        return rate_table(rows_of(score.rates_of(self._unit(SCORE), self.experiment)))

    def completions(self, asked: "grid.Cell | str") -> pa.Table:
        """Every completion of a cell, with its marks once they have been counted.

        Args:
            asked: The cell, or its name, such as `A.villain.neutral.none`.

        Raises:
            ExperimentError: It has not been measured.
        """
        name = asked if isinstance(asked, str) else asked.name
        table = completion_table(cell.completions_of(self._unit(UnitId("cell", name))))
        marks = score.from_unit(self._units[SCORE]).get(name) if SCORE in self._units else None
        if marks is None:
            return table
        for column in ("fired", "near", "fired_early", "repetition"):
            table = table.append_column(column, [[getattr(mark, column) for mark in marks]])
        return table

    def geometry(self, layer: int) -> "LayerGeometry":
        """The directions of a layer, with their scale.

        Raises:
            ExperimentError: They have not been extracted.
        """
        from steerproof.run.artefacts import directions

        return directions.from_unit(
            self._unit(directions_unit(layer)), self.experiment.drawing_seed
        )

    def direction(self, persona: str, layer: int, kind: DirectionKind = "centroid") -> "Direction":
        """A persona's direction at a layer, with all that is known of it.

        Raises:
            ExperimentError: It has not been extracted.
            SteeringError: There is no such persona or kind.
        """
        from steerproof.exchange.extracted import extracted

        at = self.geometry(layer)
        at.vector(persona, kind)
        known = extracted([at], self.experiment, None, kind)
        return next(one for one in known if one.name == persona)

    def adapter(self, arm: str, persona: str, seed: int | None = None) -> "Adapter":
        """The adapter of an arm and a persona.

        Args:
            arm: Its name.
            persona: Its name.
            seed: Training seed; None is the experiment's own.

        Raises:
            ExperimentError: It has not been trained.
        """
        from steerproof.door.adapter import adapter_in
        from steerproof.engine.lora.peft_files import CONFIG, WEIGHTS

        asked = grid.AdapterId(arm=arm, persona=persona, seed=seed)
        unit = self._unit(adapter_unit(asked))
        for name in (CONFIG, WEIGHTS):
            unit.path(name)
        return adapter_in(unit.directory, asked.name, training.from_unit(unit))


def open_run(directory: str | Path) -> Run:
    """Open a run directory for reading.

    Raises:
        ExperimentError: It is none.
        IntegrityError: Its registration was edited, cut, exchanged or removed.
    """
    run = Run(Path(directory).resolve())
    if not run.directory.is_dir():
        raise ExperimentError(f"no run directory {directory}")
    _ = run.experiment
    return run
