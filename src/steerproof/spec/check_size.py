"""Values that are legal one by one and absurd together, found before anything is built of them."""

import os
from collections.abc import Iterator

from steerproof.spec.experiment import Experiment, Grid
from steerproof.spec.problems import Check, Keys, Problem, shown

_MAX_CELLS = 50_000
"""Most cells of an experiment: each is a unit, a directory, and a handful of rows in memory."""
_MAX_PATH, _MAX_FILE_NAME = 4_096, 255
"""Bytes of a path and of each of its parts: what file systems take."""
_MAX_LABEL = 40
"""Characters of a strength."""


def _cells_at_most(experiment: Experiment, grid: Grid) -> int:
    """Cells of a grid, those that another one has as well included; counted, not made."""
    many = {"all": len(experiment.personas), "others": len(experiment.personas)}
    whose = many.get(grid.of, 1) * many.get(grid.prompt_of, 1)
    seeds = len(experiment.seeds or (experiment.seed,))
    each = len(experiment.personas) * len(grid.strengths) * (grid.draws or 1)
    return len(grid.arms) * each * whose * seeds


def _cells(experiment: Experiment) -> Iterator[Problem]:
    count = 0
    for i, grid in enumerate(experiment.cells):
        count += _cells_at_most(experiment, grid)
        if count > _MAX_CELLS:
            message = (
                f"up to here there are {count:,} cells; at most {_MAX_CELLS:,} can be run as one"
                " experiment: fewer personas, draws, strengths or seeds"
            )
            yield Problem(keys=("cells", i), message=message)
            return


def _paths(experiment: Experiment) -> Iterator[Problem]:
    for keys, path in _named(experiment):
        if "\0" in path:
            yield Problem(keys=keys, message=f"{shown(path)} holds a NUL, which no path can")
            continue
        raw = path.encode(errors="replace")
        longest = max(map(len, raw.split(os.sep.encode())))
        if len(raw) > _MAX_PATH or longest > _MAX_FILE_NAME:
            message = (
                f"{shown(path)} has {len(raw)} bytes, {longest} in one name; a path has at most"
                f" {_MAX_PATH}, a name {_MAX_FILE_NAME}"
            )
            yield Problem(keys=keys, message=message)


def _labels(experiment: Experiment) -> Iterator[Problem]:
    for i, grid in enumerate(experiment.cells):
        for j, strength in enumerate(grid.strengths):
            if len(str(strength)) > _MAX_LABEL:
                message = (
                    f"{shown(str(strength))} has {len(str(strength))} characters; at most"
                    f" {_MAX_LABEL}: it stands in every table and file name"
                )
                yield Problem(keys=("cells", i, "strengths", j), message=message)


def _named(experiment: Experiment) -> Iterator[tuple[Keys, str]]:
    yield ("model", "path"), experiment.model.path
    yield ("dataset", "answers"), experiment.dataset.answers
    if experiment.dataset.positive_answers is not None:
        yield ("dataset", "positive_answers"), experiment.dataset.positive_answers
    for i, arm in enumerate(experiment.arms):
        if arm.adapters is not None:
            yield ("arms", i, "adapters"), arm.adapters
    for i, persona in enumerate(experiment.personas):
        if persona.direction is not None:
            yield ("personas", i, "direction"), persona.direction


SIZES = (Check(reads={"cells", "personas", "seed", "seeds"}, find=_cells),)
"""Asked first: the other checks look at every cell."""
CHECKS = (
    Check(reads={"model", "dataset", "arms", "personas"}, find=_paths),
    Check(reads={"cells"}, find=_labels),
)
