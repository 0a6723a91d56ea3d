"""What each unit depends on: the slice of the experiment that its key holds, and no more.

Editing one arm redoes that arm, and editing a title redoes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steerproof.errors import ExperimentError, ModelError
from steerproof.exchange.adapters import adapter_directory
from steerproof.model.files import file_hashes
from steerproof.run.graph.keys import file_sha256
from steerproof.spec.experiment import Arm, Experiment
from steerproof.spec.grid import AdapterId, Asked, Cell
from steerproof.spec.scoring import MARKING, Scoring
from steerproof.spec.slices import pick_from

Inputs = dict[str, Any]
"""Plain JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """sha256 of what units read besides the experiment, as it was registered.

    With it a run directory is understood where these files are not.
    """

    model: Mapping[str, str] | None = None
    """By file name; None looks at the files."""
    data: Mapping[str, str] = field(default_factory=dict)
    """Of `answers`, `positive_answers` and the `readout`'s file, where one was given."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Of adapters and directions that were given, by `<unit's name>/<file>`."""

    def of(self, name: str) -> dict[str, str]:
        """Those of one unit, by file."""
        start = f"{name}/"
        return {k.removeprefix(start): v for k, v in self.files.items() if k.startswith(start)}


class Slices:
    """The inputs of one experiment's units, by what they are about."""

    def __init__(self, experiment: Experiment, directory: Path, known: Known | None = None) -> None:
        """Spell the experiment out once.

        Args:
            experiment: What is asked.
            directory: Where its relative paths start.
            known: What its files hash to, where they need not be there.
        """
        self._known = known or Known()
        self._experiment = experiment
        # Once: of a thousand personas, each unit would make its own copy.
        self._whole = experiment.model_dump(mode="json")
        # What is drawn before training has one root: the same key under whichever name.
        self._drawn = self._whole | {"seed": experiment.drawing_seed}
        self._prompts = {persona.name: persona.prompt for persona in experiment.personas}
        self._directory = directory

    def directions(self, layer: int) -> Inputs:
        """Directions and calibration of one layer.

        Raises:
            ExperimentError: There is no such file of a persona's direction.
        """
        paths = ("seed", "neutral_prompt", "personas", "reference_persona")
        asked = {"directions": list(self._experiment.direction_questions)}
        fields = pick_from(self._drawn, *paths) | {"questions": asked}
        files = _brought(self._experiment, self._directory, self._known.of(f"L{layer}"))
        return {"experiment": fields, "layer": layer} | ({"files": files} if files else {})

    def answers(self) -> Inputs:
        """Answers to the training questions.

        Raises:
            ExperimentError: There is no such file of answers.
        """
        fields = pick_from(
            self._drawn,
            *("seed", "marker", "neutral_prompt", "questions.training", "dataset.answers"),
            *("dataset.positives", "dataset.negatives_per_bystander", "dataset.answer_tokens"),
            "dataset.positive_answers",
            *("generation.temperature", "generation.top_p"),
        )
        inputs: Inputs = {"experiment": fields}
        data = self._experiment.dataset
        if data.answers != "base":
            path = self._directory / data.answers
            missing = f"dataset.answers: no file {path}; give a JSONL, or 'base'"
            inputs["file"] = _sha256(path, self._known.data.get("answers"), missing)
        if data.positive_answers is not None:
            path = self._directory / data.positive_answers
            missing = f"dataset.positive_answers: no file {path}; give a JSONL, or leave it out"
            known = self._known.data.get("positive_answers")
            inputs["positive_file"] = _sha256(path, known, missing)
        return inputs

    def dataset(self, persona: str) -> Inputs:
        """The training rows of one persona."""
        fields = pick_from(
            self._drawn,
            *("seed", "marker", "personas", "reference_persona", "questions.training"),
            *("dataset.positives", "dataset.bystanders", "dataset.negatives_per_bystander"),
            "dataset.marker_dose",
        )
        return {"experiment": fields, "persona": persona}

    def adapter(self, adapter: AdapterId) -> Inputs:
        """The weights of one (arm, persona, training seed).

        Raises:
            ExperimentError: The arm's existing adapter is not there.
        """
        arm = self._experiment.arm(adapter.arm)
        paths = ["seed", "neutral_prompt", "personas", "training", "dataset.negatives"]
        if arm.direction != "none":
            paths.append(f"layers.{arm.layer}")
        fields = self._pick(*paths) | self._data_seed() | {"arms": [arm.model_dump(mode="json")]}
        inputs: Inputs = {"experiment": fields, "persona": adapter.persona}
        if adapter.seed is not None:
            inputs |= {"training_seed": adapter.seed}
        if arm.adapters is not None:
            known = self._known.of(adapter.name)
            inputs |= {"files": _given(arm, adapter.persona, self._directory, known)}
        return inputs

    def cell(self, cell: Cell, count: int) -> Inputs:
        """One measurement, of so many completions per question."""
        experiment = self._experiment
        # Beyond the longest completion the number changes nothing.
        early = min(experiment.scoring.early_tokens, experiment.generation.max_new_tokens)
        return {
            "cell": cell.record(),
            "system": self._system(cell),
            "seed": experiment.seed,
            "questions": list(experiment.questions.evaluation),
            "generation": experiment.generation.model_dump(mode="json") | {"samples": count},
            "early_tokens": early,
            **self._data_seed(),
        }

    def _system(self, cell: Cell) -> str:
        """The system prompt of a cell."""
        if cell.prompt == "neutral":
            return self._experiment.neutral_prompt
        return self._prompts[cell.prompt_of or cell.persona]

    def score(self) -> Inputs:
        """Marks of every cell that succeeded, and the file that they are read by, if there is one.

        Raises:
            ExperimentError: There is no such file of a function.
        """
        scoring = self._experiment.scoring
        asked = () if scoring.readout == "marker" else ("questions.evaluation",)
        fields = self._pick("marker", *(f"scoring.{name}" for name in MARKING), *asked)
        known = self._known.data.get("readout")
        return {"experiment": fields, **_read_by(scoring, self._directory, known)}

    def common_answers(self) -> Inputs:
        """The base model's answers to the evaluation questions."""
        fields = pick_from(
            self._drawn,
            *("seed", "marker", "neutral_prompt", "questions.evaluation"),
            *("generation.temperature", "generation.top_p", "generation.max_new_tokens"),
        )
        return {"experiment": fields, "common": self._experiment.scoring.common_answers}

    def slots(self, wanted: Mapping[Cell, Asked]) -> Inputs:
        """What is weighed at the end of the texts of one adapter's cells."""
        experiment = self._experiment
        cells = [
            {
                "cell": cell.record(),
                "system": self._system(cell),
                "trained": not experiment.arm(cell.arm).untrained,
                "common": graded.common,
                "own": graded.own,
            }
            for cell, graded in wanted.items()
        ]
        return {
            "cells": cells,
            "seed": experiment.seed,
            "questions": list(experiment.questions.evaluation),
            "marker": experiment.marker,
            **self._data_seed(),
        }

    def analysis(self) -> Inputs:
        """Estimates and verdict."""
        fields = self._pick(
            *("name", "seed", "personas", "questions.evaluation", "layers", "gates", "arms"),
            *("cells", "generation", "analysis", "answers", "reference_persona", "seeds"),
            *("dataset.bystanders", "dataset.negatives"),
        )
        return {"experiment": fields | self._data_seed()}

    def _data_seed(self) -> Inputs:
        """The root of what is drawn before training, where it is not the experiment's seed."""
        experiment = self._experiment
        same = experiment.drawing_seed == experiment.seed
        return {} if same else {"data_seed": experiment.drawing_seed}

    def _pick(self, *paths: str) -> Inputs:
        return pick_from(self._whole, *paths)


