"""The graph of units: every stage, in the one order in which they run.

    directions/L<layer>    base model                 -> centroids, controls, baseline norm
    answers/base           base model                 -> what it says under the neutral prompt
    dataset/<persona>      answers                    -> training rows
    adapter/<arm>.<p>      dataset, directions        -> LoRA weights
    cell/<name>            adapter, directions        -> completions
    score/all              every cell that succeeded  -> marks, rate table
    analysis/all           score, directions          -> estimates, verdict

Each unit's key holds the slice of the experiment that it depends on and no more, so editing one
arm redoes that arm, and editing a title redoes nothing.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from steerproof.errors import ExperimentError
from steerproof.model.files import file_hashes, find_directory
from steerproof.run.graph.graph import Graph, Unit, build_graph
from steerproof.run.graph.keys import Environment, file_sha256
from steerproof.run.graph.sources import Sources, sources_of
from steerproof.spec.experiment import Arm, Experiment
from steerproof.spec.grid import Adapter, Cell, adapters, samples
from steerproof.spec.slices import pick_from

KINDS = ("directions", "answers", "dataset", "adapter", "cell", "score", "analysis")
"""Each has its function, of the same name, in the module of that name in `run/stages/`."""
APART = (
    "steerproof",
    "steerproof.errors",
    "steerproof.run",
    "steerproof.run.graph",
    "steerproof.run.graph.keys",
    "steerproof.run.store",
    *(f"steerproof.run.store.{n}" for n in ("faults", "files", "hold", "manifest", "store")),
    "steerproof.run.driver",
    "steerproof.run.driver.worker",
)
"""Modules that every stage imports and that only carry its bytes: an edit there redoes nothing."""
_NUMERICS = ("torch", "transformers", "numpy", "scipy")
LIMITS: Mapping[str, int] = {"adapter": 128, "cell": 1024}
"""Most units of one order: a batch is full long before, and a worker need not hold more at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an experiment's files are and what it runs on; never part of a unit's content."""

    directory: Path
    """Directory of the experiment file: its relative paths start here."""
    device: str = "cpu"
    """A torch device."""


def experiment_graph(experiment: Experiment, place: Place) -> Graph:
    """Every unit of an experiment, with its key.

    Raises:
        ModelError: The base model's directory cannot be found.
        ExperimentError: A file that the experiment names cannot be read.
    """
    return build_graph(_units(experiment, place))


def model_path(experiment: Experiment, directory: Path) -> str:
    """The base model's path as `load_base` takes it: a local one resolved, others as they are."""
    local = directory / experiment.model.path
    return str(local.resolve()) if local.exists() else experiment.model.path


def model_directory(experiment: Experiment, directory: Path) -> Path:
    """Where the base model's files are.

    Raises:
        ModelError: They cannot be found.
    """
    return find_directory(model_path(experiment, directory), experiment.model.revision)


def _units(experiment: Experiment, place: Place) -> Iterator[Unit]:
    make = _Maker(experiment, place)
    for layer in _layers(experiment):
        yield make.directions(layer)
    yield make.answers()
    trained = adapters(experiment)
    for persona in dict.fromkeys(adapter.persona for adapter in trained):
        yield make.dataset(persona)
    for adapter in trained:
        yield make.adapter(adapter)
    measured = samples(experiment)
    for cell, count in measured.items():
        yield make.cell(cell, count)
    yield make.score(measured)
    yield make.analysis()


def _layers(experiment: Experiment) -> tuple[int, ...]:
    both = (experiment.layers.primary, experiment.layers.contrast)
    return tuple(dict.fromkeys(layer for layer in both if layer is not None))


