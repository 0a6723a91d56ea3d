"""What the base model's directions are like at a layer: their sizes, reliability and angles.

`study` measures it and the directions unit holds it; gates, objections and the report read it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from steerproof.spec.experiment import Experiment
from steerproof.spec.strength import Strength

CLIFF = 0.6
"""Ratio above which the published run lost the marker and much of its fluency."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonaCalibration:
    """What one persona's centroid is like at one layer."""

    norm: float
    """||v||, the norm of the centred centroid; at 0 the three below are undefined."""
    split_half: float | None
    """Mean cosine between centroids from two halves of the questions."""
    neutral_cosine: float | None
    """Cosine with the neutral prompt's centred vector."""
    reference_cosine: float | None
    """Cosine with the reference persona's centroid."""
    imported: str | None = None
    """Where its direction comes from and what is unknown of it; None if it was extracted here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlCosines:
    """What the random directions of one kind have in common with what they are controls of."""

    centroids: Mapping[str, Mapping[str, float | None]]
    """Persona of the random direction -> persona of the centroid -> their cosine; None where one
    of them has no length."""
    each_other: Mapping[str, Mapping[str, float | None]]
    """Cosine of every pair of random directions of the kind."""

    def own(self, persona: str) -> float | None:
        """Cosine of a persona's random direction with its own centroid."""
        return self.centroids[persona][persona]

    def largest(self, persona: str, others: Iterable[str]) -> float | None:
        """Largest |cosine| of a persona's random direction with any of these centroids."""
        cosines = (self.centroids[persona][name] for name in others)
        return max((abs(cosine) for cosine in cosines if cosine is not None), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCalibration:
    """Calibration of one layer."""

    layer: int
    """0-based index of the decoder block whose output is meant."""
    module: str
    """The block's module path, such as `model.layers.3`."""
    hidden_states_index: int
    """Where `output_hidden_states` has the same residual: `layer + 1`."""
    questions: int
    """Number of questions that the centroids are means over."""
    h_bar: float
    """Baseline residual norm: mean under the neutral prompt, last prompt token."""
    personas: Mapping[str, PersonaCalibration]
    """By persona, in file order."""
    neutral_cosine_max: float | None
    """Largest |cosine| of the neutral vector with a headline persona: a gate. None where no
    headline persona's direction has a length, so that there is no angle."""
    cosines: Mapping[str, Mapping[str, float | None]]
    """Cosine of every pair of centroids; None where one of them is zero."""
    controls: Mapping[str, ControlCosines] = field(default_factory=dict)
    """By kind of random direction; empty in a run from before they were stored."""

    def coefficient(self, persona: str, strength: Strength) -> float | None:
        """The number that multiplies a persona's direction at a strength; None along no length."""
        norm = self.personas[persona].norm
        return strength.coefficient(h_bar=self.h_bar, norm=norm) if norm > 0 else None

    def ratio(self, persona: str, strength: Strength) -> float | None:
        """Signed size of the push at a strength: `c ||v|| / h_bar`; None along no length."""
        norm = self.personas[persona].norm
        return strength.ratio(h_bar=self.h_bar, norm=norm) if norm > 0 else None


Calibration = Mapping[int, LayerCalibration]
"""By layer; empty where nothing was measured."""


def reference_cosines(measured: Calibration) -> dict[str, dict[str, float]]:
    """Cosine to the reference persona's centroid, by layer and persona, where it is defined."""
    return {
        str(layer): {
            name: persona.reference_cosine
            for name, persona in at.personas.items()
            if persona.reference_cosine is not None
        }
        for layer, at in measured.items()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGate:
    """What a layer's directions had to satisfy, with the numbers."""

    layer: int
    h_bar: float
    neutral_cosine_max: float | None
    neutral_cosine_allowed: float
    passed: bool | None
    """The neutral prompt is not too near any persona; None where there is no cosine."""
    split_half: Mapping[str, float | None]
    """Reliability of each headline persona's centroid."""
    reason: str | None = None
    """Why there is no cosine."""


def layer_gate(experiment: Experiment, measured: LayerCalibration) -> LayerGate:
    """Hold a layer's calibration to the experiment's gates.

    Args:
        experiment: Its `gates` and headline personas are read.
        measured: The layer.
    """
    allowed, largest = experiment.gates.neutral_cosine, measured.neutral_cosine_max
    unknown = "no headline persona's direction has a length, so nothing has an angle to it"
    return LayerGate(
        layer=measured.layer,
        h_bar=measured.h_bar,
        neutral_cosine_max=largest,
        neutral_cosine_allowed=allowed,
        passed=None if largest is None else largest <= allowed,
        reason=unknown if largest is None else None,
        split_half={name: measured.personas[name].split_half for name in experiment.headline},
    )
