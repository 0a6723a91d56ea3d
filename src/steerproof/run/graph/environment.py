"""What a unit's numbers depend on besides the experiment: source code, model files, libraries."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from steerproof.codec import canonical
from steerproof.model.files import find_directory, model_hashes
from steerproof.run.graph.keys import Environment
from steerproof.run.graph.sources import Sources, sources_of
from steerproof.spec.experiment import Experiment
from steerproof.spec.scoring import READOUTS
from steerproof.study.readouts import module_of

APART = (
    "steerproof",
    "steerproof.codec",
    "steerproof.errors",
    "steerproof.limits",
    "steerproof.run",
    "steerproof.run.artefacts",
    "steerproof.run.graph",
    "steerproof.run.graph.ids",
    "steerproof.run.graph.keys",
    "steerproof.run.store",
    *(
        f"steerproof.run.store.{n}"
        for n in ("doing", "faults", "files", "holder", "manifest", "store")
    ),
    "steerproof.run.driver",
    "steerproof.run.driver.spent",
    "steerproof.run.driver.worker",
)
"""Modules that stages import and that only carry their bytes, or refuse to: an edit there redoes
nothing."""
_BY_NAME = {"score": tuple(map(module_of, READOUTS))}
"""Modules that a stage finds by their names, which no import shows."""
_NUMERICS = ("torch", "transformers", "numpy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an experiment's files are and what it runs on; never part of a unit's content."""

    directory: Path
    """Directory of the experiment file: its relative paths start here."""
    device: str = "cpu"
    """A torch device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all units of one experiment share: the model's files, number types, paths."""

    model: Mapping[str, str]
    """sha256 of the base model's files, by file name."""
    numerics: Mapping[str, str]
    """What decides the model's numbers besides its files."""
    context: Mapping[str, Any]
    """What the work needs and the result does not depend on."""

    def environment(self, kind: str) -> Environment:
        """What the units of a kind depend on: the model only if their stage uses one."""
        made_by = sources(kind)
        modelled = "steerproof.model" in made_by.files
        libraries = {name: _installed(name) for name in _NUMERICS if name in made_by.packages}
        return Environment(
            code=_code_version(kind),
            model=self.model if modelled else {},
            numerics={**libraries, **(self.numerics if modelled else {})},
        )


def code_known(kinds: Iterable[str]) -> None:
    """Read the source files of these kinds, which takes a while the first time in a process."""
    for kind in kinds:
        _code_version(kind)


def surroundings(
    experiment: Experiment, place: Place, files: Mapping[str, str] | None
) -> Surroundings:
    """Look at the base model's files.

    Args:
        experiment: Its model is meant.
        place: Where its relative path starts.
        files: sha256 of the model's files, where they are known and need not be here.

    Raises:
        ModelError: The base model's directory cannot be found.
    """
    model = experiment.model
    path = model_path(experiment, place.directory)
    options = canonical(model.template_options).decode() if model.template_options else None
    return Surroundings(
        model=dict(model_hashes(path, model.revision) if files is None else files),
        numerics={
            "dtype": model.dtype,
            "device": place.device.partition(":")[0],
            "system_role": model.system_role,
            **({} if options is None else {"template_options": options}),
        },
        context={
            "name": model.path,
            "path": path,
            "revision": model.revision,
            "dtype": model.dtype,
            "device": place.device,
            "system_role": model.system_role,
            "template_options": dict(model.template_options),
            "directory": str(place.directory),
        },
    )


def model_path(experiment: Experiment, directory: Path) -> str:
    """The base model's path as `load_base` takes it: a local one resolved, others as they are."""
    local = directory / experiment.model.path
    return str(local.resolve()) if local.exists() else experiment.model.path


def model_directory(experiment: Experiment, directory: Path, *, weights: bool = True) -> Path:
    """Where the base model's files are, those of a hub model fetched if they have to be.

    Args:
        experiment: Whose model.
        directory: Of the experiment file.
        weights: Whether a hub model's weights are needed too.

    Raises:
        ModelError: They cannot be found.
    """
    path, revision = model_path(experiment, directory), experiment.model.revision
    return find_directory(path, revision, weights=weights)


def work_of(kind: str) -> str:
    """Dotted name of the function that does the units of a kind."""
    return f"{stage_module(kind)}:{kind}"


def stage_module(kind: str) -> str:
    """Dotted name of the module that does the units of a kind."""
    return f"steerproof.run.stages.{kind}"


@cache
def sources(kind: str) -> Sources:
    """The source files that decide what the units of a kind are."""
    return sources_of(stage_module(kind), APART, _BY_NAME.get(kind, ()))


@cache
def _code_version(kind: str) -> str:
    return sources(kind).version()


@cache
def _installed(package: str) -> str:
    try:
        return version(package)  # reads files: too slow to be asked for each cell
    except PackageNotFoundError:  # a plan is made without the engine; no unit can be
        return "not installed"