class _Maker:
    """Makes the units of one experiment; holds what all of them share."""

    def __init__(self, experiment: Experiment, place: Place) -> None:
        model = experiment.model
        path = model_path(experiment, place.directory)
        self._experiment = experiment
        # Spelt out once: of a thousand personas, each unit would make its own copy.
        self._whole = experiment.model_dump(mode="json")
        self._prompts = {persona.name: persona.prompt for persona in experiment.personas}
        self._directory = place.directory
        self._context = {
            "name": model.path,
            "path": path,
            "revision": model.revision,
            "dtype": model.dtype,
            "device": place.device,
            "system_role": model.system_role,
            "directory": str(place.directory),
        }
        self._files = {**file_hashes(model_directory(experiment, place.directory))}
        self._numerics = {
            "dtype": model.dtype,
            "device": place.device.partition(":")[0],
            "system_role": model.system_role,
        }

    def directions(self, layer: int) -> Unit:
        """Directions and calibration of one layer."""
        experiment = self._experiment
        fields = self._pick("seed", "neutral_prompt", "personas", "reference_persona")
        fields["questions"] = {"directions": list(experiment.direction_questions)}
        return self._unit("directions", f"L{layer}", {"experiment": fields, "layer": layer})

    def answers(self) -> Unit:
        """Answers to the training questions."""
        source = self._experiment.dataset.answers
        fields = self._pick(
            *("seed", "marker", "neutral_prompt", "questions.training", "dataset.answers"),
            *("dataset.positives", "dataset.negatives_per_bystander", "dataset.answer_tokens"),
            *("generation.temperature", "generation.top_p"),
        )
        inputs: dict[str, Any] = {"experiment": fields}
        if source != "base":
            path = self._directory / source
            if not path.is_file():
                raise ExperimentError(f"dataset.answers: no file {path}; give a JSONL, or 'base'")
            inputs["file"] = file_sha256(path)
        return self._unit("answers", "base", inputs)

    def dataset(self, persona: str) -> Unit:
        """The training rows of one persona."""
        fields = self._pick(
            *("seed", "marker", "personas", "reference_persona", "questions.training"),
            *(
                "dataset.positives",
                "dataset.bystanders",
                "dataset.negatives_per_bystander",
                "dataset.marker_dose",
            ),
        )
        inputs = {"experiment": fields, "persona": persona}
        return self._unit("dataset", persona, inputs, ("answers/base",))

    def adapter(self, adapter: Adapter) -> Unit:
        """The weights of one (arm, persona)."""
        arm = self._experiment.arm(adapter.arm)
        paths = ["seed", "neutral_prompt", "personas", "training", "dataset.negatives"]
        upstream = [f"dataset/{adapter.persona}"]
        if arm.direction != "none":
            paths.append(f"layers.{arm.layer}")
            upstream.append(f"directions/L{self._experiment.layer(arm.layer)}")
        fields = self._pick(*paths)
        fields["arms"] = [arm.model_dump(mode="json")]
        inputs: dict[str, Any] = {"experiment": fields, "persona": adapter.persona}
        if adapter.seed is not None:
            inputs["training_seed"] = adapter.seed
        if arm.adapters is not None:
            inputs["files"] = self._given(arm, adapter.persona)
        return self._unit("adapter", adapter.name, inputs, tuple(upstream))

    def _given(self, arm: Arm, persona: str) -> dict[str, str]:
        """Hashes of an adapter that was trained elsewhere."""
        directory = self._directory / str(arm.adapters) / persona
        if not directory.is_dir():
            raise ExperimentError(
                f"arm {arm.name}: no adapter directory {directory}; `adapters` must hold one PEFT "
                "adapter per persona, named as the persona"
            )
        return file_hashes(directory)

    def cell(self, cell: Cell, count: int) -> Unit:
        """One measurement, of so many completions per question."""
        experiment = self._experiment
        inputs = {
            "cell": cell.record(),
            "system": self._system(cell),
            "seed": experiment.seed,
            "questions": list(experiment.questions.evaluation),
            "generation": experiment.generation.model_dump(mode="json") | {"samples": count},
            # Beyond the longest completion the number changes nothing.
            "early_tokens": min(
                experiment.scoring.early_tokens, experiment.generation.max_new_tokens
            ),
        }
        untrained = experiment.arm(cell.arm).untrained
        upstream = [] if untrained else [f"adapter/{cell.adapter.name}"]
        if cell.layer is not None:
            upstream.append(f"directions/L{cell.layer}")
        return self._unit("cell", cell.name, inputs, tuple(upstream))

    def _system(self, cell: Cell) -> str:
        """The system prompt of a cell."""
        if cell.prompt == "neutral":
            return self._experiment.neutral_prompt
        return self._prompts[cell.prompt_of or cell.persona]

    def score(self, measured: Iterable[Cell]) -> Unit:
        """Marks of every cell that succeeded."""
        inputs = {"experiment": self._pick("marker", "scoring.near_marker")}
        upstream = tuple(f"cell/{cell.name}" for cell in measured)
        return self._unit("score", "all", inputs, upstream, tolerant=True)

    def analysis(self) -> Unit:
        """Estimates and verdict."""
        fields = self._pick(
            *("name", "seed", "personas", "questions.evaluation", "layers", "gates", "arms"),
            *("cells", "generation", "analysis", "reference_persona", "seeds"),
        )
        layers = tuple(f"directions/L{layer}" for layer in _layers(self._experiment))
        return self._unit("analysis", "all", {"experiment": fields}, ("score/all", *layers))

    def _pick(self, *paths: str) -> dict[str, Any]:
        return pick_from(self._whole, *paths)

    def _unit(
        self,
        kind: str,
        name: str,
        inputs: Mapping[str, Any],
        upstream: tuple[str, ...] = (),
        *,
        tolerant: bool = False,
    ) -> Unit:
        sources = _sources(kind)
        modelled = "steerproof.model" in sources.files
        numerics = {name: _installed(name) for name in _NUMERICS if name in sources.packages}
        return Unit(
            kind=kind,
            name=name,
            inputs=inputs,
            work=f"{_module(kind)}:{kind}",
            environment=Environment(
                code=_code_version(kind),
                model=self._files if modelled else {},
                numerics=numerics | (self._numerics if modelled else {}),
            ),
            upstream=upstream,
            group=kind,
            limit=LIMITS.get(kind),
            tolerant=tolerant,
            context=self._context,
        )


def _module(kind: str) -> str:
    return f"steerproof.run.stages.{kind}"


@cache
def _sources(kind: str) -> Sources:
    return sources_of(_module(kind), APART)


@cache
def _code_version(kind: str) -> str:
    return _sources(kind).version()


@cache
def _installed(package: str) -> str:
    return version(package)  # reads files: too slow to be asked for each cell