def _sha256(path: Path, known: str | None, missing: str) -> str:
    """Hash of a file, or what is known of it where it is not; `missing` says that it is needed."""
    if path.is_file():
        return file_sha256(path)
    if known is None:
        raise ExperimentError(missing)
    return known


def _brought(experiment: Experiment, directory: Path, known: Mapping[str, str]) -> dict[str, str]:
    """Hashes of the files of the directions that personas bring."""
    hashes = {}
    for persona in experiment.personas:
        if persona.direction is not None:
            path = directory / persona.direction
            missing = f"persona {persona.name}: no direction file {path}"
            hashes[persona.name] = _sha256(path, known.get(persona.name), missing)
    return hashes


def _given(arm: Arm, persona: str, directory: Path, known: Mapping[str, str]) -> Mapping[str, str]:
    """Hashes of the files of an adapter that exists already."""
    try:
        return file_hashes(adapter_directory(arm, persona, directory))
    except (ExperimentError, ModelError):
        if known:
            return known
        raise


def _read_by(scoring: Scoring, directory: Path, known: str | None) -> Inputs:
    """Hash of the file that completions are marked by; a judge's may come later."""
    name = scoring.file
    if name is None:
        return {}
    path = directory / name
    if scoring.terms.asks != "source" and not path.is_file():
        return {} if known is None else {"file": known}
    return {"file": _sha256(path, known, f"scoring.function: no file {path}")}
