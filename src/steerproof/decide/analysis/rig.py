"""What is known of a run besides its rate table, and what the table itself says of it.

A table alone gives rates; whether text stayed whole and how the directions lie is measured beside
it. What is not given is unknown, and a gate that needs it says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float

from steerproof.decide.analysis.calibration import LayerCalibration
from steerproof.decide.analysis.case import Case
from steerproof.decide.analysis.gates import TextQuality
from steerproof.decide.analysis.rates import lookup
from steerproof.spec.draws import bystanders
from steerproof.spec.experiment import Arm, Experiment
from steerproof.spec.grid import Cell, CellKind

Margins = Mapping[Cell, Float[np.ndarray, " questions"]]
"""Log-odds in nats of the marker's first token against the end of turn, by question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    """Measurements beside the rates; an empty one is what a bare table knows."""

    layers: Mapping[int, LayerCalibration] = field(default_factory=dict)
    """Calibration of the directions by layer."""
    texts: Mapping[Cell, TextQuality] = field(default_factory=dict)
    """How the completions of a cell end."""
    margins: Margins = field(default_factory=dict)
    """Graded outcome on common answers, NaN where a question has none."""
    own_margins: Margins = field(default_factory=dict)
    """The same at the end of each cell's own completions, mean over those that end."""

    def of_seed(self, experiment: Experiment, seed: int) -> "Rig":
        """The part of one training seed, as if it were the experiment's own."""
        wanted = None if seed == experiment.seed else seed
        trained = {arm.name for arm in experiment.adapter_arms}

        def kept(cell: Cell) -> bool:
            return cell.seed == wanted or cell.arm not in trained

        def part(margins: Margins) -> Margins:
            return {replace(c, seed=None): m for c, m in margins.items() if kept(c)}

        return Rig(
            layers=self.layers,
            texts={replace(c, seed=None): t for c, t in self.texts.items() if kept(c)},
            margins=part(self.margins),
            own_margins=part(self.own_margins),
        )


def text_of(rig: Rig, kind: CellKind, personas: tuple[str, ...]) -> TextQuality | None:
    """How the completions of all personas end together; None if one is not known."""
    known = [rig.texts.get(kind.cell(persona)) for persona in personas]
    texts = [text for text in known if text is not None]
    if len(texts) < len(known) or not texts:
        return None
    total = sum(text.completions for text in texts)
    return TextQuality(
        ended=sum(text.ended * text.completions for text in texts) / total,
        coherent=sum(text.coherent * text.completions for text in texts) / total,
        completions=total,
    )


def push_sizes(case: Case, rig: Rig, kind: CellKind) -> Float[np.ndarray, " personas"] | None:
    """Size of each persona's push over the baseline residual norm; None if it is not known.

    At a ratio it is that ratio. At a coefficient it comes from the calibration, or from the
    coefficients that the table gives for a ratio: both push along the same direction.
    """
    if kind.strength.kind == "ratio":
        return np.full(len(case.personas), abs(kind.strength.number))
    if kind.layer is None:
        return None
    layer = rig.layers.get(kind.layer)
    if layer is not None:
        sizes = [layer.ratio(persona, kind.strength) for persona in case.personas]
        known = [abs(size) for size in sizes if size is not None]
        return np.array(known) if len(known) == len(sizes) else None
    for other in case.kinds:
        same = (other.direction, other.layer) == (kind.direction, kind.layer)
        if same and other.strength.kind == "ratio":
            cells = [lookup(case.table, other, persona) for persona in case.personas]
            unit = [abs(other.strength.number / c.coefficient) for c in cells if c is not None]
            if len(unit) == len(cells):
                return abs(kind.strength.number) * np.array(unit)
    return None


def negatives_of(experiment: Experiment, arm: Arm) -> Bool[np.ndarray, "adapters directions"]:
    """Which personas' directions (or prompts) each adapter was trained to be silent at.

    An arm that was pushed along the source's direction in every row never saw another one.
    """
    names = experiment.headline
    trained = np.zeros((len(names), len(names)), dtype=bool)
    if experiment.dataset.negatives == "source" and arm.prompt == "neutral":
        return trained
    for i, name in enumerate(names):
        for other in bystanders(experiment, name):
            trained[i, names.index(other)] = True
    return trained
