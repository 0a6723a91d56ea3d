"""Contradictions in cells off the diagonal, in other ways to push, and in training seeds."""

from collections.abc import Iterator

from steerproof.spec.experiment import WHOSE, Experiment, Grid
from steerproof.spec.problems import Check, Keys, Problem, did_you_mean, shown
from steerproof.spec.strength import NONE


def _reserved(experiment: Experiment) -> Iterator[Problem]:
    for i, persona in enumerate(experiment.personas):
        if persona.name in WHOSE:
            message = f"{shown(persona.name)} is a word of `of` and `prompt_of`; choose another"
            yield Problem(keys=("personas", i, "name"), message=message)


def _whose(experiment: Experiment) -> Iterator[Problem]:
    allowed = [*WHOSE, *(persona.name for persona in experiment.personas)]
    for i, grid in enumerate(experiment.cells):
        for field, name in (("of", grid.of), ("prompt_of", grid.prompt_of)):
            if name not in allowed:
                message = f"{shown(name)} is no persona; allowed: {', '.join(allowed)}"
                hint = did_you_mean(name, allowed)
                yield Problem(keys=("cells", i, field), message=message + hint)
        if grid.prompt_of != "own" and grid.prompt != "persona":
            message = "whose prompt can be said with `prompt: persona` only; this grid is neutral"
            yield Problem(keys=("cells", i, "prompt_of"), message=message)


def _pushes(experiment: Experiment) -> Iterator[Problem]:
    for i, grid in enumerate(experiment.cells):
        field = _about_a_push(grid)
        if field is not None and NONE in grid.strengths:
            yield Problem(
                keys=("cells", i, "strengths", grid.strengths.index(NONE)),
                message=f"`none` pushes nothing, so `{field}` says nothing of it; "
                "measure it in a grid of its own",
            )
        yield from _removes(grid, ("cells", i))


def _about_a_push(grid: Grid) -> str | None:
    """A field of the grid that says something about a push, if one does."""
    used = {
        "of": grid.of != "own",
        "draws": grid.draws is not None,
        "tokens": grid.tokens != "all",
        "operation": grid.operation != "add",
    }
    return next((field for field, is_used in used.items() if is_used), None)


def _removes(grid: Grid, place: Keys) -> Iterator[Problem]:
    if grid.operation != "remove":
        return
    for j, strength in enumerate(grid.strengths):
        if strength != NONE and (strength.kind != "c" or strength.number < 0):
            yield Problem(
                keys=(*place, "strengths", j),
                message=f"{shown(str(strength))}: what is removed is a share of the component "
                "along the direction; 'c=+1' removes all of it, 'c=+0.5' half",
            )


def _draws(experiment: Experiment) -> Iterator[Problem]:
    directions = {arm.name: arm.direction for arm in experiment.arms}
    for i, grid in enumerate(experiment.cells):
        if grid.draws is None:
            continue
        kinds = {grid.direction or directions.get(arm, "isotropic") for arm in grid.arms}
        if kinds != {"isotropic"}:
            message = "fresh directions are random ones; write `direction: isotropic` beside it"
            yield Problem(keys=("cells", i, "draws"), message=message)
        if grid.of != "own":
            message = f"a fresh direction is nobody's, so `of: {grid.of}` names none; leave it out"
            yield Problem(keys=("cells", i, "of"), message=message)


def _seeds(experiment: Experiment) -> Iterator[Problem]:
    seeds = experiment.seeds
    if seeds is None:
        return
    if seeds[:1] != (experiment.seed,):
        message = f"the first must be `seed`, {experiment.seed}: the registered verdict is of it"
        yield Problem(keys=("seeds",), message=message)
    for i, seed in enumerate(seeds):
        if seed in seeds[:i]:
            yield Problem(keys=("seeds", i), message=f"{seed} is listed twice")


def _loaded(experiment: Experiment) -> Iterator[Problem]:
    for i, arm in enumerate(experiment.arms):
        if experiment.further_seeds and arm.adapters is not None:
            message = f"arm {arm.name} loads adapters, which were trained once; leave `seeds` out"
            yield Problem(keys=("arms", i, "adapters"), message=message)


CHECKS = (
    Check(reads={"personas"}, find=_reserved),
    Check(reads={"cells", "personas"}, find=_whose),
    Check(reads={"cells"}, find=_pushes),
    Check(reads={"arms", "cells"}, find=_draws),
    Check(reads={"seed", "seeds"}, find=_seeds),
    Check(reads={"arms", "seed", "seeds"}, find=_loaded),
)
