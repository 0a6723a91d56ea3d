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

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from steerproof.errors import ExperimentError
from steerproof.model.files import file_hashes, find_directory
from steerproof.run.graph import Graph, Unit, build_graph
from steerproof.run.keys import Environment, code_version, file_sha256
from steerproof.spec.experiment import Arm, Experiment
from steerproof.spec.grid import Adapter, Cell, adapters, cells
from steerproof.spec.slices import pick

_STAGES = "steerproof.run.stages"
_ASKED = tuple(f"steerproof.spec.{name}" for name in ("experiment", "grid", "seeds", "slices"))
_MODEL = ("steerproof.model", *_ASKED, f"{_STAGES}.context", f"{_STAGES}.files")
_DRAWING = (
    "steerproof.collect.attention",
    "steerproof.collect.generation",
    "steerproof.collect.pool",
    "steerproof.collect.sampling",
)
CODE: Mapping[str, tuple[str, ...]] = {
    "directions": (
        *_MODEL,
        "steerproof.adapt.directions",
        "steerproof.adapt.calibration",
        f"{_STAGES}.prepare",
    ),
    "answers": (*_MODEL, *_DRAWING, f"{_STAGES}.prepare"),
    "dataset": (*_ASKED, "steerproof.adapt.dataset", f"{_STAGES}.prepare"),
    "adapter": (
        *_MODEL,
        "steerproof.adapt.batches",
        "steerproof.adapt.budget",
        "steerproof.adapt.dataset",
        "steerproof.adapt.jobs",
        "steerproof.adapt.training",
        f"{_STAGES}.adapters",
    ),
    "cell": (*_MODEL, *_DRAWING, "steerproof.collect.canary", f"{_STAGES}.cells"),
    "score": (*_ASKED, "steerproof.collect.scoring", f"{_STAGES}.judge"),
    "analysis": (*_ASKED, "steerproof.decide", f"{_STAGES}.judge"),
}
"""Modules whose source decides a kind's files; the last one holds the function that does it."""


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
    return str(local.resolve()) if local.is_dir() else experiment.model.path


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
    measured = cells(experiment)
    for cell in measured:
        yield make.cell(cell)
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
            "torch": version("torch"),
            "transformers": version("transformers"),
            "dtype": model.dtype,
            "device": place.device.partition(":")[0],
            "system_role": model.system_role,
        }

    def directions(self, layer: int) -> Unit:
        """Directions and calibration of one layer."""
        experiment = self._experiment
        fields = pick(experiment, "seed", "neutral_prompt", "personas", "reference_persona")
        fields["questions"] = {"directions": list(experiment.direction_questions)}
        return self._unit("directions", f"L{layer}", {"experiment": fields, "layer": layer})

    def answers(self) -> Unit:
        """Answers to the training questions."""
        source = self._experiment.dataset.answers
        fields = pick(
            self._experiment,
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
        fields = pick(
            self._experiment,
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
        fields = pick(self._experiment, *paths)
        fields["arms"] = [arm.model_dump(mode="json")]
        inputs: dict[str, Any] = {"experiment": fields, "persona": adapter.persona}
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

    def cell(self, cell: Cell) -> Unit:
        """One measurement."""
        experiment = self._experiment
        persona = experiment.persona(cell.persona)
        inputs = {
            "cell": asdict(cell),
            "system": experiment.neutral_prompt if cell.prompt == "neutral" else persona.prompt,
            "seed": experiment.seed,
            "questions": list(experiment.questions.evaluation),
            "generation": experiment.generation.model_dump(mode="json"),
            # Beyond the longest completion the number changes nothing.
            "early_tokens": min(
                experiment.scoring.early_tokens, experiment.generation.max_new_tokens
            ),
        }
        upstream = [f"adapter/{cell.adapter.name}"]
        if cell.layer is not None:
            upstream.append(f"directions/L{cell.layer}")
        return self._unit("cell", cell.name, inputs, tuple(upstream))

    def score(self, measured: tuple[Cell, ...]) -> Unit:
        """Marks of every cell that succeeded."""
        inputs = {"experiment": pick(self._experiment, "marker", "scoring.near_marker")}
        upstream = tuple(f"cell/{cell.name}" for cell in measured)
        return self._unit("score", "all", inputs, upstream, tolerant=True)

    def analysis(self) -> Unit:
        """Estimates and verdict."""
        fields = pick(
            self._experiment,
            *("name", "seed", "personas", "questions.evaluation", "layers", "gates", "arms"),
            *("cells", "generation", "analysis", "reference_persona"),
        )
        layers = tuple(f"directions/L{layer}" for layer in _layers(self._experiment))
        return self._unit("analysis", "all", {"experiment": fields}, ("score/all", *layers))

    def _unit(
        self,
        kind: str,
        name: str,
        inputs: Mapping[str, Any],
        upstream: tuple[str, ...] = (),
        *,
        tolerant: bool = False,
    ) -> Unit:
        modelled = "steerproof.model" in CODE[kind]
        return Unit(
            kind=kind,
            name=name,
            inputs=inputs,
            work=f"{CODE[kind][-1]}:{kind}",
            environment=Environment(
                code=_code_version(kind),
                model=self._files if modelled else {},
                numerics=self._numerics if modelled else {},
            ),
            upstream=upstream,
            group=kind,
            tolerant=tolerant,
            context=self._context,
        )


@cache
def _code_version(kind: str) -> str:
    return code_version(CODE[kind])
