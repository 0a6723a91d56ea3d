"""What each unit depends on: the slice of the experiment that its key holds, and no more.

Editing one arm redoes that arm, and editing a title redoes nothing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steerproof.run.graph.given_files import GivenFiles, Known
from steerproof.spec.experiment import Experiment
from steerproof.spec.grid import AdapterId, Asked, Cell
from steerproof.spec.scoring import MARKING
from steerproof.spec.slices import pick

Inputs = dict[str, Any]
"""Plain JSON."""


class Slices:
    """The inputs of one experiment's units, by what they are about."""

    def __init__(self, experiment: Experiment, directory: Path, known: Known | None = None) -> None:
        """Spell the experiment out once.

        Args:
            experiment: What is asked.
            directory: Where its relative paths start.
            known: What its files hash to, where they need not be there.
        """
        self._experiment = experiment
        self._files = GivenFiles(directory, known or Known())
        # Once: of a thousand personas, each unit would make its own copy.
        self._whole = experiment.model_dump(mode="json")
        # What is drawn before training has one root: the same key under whichever name.
        root = experiment.drawing_seed
        self._drawn = self._whole | {"seed": root}
        self._data_seed: Inputs = {} if root == experiment.seed else {"data_seed": root}
        self._prompts = {persona.name: persona.prompt for persona in experiment.personas}

    def directions(self, layer: int) -> Inputs:
        """Directions and calibration of one layer.

        Raises:
            ExperimentError: There is no such file of a persona's direction.
        """
        paths = ("seed", "neutral_prompt", "personas", "reference_persona")
        asked = {"directions": list(self._experiment.direction_questions)}
        fields = pick(self._drawn, *paths) | {"questions": asked}
        files = self._files.directions(self._experiment.personas, f"L{layer}")
        return {"experiment": fields, "layer": layer} | ({"files": files} if files else {})

    def answers(self) -> Inputs:
        """Answers to the training questions.

        Raises:
            ExperimentError: There is no such file of answers.
        """
        fields = pick(
            self._drawn,
            *("seed", "marker", "neutral_prompt", "questions.training", "dataset.answers"),
            *("dataset.positives", "dataset.negatives_per_bystander", "dataset.answer_tokens"),
            "dataset.positive_answers",
            *("generation.temperature", "generation.top_p"),
        )
        return {"experiment": fields, **self._files.answers(self._experiment.dataset)}

    def dataset(self, persona: str) -> Inputs:
        """The training rows of one persona."""
        fields = pick(
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
        fields = self._pick(*paths) | self._data_seed | {"arms": [arm.model_dump(mode="json")]}
        inputs: Inputs = {"experiment": fields, "persona": adapter.persona}
        if adapter.seed is not None:
            inputs |= {"training_seed": adapter.seed}
        if arm.adapters is not None:
            inputs |= {"files": self._files.adapter(arm, adapter)}
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
            **self._data_seed,
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
        file = self._files.readout(scoring)
        return {"experiment": fields} | ({"file": file} if file else {})

    def common_answers(self) -> Inputs:
        """The base model's answers to the evaluation questions."""
        fields = pick(
            self._drawn,
            *("seed", "marker", "neutral_prompt", "questions.evaluation"),
            *("generation.temperature", "generation.top_p", "generation.max_new_tokens"),
        )
        return {"experiment": fields, "common": self._experiment.scoring.common_answers}

    def slots(self, wanted: Mapping[Cell, Asked]) -> Inputs:
        """What is weighed at the end of the texts of one adapter's cells."""
        experiment = self._experiment

        def texts(cell: Cell) -> Inputs:
            trained = not experiment.arm(cell.arm).untrained
            return {"cell": cell.record(), "system": self._system(cell), "trained": trained}

        return {
            "cells": [
                texts(cell) | {"common": graded.common, "own": graded.own}
                for cell, graded in wanted.items()
            ],
            "seed": experiment.seed,
            "questions": list(experiment.questions.evaluation),
            "marker": experiment.marker,
            **self._data_seed,
        }

    def analysis(self) -> Inputs:
        """Estimates and verdict."""
        fields = self._pick(
            *("name", "seed", "personas", "questions.evaluation", "layers", "gates", "arms"),
            *("cells", "generation", "analysis", "answers", "reference_persona", "seeds"),
            *("dataset.bystanders", "dataset.negatives"),
        )
        return {"experiment": fields | self._data_seed}

    def _pick(self, *paths: str) -> Inputs:
        return pick(self._whole, *paths)
