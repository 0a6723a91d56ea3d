"""The graph of units: every stage, in the one order in which they run.

directions/L<layer>    base model                 -> centroids, controls, baseline norm
answers/base           base model                 -> what it says under the neutral prompt
dataset/<persona>      answers                    -> training rows
adapter/<arm>.<p>      dataset, directions        -> LoRA weights
cell/<name>            adapter, directions        -> completions
score/all              every cell that succeeded  -> marks, rate table
answers/common         base model                 -> what it says to the evaluation questions
slots/<arm>.<p>        adapter, directions, texts -> what is weighed where an answer ends
graded/all             all slots that were read   -> one table
analysis/all           score, graded, directions  -> estimates, verdict

The three before the last are there only where some cell is graded.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from steerproof.run.graph.environment import Place, code_known, surroundings, work_of
from steerproof.run.graph.given_files import Known
from steerproof.run.graph.graph import Graph, Unit, build_graph
from steerproof.run.graph.ids import UnitId
from steerproof.run.graph.inputs import Inputs, Slices
from steerproof.run.graph.names import (
    ANALYSIS,
    ANSWERS,
    COMMON,
    GRADED,
    SCORE,
    adapter_unit,
    cell_unit,
    dataset_unit,
    directions_unit,
    slots_unit,
)
from steerproof.spec.experiment import Experiment
from steerproof.spec.grid import AdapterId, Asked, Cell, adapters, by_adapter, measured

KINDS = (
    *("directions", "answers", "dataset", "adapter", "cell", "score", "slots", "graded"),
    "analysis",
)
"""Each has its function, of the same name, in the module of that name in `run/stages/`."""
LIMITS: Mapping[str, int] = {"adapter": 128, "cell": 4096, "slots": 128}
"""Most units of one order: a batch is full long before, and a worker need not hold more at once.
Cells are the most, for an order ends with its longest completions alone: ten seconds on a GPU."""
_APART = ("score",)
"""Kinds that need no model, and take long enough that a GPU need not wait for them."""
_TOLERANT = ("score", "slots", "graded")
"""Kinds that are made of whichever of their upstream units succeeded."""


def experiment_graph(experiment: Experiment, place: Place, known: Known | None = None) -> Graph:
    """Every unit of an experiment, with its key.

    Args:
        experiment: What is asked.
        place: Where its files are, and what it runs on.
        known: What files hash to, where they need not be here.

    Raises:
        ModelError: The base model's directory cannot be found.
        ExperimentError: A file that the experiment names cannot be read.
    """
    with ThreadPoolExecutor(1) as beside:
        # Not the other way round: whoever interrupts would wait until all weights are hashed.
        reading = beside.submit(code_known, KINDS)
        around = surroundings(experiment, place, None if known is None else known.model)
        reading.result()
    slices = Slices(experiment, place.directory, known)
    return build_graph(
        Unit(
            id=unit,
            inputs=inputs,
            work=work_of(unit.kind),
            environment=around.environment(unit.kind),
            upstream=upstream,
            group=unit.kind,
            limit=LIMITS.get(unit.kind),
            tolerant=unit.kind in _TOLERANT,
            apart=unit.kind in _APART,
            context=around.context,
        )
        for unit, inputs, upstream in _units(experiment, slices)
    )


def _units(
    experiment: Experiment, slices: Slices
) -> Iterator[tuple[UnitId, Inputs, tuple[UnitId, ...]]]:
    """Every unit with its inputs and the units that it reads, each after those."""
    layers = experiment.steered_layers
    for layer in layers:
        yield directions_unit(layer), slices.directions(layer), ()
    yield ANSWERS, slices.answers(), ()
    trained = adapters(experiment)
    for persona in dict.fromkeys(adapter.persona for adapter in trained):
        yield dataset_unit(persona), slices.dataset(persona), (ANSWERS,)
    for adapter in trained:
        yield adapter_unit(adapter), slices.adapter(adapter), _read_by_adapter(experiment, adapter)
    every = measured(experiment)
    for cell, wanted in every.items():
        yield cell_unit(cell), slices.cell(cell, wanted.samples), _read_by_cell(experiment, cell)
    graded = by_adapter(every)
    by_slots = tuple(map(slots_unit, graded)) if _reads_slots(experiment) else ()
    if not by_slots:
        yield SCORE, slices.score(), tuple(map(cell_unit, every))
    if graded:
        yield COMMON, slices.common_answers(), ()
        for adapter, cells in graded.items():
            yield slots_unit(adapter), slices.slots(cells), _read_by_slots(experiment, cells)
        if by_slots:
            yield SCORE, slices.score(), (*map(cell_unit, every), *by_slots)
        # With the score it is made even if no slot could be read.
        yield GRADED, {}, (SCORE, *map(slots_unit, graded))
    tables = (SCORE, GRADED) if graded else (SCORE,)
    yield ANALYSIS, slices.analysis(), (*tables, *map(directions_unit, layers))


def _reads_slots(experiment: Experiment) -> bool:
    """Whether completions are marked by what the model weighs where they end."""
    return experiment.scoring.terms.asks == "slots"


def _read_by_adapter(experiment: Experiment, adapter: AdapterId) -> tuple[UnitId, ...]:
    arm = experiment.arm(adapter.arm)
    steered = () if arm.direction == "none" else (directions_unit(experiment.layer(arm.layer)),)
    return dataset_unit(adapter.persona), *steered


def _read_by_cell(experiment: Experiment, cell: Cell) -> tuple[UnitId, ...]:
    trained = () if experiment.arm(cell.arm).untrained else (adapter_unit(cell.adapter),)
    return trained if cell.layer is None else (*trained, directions_unit(cell.layer))


def _read_by_slots(experiment: Experiment, cells: Mapping[Cell, Asked]) -> tuple[UnitId, ...]:
    """The common answers, what the cells are made of, and those whose own texts are read."""
    upstream = [COMMON]
    for cell, wanted in cells.items():
        upstream += [*_read_by_cell(experiment, cell), *([cell_unit(cell)] if wanted.own else [])]
    return tuple(dict.fromkeys(upstream))
