"""The work of the generation benchmark: real cells of a shipped experiment, mixed in one pool."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from steerproof.engine.lora.weights import LoraSpec, LoraWeights, lora_sites
from steerproof.engine.rows import Row
from steerproof.errors import SteerproofError
from steerproof.model.base import Base
from steerproof.model.chat import text_ids
from steerproof.spec.experiment import Experiment, Generation
from steerproof.spec.grid import Cell, adapters, cells, system_of
from steerproof.study.geometry import PushOf, asked_by, pushes_of
from steerproof.study.measure import AskedCell, rows_of
from steerproof_bench.subjects import drawn_adapter, geometry_of, spread, trained_adapter


@dataclass(frozen=True, slots=True, kw_only=True)
class CellWork:
    """Cells to be measured: what ours and every peer is given."""

    base: Base
    names: tuple[str, ...]
    """The cells, those of one adapter one after another."""
    rows: Mapping[str, tuple[Row, ...]]
    """The rows of each cell."""
    adapters: tuple[LoraWeights, ...]
    settings: Generation
    marker: str
    text: tuple[int, ...]
    """A fixed text, to be scored under every cell."""

    @property
    def all_rows(self) -> list[Row]:
        """Every row, cell by cell."""
        return [row for name in self.names for row in self.rows[name]]

    def some_cells(self, count: int) -> "CellWork":
        """The same work with so many of its cells, spread over all, and their adapters alone.

        Raises:
            SteerproofError: There are not so many.
        """
        names = tuple(spread(self.names, count, "cells"))
        rows = {name: self.rows[name] for name in names}
        used = {row.adapter for cell in rows.values() for row in cell}
        adapters = tuple(weights for weights in self.adapters if weights in used)
        return replace(self, names=names, rows=rows, adapters=adapters)


def cell_work(
    base: Base,
    experiment: Experiment,
    *,
    count: int,
    rows: int,
    adapters_used: int,
    run: Path | None,
) -> CellWork:
    """Put the work together.

    Args:
        base: The model.
        experiment: Its cells, questions and settings are used.
        count: Cells, spread over those of the chosen adapters.
        rows: Rows of a cell: questions times samples, a multiple of the samples.
        adapters_used: Adapters, spread over all arms.
        run: A finished run, for its trained adapters; None draws adapters at random.

    Raises:
        SteerproofError: A number cannot be had.
    """
    chosen = spread(adapters(experiment), adapters_used, "adapters")
    mine = [cell for adapter in chosen for cell in cells(experiment) if cell.adapter == adapter]
    asked = spread(mine, count, f"cells of {adapters_used} adapters")
    spec = LoraSpec(
        rank=experiment.training.rank,
        alpha=experiment.training.alpha,
        rslora=experiment.training.rslora,
    )
    sites = lora_sites(base)
    weights = {
        adapter: trained_adapter(run, adapter, base) if run else drawn_adapter(sites, spec, seed)
        for seed, adapter in enumerate(chosen, start=1)
    }
    push = pushes_of(geometry_of(base, experiment))
    made = {
        cell.name: tuple(_rows(base, experiment, cell, rows, weights[cell.adapter], push))
        for cell in asked
    }
    return CellWork(
        base=base,
        names=tuple(made),
        rows=made,
        adapters=tuple(weights.values()),
        settings=experiment.generation,
        marker=experiment.marker,
        text=text_ids(base.tokenizer, experiment.questions.evaluation[0]),
    )


def _rows(
    base: Base, experiment: Experiment, cell: Cell, count: int, adapter: LoraWeights, push: PushOf
) -> list[Row]:
    samples, settings = experiment.generation.samples, experiment.generation
    if count % samples:
        raise SteerproofError(f"{count} rows a cell are not whole questions of {samples} samples")
    questions = experiment.questions.evaluation
    asked = AskedCell(
        cell=cell,
        system=system_of(experiment, cell),
        questions=questions[: len(spread(questions, count // samples, "questions"))],
        samples=samples,
        seed=experiment.seed,
        early_tokens=settings.max_new_tokens,
        adapter=adapter,
        push=push(asked_by(cell)),
    )
    return rows_of(base, asked, settings)


def regrouped(work: CellWork, count: int) -> CellWork:
    """The same rows, dealt to so many random adapters: how cost grows with their number."""
    spec, sites = work.adapters[0].spec, lora_sites(work.base)
    adapters = tuple(drawn_adapter(sites, spec, seed) for seed in range(1, count + 1))
    # Families stay whole: their rows share an adapter.
    families = list(dict.fromkeys(row.group for row in work.all_rows))
    owns = {family: adapters[i * count // len(families)] for i, family in enumerate(families)}
    rows = {
        name: tuple(replace(row, adapter=owns[row.group]) for row in work.rows[name])
        for name in work.names
    }
    return replace(work, rows=rows, adapters=adapters)
